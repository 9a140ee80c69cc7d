"""A TCP link between a process under test and the broker, which a test can make slow, stall, truncate and cut."""

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType
from typing import Self

BLOCK_BYTES = 65_536
QUEUED_BLOCKS = 1024
"""What a slow link holds on its way before its source has to wait."""

Way = queue.Queue[tuple[float, bytes]]
"""Blocks on their way, each with the time at which it is due; an empty one stands for the end of the stream."""


class Link:
    """Forwards connections to 127.0.0.1:`target_port` from `port`, until it is told otherwise.

    target_port: where it leads.
    delay_seconds: how long every byte is on its way, in each direction.
    bytes_per_second: of each direction of each connection, or None for as fast as can be.
    records: keep every byte that went up, in `recorded`: one entry for each connection, in the order in which they came.
    """

    def __init__(
        self,
        target_port: int,
        *,
        delay_seconds: float = 0.0,
        bytes_per_second: float | None = None,
        records: bool = False,
    ) -> None:
        self.target_port = target_port
        self.delay_seconds = delay_seconds
        self.bytes_per_second = bytes_per_second
        self.refuses = False
        self.records = records
        self.recorded: list[bytearray] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._server.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flows = {"up": threading.Event(), "down": threading.Event()}
        self._allowance: int | None = None
        for flow in self._flows.values():
            flow.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End every connection at once, without a word of AMQP; new ones are taken. Returns how many were cut."""
        with self._lock:
            cut, self._sockets = self._sockets, set()
        for end in cut:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(cut) // 2

    def stall(self, *directions: str) -> None:
        """Forward nothing any more, `up` to the broker, `down` from it, or both; the connections stay open."""
        for direction in directions or tuple(self._flows):
            self._flows[direction].clear()

    def resume(self) -> None:
        """Forward again what is held back, and what comes."""
        for flow in self._flows.values():
            flow.set()

    def truncate_after(self, count: int) -> None:
        """Let `count` more bytes through to the broker, all connections together, and cut in the middle of what follows."""
        with self._lock:
            self._allowance = count

    def close(self) -> None:
        """Cut everything and take nothing more."""
        self._server.close()
        self.resume()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                if self.refuses:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {near, far}
            record = bytearray() if self.records else None
            if record is not None:
                self.recorded.append(record)
            self._start(near, far, "up", record)
            self._start(far, near, "down", None)

    def _start(
        self, source: socket.socket, sink: socket.socket, direction: str, record: bytearray | None
    ) -> None:
        way: Way = queue.Queue(QUEUED_BLOCKS)
        threading.Thread(target=self._read, args=(source, way, record), daemon=True).start()
        threading.Thread(target=self._write, args=(source, sink, direction, way), daemon=True).start()

    def _read(self, source: socket.socket, way: Way, record: bytearray | None) -> None:
        """Take what comes in, whether or not it is handed on."""
        block = b"first"
        while block:
            try:
                block = source.recv(BLOCK_BYTES)
            except OSError:
                block = b""
            if record is not None:
                record += block
            way.put((time.monotonic() + self.delay_seconds, block))

    def _write(self, source: socket.socket, sink: socket.socket, direction: str, way: Way) -> None:
        """Hand each block on when its time has come and the link lets it through."""
        block, free_at = b"first", 0.0
        with contextlib.suppress(OSError):
            while True:
                due, block = way.get()
                time.sleep(max(0.0, max(due, free_at) - time.monotonic()))
                self._flows[direction].wait()
                if not block:
                    break
                passed = self._passed(block) if direction == "up" else block
                sink.sendall(passed)
                if len(passed) < len(block):
                    self.cut()
                if self.bytes_per_second is not None:
                    free_at = time.monotonic() + len(block) / self.bytes_per_second
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        while block:  # the reader may be waiting for room
            _, block = way.get()

    def _passed(self, block: bytes) -> bytes:
        """What gets through of a block: all of it, unless the allowance ends within."""
        with self._lock:
            if self._allowance is None:
                return block
            passed = block[: self._allowance]
            self._allowance = None if len(passed) < len(block) else self._allowance - len(block)
            return passed
