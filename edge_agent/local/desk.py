"""A few threads that work with the spool and the disk, so that neither the server's loop nor the agent ever waits for them."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.errors import SpoolError
from edge_agent.local.problem import SOON, Problem
from edge_agent.storage.spool import Spool

T = TypeVar("T")
Work = Callable[[Spool], Any]

THREADS = 3
WAITING_TASKS = 128


class Desk:
    """Takes work from the server's loop and does it in threads, each with a spool connection of its own.

    spool_path: the database; a connection that failed is made anew for the next task, so that a spool that was restored is found.
    """

    def __init__(self, spool_path: Path) -> None:
        self._path = spool_path
        self._tasks: queue.Queue[tuple[Future[Any], Work] | None] = queue.Queue(WAITING_TASKS)
        self._threads = [
            threading.Thread(target=self._serve, name=f"page-desk-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    async def ask(self, work: Callable[[Spool], T]) -> T:
        """Do `work` in one of the threads. Raises what it raises, and Problem 503 when too much is waiting already."""
        future: Future[Any] = Future()
        try:
            self._tasks.put_nowait((future, work))
        except queue.Full:
            raise Problem(
                503, "busy", "too many requests wait already: try again in a few seconds", SOON
            ) from None
        done: T = await asyncio.wrap_future(future)
        return done

    def close(self) -> None:
        """Let the threads end after the work in hand; what they have not begun is dropped."""
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)

    def _serve(self) -> None:
        spool: Spool | None = None
        while (task := self._tasks.get()) is not None:
            future, work = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                spool = spool or Spool(self._path)
                future.set_result(work(spool))
            except SpoolError as error:
                if spool is not None:
                    spool.close()
                spool = None
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001  # the thread goes on; whoever asked is told
                future.set_exception(error)
        if spool is not None:
            spool.close()
