"""Moving what is damaged out of the way, whole, into a folder of `quarantine/` where somebody can look at it."""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from export.files import flush_directory

KEPT = 4
"""Folders kept at most, so that a failing disk is not filled with them; the newest stay."""
NAME = "quarantine"


def folders(directory: Path) -> list[Path]:
    """What was set aside below a state directory and is still there, oldest first."""
    place = directory / NAME
    return sorted(entry for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []


def move(directory: Path, paths: Iterable[Path]) -> Path:
    """Move those of `paths` that are there, in their order, into a new folder; returns it. Raises OSError."""
    folder = _new_folder(directory / NAME)
    try:
        for path in paths:
            if path.exists():
                path.rename(folder / path.name)
    except OSError:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    for changed in (folder, folder.parent, directory):
        flush_directory(changed)
    # By their names the oldest, but never the one just made: the clock may have been set back.
    for old in [old for old in folders(directory) if old != folder][: -(KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _new_folder(place: Path) -> Path:
    """A folder that was not there, named by the time in UTC; by a number besides when the clock stands still or went back."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    place.mkdir(exist_ok=True, mode=0o700)
    number = 0
    while True:
        folder = place / (stamp if number == 0 else f"{stamp}-{number}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return folder
