"""What compose.yaml says exists: commands, options, ports, settings, files; and nothing in it is open or secret."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.settings import ProcessSettings
from edge_agent.settings import EdgeSettings
from monitoring.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings
from tests.deploy.commands import unknown_options

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
}
"""What compose.yaml reads itself, and what every process, or Python itself, knows."""

KNOWN_KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "entrypoint", "env_file", "environment", "healthcheck",
    "hostname", "image", "logging", "mem_limit", "networks", "ports", "read_only", "restart", "secrets",
    "security_opt", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip


def load(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


COMPOSE = load()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JOBS = {name for name, service in SERVICES.items() if service["restart"].startswith("on-failure")}
"""Services that do one thing and end."""

OURS = {name for name, service in SERVICES.items() if "build" in service}


def environment(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in service.get("env_file", []):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    given: dict[str, str] = service.get("environment", {})
    return found | given


def command_lines(service: dict[str, Any]) -> list[list[str]]:
    """The words after `collafuse` of each command that the service runs."""
    if service.get("entrypoint", [None])[0] != "sh":
        return [service["command"]]
    words = shlex.split(" ".join(service["command"]))
    starts = [k + 1 for k, word in enumerate(words) if word == "collafuse"]
    return [words[start:] for start in starts]


def test_every_part_of_the_system_is_there() -> None:
    assert {"rabbitmq", "init", "trainer", "denoiser", "edge-1", "exporter", "prometheus", "grafana"} <= set(
        SERVICES
    )
    assert set(COMPOSE) - {key for key in COMPOSE if key.startswith("x-")} == {
        "name", "services", "networks", "volumes", "secrets",
    }  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_only_keys_that_compose_knows(name: str) -> None:
    assert set(SERVICES[name]) <= KNOWN_KEYS


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_knows_its_health(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+(-[a-z]+)?", service["image"])
    if name in JOBS:
        assert service["healthcheck"] == {"disable": True}
    else:
        assert {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_are_read_only_and_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image's own user is not root"


def test_no_port_is_open_to_the_world_unless_the_operator_says_so() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert re.match(r"(127\.0\.0\.1|\$\{COLLAFUSE_AMQP_ADDRESS:-127\.0\.0\.1\}):\d+:\d+$", port), name
    assert "COLLAFUSE_AMQP_ADDRESS" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_nothing_is_spoken_unencrypted_and_everybody_knows_the_authority() -> None:
    broker = SERVICES["rabbitmq"]
    assert [port.rpartition(":")[2] for port in broker["ports"]] == ["5671", "15671"]
    lines = (ROOT / "deploy/rabbitmq/collafuse.conf").read_text(encoding="utf-8").splitlines()
    assert "listeners.tcp = none" in lines
    assert not [line for line in lines if line.startswith(("management.tcp", "listeners.tcp."))]
    mounted = {f"/run/secrets/{secret['target']}" for secret in broker["secrets"]}
    assert mounted >= {line.split(" = ")[1] for line in lines if " = /" in line}
    for name, service in SERVICES.items():
        targets = {
            secret if isinstance(secret, str) else secret["target"] for secret in service.get("secrets", [])
        }
        given = environment(service)
        authority = given.get("COLLAFUSE_BROKER_CA", given.get("SSL_CERT_FILE"))
        if targets & {"operator_url", "exporter.toml"}:
            assert authority == "/run/secrets/ca.pem", name
            assert "ca.pem" in targets, name
        if name != "rabbitmq":
            assert "server.key" not in targets, name


def test_no_password_stands_in_the_file_or_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert not re.search(r"://[^\s/$]+:[^\s/]+@", text), "a URL with a password"
    for name, service in SERVICES.items():
        for variable, content in environment(service).items():
            if re.search("PASS|SECRET|TOKEN|KEY", variable):
                assert variable.endswith("__FILE"), f"{name}: {variable}"
                assert content.startswith("/run/secrets/")


def test_the_denoiser_can_be_scaled() -> None:
    assert "container_name" not in SERVICES["denoiser"]
    assert "ports" not in SERVICES["denoiser"]
    assert "hostname" not in SERVICES["denoiser"]


def test_devices_see_the_broker_and_nothing_else_of_the_server() -> None:
    devices = {name for name in SERVICES if re.fullmatch(r"edge-\d+", name)}
    assert devices
    on_edge = {name for name, service in SERVICES.items() if "edge" in service["networks"]}
    on_watch = {name for name, service in SERVICES.items() if "watch" in service["networks"]}
    assert on_edge == devices | {"rabbitmq"}
    assert on_watch == devices | {"prometheus"}
    assert all("server" not in SERVICES[name]["networks"] for name in devices)


def test_every_device_has_its_own_identity_and_state() -> None:
    enrolled, volumes = [], []
    for name in (name for name in SERVICES if name.startswith("enroll-")):
        device = SERVICES[name.removeprefix("enroll-")]
        (words,) = command_lines(SERVICES[name])
        enrolled.append(tuple(words[2:4]))
        written = {volume.split(":")[0] for volume in SERVICES[name]["volumes"]}
        assert written < {volume.split(":")[0] for volume in device["volumes"]}
        volumes += [volume.split(":")[0] for volume in device["volumes"]]
        target = environment(SERVICES[name])["COLLAFUSE_CREDENTIALS"]
        assert device["command"][device["command"].index("--config") + 1] == target
    assert enrolled
    assert len(set(enrolled)) == len(enrolled)
    assert len(set(volumes)) == len(volumes)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_and_option_exists(name: str) -> None:
    lines = command_lines(SERVICES[name])
    assert lines
    for words in lines:
        assert not unknown_options(words)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_setting_exists_and_its_value_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(SERVICES[name])
    prefixes = {prefix for prefix in SETTINGS for variable in given if variable.startswith(prefix)}
    assert len(prefixes) <= 1
    for variable in given:
        assert variable.startswith(tuple(prefixes)) if prefixes else variable in OWN_VARIABLES
    for prefix in prefixes:
        for variable, content in given.items():
            monkeypatch.setenv(variable, content)
        SETTINGS[prefix].load()


def test_prometheus_asks_where_the_processes_serve_their_metrics() -> None:
    jobs = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text(encoding="utf-8"))[
        "scrape_configs"
    ]
    targets = set()
    for job in jobs:
        for group in job.get("static_configs", []):
            targets |= {(job["job_name"], *target.split(":")) for target in group["targets"]}
        for group in job.get("dns_sd_configs", []):
            targets |= {(job["job_name"], name, str(group["port"])) for name in group["names"]}
    assert targets == {
        ("prometheus", "localhost", "9090"),
        ("rabbitmq", "rabbitmq", "15692"),
        ("exporter", "exporter", str(MonitorSettings.model_fields["port"].default)),
        ("trainer", "trainer", environment(SERVICES["trainer"])["COLLAFUSE_TRAIN_METRICS_PORT"]),
        ("denoiser", "denoiser", environment(SERVICES["denoiser"])["COLLAFUSE_DENOISE_METRICS_PORT"]),
        ("edge", "edge-1", environment(SERVICES["edge-1"])["COLLAFUSE_EDGE_METRICS_PORT"]),
        ("edge", "edge-2", environment(SERVICES["edge-2"])["COLLAFUSE_EDGE_METRICS_PORT"]),
    }
    prometheus = set(SERVICES["prometheus"]["networks"])
    for _, host, _ in targets - {("prometheus", "localhost", "9090")}:
        assert prometheus & set(SERVICES[host]["networks"]), f"Prometheus cannot reach {host}"


@pytest.mark.parametrize("name", sorted(OURS - JOBS))
def test_health_is_asked_where_metrics_are_served(name: str) -> None:
    ports = [value for key, value in environment(SERVICES[name]).items() if key.endswith("_METRICS_PORT")]
    command = SERVICES[name]["command"]
    if "--port" in command:
        ports.append(command[command.index("--port") + 1])
    (port,) = ports
    path = "livez" if name in {"trainer", "denoiser"} else "metrics"
    assert f"http://127.0.0.1:{port}/{path}" in SERVICES[name]["healthcheck"]["test"][-1]


def test_the_workers_share_one_storage_and_only_the_trainer_writes() -> None:
    assert "storage:/var/lib/collafuse/server" in SERVICES["trainer"]["volumes"]
    assert "storage:/var/lib/collafuse/server:ro" in SERVICES["denoiser"]["volumes"]
    grace = int(SERVICES["denoiser"]["stop_grace_period"].removesuffix("s"))
    assert grace > float(environment(SERVICES["denoiser"])["COLLAFUSE_DENOISE_DRAIN_SECONDS"])


def test_devices_and_trainer_speak_of_one_schedule() -> None:
    trainer, device = environment(SERVICES["trainer"]), environment(SERVICES["edge-1"])
    for name in ("SCHEDULE", "SCHEDULE_STEPS"):
        assert trainer[f"COLLAFUSE_TRAIN_{name}"] == device[f"COLLAFUSE_EDGE_{name}"]


def test_every_volume_network_secret_and_file_is_declared_or_there() -> None:
    for name, service in SERVICES.items():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], name
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_the_gpu_file_only_adds_to_services_that_exist() -> None:
    gpu = load("deploy/compose.gpu.yaml")
    assert set(gpu) == {"services"}
    for name, service in gpu["services"].items():
        assert name in SERVICES
        assert set(service) <= KNOWN_KEYS
        prefix = {"trainer": "COLLAFUSE_TRAIN_", "denoiser": "COLLAFUSE_DENOISE_"}[name]
        for variable in service["environment"]:
            assert variable.removeprefix(prefix).lower() in SETTINGS[prefix].model_fields
