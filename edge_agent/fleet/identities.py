"""Who the devices of a simulated fleet are: enrolled for the occasion by an operator, or named by a folder of credentials."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broker.credentials import write_credentials
from broker.identities import enroll, revoke
from broker.management import Management
from broker.names import reports
from broker.settings import BrokerSettings
from edge_agent.errors import SimulationError

CLIENTS = 20
_AT_ONCE = 4

Progress = Callable[[int], None]


@contextlib.contextmanager
def enrolled(
    management: Management,
    address: BrokerSettings,
    count: int,
    folder: Path,
    *,
    name: str,
    keep: bool,
    progress: Progress,
) -> Iterator[list[Path]]:
    """Enrol so many devices, `<name>-0 d0` and so on; yields the files of their credentials, and revokes them at the end.

    Args:
        management: with the tag `administrator`.
        address: how the devices reach the broker.
        count: of devices.
        folder: for the credentials, which only their owner can read.
        name: what the clients' names begin with; of this simulation alone.
        keep: leave the devices enrolled, and their files where they are.
        progress: told how many have been enrolled.

    Raises:
        InvalidName: `name` is not usable.
        ManagementError, AlreadyEnrolled, ConfigError: a device could not be enrolled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [(f"{name}-{number % CLIENTS}", f"d{number}") for number in range(count)]

    def enrol(one: tuple[str, str]) -> Path:
        path = folder / f"{one[0]}_{one[1]}.toml"
        write_credentials(enroll(management, *one, address=address), path, replace=True)
        return path

    paths: list[Path] = []
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for path in pool.map(enrol, names):
                paths.append(path)
                progress(len(paths))
        yield paths
    finally:
        if not keep:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda one: revoke(management, *one, vhost=address.vhost), names))
            for client in {client for client, _ in names}:
                management.delete_queue(address.vhost, reports(client))
            for path in paths:
                path.unlink(missing_ok=True)


def found(folder: Path, count: int) -> list[Path]:
    """The first `count` credentials, in the order of their names, of those in a folder.

    Raises SimulationError when there are not as many.
    """
    paths = sorted(folder.glob("*.toml"))
    if len(paths) < count:
        raise SimulationError(
            f"{folder} holds the credentials of {len(paths)} devices and {count} are wanted: enrol more with"
            " `collafuse broker enroll`, or ask for fewer --agents"
        )
    return paths[:count]
