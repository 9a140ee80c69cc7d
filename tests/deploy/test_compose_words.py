"""What compose.yaml says exists: commands, options, settings, ports, metric targets; and the scripts of its jobs work."""

import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from monitoring.exporter.settings import MonitorSettings
from tests.deploy.commands import unknown_options
from tests.deploy.composition import (
    DEVICES,
    JOBS,
    OURS,
    OWN_VARIABLES,
    ROOT,
    SERVICES,
    SETTINGS,
    command_lines,
    environment,
)


def test_every_device_has_its_own_identity_and_state() -> None:
    enrolled, volumes = [], []
    assert {name.removeprefix("enroll-") for name in SERVICES if name.startswith("enroll-")} == DEVICES
    for name in (f"enroll-{device}" for device in sorted(DEVICES)):
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
        assert words == ["--help"] or not unknown_options(words)


@pytest.mark.parametrize(
    "name", sorted(name for name in OURS if SERVICES[name].get("entrypoint", [""])[0] == "sh")
)
def test_a_job_that_is_the_operators_hands_on_the_url_and_every_word(name: str, tmp_path: Path) -> None:
    """Its script is run as it stands, with another `collafuse` that says what it was given."""
    (tmp_path / "operator_url").write_text("amqps://operator:x@rabbitmq:5671/collafuse\n")
    stub = tmp_path / "collafuse"
    stub.write_text('#!/bin/sh\necho "$COLLAFUSE_BROKER_URL" "$#" "$@"\n')
    stub.chmod(0o755)
    service = SERVICES[name]
    words = [word.replace("/run/secrets", str(tmp_path)) for word in service["entrypoint"]]
    done = subprocess.run(
        [*words, *service["command"], "a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **service["environment"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    (given,) = command_lines({**service, "command": [*service["command"], "a b"]})
    expected = ["amqps://operator:x@rabbitmq:5671/collafuse", str(len(given)), *given]
    expected = [service["environment"].get(word.removeprefix("$"), word) for word in expected]
    assert done.stdout.strip() == " ".join(expected)


def test_a_device_that_has_its_credentials_is_not_enrolled_again(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text("client = 'a'\n")
    service = SERVICES["enroll-edge-1"]
    done = subprocess.run(
        [*service["entrypoint"], *service["command"]],
        env={"PATH": "/usr/bin:/bin", "COLLAFUSE_CREDENTIALS": str(tmp_path / "device.toml")},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_setting_exists_and_its_value_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(SERVICES[name])
    prefixes = {prefix for prefix in SETTINGS for variable in given if variable.startswith(prefix)}
    assert len(prefixes) <= 1
    for variable in given:
        assert variable.startswith(tuple(prefixes)) or variable in OWN_VARIABLES
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
    path = "metrics" if name in DEVICES else "livez"
    question = SERVICES[name]["healthcheck"]["test"]
    assert f'"http://127.0.0.1:{port}/{path}"' in question
    program, flag, code = shlex.split(question)
    assert (program, flag) == ("python", "-c"), "one string, which every engine gives to a shell"
    compile(code, name, "exec")


def test_the_dashboard_asks_prometheus_and_begins_with_a_page_that_is_there() -> None:
    grafana = SERVICES["grafana"]
    mounts = {target: ROOT / source for source, target, *_ in (v.split(":") for v in grafana["volumes"])}
    provisioning = mounts["/etc/grafana/provisioning"]
    (datasource,) = yaml.safe_load(next((provisioning / "datasources").iterdir()).read_text())["datasources"]
    url = urlsplit(datasource["url"])
    assert SERVICES[str(url.hostname)]["ports"] == [f"127.0.0.1:{url.port}:{url.port}"]
    assert set(SERVICES[str(url.hostname)]["networks"]) & set(grafana["networks"])
    (provider,) = yaml.safe_load(next((provisioning / "dashboards").iterdir()).read_text())["providers"]
    dashboards = provider["options"]["path"]
    home = Path(environment(grafana)["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == dashboards
    assert (mounts[dashboards] / home.name).exists()


def test_devices_and_trainer_speak_of_one_schedule() -> None:
    trainer, device = environment(SERVICES["trainer"]), environment(SERVICES["edge-1"])
    for name in ("SCHEDULE", "SCHEDULE_STEPS"):
        assert trainer[f"COLLAFUSE_TRAIN_{name}"] == device[f"COLLAFUSE_EDGE_{name}"]
