"""The manifest of a bundle: what the head is, what it may be asked for, and how it was checked."""

import json
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.errors import BundleError

BUNDLE_FORMAT: Final = "collafuse-bundle-v1"
MAX_SCHEDULE_STEPS = 100_000
MAX_LABELS = 100_000
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(max_length=200)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NoiseLevelError(_Frozen):
    """Largest absolute difference of ε between ONNX and torch over the steps `t_first..t_last`."""

    t_first: int = Field(ge=1)
    t_last: int = Field(ge=1)
    max_abs_error: Figure


class ParityFigures(_Frozen):
    """How far onnxruntime's ε was from torch's, and over what this was measured."""

    threshold: Figure
    max_abs_error: Figure
    mean_abs_error: Figure
    batch_sizes: Annotated[tuple[int, ...], Field(strict=False)]
    evaluations: int = Field(ge=1, description="samples compared")
    noise_levels: Annotated[tuple[NoiseLevelError, ...], Field(strict=False)]
    onnxruntime: Text
    torch: Text


class TrainingFacts(_Frozen):
    """How the head was trained; nothing in here names an image or a person."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    images: int = Field(ge=1)
    learning_rate: Figure
    seed: int = Field(ge=0)
    seconds: Figure
    final_loss: Figure


class Network(_Frozen):
    """The exported network's size and interface."""

    parameters: int = Field(ge=1)
    base_channels: int = Field(ge=1)
    opset: int = Field(ge=21)
    precision: Literal["fp32"]


class Manifest(_Frozen):
    """Everything a device must know of a head before it runs it.

    The head owns the steps `t_first..t_cut` of the schedule; `labels[i]` is the name of class `i`, and class
    `num_classes` stands for "no label". `digests` holds the SHA-256 of every other member of the bundle.
    """

    format: Literal["collafuse-bundle-v1"] = BUNDLE_FORMAT
    name: Name
    client: Name
    version: int = Field(ge=1, description="grows with every head published under this name")
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
    parity: ParityFigures
    digests: dict[str, Digest]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.t_first <= self.t_cut <= self.schedule_T:
            raise ValueError(f"steps {self.t_first}..{self.t_cut} are not in 1..{self.schedule_T}")
        if not all(1 <= size <= 4096 for size in self.image_shape):
            raise ValueError(f"images of shape {self.image_shape} are not possible")
        if len(self.labels) != (self.num_classes or 0):
            raise ValueError(f"{len(self.labels)} labels are named, but num_classes is {self.num_classes}")
        if not self.parity.max_abs_error <= self.parity.threshold:
            raise ValueError(
                f"its parity error {self.parity.max_abs_error:.1e} is over {self.parity.threshold:.1e}"
            )
        return self

    def to_bytes(self) -> bytes:
        """The one JSON form of this manifest: sorted keys, no spaces, UTF-8."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            BundleError: unknown or missing fields, values out of range, or another form of the same JSON.
        """
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            raise BundleError(f"manifest.json is not valid: {first_problem(error)}") from error
        if manifest.to_bytes() != text:
            raise BundleError("manifest.json is not in its canonical form")
        return manifest


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic found wrong, in one line."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
