"""What the manifests of deploy/kubernetes say exists: commands, settings, ports, files, labels; and nothing in them is open."""

import json
import re

import pytest

from broker.topology import QUEUE_DENOISE, QUEUE_PREFETCH
from monitoring.exporter.settings import MonitorSettings
from server_worker.settings import DenoiseSettings
from tests.deploy.commands import unknown_options
from tests.deploy.composition import OWN_VARIABLES, SERVICES, SETTINGS, environment
from tests.deploy.kustomize import ROOT, Resource, containers_of
from tests.deploy.manifests import (
    BROKER,
    BY_NAME,
    CPU,
    GPU,
    PODS,
    SERVING,
    WORKLOADS,
    container,
    of_kind,
    pod_spec,
    variables,
    words_after_collafuse,
)
from tests.deploy.policies import matches


def test_every_process_of_the_server_is_there() -> None:
    ours = {name for name, service in SERVICES.items() if "build" in service and "profiles" not in service}
    on_devices = {name for name in ours if re.match(r"(edge|enroll)-", name)}
    assert on_devices
    assert set(WORKLOADS) == ours - on_devices


@pytest.mark.parametrize("name", WORKLOADS)
def test_commands_and_options_exist(name: str) -> None:
    assert not unknown_options(words_after_collafuse(name))


@pytest.mark.parametrize("overlay", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_settings_exist_and_their_values_are_accepted(
    name: str, overlay: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = variables(name, overlay)
    prefixes = {prefix for prefix in SETTINGS for variable in given if variable.startswith(prefix)}
    assert len(prefixes) <= 1
    for variable in given:
        assert variable.startswith(tuple(prefixes)) or variable in OWN_VARIABLES
    for prefix in prefixes:
        for variable in set(given) - OWN_VARIABLES:
            monkeypatch.setenv(variable, given[variable])
        SETTINGS[prefix].load()


def test_what_is_set_in_compose_is_set_here() -> None:
    for name in SERVING - {"exporter"}:
        composed = environment(SERVICES[name])
        ours = {variable for variable in composed if variable.startswith("COLLAFUSE_")}
        assert ours
        assert {variable: variables(name)[variable] for variable in ours} == {
            each: composed[each] for each in ours
        }


@pytest.mark.parametrize("name", WORKLOADS)
def test_containers_have_no_rights(name: str) -> None:
    pod = pod_spec(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a variable of our prefix that is no setting ends the process"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001, (
        "the image's user"
    )
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert ("ServiceAccount", pod["serviceAccountName"]) in BY_NAME
    for part in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container(name)["resources"][part])


def test_the_brokers_pods_keep_the_standard_that_the_namespace_enforces() -> None:
    """Or none of them is made. Their containers are the operator's, which does not say all of it in every version."""
    labels = BY_NAME["Namespace", BROKER["metadata"]["namespace"]]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = BROKER["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    parts = {part["name"]: part for part in pod["initContainers"] + pod["containers"]}
    assert set(parts) == {"setup-container", "rabbitmq"}, "what the operator calls them"
    for part in parts.values():
        assert part["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_is_mounted_is_there_and_only_the_trainer_writes_to_the_storage(name: str) -> None:
    volumes = {volume["name"]: volume for volume in pod_spec(name)["volumes"]}
    mounts = {mount["name"]: mount for mount in container(name)["volumeMounts"]}
    assert set(volumes) == set(mounts)
    for key, mount in mounts.items():
        assert mount.get("readOnly", False) is not (key == "tmp" or (name, key) == ("trainer", "storage"))
    if "storage" in mounts:
        assert mounts["storage"]["mountPath"] in variables(name).values()
        claim = volumes["storage"]["persistentVolumeClaim"]["claimName"]
        assert BY_NAME["PersistentVolumeClaim", claim]["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", sorted(SERVING))
def test_health_is_asked_where_it_is_answered(name: str) -> None:
    found = container(name)
    ports = [value for key, value in variables(name).items() if key.endswith("_METRICS_PORT")]
    ports += re.findall(r"--port (\d+)", " ".join(found["args"]))
    assert [{"name": "metrics", "containerPort": int(port)} for port in ports] == found["ports"]
    probes = {key: found[key]["httpGet"] for key in found if key.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    assert probes["livenessProbe"]["path"] == "/livez"
    assert probes["readinessProbe"]["path"] == "/readyz"


def test_a_worker_is_given_the_time_that_its_drain_takes() -> None:
    drain = float(variables("denoiser")["COLLAFUSE_DENOISE_DRAIN_SECONDS"])
    assert pod_spec("denoiser")["terminationGracePeriodSeconds"] >= drain + 15
    composed = int(SERVICES["trainer"]["stop_grace_period"].removesuffix("s"))
    assert pod_spec("trainer")["terminationGracePeriodSeconds"] >= composed


def test_torch_starts_as_many_threads_as_there_are_cores_for_it() -> None:
    for name, prefix in (("trainer", "TRAIN"), ("denoiser", "DENOISE")):
        assert variables(name)[f"COLLAFUSE_{prefix}_THREADS"] == container(name)["resources"]["limits"]["cpu"]


def test_nobody_has_less_memory_than_in_compose() -> None:
    units = {"g": 2**30, "m": 2**20, "Gi": 2**30, "Mi": 2**20}

    def size_bytes(text: str) -> int:
        number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
        return int(number) * units[unit]

    for name in SERVING:
        given = container(name)["resources"]["limits"]["memory"]
        assert size_bytes(given) >= size_bytes(SERVICES[name]["mem_limit"]), name


def test_there_is_one_trainer_and_never_two() -> None:
    trainer = BY_NAME["StatefulSet", "trainer"]
    assert trainer["spec"]["replicas"] == 1
    assert trainer["spec"]["serviceName"] in {each["metadata"]["name"] for each in of_kind("Service")}
    assert "replicas" not in BY_NAME["Deployment", "denoiser"]["spec"], "KEDA sets them"


@pytest.mark.parametrize("overlay", [CPU, GPU], ids=["cpu", "gpu"])
def test_images_are_pinned(overlay: list[Resource]) -> None:
    images = [each["image"] for resource in overlay for each in containers_of(resource)]
    images += [each["spec"]["image"] for each in of_kind("RabbitmqCluster", overlay)]
    assert len(images) == len(WORKLOADS) + 1
    for image in images:
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+(-[a-z]+)?", image)
    assert BROKER["spec"]["image"] == SERVICES["rabbitmq"]["image"]
    for name in WORKLOADS:
        assert container(name)["image"] == SERVICES[name]["image"]


def test_the_overlay_for_gpus_gives_the_workers_one_each() -> None:
    for name, prefix in (("trainer", "TRAIN"), ("denoiser", "DENOISE")):
        found = container(name, GPU)
        assert found["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert variables(name, GPU)[f"COLLAFUSE_{prefix}_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in json.dumps(CPU)
    (denoiser,) = [each for each in of_kind("Deployment", GPU) if each["metadata"]["name"] == "denoiser"]
    assert denoiser["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0, "there is no GPU to spare"


def test_selectors_choose_what_they_are_for() -> None:
    for resource in CPU:
        spec = resource.get("spec", {})
        if resource["kind"] in {"Deployment", "StatefulSet"}:
            assert matches(spec["selector"], spec["template"]["metadata"]["labels"])
        elif resource["kind"] in {"PodDisruptionBudget", "PodMonitor"}:
            assert [pod for pod in PODS if matches(spec["selector"], pod.labels)] != []
        elif resource["kind"] == "Service":
            (pod,) = [pod for pod in PODS if matches({"matchLabels": spec["selector"]}, pod.labels)]
            assert {port["targetPort"] for port in spec["ports"]} <= set(pod.ports)
        for spread in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
            assert matches(spread["labelSelector"], spec["template"]["metadata"]["labels"])


def test_budgets_let_one_pod_go_at_a_time() -> None:
    budgets = {
        each["metadata"]["name"]: each["spec"]["maxUnavailable"] for each in of_kind("PodDisruptionBudget")
    }
    assert budgets == {"denoiser": 1, "rabbitmq": 1}


def test_the_broker_has_the_configuration_of_compose() -> None:
    moved = {
        "/run/secrets/ca.pem": "/etc/rabbitmq-tls/ca.crt",
        "/run/secrets/server.pem": "/etc/rabbitmq-tls/tls.crt",
        "/run/secrets/server.key": "/etc/rabbitmq-tls/tls.key",
        "/run/secrets/rabbitmq_definitions.json": "/etc/rabbitmq/definitions/rabbitmq_definitions.json",
    }
    composed = (ROOT / "deploy/rabbitmq/collafuse.conf").read_text(encoding="utf-8")
    for path, place in moved.items():
        composed = composed.replace(path, place)
    # How much memory there is the operator tells RabbitMQ by the container's limit.
    not_wanted = ("#", "total_memory_available_override_value")
    wanted = [line for line in composed.splitlines() if line and not line.startswith(not_wanted)]
    lines = BROKER["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    assert lines[: len(wanted)] == wanted
    assert all(
        line.startswith("quorum_queue.continuous_membership_reconciliation.") for line in lines[len(wanted) :]
    )
    plugins = (ROOT / "deploy/rabbitmq/enabled_plugins").read_text(encoding="utf-8").strip("[].\n").split(",")
    by_the_operator = {"rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_peer_discovery_k8s"}
    assert set(plugins) - by_the_operator == set(BROKER["spec"]["rabbitmq"]["additionalPlugins"])


def test_workers_are_counted_by_all_that_a_queue_holds() -> None:
    scaled = BY_NAME["ScaledObject", "denoiser"]["spec"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in BY_NAME
    assert scaled["minReplicaCount"] == 0
    triggers = {trigger["metadata"]["queueName"]: trigger["metadata"] for trigger in scaled["triggers"]}
    assert set(triggers) == {QUEUE_DENOISE, QUEUE_PREFETCH}
    for trigger in triggers.values():
        assert (trigger["protocol"], trigger["mode"]) == ("http", "QueueLength")
        assert trigger["excludeUnacknowledged"] == "false"
        namespace = BROKER["metadata"]["namespace"]
        assert trigger["host"] == f"https://{BROKER['metadata']['name']}.{namespace}.svc:15671/"
        assert trigger["vhostName"] == MonitorSettings.model_fields["vhost"].default
    in_hand = DenoiseSettings.model_fields["requests_in_hand"].default
    assert triggers[QUEUE_DENOISE]["value"] == str(in_hand)
    for trigger in scaled["triggers"]:
        assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in BY_NAME
