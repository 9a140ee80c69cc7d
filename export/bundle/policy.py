"""Whether a device may take a head: rollback, freeze and mix-up, decided from facts alone, without a clock of its own."""

import re

from export.bundle.bars import check_bars
from export.bundle.manifest import Manifest
from export.errors import BundleRefused, ParityFailed


def check_install(
    manifest: Manifest,
    installed_counter: int | None,
    agent_version: str,
    known_time_unix: float,
    allow_older: bool = False,
    *,
    client: str | None = None,
    name: str | None = None,
) -> None:
    """Refuse a head that would set the device back, is out of date, or is somebody else's.

    Args:
        manifest: of a bundle whose signature was verified.
        installed_counter: of the head in use, None for none.
        agent_version: of the program that would run it, such as "0.1.0".
        known_time_unix: a time in unix seconds that has surely passed; it may be behind, so that expiry comes late
            rather than wrongly.
        allow_older: the operator's own word that an older or equal counter is meant.
        client: whose device this is, None for not checked.
        name: of the head that this device follows, None for not checked.

    Raises:
        BundleRefused: with the reason `other_client`, `other_name`, `counter_older`, `counter_equal`, `expired` or
            `agent_too_old`.
    """
    what = f"head {manifest.name} {manifest.version} (counter {manifest.counter})"
    if client is not None and manifest.client != client:
        raise BundleRefused(
            "other_client",
            f"{what} belongs to {manifest.client}, this device to {client}; publish it to its own devices",
        )
    if name is not None and manifest.name != name:
        raise BundleRefused("other_name", f"{what} is not {name}; publish the head under the name in use")
    if not allow_older and installed_counter is not None and manifest.counter <= installed_counter:
        equal = manifest.counter == installed_counter
        raise BundleRefused(
            "counter_equal" if equal else "counter_older",
            f"{what} is not newer than the installed counter {installed_counter}; export it with a greater counter, "
            "or allow older ones",
        )
    if manifest.expires_at is not None and known_time_unix > manifest.expires_at:
        raise BundleRefused("expired", f"{what} has expired; export and sign it again")
    if version_numbers(agent_version) < version_numbers(manifest.minimum_agent):
        raise BundleRefused(
            "agent_too_old",
            f"{what} needs agent {manifest.minimum_agent}, this is {agent_version}; update the agent first",
        )


def check_figures(manifest: Manifest) -> None:
    """Refuse a head whose own figures would not pass today's gates. Raises BundleRefused (`gates_failed`)."""
    try:
        check_bars(manifest)
    except ParityFailed as error:
        raise BundleRefused("gates_failed", str(error)) from error


def version_numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, four of them: "1.2.dev3" → (1, 2, 0, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release.group().split(".")[:4]] if release else []
    return (*numbers, *[0] * (4 - len(numbers)))
