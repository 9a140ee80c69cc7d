"""RabbitMQ's management API, as far as we need it: users, rights, connections, queues and bindings."""

import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from broker.address import BrokerSettings, is_loopback
from broker.causes import in_words
from broker.errors import ConfigError, ManagementError
from broker.parameters import tls_context
from broker.topology import Topology

TIMEOUT_SECONDS = 15.0
_CLOSE_ATTEMPTS, _CLOSE_PAUSE_SECONDS = 10, 0.1


class Management:
    """A client of the management API; a context manager that closes its connections.

    Args:
        url: root of the API, `http[s]://host:port`, without credentials.
        user: a user with the tag `administrator` for identities, `monitoring` for looking on.
        password: of that user; never part of an error.
        tls: how https is checked; by the system's authorities if left out.
        timeout_seconds: for one call.
    """

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=f"{self.url}/api/",
                auth=(user, password),
                verify=tls or True,
                timeout=timeout_seconds,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ManagementError(f"{self.url} is not the URL of a management API: {error}") from error

    @classmethod
    def of(cls, settings: BrokerSettings, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Self:
        """Returns the API at `url`, as the user of an AMQP link, with the authority that the link trusts.

        Raises:
            ConfigError: if it is no URL, or has a user, if the password would go to another machine unencrypted, or a
                certificate is of no use.
        """
        secure = url.startswith("https://")
        host = _host(url)
        if not secure and not is_loopback(host) and not settings.plaintext:
            raise ConfigError(
                f"{url} would send the operator's password to {host} unencrypted: use https://, or allow it with"
                " COLLAFUSE_BROKER_PLAINTEXT=true if the whole way is your own"
            )
        tls = tls_context(settings) if secure else None
        password = settings.password.get_secret_value()
        return cls(url, settings.user, password, tls=tls, timeout_seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def overview(self) -> dict[str, Any]:
        """Returns the node's version, totals and listeners."""
        found: dict[str, Any] = self._call("GET", "overview").json()
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """Returns the cluster's nodes, with their alarms."""
        found: list[dict[str, Any]] = self._call("GET", "nodes").json()
        return found

    def queues(self, vhost: str, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Returns every queue of a vhost with its counts, as the API gives them, or only some columns of each.

        Raises:
            ManagementError: if the API does not answer, refuses, or answers with something else.
        """
        return _objects(self._asked({"columns": ",".join(columns)} if columns else {}, "queues", vhost))

    def queues_named(self, vhost: str, names: Iterable[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Returns some columns of those of the named queues that exist.

        They are asked for one by one: to find a few among thousands RabbitMQ would list and sort them all.

        Raises:
            ManagementError: if the API does not answer, refuses, or answers with something else.
        """
        params = {"columns": ",".join(columns)}
        found = [self._asked(params, "queues", vhost, name, absent_is_fine=True) for name in names]
        return _objects([queue for queue in found if queue is not None])

    def queue_total(self) -> int:
        """Returns how many queues there are, of all vhosts that the user may look at.

        Raises:
            ManagementError: if the API does not answer, refuses, or answers with something else.
        """
        overview = self._asked({"columns": "object_totals"}, "overview")
        totals = overview.get("object_totals") if isinstance(overview, dict) else None
        if not isinstance(totals, dict) or not isinstance(totals.get("queues"), int):
            raise ManagementError(f"the management API at {self.url} does not say how many queues there are")
        return int(totals["queues"])

    def queue(self, vhost: str, name: str) -> dict[str, Any] | None:
        """Returns one queue, or None."""
        response = self._call("GET", "queues", vhost, name, absent_is_fine=True)
        found: dict[str, Any] | None = None if _absent(response) else response.json()
        return found

    def delete_queue(self, vhost: str, name: str) -> None:
        """Deletes a queue with all it holds; one that is not there is fine."""
        self._call("DELETE", "queues", vhost, name, absent_is_fine=True)

    def declare(self, vhost: str, topology: Topology) -> None:
        """Declares exchanges, queues and bindings; what exists as it should stays untouched."""
        for exchange in topology.exchanges:
            self._call(
                "PUT", "exchanges", vhost, exchange.name, body={"type": exchange.kind, "durable": True}
            )
        for queue in topology.queues:
            body = {"durable": True, "auto_delete": False, "arguments": dict(queue.arguments)}
            self._call("PUT", "queues", vhost, queue.name, body=body)
        for binding in topology.bindings:
            target = ("bindings", vhost, "e", binding.exchange, "q", binding.queue)
            self._call("POST", *target, body={"routing_key": binding.routing_key, "arguments": {}})

    def user_exists(self, name: str) -> bool:
        """Says whether the broker knows a user of this name."""
        return not _absent(self._call("GET", "users", name, absent_is_fine=True))

    def users(self) -> list[str]:
        """Returns the names of all users."""
        return [str(user["name"]) for user in self.users_in_full(("name",))]

    def put_user(self, name: str, password: str, *, tags: str = "") -> None:
        """Makes a user, or replaces its password and tags."""
        self._call("PUT", "users", name, body={"password": password, "tags": tags})

    def delete_user(self, name: str) -> None:
        """Deletes a user and ends its connections; one that is not there is fine."""
        self._call("DELETE", "users", name, absent_is_fine=True)

    def users_in_full(self, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Returns every user, or some columns of each, such as name, tags, password_hash (empty: no password will do)."""
        params = {"columns": ",".join(columns)} if columns else {}
        found: list[dict[str, Any]] = self._call("GET", "users", params=params).json()
        return found

    def put_user_without_password(self, name: str) -> None:
        """Makes a user who can log in by other means than a password alone."""
        self._call("PUT", "users", name, body={"password_hash": "", "tags": ""})

    def put_user_limit(self, name: str, limit: str, value: int) -> None:
        """Sets `max-connections` or `max-channels` of a user."""
        self._call("PUT", "user-limits", name, limit, body={"value": value})

    def user_limits(self) -> dict[str, dict[str, int]]:
        """Returns limit → value of every user that has any."""
        found = self._call("GET", "user-limits").json()
        return {str(one["user"]): dict(one["value"]) for one in found}

    def connected_users(self) -> set[str]:
        """Returns who has a connection open; one of the last five seconds may be missing.

        Of each connection the user alone is asked for: in full 2,000 of them are 2.4 MB and a second, so 34 kB and 70 ms.
        """
        found = self._call("GET", "connections", params={"columns": "user"}).json()
        return {str(connection["user"]) for connection in found if "user" in connection}

    def connection(self, name: str) -> dict[str, Any] | None:
        """Returns one open connection by the name that the broker gave it, or None."""
        response = self._call("GET", "connections", name, absent_is_fine=True)
        found: dict[str, Any] | None = None if _absent(response) else response.json()
        return found

    def close_connections(self, user: str) -> None:
        """Ends every connection of a user, on every node, the youngest too; RabbitMQ before 3.10 cannot, and does nothing.

        RabbitMQ 3.10 answers 500 when one of them ends by itself meanwhile; it is asked again then.
        """
        for attempt in range(_CLOSE_ATTEMPTS):
            try:
                self._call("DELETE", "connections", "username", user, absent_is_fine=True)
            except ManagementError:
                if attempt + 1 == _CLOSE_ATTEMPTS:
                    raise
                time.sleep(_CLOSE_PAUSE_SECONDS)
            else:
                return

    def put_permissions(self, vhost: str, user: str, *, configure: str, write: str, read: str) -> None:
        """Sets what a user may configure, write and read in a vhost: three patterns of names."""
        body = {"configure": configure, "write": write, "read": read}
        self._call("PUT", "permissions", vhost, user, body=body)

    def put_topic_permission(self, vhost: str, user: str, exchange: str, *, write: str, read: str) -> None:
        """Sets under which routing keys a user may publish to, and bind from, a topic exchange."""
        body = {"exchange": exchange, "write": write, "read": read}
        self._call("PUT", "topic-permissions", vhost, user, body=body)

    def definitions(self) -> dict[str, Any]:
        """Returns users, rights, queues and all else that the broker knows, but for messages; passwords as their hashes."""
        found: dict[str, Any] = self._call("GET", "definitions").json()
        return found

    def put_definitions(self, definitions: Mapping[str, object]) -> None:
        """Adds what is not there, and replaces users, rights and limits of the same names; queues that are there stay."""
        self._call("POST", "definitions", body=definitions)

    def _asked(self, params: Mapping[str, str], *path: str, absent_is_fine: bool = False) -> object:
        """What a GET answers, as JSON tells it; None where nothing is, if that is fine."""
        response = self._call("GET", *path, params=params, absent_is_fine=absent_is_fine)
        if _absent(response):
            return None
        try:
            return response.json()
        except ValueError as error:
            raise ManagementError(
                f"what answers at {self.url} is no management API: it speaks no JSON"
            ) from error

    def _call(
        self,
        method: str,
        *path: str,
        body: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        absent_is_fine: bool = False,
    ) -> httpx.Response:
        target = "/".join(quote(part, safe="") for part in path)
        try:
            response = self._client.request(
                method, target, params=params or None, json=None if body is None else dict(body)
            )
        except httpx.TimeoutException as error:
            raise ManagementError(
                f"the management API at {self.url} does not answer in time: the broker may be busy, or the way to it bad"
            ) from error
        except httpx.HTTPError as error:
            raise ManagementError(
                f"the management API (plugin rabbitmq_management) at {self.url} does not answer: {in_words(error)}"
            ) from error
        if response.is_success or (absent_is_fine and _absent(response)):
            return response
        raise ManagementError(f"the management API refused {method} {target}: {_refusal(response)}")


def _host(url: str) -> str:
    """The host of the API's URL, whose errors show it: so it may have no password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ConfigError(
            "the URL of the management API must read http[s]://host[:port]; user and password are those of the broker's URL"
        )
    return parts.hostname


def _objects(found: object) -> list[dict[str, Any]]:
    """The list of named objects that an answer has to be."""
    if not isinstance(found, list) or not all(isinstance(each, dict) and "name" in each for each in found):
        raise ManagementError("what answers is no management API: it gave no list of named objects")
    return found


def _absent(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.NOT_FOUND


def _refusal(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return "user or password is wrong, or the user lacks the tag for it"
    try:
        reason = str(response.json().get("reason", ""))
    except (ValueError, AttributeError):
        reason = ""
    return f"{response.status_code} {reason or response.reason_phrase}"[:300]
