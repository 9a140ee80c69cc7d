"""What a process takes of the machine's memory, as the kernel counts it."""

from pathlib import Path


def rss_bytes(pid: int | str = "self") -> int:
    """Memory that a process has resident, pages shared with others included; 0 when it is gone."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS")


def pss_bytes(pid: int | str = "self") -> int:
    """Memory that a process has resident, with pages shared by several processes divided among them; 0 when it is gone."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
