"""A T5 in a directory on this machine: that its files are there, and what tells it from any other."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.errors import TextError

_TOKENIZERS = ("tokenizer.json", "spiece.model")
_READ = (".json", ".safetensors", ".model")
"""How the names end of all that transformers reads of a T5 here: descriptions, weights, the tokenizer's pieces."""


@dataclass(frozen=True)
class T5Directory:
    """Where a T5 lies, and what it is.

    path: for whoever opens it;  digest: 16 hex digits over its files, which name what depends on it, wherever it lies.
    """

    path: Path
    digest: str

    @classmethod
    def at(cls, path: Path) -> "T5Directory":
        """The T5 in this directory, every byte of it read once.

        Raises:
            TextError: no directory, one that lacks a file or holds another model, or a file that cannot be read.
        """
        check_files(path)
        digest = hashlib.sha256()
        try:
            for file in sorted(file for file in path.iterdir() if file.suffix in _READ and file.is_file()):
                digest.update(f"{file.name}\0".encode())
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise TextError(
                f"cannot read the T5 in {path}: {error.strerror}; make its files readable"
            ) from error
        return cls(path, digest.hexdigest()[:16])

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"the T5 encoder {self.path.resolve().name} (files {self.digest})"


def check_files(path: Path) -> None:
    """Raise TextError for a directory that no T5 can be read from, by what its files are called and `config.json` says."""
    if not path.is_dir():
        raise TextError(f"there is no directory {path}: give the one that a T5 was saved to")
    kind = _model_type(path)
    if kind != "t5":
        raise TextError(f"{path} holds a model of type {kind!r}: give one of type 't5'")
    if not any(path.glob("model*.safetensors")):
        pickled = (
            ", weights as a pickle only, which could run code when read" if any(path.glob("*.bin")) else ""
        )
        raise TextError(f"{path} has no model.safetensors{pickled}: save the model as safetensors")
    # Without them transformers would make up an empty tokenizer, to which every word is unknown.
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise TextError(
            f"{path} has neither {' nor '.join(_TOKENIZERS)}: save the tokenizer beside the model"
        )


def _model_type(path: Path) -> Any:
    try:
        return json.loads((path / "config.json").read_bytes())["model_type"]
    except OSError as error:
        raise TextError(
            f"{path} has no config.json to read: give the directory that a T5 was saved to"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TextError(f"{path / 'config.json'} describes no model: copy or save the T5 again") from error
