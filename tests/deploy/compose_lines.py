"""Lines of `docker compose …` that pages tell people to give, held against compose.yaml and what Compose understands."""

from tests.deploy.composition import SERVICES, command_lines

OPTIONS: dict[str, dict[str, bool]] = {
    "ps": {"-a": False, "--format": True},
    "logs": {"--no-log-prefix": False, "--tail": True, "--since": True},
    "up": {"-d": False, "--build": False, "--scale": True, "--force-recreate": False, "--no-deps": False},
    "run": {"--rm": False, "--no-deps": False, "-T": False, "--entrypoint": True, "--user": True, "-v": True},
    "exec": {},
    "restart": {},
    "start": {},
    "stop": {},
    "cp": {},
}
"""Command → the options of it that our pages use → whether a value follows."""

WITH_A_COMMAND = {"exec", "run"}
"""Those that run a command in the first service named."""


def inner_command(words: list[str]) -> list[str]:
    """What a line runs inside a container, nothing for one that only concerns containers; words: those after `docker compose`.

    Raises ValueError for a command, an option or a service that there is not.
    """
    verb, rest = words[0], words[1:]
    if verb not in OPTIONS:
        raise ValueError(f"docker compose {verb} is not a command that the pages use")
    entrypoint: list[str] = []
    while rest and rest[0].startswith("-"):
        option, rest = rest[0], rest[1:]
        if option not in OPTIONS[verb]:
            raise ValueError(f"docker compose {verb} {option} is not an option that the pages use")
        if OPTIONS[verb][option]:
            value, rest = rest[0], rest[1:]
            entrypoint = [value] if option == "--entrypoint" else entrypoint
            if option == "--scale":
                _check_service(value.partition("=")[0])
    if verb in WITH_A_COMMAND:
        _check_service(rest[0])
        begun = verb == "exec" or entrypoint or not rest[1:]
        return entrypoint + rest[1:] if begun else _after_its_entrypoint(rest[0], rest[1:])
    for name in rest:
        if verb != "cp":
            _check_service(name)
        elif ":" in name:
            _check_service(name.partition(":")[0])
    return []


def _after_its_entrypoint(service: str, command: list[str]) -> list[str]:
    (words,) = command_lines({**SERVICES[service], "command": command})
    return ["collafuse", *words]


def _check_service(name: str) -> None:
    if name not in SERVICES:
        raise ValueError(f"compose.yaml has no service {name}")
