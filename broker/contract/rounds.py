"""What the server asks of the clients."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from broker.contract.fields import (
    MAX_LABELS_WANTED,
    MAX_T,
    Count,
    Label,
    ScheduleId,
    Seconds,
    Shape,
    as_tuple,
)
from broker.contract.message import Message


class RoundV1(Message):
    """What the server asks of the clients.

    Attributes:
        number: of the round, rising.
        schedule_name: which table.
        schedule_T: its length.
        schedule_id: its digest.
        shape: (C, H, W) of one image.
        num_classes: how many labels there are, or None for none.
        cut_min: smallest cut ratio that will be taken.
        cut_max: largest cut ratio that will be taken.
        releases_wanted: releases per image that are still useful.
        backbone_version: the newest published.
        closes_in_seconds: how long from its arrival on the round takes releases, or None for until the next. Relative, for the
            clock of a device may be wrong.
        labels_wanted: the only labels still wanted, rising, or None for all.
    """

    type_name: ClassVar[str] = "round.v1"
    later_fields: ClassVar[frozenset[str]] = frozenset({"closes_in_seconds", "labels_wanted"})

    number: Count
    schedule_name: Literal["cosine", "linear"]
    schedule_T: Annotated[int, Field(ge=1, le=MAX_T)]  # noqa: N815  # the papers' T
    schedule_id: ScheduleId
    shape: Shape
    num_classes: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    cut_min: Annotated[float, Field(ge=0, le=1)]
    cut_max: Annotated[float, Field(ge=0, le=1)]
    releases_wanted: Count
    backbone_version: Count
    closes_in_seconds: Seconds | None = None
    labels_wanted: (
        Annotated[
            tuple[Label, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MAX_LABELS_WANTED)
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cut_min > self.cut_max:
            raise ValueError("cut_min must not exceed cut_max")
        self._check_labels_wanted()
        return self

    def _check_labels_wanted(self) -> None:
        if self.labels_wanted is None:
            return
        if self.num_classes is None:
            raise ValueError("labels_wanted needs num_classes")
        if any(one >= other for one, other in zip(self.labels_wanted, self.labels_wanted[1:], strict=False)):
            raise ValueError("labels_wanted must be strictly rising")
        if self.labels_wanted[-1] >= self.num_classes:
            raise ValueError("labels_wanted must lie below num_classes")
