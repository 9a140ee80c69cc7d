"""Trained networks, kept in a folder under names that say what they depend on: an interrupted evaluation trains none twice."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig
from evaluation.errors import RunError
from evaluation.running.federation import Federation
from evaluation.running.fitting import Fit, Tell
from evaluation.running.trainings import Trained, Training, name_of

_EXTRA = "extra."
FORMAT = "collafuse-evaluation-network-v1"


class NetworkStore:
    """One safetensors file for each training."""

    def __init__(self, folder: Path, federation: Federation) -> None:
        self._folder = folder
        self._federation = federation

    def has(self, training: Training) -> bool:
        """Whether the network is there."""
        return self._path(training).exists()

    def trained(self, training: Training, tell: Tell | None = None) -> Trained:
        """The network, trained now if it is not there.

        Raises:
            RunError: the folder cannot be written to, or a file in it cannot be read.
        """
        return self.kept(training, lambda: training.train(self._federation, tell or _silent))

    def kept(self, training: Training, make: Callable[[], Trained]) -> Trained:
        """As `trained`, for a network that grows out of others: `make` has them at hand, where `train` would train them anew.

        Raises RunError as `trained` does.
        """
        path = self._path(training)
        if not path.exists():
            self._write(path, make())
        # Read back even when just made: whoever comes later gets exactly the same.
        return _read(path)

    def _path(self, training: Training) -> Path:
        return self._folder / f"{name_of(training, self._federation)}.safetensors"

    def _write(self, path: Path, made: Trained) -> None:
        tensors = {name: value.contiguous() for name, value in made.network.state_dict().items()}
        tensors |= {_EXTRA + name: value.contiguous() for name, value in made.extra.items()}
        described = {
            "format": FORMAT,
            "unet": json.dumps(made.network.config.to_dict()),
            "fit": json.dumps(asdict(made.fit)),
        }
        draft = path.with_suffix(f".{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(save(tensors, described))
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):  # on a full disk every byte counts
                draft.unlink()
            raise RunError(
                f"cannot keep a network in {self._folder}: {error.strerror}; choose another --out"
            ) from error


def _read(path: Path) -> Trained:
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        if described.get("format") != FORMAT:
            raise RunError(f"{path} is no network of this version: remove the file and run again")
        network = UNet(UNetConfig.from_dict(json.loads(described["unet"])))
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_EXTRA)})
        fit = json.loads(described["fit"])
    except (OSError, SafetensorError, DiffusionError, RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read: remove the file and run again") from error
    extra = {k.removeprefix(_EXTRA): v for k, v in tensors.items() if k.startswith(_EXTRA)}
    curve = tuple((int(update), float(loss)) for update, loss in fit["curve"])
    return Trained(network.eval().requires_grad_(False), Fit(curve, fit["seconds"]), extra)


def _silent(done: int, of: int, loss: float) -> None:
    del done, of, loss
