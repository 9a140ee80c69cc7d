"""What an enrolment writes into a device's file beside its credentials, so that one file is all that a device is given.

The broker's room knows no setting of the agent. Names and values are checked for their form here; the agent refuses a key that
it does not know when it reads the file.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from broker.errors import ConfigError

Value = bool | int | float | str | list[Any]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_OWN = frozenset({"client", "device"})
_MAX_KEYS_BYTES = 64 * 1024
_MAX_VALUE_CHARACTERS = 16 * 1024


def parse(words: Iterable[str]) -> dict[str, Value]:
    """Settings from `KEY=VALUE`, each value as TOML where it is TOML, and as text where it is not.

    Raises ConfigError for a name that no setting can have, one that the enrolment writes itself, and one given twice.
    """
    found: dict[str, Value] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not _NAME.fullmatch(name):
            raise ConfigError(f"--set takes KEY=VALUE, as in pool_images=32, not {word[:80]!r}")
        if _is_own(name):
            raise ConfigError(
                f"--set {name} is refused: enrolment itself writes who the device is and where its broker is"
            )
        if name in found:
            raise ConfigError(f"--set {name} is given twice: which of them is meant?")
        if len(text) > _MAX_VALUE_CHARACTERS:
            raise ConfigError(
                f"--set {name} has {len(text)} characters; at most {_MAX_VALUE_CHARACTERS} are taken"
            )
        found[name] = _value(text)
    return found


def head_keys(texts: Iterable[str]) -> list[str]:
    """Public keys from texts or from files that hold them, parted by commas or white space, `#` begins a remark.

    Raises ConfigError for what is neither a key nor a file of keys.
    """
    found: list[str] = []
    for text in texts:
        content = text if text.startswith("ed25519:") else _content(text)
        lines = [line.partition("#")[0] for line in content.splitlines()]
        keys = [key for key in re.split(r"[\s,]+", " ".join(lines)) if key]
        wrong = next((key for key in keys if not _KEY.fullmatch(key)), None)
        if wrong is not None or not keys:
            what = "nothing" if wrong is None else repr(wrong[:80])
            raise ConfigError(
                f"--head-keys takes ed25519:… as `collafuse export keygen` prints it, or a file of such lines, not {what}"
            )
        found += [key for key in keys if key not in found]
    return found


def kept(path: Path) -> dict[str, Value]:
    """What the file of a device that is enrolled anew says beside its credentials; nothing when there is no file.

    Raises ConfigError when it cannot be read: a renewal must not lose a budget or a key without a word.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read, and a renewal would lose its settings: name another file with --out ({error})"
        ) from error
    return {name: value for name, value in found.items() if not _is_own(name) and _is_plain(value)}


def lines(settings: Mapping[str, Value]) -> list[str]:
    """The settings as lines of TOML that read back as they are; raises ConfigError for what cannot be written."""
    written = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    try:
        "\n".join(written).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"a setting holds bytes that are no text: {error.reason}") from error
    return written


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith("broker_")


def _value(text: str) -> Value:
    try:
        value = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    # More than one key: the text held a line break and went on. A date or a table is no setting either: it is text.
    return value["value"] if len(value) == 1 and _is_plain(value["value"]) else text


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int | str)


def _toml(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{"".join(_escaped(character) for character in value)}"'
    return json.dumps(value)


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    return f"\\u{ord(character):04x}" if character < " " or character == "\x7f" else character


def _content(name: str) -> str:
    path = Path(name)
    try:
        if path.stat().st_size > _MAX_KEYS_BYTES:
            raise ConfigError(
                f"--head-keys {path} is larger than {_MAX_KEYS_BYTES} bytes: it is no list of keys"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--head-keys {path}: {error.strerror}; give a key (ed25519:…) or its file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--head-keys {path} is no text: give the file with the public key") from error
