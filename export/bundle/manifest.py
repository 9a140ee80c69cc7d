"""The manifest of a bundle: what the head is, what it may be asked for, and how it was checked."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from broker.contract.heads import MAX_MANIFEST_BYTES, NAME_PATTERN, VERSION_PATTERN
from export.bundle.canonical import Canonical
from export.bundle.gates import Figure, GateResult, Precision
from export.errors import BundleError

BUNDLE_FORMAT: Final = "collafuse-bundle-v2"
OLD_FORMAT: Final = b'"format":"collafuse-bundle-v1"'
MAX_SCHEDULE_STEPS = 100_000
MAX_LABELS = 100_000
MAX_UNIX_SECONDS = 2**53

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(max_length=200)]
Moment = Annotated[int, Field(ge=0, le=MAX_UNIX_SECONDS)]


class TrainingFacts(Canonical):
    """How the head was trained; nothing in here names an image or a person."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    images: int = Field(ge=1)
    learning_rate: Figure
    seed: int = Field(ge=0)
    seconds: Figure
    final_loss: Figure


class Network(Canonical):
    """The exported network's size, interface and arithmetic.

    Inputs and outputs are float32 at every precision. `calibration` says over what int8's ranges were measured, and
    on how many of the client's images the head was measured; `kept_in_float` which of int8's layers stayed as they were.
    """

    parameters: int = Field(ge=1)
    base_channels: int = Field(ge=1)
    opset: int = Field(ge=20)
    precision: Precision
    calibration: Text | None = None
    kept_in_float: Annotated[tuple[Text, ...], Field(strict=False, max_length=1000)] = ()


class GoldenFacts(Canonical):
    """The probe that a device makes before it uses the head: so many inputs, torch's answers, and the error allowed."""

    count: int = Field(ge=1, le=64)
    allowed_relative_rms: Figure


class Manifest(Canonical):
    """Everything a device must know of a head before it runs it.

    The head owns the steps `t_first..t_cut` of the schedule; `labels[i]` is the name of class `i`, and class
    `num_classes` stands for "no label". `version` is for people; `counter` grows with every head of this name, and
    devices never go back. Moments are unix seconds. `digests` holds the SHA-256 of every member of the bundle but the
    signatures, which are over this manifest, and the key lists, which carry their own.
    """

    format: Literal["collafuse-bundle-v2"] = BUNDLE_FORMAT
    name: Name
    client: Name
    version: str = Field(pattern=VERSION_PATTERN)
    counter: int = Field(ge=1, le=2**53, description="grows with every head published under this name")
    issued_at: Moment
    expires_at: Moment | None
    minimum_agent: str = Field(pattern=r"^\d{1,6}(\.\d{1,6}){0,3}$")
    schedule_name: Text
    schedule_T: int = Field(ge=1, le=MAX_SCHEDULE_STEPS)  # noqa: N815 - the papers' T
    schedule_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    t_first: int = Field(ge=1)
    t_cut: int = Field(ge=1)
    image_shape: Annotated[tuple[int, int, int], Field(strict=False)]
    num_classes: int | None = Field(ge=1, le=MAX_LABELS)
    labels: Annotated[tuple[Text, ...], Field(strict=False, max_length=MAX_LABELS)]
    network: Network
    training: TrainingFacts
    gates: Annotated[tuple[GateResult, ...], Field(strict=False, min_length=1, max_length=2)]
    golden: GoldenFacts
    digests: dict[str, Digest]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.t_first <= self.t_cut <= self.schedule_T:
            raise ValueError(f"steps {self.t_first}..{self.t_cut} are not in 1..{self.schedule_T}")
        if not all(1 <= size <= 4096 for size in self.image_shape):
            raise ValueError(f"images of shape {self.image_shape} are not possible")
        if len(self.labels) != (self.num_classes or 0):
            raise ValueError(f"{len(self.labels)} labels are named, but num_classes is {self.num_classes}")
        if self.expires_at is not None and self.expires_at <= self.issued_at:
            raise ValueError("it expires before it was issued")
        if len({gate.provider for gate in self.gates}) != len(self.gates):
            raise ValueError("a provider was measured twice")
        return self

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            BundleError: too long, unknown or missing fields, values out of range, or another
                form of the same JSON.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise BundleError(f"manifest.json has {len(text)} bytes, over {MAX_MANIFEST_BYTES}")
        return cls.parse(text, "manifest.json")
