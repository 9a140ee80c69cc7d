"""`collafuse export publish` and `rollout`: send a signed bundle to the devices of its client."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.address import BrokerSettings
    from export.delivery.parcel import Parcel
    from export.delivery.progress import Progress

BundleFile = Annotated[Path, typer.Argument(help="A signed bundle.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file written by `collafuse broker owner`.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        help="Public key the devices believe (ed25519:...); may be given again (default head_keys of the file)",
    ),
]
Devices = Annotated[
    Path | None, typer.Option("--devices", help="File with the name of one device in every line.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def publish(
    bundle: BundleFile,
    *,
    config: Config = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Name of a device; may be given again.")
    ] = None,
    devices: Devices = None,
    everybody: Annotated[bool, typer.Option("--all", help="All devices of the client.")] = False,
    key: Keys = None,
) -> None:
    """Send a signed bundle to devices, which judge it, try it, and take it up."""
    import sys

    from broker.errors import ConfigError, PublishFailed
    from broker.topology import client_key, device_key
    from export.delivery.errors import DeliveryError
    from export.delivery.post import opened
    from monitoring.logs import configure

    configure("publish", level="warning")

    if sum((bool(device), devices is not None, everybody)) != 1:
        raise ConfigError("say who is to have it: --device NAME, --devices FILE or --all")
    broker, client, believed = _owner(config)
    parcel = _parcel(bundle, client, key or believed)
    users = _users(client, device or (_names(devices) if devices else []))
    keys = [client_key(client)] if everybody else [device_key(user) for user in users]
    missed: dict[str, str] = {}
    with opened(broker, client, with_reports=False) as post:
        for number, target in enumerate(keys, start=1):
            with _bar(f"{number} of {len(keys)}", parcel.announcement.chunks) as update:
                try:
                    post.send(parcel, target, on_progress=update)
                except PublishFailed as error:
                    missed[target] = str(error)
    reached = f"all devices of {client}" if everybody else f"{len(keys) - len(missed)} devices"
    if len(missed) < len(keys):
        print(f"{parcel.title} is on its way to {reached}, in {parcel.announcement.chunks} pieces")
    for target, reason in missed.items():
        print(f"not sent to {target.partition('.')[2]}: {reason}", file=sys.stderr)
    if missed:
        raise DeliveryError(
            f"{parcel.title} was not sent to {len(missed)} of {len(keys)}: are they enrolled?"
            " `collafuse broker list` shows who is"
        )


def rollout(
    bundle: BundleFile,
    *,
    devices: Annotated[
        Path, typer.Option("--devices", help="File with the name of one device in every line.")
    ],
    percent: Annotated[
        float, typer.Option("--percent", min=0, max=100, help="Share of the devices that is to have it.")
    ],
    config: Config = None,
    max_failures: Annotated[
        float, typer.Option("--max-failures", min=0, max=1, help="Largest share that may fail.")
    ] = 0.05,
    min_installed: Annotated[
        float,
        typer.Option(
            "--min-installed",
            min=0,
            max=1,
            help="Share of those reached before that has to have it in use before others get it.",
        ),
    ] = 0.5,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for reports; longer than a trial.")
    ] = 1800,
    state: Annotated[
        Path | None, typer.Option("--state", help="File of the rollout (default BUNDLE.rollout.json)")
    ] = None,
    resume_halted: Annotated[
        bool, typer.Option("--resume-halted", help="Go on with a rollout that was halted.")
    ] = False,
    key: Keys = None,
    as_json: Json = False,
) -> None:
    """Send a bundle to a share of the devices and watch how they do; a larger share later goes on from there."""
    from export.delivery.post import opened
    from export.delivery.rollout import Plan, Rollout
    from monitoring.logs import configure

    configure("rollout", level="warning")

    broker, client, believed = _owner(config)
    parcel = _parcel(bundle, client, key or believed)
    users = _users(client, _names(devices))
    path = state or bundle.with_suffix(".rollout.json")
    plan = Plan(percent, max_failures, min_installed, wait, resume_halted=resume_halted)
    with opened(broker, client, with_reports=True) as post, _counts(len(users), quiet=as_json) as tell:
        progress = Rollout(post, parcel, path, tell).run(users, plan)
    _show(parcel, progress, len(users), as_json=as_json)


def _show(parcel: "Parcel", progress: "Progress", total: int, *, as_json: bool) -> None:
    import json
    import sys

    from export.delivery.errors import RolloutUnfinished

    facts = {
        "bundle": progress.bundle,
        "devices": total,
        "sent": len(progress.devices) - progress.count("unreachable"),
        "installed": progress.count("installed"),
        "failures": progress.failures,
        "ahead": progress.ahead,
        "stuck": progress.stuck,
        "postponed": progress.postponed,
        "silent": progress.silent,
        "unreachable": progress.count("unreachable"),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print(
            f"{parcel.title}: sent to {facts['sent']} of {total} devices, installed on {facts['installed']},"
            f" failed on {facts['failures']}, as new or newer on {facts['ahead']}, hanging on {facts['stuck']},"
            f" postponed on metered links {facts['postponed']}, silent {facts['silent']},"
            f" unreachable {facts['unreachable']}"
        )
    if not progress.devices:
        print(
            f"none of them belongs to this share, and nothing was sent: who does is drawn anew for each head;"
            f" a larger --percent reaches more of the {total}",
            file=sys.stderr,
        )
    if not progress.has_come_to_something:
        raise RolloutUnfinished(
            f"no device has come to an end with {parcel.title}: nothing is known of it; run it again later"
        )


def _owner(config: Path | None) -> tuple["BrokerSettings", str, tuple[str, ...]]:
    """The broker, the client, and the keys that its devices believe."""
    from export.delivery.settings import OwnerSettings, client_of

    settings = OwnerSettings.load(config)
    broker = settings.broker()
    return broker, client_of(broker), settings.head_keys


def _parcel(bundle: Path, client: str, keys: "Sequence[str]") -> "Parcel":
    from export.delivery.parcel import pack

    return pack(bundle, client=client, keys=keys)


def _names(path: Path) -> list[str]:
    """The devices in a file: a name in every line, empty lines and what follows a # left out."""
    from broker.errors import ConfigError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the devices in {path}: {error}") from error
    found = [line.partition("#")[0].strip() for line in lines]
    if not any(found):
        raise ConfigError(f"{path} names no device: write one name into every line")
    return list(dict.fromkeys(name for name in found if name))


def _users(client: str, names: list[str]) -> list[str]:
    """The AMQP users of devices, given by their own names or as users of this client. Raises InvalidName."""
    from broker.names import user_name

    return [user_name(client, name.removeprefix(f"{client}_")) for name in names]


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr; yields the function that is told how much is done."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _counts(total: int, *, quiet: bool) -> Iterator[Any]:
    """A line on stderr with how many devices are where; yields the function that is told."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with console.status("connecting") as status:

        def tell(progress: "Progress") -> None:
            status.update(
                f"sent to {len(progress.devices)} of {total}, installed {progress.count('installed')},"
                f" failed {progress.failures}"
            )

        yield tell
