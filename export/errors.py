"""What can go wrong between a trained head and a bundle on a device."""

from monitoring.errors import CollafuseError


class ExportError(CollafuseError):
    """A head cannot be stored, read or exported."""


class ParityFailed(ExportError):
    """The exported network does not compute what the trained one computes; nothing may be published."""


class BundleError(ExportError):
    """A bundle is not one, is damaged, or contradicts itself; it must not be loaded."""
