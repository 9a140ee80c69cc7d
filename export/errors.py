"""What can go wrong between a trained head and a bundle on a device.

ExportError
├── ParityFailed          the exported network does not compute what the trained one computes
├── KeyUnusable           a key file or a public key cannot be read
└── BundleError           a bundle is not one, is damaged, or contradicts itself
    └── BundleRefused     a sound bundle that must not be installed here; `reason` says why
        └── SignatureRefused  nobody whom this device trusts vouches for it
"""

from monitoring.errors import CollafuseError


class ExportError(CollafuseError):
    """A head cannot be stored, read or exported."""


class ParityFailed(ExportError):
    """The exported network does not compute what the trained one computes; nothing may be published."""


class KeyUnusable(ExportError):
    """A key cannot be read, or is not an ed25519 key."""


class BundleError(ExportError):
    """A bundle is not one, is damaged, or contradicts itself; it must not be loaded."""


class BundleRefused(BundleError):
    """A sound bundle must not be installed here.

    `reason` is a short code in lower case with underscores, for programs and telemetry; the message is for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SignatureRefused(BundleRefused):
    """Nobody whom this device trusts vouches for the bundle, or for the list of keys."""
