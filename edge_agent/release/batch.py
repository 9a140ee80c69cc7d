"""A message of releases, the only form in which anything made of an image can leave the device.

The outbox takes samples as a `ReleasedBatch` and as nothing else; a batch is made by `ReleasedBatch.of` alone, which takes
nothing but what `diffusion.privacy.release` has made, and writes the message itself. Between the two nobody else holds the pen:
whatever is put in the place of a release, or of a batch, is refused when it is run, and by the type checker before that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from broker import codec
from broker.contract.samples import SamplesV1
from diffusion.errors import ReleaseRefused
from diffusion.privacy import Release, check_release
from diffusion.seal import Seal

Dtype = Literal["float16", "float32", "int8"]

TYPE_NAME: Final = SamplesV1.type_name

BATCH_IMAGES = 64
BATCH_BYTES = 2**20

_SEAL = Seal()


@dataclass(frozen=True, eq=False)
class ReleasedBatch:
    """Releases of one index at one cut, and the message that carries them.

    releases: what is in it, in the message's order, for the ledger;  body: the encoded `samples.v1`;  message_id: its digest;
    mark: proves to `check_batch` that `of` has made it, and that it is still as it was.
    """

    releases: tuple[Release, ...]
    body: bytes
    message_id: str
    mark: bytes

    def __post_init__(self) -> None:
        check_batch(self)

    @classmethod
    def of(cls, releases: Sequence[Release], dtype: Dtype) -> "ReleasedBatch":
        """Write the message of these releases, their values narrowed to `dtype`.

        Raises ReleaseRefused when one of them is no release, or when they do not belong in one message: they share schedule,
        cut, index and shape, and have a label each or none at all. Raises MessageTooLarge, and ValueError for values that
        `dtype` cannot hold.
        """
        for release in releases:
            check_release(release)
        _check_alike(releases)
        body = codec.encode(_message(releases, dtype))
        message_id = codec.digest(body)
        return ReleasedBatch(
            tuple(releases), body, message_id, _SEAL.mark(_sealed(releases, body, message_id))
        )


def images_per_message(image_bytes: int) -> int:
    """So many releases of this size are put into one message, if there are as many."""
    return max(1, min(BATCH_IMAGES, (BATCH_BYTES - 2**12) // image_bytes))


def check_batch(batch: object) -> None:
    """Raise ReleaseRefused unless `batch` is what `ReleasedBatch.of` returned, unchanged since, of releases alone."""
    fields = vars(batch) if type(batch) is ReleasedBatch else {}
    releases, body, message_id = (fields.get(name) for name in ("releases", "body", "message_id"))
    if not (isinstance(releases, tuple) and isinstance(body, bytes) and isinstance(message_id, str)):
        raise _refusal(type(batch).__name__)
    for release in releases:
        check_release(release)
    if not _SEAL.is_mine(fields.get("mark"), _sealed(releases, body, message_id)):
        raise _refusal("a batch that was changed or made by hand")


def _refusal(what: str) -> ReleaseRefused:
    return ReleaseRefused(
        f"{what} was refused: samples leave the device as a ReleasedBatch, made by ReleasedBatch.of alone"
    )


def _sealed(releases: Sequence[Release], body: bytes, message_id: str) -> list[bytes]:
    return [body, message_id.encode(), *(release.mark for release in releases)]


def _check_alike(releases: Sequence[Release]) -> None:
    kinds = {(r.schedule_id, r.t_cut, r.release, r.x_c.shape, r.label is None) for r in releases}
    if len(kinds) != 1:
        raise ReleaseRefused(
            f"{len(releases)} releases of {len(kinds)} kinds do not make one message: they must share schedule, cut, index and"
            " shape, and have a label each or none at all"
        )


def _message(releases: Sequence[Release], dtype: Dtype) -> SamplesV1:
    labels = [release.label for release in releases if release.label is not None]
    return SamplesV1.pack(
        np.stack([release.x_c for release in releases]),
        schedule_id=releases[0].schedule_id,
        t_cut=releases[0].t_cut,
        release=releases[0].release,
        dtype=dtype,
        labels=np.array(labels, np.int32) if labels else None,
    )
