"""What a device sends, byte by byte: taken apart into AMQP, and searched for images by somebody who knows them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pika.frame
import pika.spec

from broker.publisher import PUBLISHED_AT_HEADER

PLAUSIBLE = 8.0
"""Values of larger magnitude are no part of a noised image: whoever searches cuts them off, lest they drown the rest."""
RANDOM_TAG = re.compile(rb"ctag\d+\.[0-9a-f]{32}")
READINGS = ("<f2", "<f4", "|i1", "|u1")


@dataclass(frozen=True)
class Published:
    """One message as it stood in the stream."""

    routing_key: str
    properties: Any
    body: bytes


@dataclass(frozen=True)
class Traffic:
    """The stream of one connection, taken apart.

    protocol: the bytes of all frames that belong to no message, without channel numbers;  published: the messages.
    """

    protocol: list[bytes]
    published: list[Published]

    def protocol_without_tags(self) -> list[bytes]:
        """The frames with their consumer tags made alike: pika draws those at random when the connection is made."""
        return [RANDOM_TAG.sub(b"ctag", frame) for frame in self.protocol]

    def of_type(self, type_name: str) -> list[Published]:
        return [message for message in self.published if message.properties.type == type_name]


def take_apart(stream: bytes) -> Traffic:
    """Every byte of a stream given its place; fails when one is left that is no AMQP."""
    protocol: list[bytes] = []
    published: list[Published] = []
    open_: dict[int, tuple[str, Any, bytes]] = {}
    place = 0
    while place < len(stream):
        used, frame = pika.frame.decode_frame(stream[place:])
        assert used > 0, f"byte {place} begins no whole frame"
        raw = stream[place : place + used]
        place += used
        if isinstance(frame, pika.frame.Method) and isinstance(frame.method, pika.spec.Basic.Publish):
            open_[frame.channel_number] = (frame.method.routing_key, None, b"")
        elif isinstance(frame, pika.frame.Header):
            key, _, _ = open_[frame.channel_number]
            open_[frame.channel_number] = (key, frame, b"")
        elif isinstance(frame, pika.frame.Body):
            key, header, body = open_.pop(frame.channel_number)
            body += frame.fragment
            if len(body) < header.body_size:
                open_[frame.channel_number] = (key, header, body)
            else:
                published.append(Published(key, header.properties, body))
        elif not isinstance(frame, pika.frame.Heartbeat):
            protocol.append(raw if isinstance(frame, pika.frame.ProtocolHeader) else raw[:1] + raw[3:])
    assert not open_, "a message was cut off"
    return Traffic(protocol, published)


def envelope(message: Published) -> dict[str, Any]:
    """A message's properties, routing key and size, without its id and its times."""
    fields = dict(vars(message.properties))
    headers = dict(fields.pop("headers") or {})
    times = (fields.pop("timestamp"), headers.pop(PUBLISHED_AT_HEADER))
    assert all(isinstance(time, int) for time in times)
    fields.pop("message_id")
    return fields | {"headers": headers, "routing_key": message.routing_key, "bytes": len(message.body)}


def best_matches(stream: bytes, images: np.ndarray) -> np.ndarray:
    """How well each image can be found in a stream by somebody who has it: the largest |correlation| of any window.

    stream: anything, read from every byte on in every dtype of READINGS;  images: (N, C, H, W) float32.
    Returns (N,) float64 in [0, 1].
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    best = np.zeros(len(images))
    for name in READINGS:
        dtype = np.dtype(name)
        for phase in range(dtype.itemsize):
            count = (len(stream) - phase) // dtype.itemsize
            with np.errstate(invalid="ignore"):
                values = np.frombuffer(stream, dtype, count, phase).astype(np.float32)
            values = (
                np.clip(np.nan_to_num(values, nan=0.0), -PLAUSIBLE, PLAUSIBLE)
                if dtype.kind == "f"
                else values
            )
            best = np.maximum(best, _best_windows(values, flat))
    return best


def _best_windows(values: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """The largest |correlation| of each of `flat` (N, n), centred and of norm 1, with any window of `values`."""
    best = np.zeros(len(flat))
    windows = np.lib.stride_tricks.sliding_window_view(values, flat.shape[1])
    for first in range(0, len(windows), 4096):
        part = windows[first : first + 4096]
        centred = part - part.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(centred, axis=1)
        products = np.abs(centred @ flat.T) / np.maximum(norms, 1e-9)[:, None]
        best = np.maximum(best, products.max(axis=0))
    return best


def remote_ends(pid: int) -> set[tuple[str, int]]:
    """Protocol and port of every peer that a process is connected to, and of every UDP socket it has; not those it is itself."""
    own = {
        target[len("socket:[") : -1]
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(entry.readlink())).startswith("socket:[")
    }
    ends: list[tuple[str, str, str]] = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        lines = [line.split() for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]]
        ends += [(protocol, words[1], words[2]) for words in lines if words[9] in own]
    locals_ = {(protocol, local) for protocol, local, _ in ends}
    return {
        (protocol, port)
        for protocol, _, remote in ends
        if (protocol, remote) not in locals_
        and ((port := int(remote.rpartition(":")[2], 16)) or protocol.startswith("udp"))
    }
