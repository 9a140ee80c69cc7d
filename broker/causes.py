"""Why a connection to the broker failed, in words for people instead of the class names of libraries."""

import datetime as dt
import re
import socket
import ssl

import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

from broker.errors import BrokerError


def in_words(error: BaseException | str) -> str:
    """Returns one line that says what went wrong with a connection, and where to look when that helps."""
    if isinstance(error, str):
        return error
    if isinstance(error, tuple(_WHILE)):
        return _while_opening(error)
    text = _BY_TYPE.get(type(error))
    if text is not None:
        return text
    for cause in _causes(error):
        known = _of_transport(cause)
        if known is not None:
            return known
    return (
        f"{type(error).__name__}: {_line(error)}" if str(error) else f"{type(error).__name__}; is it running?"
    )


def why_refused(error: BaseException | str, certificate: str | None) -> str:
    """Returns why a connection was not made, for who logs in with `certificate` (PEM), if with any.

    A broker that is shown an expired one only hangs up, which looks like many other faults.
    """
    words = in_words(error)
    end = None if certificate is None else _end_of(certificate)
    if end is None or end > dt.datetime.now(dt.UTC):
        return words
    return f"{words}; our own certificate was good until {end:%Y-%m-%d %H:%M} UTC: have this device enrolled again with --renew"


def is_queue_in_use(error: BaseException) -> bool:
    """Whether we may not consume because somebody else does, and one of the two wants to be the only one."""
    return (
        isinstance(error, pika.exceptions.ChannelClosedByBroker)
        and error.reply_code == _ACCESS_REFUSED
        and "in exclusive use" in error.reply_text
    )


def _end_of(certificate: str) -> dt.datetime | None:
    try:
        from broker.certificates import end_of  # noqa: PLC0415  # brings cryptography, which the exporter alone has not

        return end_of(certificate)
    except (ImportError, BrokerError):  # why it was refused matters more than this
        return None


_ACCESS_REFUSED = 403
_BY_TYPE: dict[type[BaseException], str] = {
    pika.exceptions.AuthenticationError: "it offers no way to log in that we know",
    pika.exceptions.ConnectionOpenAborted: "it did not answer in time",
    pika.exceptions.AMQPHeartbeatTimeout: "no sign of life came within two heartbeats",
}
_WHILE: dict[type[BaseException], str] = {
    pika.exceptions.ProbableAuthenticationError: "it does not accept the user or the password",
    pika.exceptions.ProbableAccessDeniedError: "the user may not enter the vhost, or there is none of that name",
}
"""What an end of the connection means while it is being opened, if it was the broker that ended it."""


def _while_opening(error: BaseException) -> str:
    """Returns why a connection ended before it was open; pika keeps the cause as text only."""
    said = re.search(r"ConnectionClosedByBroker: \(\d+\) ['\"](?P<text>.*?)['\"]*\)?$", str(error))
    if said is None:
        return "the connection broke off while logging in"
    if "limit" in said["text"]:
        return f"it takes no more connections: {said['text']}"
    return _WHILE[type(error)]


def _of_transport(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            text = f"its certificate cannot be trusted ({error.verify_message})"
        case ssl.SSLError():
            text = f"TLS failed ({error.reason or _line(error)}): is this the TLS port, and a certificate wanted of us?"
        case socket.gaierror():
            text = f"its name cannot be resolved ({error.strerror})"
        case ConnectionRefusedError():
            text = "nothing listens there; is it running?"
        case pika.exceptions.ConnectionClosedByBroker():
            text = f"it closed the connection: {error.reply_code} {error.reply_text}"
        case pika.exceptions.IncompatibleProtocolError():
            text = "the connection ended before it answered as AMQP 0-9-1; is that the broker's port?"
        case pika.exceptions.StreamLostError() | ConnectionResetError() | BrokenPipeError():
            text = "the connection broke off"
        case TimeoutError() | AMQPConnectorStackTimeout():
            text = "it did not answer in time"
        case _:
            return None
    return text


def _causes(error: BaseException) -> list[BaseException]:
    """Returns what is known to have led to `error`, the first cause first; pika keeps causes among its arguments."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 50:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [
                one.__cause__,
                getattr(one, "exceptions", None),
                getattr(one, "exception", None),
                one.args,
            ]
        elif isinstance(one, list | tuple):
            waiting += one
    return found[::-1]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
