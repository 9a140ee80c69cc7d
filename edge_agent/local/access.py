"""Who may talk to the local page: this machine, its own page, and whoever knows the token.

Three dangers are met here. Somebody on the network: without a token only the loopback interface is served. A foreign web page in
the user's browser: what a browser says of a request's origin has to be this page. A foreign name that was made to point at
127.0.0.1 (DNS rebinding): without a token, only the names of this machine are answered.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.errors import ConfigError
from edge_agent.local.problem import Problem, answer_of
from edge_agent.settings import EdgeSettings

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10
COOKIE = "collafuse_edge"
COOKIE_SECONDS = 30 * 86_400
LEAST_TOKEN_CHARACTERS = 16
OPEN_PATHS = frozenset({"/login", "/healthz", "/page/style.css", "/page/icon.svg"})
"""What is answered without the token: what the login form needs, and the probe, which says nothing."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer` browsers hide the origin of a form from the very page that it belongs to.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Access:
    """The rules of one server. `token`: what has to be known, or None; `address`: the interface that is served."""

    token: str | None
    address: str

    @classmethod
    def of(cls, settings: EdgeSettings) -> Self:
        """The rules that the settings ask for; raises ConfigError when they would leave the page open to the network."""
        token = settings.api_token.get_secret_value() if settings.api_token else None
        if token is not None and (len(token) < LEAST_TOKEN_CHARACTERS or not _is_visible_ascii(token)):
            raise ConfigError(
                f"api_token is no good token: choose at least {LEAST_TOKEN_CHARACTERS} letters and digits, such as those that"
                " `openssl rand -hex 16` prints"
            )
        if token is None and not is_loopback(settings.api_address):
            raise ConfigError(
                f"api_address {settings.api_address} opens the local page to the network: set api_token as well, or leave"
                " api_address at 127.0.0.1"
            )
        return cls(token, settings.api_address)

    def session(self) -> str:
        """What the cookie of a browser that has logged in holds; it cannot be turned back into the token."""
        return hmac.new((self.token or "").encode(), b"collafuse-edge-page-v1", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token, in constant time."""
        return self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())

    def may(self, request: Request) -> bool:
        """Whether the request carries the token, or the cookie of a login."""
        if self.token is None:
            return True
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(credentials.strip())
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self.session().encode())

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this machine; any name will do where a token is asked for."""
        name = _host_name(host)
        return self.token is not None or is_loopback(name) or name == self.address.lower()


class Guard:
    """Stands before the application: refuses what must not come in, and adds the security headers to every answer."""

    def __init__(self, application: ASGIApp, access: Access) -> None:
        self._application = application
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        send_secured = secured(send)
        request = Request(scope)
        try:
            self._check(request)
        except Problem as problem:
            wants_page = problem.status == 401 and scope["path"] == "/" and request.method in _SAFE_METHODS
            answer = RedirectResponse("/login", 303) if wants_page else answer_of(problem)
            await answer(scope, receive, send_secured)
            return
        await self._application(scope, receive, send_secured)

    def _check(self, request: Request) -> None:
        headers = request.headers
        if not self._access.knows_host(headers.get("host", "")):
            raise Problem(
                421,
                "unknown_host",
                "this page answers to the names of this machine only: use http://localhost and its port",
            )
        if not _is_own(request):
            raise Problem(403, "foreign_origin", "requests from other web pages are refused")
        if _declared_bytes(headers) > MAX_BODY_BYTES:
            raise _too_large()
        if request.url.path not in OPEN_PATHS and not self._access.may(request):
            raise Problem(
                401,
                "token_needed",
                "give the token of this device as `Authorization: Bearer TOKEN`, or log in at /login",
                {"WWW-Authenticate": "Bearer"},
            )


def secured(send: Send) -> Send:
    """A `send` that gives every answer the security headers."""

    async def send_secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return send_secured


def is_loopback(name: str) -> bool:
    """Whether an address or a name is this machine's own, as seen by itself."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def read_body(request: Request) -> bytes:
    """The body, up to the limits of size and time; raises Problem 413 or 408 beyond them, whatever was declared."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                body += block
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large({"Connection": "close"})
    except ClientDisconnect:
        raise Problem(400, "gone", "the connection ended before the request did") from None
    except TimeoutError:
        raise Problem(
            408,
            "too_slow",
            f"the request did not come within {BODY_SECONDS} s: send it again",
            {"Connection": "close"},
        ) from None
    return bytes(body)


def _too_large(headers: dict[str, str] | None = None) -> Problem:
    return Problem(413, "too_large", f"a request has at most {MAX_BODY_BYTES} bytes", headers)


def _is_own(request: Request) -> bool:
    """Whether a browser sent this for our own page, or it was no browser; following a link to a page is nobody's harm."""
    headers, safe = request.headers, request.method in _SAFE_METHODS
    site = headers.get("sec-fetch-site", "none")
    if site not in {"same-origin", "none"}:
        return safe and headers.get("sec-fetch-mode") == "navigate"
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def _declared_bytes(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else MAX_BODY_BYTES + 1


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and without the brackets of IPv6, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _is_visible_ascii(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)
