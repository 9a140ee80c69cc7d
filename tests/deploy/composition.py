"""compose.yaml as the tests see it: its services by what they are, and what each of them runs and is told."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from broker.settings import ProcessSettings
from edge_agent.settings import EdgeSettings
from monitoring.exporter.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ProcessSettings]] = {
    "COLLAFUSE_TRAIN_": TrainSettings,
    "COLLAFUSE_DENOISE_": DenoiseSettings,
    "COLLAFUSE_EDGE_": EdgeSettings,
    "COLLAFUSE_MONITOR_": MonitorSettings,
}
OWN_VARIABLES = {
    "COLLAFUSE_CREDENTIALS",
    "COLLAFUSE_AMQP_ADDRESS",
    "COLLAFUSE_BROKER_URL",
    "COLLAFUSE_BROKER_CA",
    "SSL_CERT_FILE",
    "OMP_NUM_THREADS",
}
"""What compose.yaml reads itself, and what every process, or Python or torch itself, knows."""


def load(name: str = "compose.yaml") -> dict[str, Any]:
    """The file as Compose reads it where no variable is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return found


COMPOSE = load()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BY_HAND = {name for name, service in SERVICES.items() if "profiles" in service}
"""Services that `up` leaves alone."""

JOBS = BY_HAND | {name for name, service in SERVICES.items() if service["restart"].startswith("on-failure")}
"""Services that do one thing and end."""

OURS = {name for name, service in SERVICES.items() if "build" in service}
DEVICES = {name for name in SERVICES if re.fullmatch(r"edge-\d+", name)}
CONFIGURATION = (ROOT / "deploy/rabbitmq/collafuse.conf").read_text(encoding="utf-8").splitlines()


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Variable → value, from its files and its own lines."""
    found: dict[str, str] = {}
    for file in service.get("env_file", []):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return found | {name: str(value) for name, value in service.get("environment", {}).items()}


def command_lines(service: dict[str, Any]) -> list[list[str]]:
    """The words after `collafuse` of each command that the service runs."""
    command: list[str] = service.get("command", [])
    entrypoint: list[str] = service.get("entrypoint", ["collafuse"])
    if entrypoint[0] == "collafuse":
        return [[*entrypoint[1:], *command]]
    script = re.split(r";\s*", entrypoint[entrypoint.index("-euc") + 1].replace('"$@"', shlex.join(command)))
    return [shlex.split(line)[2:] for line in script if line.startswith("exec collafuse ")]
