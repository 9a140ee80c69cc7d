"""Folders that hold a data set, and the files in them."""

import os
from pathlib import Path
from typing import NoReturn

from evaluation.errors import DataError


def files_under(root: Path, holding: str) -> list[Path]:
    """Every file under a folder and its subfolders, sorted; what begins with a dot is left out.

    Linked folders are entered as well, as data sets are often arranged by links; a folder met twice is entered where it is
    no link, or else first.

    holding: what it should hold, for people.  Raises DataError for what is no folder, or cannot be looked into.
    """
    found: list[Path] = []
    seen: set[str] = set()
    try:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: give the one that holds {holding}")
        for place, folders, names in os.walk(root, onerror=_stop, followlinks=True):
            folders[:] = _unseen(Path(place), folders, seen)
            found += [Path(place, name) for name in names if not name.startswith(".")]
    except OSError as error:
        raise DataError(f"{str(root)[:200]} cannot be looked into: {error.strerror}") from error
    return sorted(file for file in found if file.is_file())


def _unseen(place: Path, folders: list[str], seen: set[str]) -> list[str]:
    """Which of these folders to enter. Adds them to `seen`."""
    chosen = []
    for folder in sorted(folders, key=lambda name: ((place / name).is_symlink(), name)):
        real = os.path.realpath(place / folder)
        if not folder.startswith(".") and real not in seen:
            seen.add(real)
            chosen.append(folder)
    return chosen


def _stop(error: OSError) -> NoReturn:
    raise error
