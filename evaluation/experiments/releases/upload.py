"""What a client sends, byte for byte: the messages of the system itself, and what a server reads out of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from broker import codec
from broker.contract.samples import SamplesV1
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_UP, up_key
from broker.wire_size import published_bytes
from diffusion.privacy import Release
from diffusion.split import Cut, pair
from edge_agent.release.batch import Dtype, ReleasedBatch, images_per_message
from edge_agent.settings import EdgeSettings
from evaluation.errors import RunError
from evaluation.running.federation import Federation

DEFAULT_DTYPE: Dtype = EdgeSettings.model_fields["release_dtype"].default
"""What a device sends unless it is told otherwise."""
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "int8")


@dataclass(frozen=True, eq=False)
class ClientPairs:
    """What a client of the policy `pairs` makes of its images in one epoch.

    x_t, noise: (N, C, H, W) float32, noise the ε_s;  t: (N,) int32 in (t_cut, T];  labels: (N,) int32.
    """

    x_t: NDArray[np.float32]
    noise: NDArray[np.float32]
    t: NDArray[np.int32]
    labels: NDArray[np.int32]


def pairs_of_epoch(
    federation: Federation, releases: Sequence[Release], t_cut: int, generator: np.random.Generator
) -> ClientPairs:
    """One fresh (x_t, ε_s, t) of every image, t uniform in (t_cut, T], from the releases of this epoch.

    releases: with their labels, as `Federation.releases` makes them.
    """
    x_c = torch.from_numpy(np.stack([one.x_c for one in releases]))
    t = generator.integers(t_cut + 1, federation.schedule.T, size=len(releases), endpoint=True)
    noise = generator.standard_normal(x_c.shape, dtype=np.float32)
    x_t = pair(federation.schedule, x_c, t_cut, torch.from_numpy(t), torch.from_numpy(noise))
    labels = np.asarray([one.label for one in releases], dtype=np.int32)
    return ClientPairs(x_t.numpy(), noise, t.astype(np.int32), labels)


def release_bodies(releases: Sequence[Release], dtype: Dtype) -> tuple[bytes, ...]:
    """The messages that carry these releases, in their order and by as many as a device puts into one."""
    value_bytes = math.prod(releases[0].x_c.shape) * _item_bytes(dtype)
    parts = _slices(len(releases), images_per_message(value_bytes))
    return tuple(ReleasedBatch.of(releases[rows], dtype).body for rows in parts)


def pair_bodies(pairs: ClientPairs, cut: Cut, epoch: int, dtype: Dtype) -> tuple[bytes, ...]:
    """The messages that carry an epoch's pairs; the noise travels as float16 whatever the dtype of x_t.

    A message holds as many bytes of samples as one of releases may.
    """
    value_bytes = math.prod(pairs.x_t.shape[1:]) * (_item_bytes(dtype) + _item_bytes("float16"))
    return tuple(
        codec.encode(
            SamplesV1.pack(
                pairs.x_t[rows],
                schedule_id=cut.schedule.schedule_id,
                t_cut=cut.t_cut,
                release=epoch,
                dtype=dtype,
                labels=pairs.labels[rows],
                t=pairs.t[rows],
                noise=pairs.noise[rows],
            )
        )
        for rows in _slices(len(pairs.t), images_per_message(value_bytes))
    )


def sent_bytes(bodies: Sequence[bytes], user: str) -> int:
    """What these messages of samples are on the connection of `user`, in AMQP's frames and without TLS."""
    return sum(
        published_bytes(
            Outgoing(EXCHANGE_UP, up_key(user, "samples"), codec.digest(body), SamplesV1.type_name, body),
            user,
        )
        for body in bodies
    )


def arrived(bodies: Sequence[bytes]) -> NDArray[np.float32]:
    """The values that the server reads out of messages of samples: (N, C, H, W) float32."""
    return np.concatenate([message.dequantised() for message in _read(bodies)])


def arrived_pairs(bodies: Sequence[bytes]) -> ClientPairs:
    """The pairs that the server reads out of messages of them, labelled as those of `pair_bodies` are."""
    parts = [_pairs_in(message) for message in _read(bodies)]
    return ClientPairs(
        np.concatenate([part.x_t for part in parts]),
        np.concatenate([part.noise for part in parts]),
        np.concatenate([part.t for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def _pairs_in(message: SamplesV1) -> ClientPairs:
    if message.t is None or message.noise is None or message.labels is None:
        raise RunError("a message of releases was read as one of labelled pairs: make it with pair_bodies")
    return ClientPairs(
        message.dequantised(), message.noise.astype(np.float32), message.t, np.asarray(message.labels)
    )


def _read(bodies: Sequence[bytes]) -> Iterator[SamplesV1]:
    for body in bodies:
        message = codec.decode(SamplesV1.type_name, body)
        if not isinstance(message, SamplesV1):
            raise RunError(f"a {message.type_name} was read where samples were expected")
        yield message


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _item_bytes(dtype: Dtype) -> int:
    return np.dtype(dtype).itemsize
