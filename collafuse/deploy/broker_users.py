"""The broker's users in a deployment: who they are, what each may do, and the file in which each finds its password.

One user for each who asks, with the least rights that do.
"""

import base64
import hashlib
import json
import secrets
import tomllib
from collections.abc import Mapping
from urllib.parse import urlsplit

VHOST = "collafuse"
BROKER, MANAGEMENT, NODE_METRICS = "rabbitmq:5671", "rabbitmq:15671", "rabbitmq:15692"

KEDA = "keda"
"""Who counts the messages of two queues on Kubernetes; in Compose there is nobody to."""

HOLDERS = ("operator", "trainer", "denoiser", "monitor")
"""The users that every deployment has; `monitor` is the exporter."""

TAGS = {"operator": ["administrator"], "monitor": ["monitoring"], KEDA: ["management"]}
"""`management` shows the queues of the vhosts in which one has any right; `monitoring` all vhosts, which the exporter counts."""

_EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
_NOTHING = {"configure": "^$", "write": "^$", "read": "^$"}
RIGHTS = dict.fromkeys(("operator", "trainer", "denoiser"), _EVERYTHING) | {
    "monitor": {**_NOTHING, "read": "^telemetry$"},  # what devices report
    KEDA: _NOTHING,
}

_FILES = {
    "operator": "operator_url",
    "trainer": "trainer.toml",
    "denoiser": "denoiser.toml",
    "monitor": "exporter.toml",
    KEDA: "keda_password",
}
_SALT_BYTES = 4


def holder(user: str) -> str:
    """Returns the name of the file that has the user's password."""
    return _FILES[user]


def content(user: str, password: str, authority: str) -> str:
    """Returns what stands in the user's file. authority: PEM of who signed the broker's certificate."""
    if user == KEDA:
        return password  # a secret of Kubernetes is made of the file as it is, and a line's end would be part of the password
    if user == "operator":
        return f"amqps://operator:{password}@{BROKER}/{VHOST}\n"
    link = f'broker_url = "amqps://{user}:{password}@{BROKER}/{VHOST}"\nbroker_ca = """\n{authority}\n"""\n'
    if user == "monitor":
        return (
            f'management_url = "https://monitor:{password}@{MANAGEMENT}"\n'
            f'node_metrics_urls = ["http://{NODE_METRICS}"]\nvhost = "{VHOST}"\n{link}'
        )
    return link


def password_in(user: str, text: str) -> str | None:
    """Returns the password in the content of the user's file, None when there is none. Raises ValueError."""
    if user == KEDA:
        return text.strip() or None
    values = {"url": text.strip()} if user == "operator" else tomllib.loads(text)
    (password,) = {urlsplit(str(value)).password for key, value in values.items() if key.endswith("url")}
    return password


def definitions(passwords: Mapping[str, str]) -> str:
    """Returns what the broker starts with: the vhost, and the users with their rights. There is no user `guest`."""
    return json.dumps(
        {
            "users": [
                {
                    "name": user,
                    "password_hash": _rabbitmq_hash(password),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": TAGS.get(user, []),
                }
                for user, password in passwords.items()
            ],
            "vhosts": [{"name": VHOST}],
            "permissions": [{"user": user, "vhost": VHOST, **RIGHTS[user]} for user in passwords],
        },
        indent=2,
    )


def random_password() -> str:
    """Returns 192 random bits, in characters that need no quoting in a URL, a TOML file or a shell."""
    return secrets.token_urlsafe(24)


def _rabbitmq_hash(password: str) -> str:
    """The salted SHA-256 that RabbitMQ stores: base64(salt + sha256(salt + password))."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
