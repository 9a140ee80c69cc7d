"""Processes that train one backbone together, and how they agree.

Every turn they exchange a few numbers over gloo, whatever carries the gradients, so that all of them do the same thing at the
same step: train, look into the store again, wait, or stop because one of them was told to.
"""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, and not in __all__

from server_worker.errors import DeviceUnavailable, RanksApart
from server_worker.training.parent import Parent

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a rank waits for the others: evaluating and saving, which rank 0 does alone, has to fit in."""


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that train together.

    rank: 0 to size-1; rank 0 alone saves, publishes and announces.  local_rank: among those of this machine.
    control: the gloo group they agree in; None for a process that is alone.  parent: who started this process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    control: Any = None
    parent: Parent = field(default_factory=Parent)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def agree(self, values: Sequence[int]) -> list[int]:
        """The greatest of each value over all ranks, the same on all of them. Raises RanksApart when one is gone."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        with self.together():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.control)
        return [int(value) for value in tensor]

    def share(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """What rank 0 gave; what the others give does not count. Raises RanksApart when one is gone."""
        if self.size == 1:
            return names
        box = [names if self.leads else None]
        with self.together():
            distributed.broadcast_object_list(box, src=0, group=self.control)
        return tuple(box[0] or ())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what all ranks do together: says in words when another one is gone (RanksApart)."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise  # this rank's own, whatever becomes of the others
        except RuntimeError as error:
            if self.size == 1:
                raise
            raise _apart(error) from error

    def leave(self) -> None:
        """Part from the others, after the last agreement."""
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """Join the ranks that torchrun started, or be alone.

    device: where this rank computes; gradients travel over NCCL between GPUs, else over gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    parent = Parent()
    try:
        store, rank = _meeting_point(), int(os.environ["RANK"])
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        control = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        raise _apart(error) from error
    return Ranks(rank, size, local_rank(), control, parent)


def _meeting_point() -> PrefixStore:
    """Where the ranks find each other's addresses: of this attempt, for torchrun keeps those of dead ranks in the same store."""
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=not is_agents and os.environ["RANK"] == "0", timeout=TIMEOUT)
    return PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def local_rank() -> int:
    """Which of this machine's ranks this process is; 0 when it is alone."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_gpu(device: torch.device) -> torch.device:
    """The GPU of this rank, made current; another kind of device as it is. Raises DeviceUnavailable when there are too few."""
    if device.type != "cuda":
        return device
    number = local_rank()
    if number >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"rank {number} of this machine has no GPU, there are {torch.cuda.device_count()}: start fewer ranks"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _apart(error: RuntimeError) -> RanksApart:
    return RanksApart(f"this rank has lost the others: {str(error).splitlines()[0]}; all start again")
