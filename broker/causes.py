"""Why a connection to the broker failed, in words for people instead of the class names of libraries."""

import re
import socket
import ssl

import pika.exceptions


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
        case TimeoutError():
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
