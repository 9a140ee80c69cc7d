"""What a federation has agreed on, and whether a sample batch keeps to it.

A release is refused, never guessed at: a batch made for another schedule would train the backbone towards noise levels that
do not exist in this federation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from broker.contract.samples import SamplesV1
from broker.errors import Refused
from diffusion.schedule import NoiseSchedule
from server_worker.errors import ContractMismatch
from server_worker.storage import Storage, json_bytes, read_json

CONTRACT_PATH = "contract.json"
MAX_VALUE = 1000.0
"""Images lie in [-1, 1] and noise is standard normal: what is far beyond is a mistake, or meant to spoil the training."""


@dataclass(frozen=True)
class Contract:
    """One federation's terms.

    schedule: the noise schedule of the whole chain.
    shape: (C, H, W) of every image.
    num_classes: labels are 0..num_classes-1; None: no labels.
    cut_min, cut_max: the cut ratios that releases may have, both ends included.
    """

    schedule: NoiseSchedule
    shape: tuple[int, int, int]
    num_classes: int | None
    cut_min: float
    cut_max: float

    @property
    def t_cut_range(self) -> tuple[int, int]:
        """The least and the greatest `t_c` that is taken; at T nothing would be left for the server to learn."""
        T = self.schedule.T
        return round(self.cut_min * T), min(round(self.cut_max * T), T - 1)


def check_samples(message: SamplesV1, contract: Contract) -> None:
    """Raises Refused, with what was sent and what is wanted, when a batch does not keep to the contract."""
    schedule = contract.schedule
    if message.schedule_id != schedule.schedule_id:
        raise Refused(
            "schedule_mismatch",
            f"released for schedule {message.schedule_id}, this federation uses {schedule.schedule_id}",
        )
    shape = tuple(message.x.shape[1:])
    if shape != contract.shape:
        raise Refused("shape_mismatch", f"images of shape {shape}, this federation uses {contract.shape}")
    least, greatest = contract.t_cut_range
    if not least <= message.t_cut <= greatest:
        raise Refused(
            "cut_out_of_range", f"t_cut {message.t_cut}, this federation takes {least} to {greatest}"
        )
    _check_labels(message, contract)
    if message.t is not None and not (
        message.t_cut < int(message.t.min()) and int(message.t.max()) <= schedule.T
    ):
        raise Refused("bad_timestep", f"pairs must have t in ({message.t_cut}, {schedule.T}]")
    _check_values(message)


def keep_contract(storage: Storage, contract: Contract) -> None:
    """Write the contract down beside the data, or compare it with what was written before.

    Raises:
        ContractMismatch: the data there was made under other terms; both are named.
        StorageFull, Damaged: the file cannot be written, or read.
    """
    terms = _terms(contract)
    try:
        kept = read_json(storage, CONTRACT_PATH)
    except FileNotFoundError:
        storage.write(CONTRACT_PATH, json_bytes(terms))
        return
    for name, wanted in terms.items():
        if kept.get(name) != wanted:
            raise ContractMismatch(
                f"the storage {storage.url} was made for {name} {kept.get(name)}, the configuration says {wanted}: "
                "use the configuration it was made with, or another storage"
            )


def _check_labels(message: SamplesV1, contract: Contract) -> None:
    if message.labels is None or message.labels.size == 0:
        return
    if contract.num_classes is None:
        raise Refused("unexpected_labels", "this federation has no classes, the batch carries labels")
    least, greatest = int(np.min(message.labels)), int(np.max(message.labels))
    if least < 0 or greatest >= contract.num_classes:
        raise Refused(
            "label_out_of_range",
            f"labels from {least} to {greatest}, this federation has classes 0 to {contract.num_classes - 1}",
        )


def _check_values(message: SamplesV1) -> None:
    """Every value may be finite and the loss infinite all the same: its square has to fit into a float32, with room to spare."""
    values = {"x": message.x if message.scale is None else message.scale, "noise": message.noise}
    for name, array in values.items():
        largest = 0.0 if array is None or array.size == 0 else float(max(np.max(array), -np.min(array)))
        if not largest <= MAX_VALUE:
            raise Refused(
                "value_out_of_range",
                f"{name} has a magnitude of {largest:.4g}, at most {MAX_VALUE:g} is taken",
            )


def _terms(contract: Contract) -> dict[str, Any]:
    # The accepted cuts may change while a federation lives; these may not.
    return {
        "num_classes": contract.num_classes,
        "schedule_id": contract.schedule.schedule_id,
        "shape": list(contract.shape),
    }
