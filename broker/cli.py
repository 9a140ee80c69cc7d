"""`collafuse broker`: declare the topology, enrol devices and revoke them, make certificates."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from broker import device_settings, names, topology
from broker.command import Directory, Json, ManagementUrl, Status, Url, declare_on, management
from broker.credentials import write_credentials, write_exporter, write_worker
from broker.dead import cli as dead_cli
from broker.errors import ConfigError, NotEnrolled
from broker.node import cli as node_cli
from broker.settings import NODE_DIRECTORY, BrokerSettings, broker_settings

app = typer.Typer(help="Queues, identities, dead letters, and a private RabbitMQ node.", no_args_is_help=True)
app.add_typer(node_cli.app, name="node")
app.add_typer(dead_cli.app, name="dead")

PublicUrl = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        help="amqp[s]://host:port under which the new user reaches the broker, if other than --url.",
    ),
]
Ca = Annotated[
    str | None,  # not a path, which would make one slash of two: PEM itself may stand here, as everywhere
    typer.Option(
        "--ca",
        envvar="COLLAFUSE_BROKER_CA",
        show_envvar=True,
        help="PEM, or its file, of the authority by which the new user knows the broker.",
    ),
]
Client = Annotated[str, typer.Argument(help="Who owns the device.")]
DeviceName = Annotated[str, typer.Argument(help="The device's name within the client.")]
Out = Annotated[Path, typer.Option("--out", help="File for the credentials, readable by you alone.")]


@app.command()
def init(url: Url = None, directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Declare exchanges, queues and bindings; safe to repeat."""
    settings = broker_settings(url, directory)
    with Status(f"declaring the queues on {settings}"):
        declare_on(settings)
    queues = [queue.name for queue in topology.FEDERATION.queues]
    if as_json:
        print(json.dumps({"broker": str(settings), "queues": queues}))
    else:
        print(f"{settings} has the queues {', '.join(queues)}")


@app.command()
def enroll(
    client: Client,
    device: DeviceName,
    *,
    out: Out,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    ca: Ca = None,
    directory: Directory = NODE_DIRECTORY,
    renew: Annotated[
        bool, typer.Option("--renew", help="Give an enrolled device a new password or certificate.")
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            help="Let it log in with a certificate, signed by the authority in this directory.",
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE: a setting of `collafuse edge run` for its file, such as pool_images=32; may be repeated.",
        ),
    ] = None,
    head_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--head-keys",
            help="Public key (ed25519:…), or a file of them, whose signature its heads must bear; may be repeated.",
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option("--max-connections", min=1, help="That it may hold open at a time.")
    ] = 8,
    max_channels: Annotated[
        int, typer.Option("--max-channels", min=2, help="That it may hold open at a time.")
    ] = 32,
) -> None:
    """Make a device's user, rights, limits and inbox, and write the credentials it starts with."""
    from broker import identities  # brings httpx, which the other commands do without

    names.user_name(client, device)
    _check_out(out, renew)
    told = (device_settings.kept(out) if renew else {}) | _told(chosen, head_keys)
    settings = broker_settings(url, directory)
    authority = None
    if certificate is not None:
        from broker.certificates import Authority  # brings cryptography

        authority = Authority.of(certificate, make=False)
        ca = ca or str(certificate / "ca.pem")
    address = _address(settings, public_url, ca)
    with Status(f"enrolling {client} {device}"), management(settings, management_url, directory) as api:
        credentials = identities.enroll(
            api,
            client,
            device,
            address=address,
            renew=renew,
            limits=identities.Limits(max_connections, max_channels),
            authority=authority,
        )
    write_credentials(credentials, out, replace=renew, settings=told)
    print(f"{client} {device} is enrolled; its credentials are in {out}")
    if renew:
        print(
            "the old password is void and its connections are closed; an old certificate stays good until it expires:"
            " if somebody else may have its key, revoke the device and enrol it under another name"
        )


@app.command()
def revoke(
    client: Client,
    device: DeviceName,
    *,
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """End a device at once: its user, its open connections, its inbox and what is in it."""
    from broker import identities  # brings httpx, which the other commands do without

    settings = broker_settings(url, directory)
    with Status(f"revoking {client} {device}"), management(settings, management_url, directory) as api:
        known = identities.revoke(api, client, device, vhost=settings.vhost)
    if not known:
        raise NotEnrolled(f"{client} {device} is not enrolled; `collafuse broker list` shows who is")
    print(f"{client} {device} is revoked: its connections are closed and its inbox is gone")


@app.command("list")
def list_(
    client: Annotated[str | None, typer.Argument(help="Only devices of this client.")] = None,
    *,
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show the enrolled devices: how they log in, whether they are connected, and what waits for them."""
    from broker import identities  # brings httpx, which the other commands do without

    settings = broker_settings(url, directory)
    with Status("asking the broker"), management(settings, management_url, directory) as api:
        everyone = identities.enrolled(api, settings.vhost)
    found = [one for one in everyone if client in (None, one.client)]
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
        return
    if not found:
        print("no device is enrolled" if client is None else f"no device of {client} is enrolled")
        return
    table = Table("client", "device", "connected", "in its inbox", "logs in with", "connections", "channels")
    for one in found:
        waiting = "no inbox" if one.inbox_messages is None else f"{one.inbox_messages:,}"
        limits = [
            "no limit" if limit is None else f"at most {limit}"
            for limit in (one.max_connections, one.max_channels)
        ]
        table.add_row(one.client, one.device, "yes" if one.connected else "no", waiting, one.login, *limits)
    Console().print(table)


@app.command()
def certs(
    *,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the authority and the broker's certificate.")
    ],
    host: Annotated[
        list[str], typer.Option("--host", help="Name or address of the broker; may be given again.")
    ],
) -> None:
    """Make an authority for development and closed networks, and the broker's certificate; print how RabbitMQ uses them."""
    from broker.certificates import Authority, rabbitmq_lines, write_server  # brings cryptography

    write_server(Authority.of(out, make=True).server(host), out)
    print("# An authority for development and closed networks: nobody watches over its key but you.")
    print(
        f"# The broker's certificate for {', '.join(host)}. RabbitMQ has to be able to read server.key. rabbitmq.conf:"
    )
    print("\n".join(rabbitmq_lines(out.absolute())))
    print("# To log in with certificates: rabbitmq-plugins enable rabbitmq_auth_mechanism_ssl")
    print(
        f"# Everybody who connects: COLLAFUSE_BROKER_CA={out.absolute() / 'ca.pem'} (enrolment hands it on to devices)"
    )
    print(f"# Keep {out.absolute() / 'ca.key'} to yourself: who has it can be anybody.")


@app.command()
def owner(
    client: Annotated[str, typer.Argument(help="Whose devices.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the credentials, readable by you alone.")
    ] = None,
    reports: Annotated[
        bool,
        typer.Option("--reports", help="Only make the queue of their reports anew; the password stays."),
    ] = False,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    ca: Ca = None,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Make the user who sends heads to a client's devices, or give it a new password, and write its broker_url."""
    from broker import identities  # brings httpx, which the other commands do without

    names.owner_name(client)
    if reports == (out is not None):
        raise ConfigError("say one of --out FILE, for a new password, and --reports, for the queue alone")
    settings = broker_settings(url, directory)
    address = _address(settings, public_url, ca)
    with Status(f"making the owner of {client}"), management(settings, management_url, directory) as api:
        if out is None:
            identities.renew_reports(api, client, vhost=address.vhost)
            print(f"the reports of all enrolled devices of {client} are kept for its owner")
            return
        made = identities.owner(api, client, address=address)
    write_worker(made, out)
    print(
        f"{made.user} may send heads to the devices of {client} and read what they report; its broker_url is in {out}"
    )


@app.command("server-user")
def server_user(
    name: Annotated[str, typer.Argument(help="Name of the worker's user.")],
    *,
    out: Out,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    ca: Ca = None,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Make a worker's user, or give it a new password, and write its broker_url."""
    from broker import identities  # brings httpx, which the other commands do without

    settings = broker_settings(url, directory)
    address = _address(settings, public_url, ca)
    with Status(f"making the user {name}"), management(settings, management_url, directory) as api:
        worker = identities.server_user(api, name, address=address)
    write_worker(worker, out)
    print(f"{name} may work in the vhost {worker.vhost}; its broker_url is in {out}")


@app.command("exporter-user")
def exporter_user(
    name: Annotated[str, typer.Argument(help="Name of the exporter's user.")],
    *,
    out: Out,
    node_metrics_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Where a node of the broker serves its own metrics, such as http://broker-1:15692; once for each node."
        ),
    ] = None,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    ca: Ca = None,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Make the exporter's user, or give it a new password, and write its broker_url and management_url."""
    from broker import identities  # brings httpx, which the other commands do without

    settings = broker_settings(url, directory)
    address = _address(settings, public_url, ca)
    with Status(f"making the user {name}"), management(settings, management_url, directory) as api:
        made = identities.exporter_user(api, name, address=address)
        write_exporter(made, api.url, out, node_metrics_urls=node_metrics_url or ())
    print(f"{name} may look at the broker and read what devices report; its settings are in {out}")


def _address(settings: BrokerSettings, public_url: str | None, ca: str | None) -> BrokerSettings:
    """Returns how the new user reaches the broker: as we do, or at the scheme, host and port of `public_url`."""
    place, authority = settings.places, settings.ca if ca is None else ca
    scheme = "amqps" if settings.tls else "amqp"
    if public_url is not None:
        scheme, separator, place = public_url.partition("://")
        if not separator or "@" in place:
            raise ConfigError("--public-url must read amqp[s]://host:port, without user or password")
    return BrokerSettings.from_url(
        f"{scheme}://nobody:nothing@{place.rstrip('/')}/{quote(settings.vhost, safe='')}",
        ca=authority if scheme == "amqps" else None,
        plaintext=settings.plaintext,
    )


def _told(chosen: list[str] | None, head_keys: list[str] | None) -> dict[str, device_settings.Value]:
    """What a device's file says beside its credentials; refused before anybody is enrolled."""
    told = device_settings.parse(chosen or ())
    if head_keys and "head_keys" in told:
        raise ConfigError("the keys of heads are given twice: by --set head_keys and by --head-keys")
    if head_keys:
        told["head_keys"] = list(device_settings.head_keys(head_keys))
    device_settings.lines(told)
    return told


def _check_out(out: Path, replace: bool) -> None:
    """Refuses before anything is done on the broker, for a password that cannot be written is lost."""
    if out.exists() and not replace:
        raise ConfigError(f"{out} exists already: name another file")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: there is no directory {out.parent}")
