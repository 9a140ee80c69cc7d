"""What atheris calls for every input: the decoder, which may answer with a message or with a refusal, and with nothing else.

Run by `python -m tests.fuzz`, in a process of its own, since libFuzzer ends the process it runs in.
"""

import random
import sys
import tracemalloc
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["broker", "msgpack", "msgpack_numpy"]):
    from broker import codec
    from broker.contract.fields import MAX_PLAN_STEPS
    from broker.contract.message import Message
    from broker.contract.types import MESSAGE_TYPES
    from broker.errors import Refused

TYPES = sorted(MESSAGE_TYPES)
MEASURED_EVERY = 64
DETAIL_CHARACTERS = 400
HELD_TIMES_BODY, HELD_BYTES = 70, 512 * 1024
"""What decoding may hold at most: a bounded multiple of the body, for an empty map takes one byte to send and 64 to hold."""
LIST_HEADER_BYTES, NESTED_LISTS, ENTRY_BYTES, EMPTY_LIST_BYTES = 3, 1024, 8, 64
"""And the room of lists within lists: msgpack makes it at each header, whether or not the entries follow, 1,024 deep at most."""
FORBIDDEN = frozenset(
    {
        "pickle.find_class",
        "os.system",
        "subprocess.Popen",
        "exec",
        "compile",
        "open",
        "import",
        "ctypes.dlopen",
        "socket.connect",
    }
)


def held_bytes_limit(body_bytes: int) -> int:
    """Returns what decoding a body of so many bytes may hold: never more than 9 MB beside the multiple of the body."""
    longest = min(MAX_PLAN_STEPS + 1, body_bytes)
    nested = min(body_bytes // LIST_HEADER_BYTES, NESTED_LISTS)
    return HELD_BYTES + HELD_TIMES_BODY * body_bytes + nested * (EMPTY_LIST_BYTES + ENTRY_BYTES * longest)


class Check:
    """Takes one input after the other; an AssertionError, or any other exception, is a finding.

    decode: what is examined.  measured_every: measuring memory is slow, so one input in so many is decoded with it.
    """

    def __init__(
        self, decode: Callable[[str, bytes], Message] = codec.decode, measured_every: int = MEASURED_EVERY
    ) -> None:
        self._decode = decode
        self._measured_every = measured_every
        self._count = 0
        self._decoding = False

    def forbid(self, event: str, _: tuple[object, ...]) -> None:
        """An audit hook: while a body is decoded no code is run, no file opened, nothing imported."""
        if self._decoding and event in FORBIDDEN:
            raise AssertionError(f"decoding did {event}")

    def __call__(self, data: bytes) -> None:
        """One input: the first byte chooses the type, the rest is the body."""
        self._count += 1
        if not data:
            return
        type_name, body = TYPES[data[0] % len(TYPES)], data[1:]
        if self._count % self._measured_every:
            message = self._decoded(type_name, body)
        else:
            message, peak_bytes = self._measured(type_name, body)
            if peak_bytes > held_bytes_limit(len(body)):
                # The interpreter's table of names grows by a megabyte at a time, in whichever decoding fills it: look again.
                message, peak_bytes = self._measured(type_name, body)
            assert peak_bytes <= held_bytes_limit(len(body)), f"{peak_bytes} bytes for {len(body)}"
        if message is not None:
            assert codec.decode(type_name, codec.encode(message)) == message

    def _measured(self, type_name: str, body: bytes) -> tuple[Message | None, int]:
        """Decodes, and returns with the answer how many bytes were held at most."""
        tracemalloc.start()
        try:
            return self._decoded(type_name, body), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def _decoded(self, type_name: str, body: bytes) -> Message | None:
        self._decoding = True
        try:
            return self._decode(type_name, body)
        except Refused as error:
            refusal = error
        finally:
            self._decoding = False
        assert len(refusal.detail) <= DETAIL_CHARACTERS
        assert "\n" not in refusal.detail
        return None


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Half the time libFuzzer's own changes; else one that keeps the body's form: a byte, a cut, a repeat, a declared length."""
    rng = random.Random(seed)
    if rng.random() < 0.5 or len(data) < 3:
        return bytes(atheris.Mutate(data, max_size))
    changed = bytearray(data)
    place = rng.randrange(1, len(changed))
    match rng.randrange(5):
        case 0:
            changed[place] = rng.randrange(256)
        case 1:
            del changed[place : place + rng.randrange(1, 9)]
        case 2:
            changed[place:place] = changed[place : place + rng.randrange(1, 33)]
        case 3:  # a container or a text that claims to be long
            changed[place : place + 5] = bytes([rng.choice((0xC6, 0xDB, 0xDD, 0xDF, 0xC9))]) + rng.randbytes(
                4
            )
        case 4:  # the beginnings of every kind of value
            changed[place] = rng.choice(
                (0x80, 0x90, 0xA0, 0xC0, 0xC2, 0xC4, 0xC7, 0xCA, 0xCB, 0xCF, 0xD3, 0xD4, 0xD9, 0xDC, 0xDE)
            )
    return bytes(changed[:max_size])


def main() -> None:
    """Hand over to libFuzzer, with the arguments of the command line."""
    check = Check()
    sys.addaudithook(check.forbid)
    atheris.Setup(sys.argv, check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
