"""compose.yaml is whole and shut in: pinned, limited, read-only, without rights, and nothing in it is open or secret."""

import re
from typing import Any

import pytest

from tests.deploy.composition import (
    BY_HAND,
    COMPOSE,
    CONFIGURATION,
    DEVICES,
    JOBS,
    OURS,
    ROOT,
    SERVICES,
    SETTINGS,
    environment,
    load,
)


def test_every_part_of_the_system_is_there() -> None:
    assert {"rabbitmq", "init", "trainer", "denoiser", "edge-1", "exporter", "prometheus", "grafana"} <= set(
        SERVICES
    )
    assert set(COMPOSE) - {key for key in COMPOSE if key.startswith("x-")} == {
        "name", "services", "networks", "volumes", "secrets",
    }  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_knows_its_health(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+(-[a-z]+)?", service["image"])
    if name in JOBS:
        assert service["healthcheck"] == {"disable": True}
    else:
        assert {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_read_only_without_rights_and_within_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert not {"cap_add", "privileged", "pid", "ipc", "userns_mode"} & set(service)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert 0 < service["cpus"] <= 2, "an engine refuses more than the machine has"
    # numpy starts a thread for each core of the machine, up to 64; with a limit of 64 a process of ours could start no other.
    assert 256 <= service["pids_limit"] <= 1024
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "20m", "max-file": "5"}}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_given_time_to_end_by_itself(name: str) -> None:
    """Podman's service for Compose takes a time that is not said for none, and kills."""
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= 20


def test_no_container_runs_as_root() -> None:
    """Our images have a user of their own, as those of Prometheus and Grafana do; RabbitMQ's begins as root."""
    users = {name: service["user"] for name, service in SERVICES.items() if "user" in service}
    assert users == {"rabbitmq": "rabbitmq"}


def test_what_is_called_by_hand_works_where_any_user_may_look() -> None:
    """Whoever calls it says `--user`; the folder in which our images work is closed to all but their own."""
    assert len(BY_HAND) == 2
    for name in BY_HAND:
        assert not SERVICES[name]["working_dir"].startswith("/var/lib/")


@pytest.mark.parametrize("name", SERVICES)
def test_what_runs_starts_again_and_a_job_only_when_it_failed(name: str) -> None:
    if name in BY_HAND:
        assert SERVICES[name]["restart"] == "no"
    else:
        assert SERVICES[name]["restart"] == ("on-failure:3" if name in JOBS else "unless-stopped")


def test_the_operator_is_told_of_every_variable() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    assert len(variables) == 5
    for variable in variables:
        assert f"`{variable}" in manual, variable


def test_rabbitmq_knows_its_memory_and_has_files_enough() -> None:
    (memory,) = [line.split(" = ")[1] for line in CONFIGURATION if line.startswith("total_memory_available")]
    assert memory.removesuffix("GB") == SERVICES["rabbitmq"]["mem_limit"].removesuffix("g")
    assert SERVICES["rabbitmq"]["ulimits"]["nofile"]["soft"] >= 4096, "collafuse doctor warns of fewer"


def test_no_port_is_open_to_the_world_unless_the_operator_says_so() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), name
    assert re.findall(r"\$\{(\w+):-127\.0\.0\.1\}", (ROOT / "compose.yaml").read_text(encoding="utf-8")) == [
        "COLLAFUSE_AMQP_ADDRESS"
    ]


def test_nothing_is_spoken_unencrypted_and_everybody_knows_the_authority() -> None:
    broker, lines = SERVICES["rabbitmq"], CONFIGURATION
    published = [port.rpartition(":")[2] for port in broker["ports"]]
    assert [
        line.split(" = ")[1] for line in lines if line.startswith(("listeners.ssl.", "management.ssl.port"))
    ] == published
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
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["denoiser"])
    assert all(options is None for options in SERVICES["denoiser"]["networks"]) or isinstance(
        SERVICES["denoiser"]["networks"], list
    ), "no address of its own"


def on(network: str) -> set[str]:
    return {name for name, service in SERVICES.items() if network in service.get("networks", ())}


def test_devices_see_the_broker_and_nothing_else_of_the_server() -> None:
    assert DEVICES
    assert on("edge") == DEVICES | {"rabbitmq"}
    assert on("watch") == DEVICES | {"prometheus"}
    assert not DEVICES & on("server")


def test_there_is_no_way_out_but_for_what_publishes_a_port() -> None:
    inner = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert inner == set(COMPOSE["networks"]) - {"outside"}
    assert on("outside") == {name for name, service in SERVICES.items() if "ports" in service}
    assert all(service.get("network_mode", "none") == "none" for service in SERVICES.values())


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_volume_belongs_to_the_user_who_writes_it(name: str) -> None:
    """A new volume takes its owner from the directory of the image that it covers."""
    service = SERVICES[name]
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8").replace("\\\n", " ")
    (made,) = re.findall(r"install -d -o collafuse (.*)", dockerfile)
    for volume in service.get("volumes", []):
        source, target = volume.split(":")[:2]
        assert source.startswith("./") or target in made.split(), volume


def test_images_of_one_name_are_built_in_one_way() -> None:
    builds: dict[str, list[Any]] = {}
    for name in OURS:
        builds.setdefault(SERVICES[name]["image"], []).append(SERVICES[name]["build"])
    assert len(builds) == 3
    assert all(build == built[0] for built in builds.values() for build in built)


def test_the_workers_share_one_storage_and_only_the_trainer_writes() -> None:
    assert "storage:/var/lib/collafuse/server" in SERVICES["trainer"]["volumes"]
    assert "storage:/var/lib/collafuse/server:ro" in SERVICES["denoiser"]["volumes"]
    grace = int(SERVICES["denoiser"]["stop_grace_period"].removesuffix("s"))
    assert grace > float(environment(SERVICES["denoiser"])["COLLAFUSE_DENOISE_DRAIN_SECONDS"])


def test_every_volume_network_secret_and_file_is_declared_or_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"])
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], name
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_the_gpu_profile_changes_the_workers_and_nothing_else() -> None:
    services = load("deploy/compose.gpu.yaml")["services"]
    assert set(services) == {"trainer", "denoiser"}
    for name, prefix in (("trainer", "COLLAFUSE_TRAIN_"), ("denoiser", "COLLAFUSE_DENOISE_")):
        service = services[name]
        assert service["environment"] == {f"{prefix}DEVICE": "cuda"}
        assert SETTINGS[prefix].model_validate({"device": "cuda"})
        assert service["image"] != SERVICES[name]["image"], "torch with CUDA is another image"
        dockerfile = (ROOT / SERVICES[name]["build"]["dockerfile"]).read_text(encoding="utf-8")
        assert all(f"ARG {argument}=" in dockerfile for argument in service["build"]["args"])
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
