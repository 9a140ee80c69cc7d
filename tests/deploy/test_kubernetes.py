"""What the manifests of deploy/kubernetes say exists: commands, settings, ports, files, labels; and nothing in them is open."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.topology import QUEUE_DENOISE, QUEUE_PREFETCH
from monitoring.settings import MonitorSettings
from server_worker.settings import DenoiseSettings
from tests.deploy.commands import unknown_options
from tests.deploy.kustomize import KUBERNETES, ROOT, Resource, build, containers_of, name_of
from tests.deploy.policies import ANYWHERE, Pod, flows, matches, one_sided, pods_of
from tests.deploy.test_compose import OWN_VARIABLES, SERVICES, SETTINGS, environment

CPU = build(KUBERNETES / "overlays" / "cpu")
GPU = build(KUBERNETES / "overlays" / "gpu")
DEVICES = build(KUBERNETES / "devices")
BY_NAME = {name_of(resource): resource for resource in CPU}
WORKLOADS = {resource["metadata"]["name"]: resource for resource in CPU if containers_of(resource)}
SERVING = {"trainer", "denoiser", "exporter"}
BROKER = BY_NAME["RabbitmqCluster", "rabbitmq"]
BROKER_POD = Pod("rabbitmq", {"app.kubernetes.io/name": "rabbitmq", "app.kubernetes.io/component": "rabbitmq"}, {})
"""What the Cluster Operator makes of it: it labels pods by the name of the cluster."""

PODS = [*pods_of(CPU), BROKER_POD]


def of_kind(kind: str, resources: list[Resource] = CPU) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def pod_spec(name: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return found


def container(name: str, resources: list[Resource] = CPU) -> dict[str, Any]:
    (resource,) = [each for each in resources if containers_of(each) and each["metadata"]["name"] == name]
    (found,) = containers_of(resource)
    return found


def variables(name: str, resources: list[Resource] = CPU) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container(name, resources).get("envFrom", []):
        wanted = ("ConfigMap", source["configMapRef"]["name"])
        (settings,) = [each for each in resources if name_of(each) == wanted]
        found |= settings["data"]
    return found | {entry["name"]: entry["value"] for entry in container(name, resources).get("env", [])}


def words_after_collafuse(name: str) -> list[str]:
    found = container(name)
    if "command" not in found:  # the image's entry point is `collafuse`
        args: list[str] = found["args"]
        return args
    words = shlex.split(" ".join(found["args"]))
    return words[words.index("collafuse") + 1 :]


def test_every_process_of_the_server_is_there() -> None:
    ours = {name for name, service in SERVICES.items() if "build" in service}
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
        assert composed.items() <= variables(name).items()


@pytest.mark.parametrize("name", WORKLOADS)
def test_containers_have_no_rights(name: str) -> None:
    pod = pod_spec(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a variable of our prefix that is no setting ends the process"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001, "the image's user"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert ("ServiceAccount", pod["serviceAccountName"]) in BY_NAME
    for part in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container(name)["resources"][part])


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
    assert container("trainer")["image"] == SERVICES["trainer"]["image"]


def test_the_overlay_for_gpus_gives_the_workers_one_each() -> None:
    for name, prefix in (("trainer", "TRAIN"), ("denoiser", "DENOISE")):
        found = container(name, GPU)
        assert found["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert variables(name, GPU)[f"COLLAFUSE_{prefix}_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in json.dumps(CPU)


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
    budgets = {each["metadata"]["name"]: each["spec"]["maxUnavailable"] for each in of_kind("PodDisruptionBudget")}
    assert budgets == {"denoiser": 1, "rabbitmq": 1}


def test_pods_speak_as_they_have_to_and_nobody_else_does() -> None:
    policies = of_kind("NetworkPolicy")
    (nothing,) = [each["spec"] for each in policies if each["spec"]["podSelector"] == {} and "egress" not in each["spec"]]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    metrics = {pod.name: pod.ports["metrics"] for pod in PODS if pod.ports}
    assert set(metrics) == SERVING
    assert one_sided(policies, PODS) == set()
    assert flows(policies, PODS) == (
        {(name, "rabbitmq", 5671) for name in ("init", "trainer", "denoiser")}
        | {(name, "rabbitmq", 15671) for name in ("exporter", "keda", "rabbitmq-system")}
        | {("rabbitmq", "rabbitmq", port) for port in (4369, 25672, "35672-35682")}
        | {("monitoring", name, port) for name, port in metrics.items()}
        | {("monitoring", "rabbitmq", 15691)}
        | {(pod.name, "kube-system", 53) for pod in PODS}
        | {("rabbitmq", ANYWHERE, port) for port in (443, 6443)}
    )
    assert flows(of_kind("NetworkPolicy", DEVICES), PODS) == {(ANYWHERE, "rabbitmq", 5671)}


def test_policies_and_types_agree() -> None:
    for policy in of_kind("NetworkPolicy"):
        rules = {"ingress": "Ingress", "egress": "Egress"}
        given = {rules[key] for key in policy["spec"] if key in rules}
        assert given == set(policy["spec"]["policyTypes"]) or policy["metadata"]["name"] == "nothing"


def test_only_the_brokers_amqp_port_is_opened_to_devices() -> None:
    (service,) = of_kind("Service", DEVICES)
    assert matches({"matchLabels": service["spec"]["selector"]}, BROKER_POD.labels)
    assert [port["port"] for port in service["spec"]["ports"]] == [5671]
    assert "LoadBalancer" not in json.dumps(CPU)


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
    wanted = [line for line in composed.splitlines() if line and not line.startswith("#")]
    lines = BROKER["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    assert lines[: len(wanted)] == wanted
    assert all(line.startswith("quorum_queue.continuous_membership_reconciliation.") for line in lines[len(wanted) :])
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


def test_prometheus_asks_every_process_and_gives_it_the_job_that_the_rules_know() -> None:
    asked = {}
    for monitor in of_kind("ServiceMonitor") + of_kind("PodMonitor"):
        spec = monitor["spec"]
        services = [each for each in of_kind("Service") if matches(spec["selector"], each["metadata"]["labels"])]
        (pod,) = [pod for pod in PODS if matches(spec["selector"], pod.labels)]
        assert monitor["kind"] == "PodMonitor" or len(services) == 1 or pod is BROKER_POD
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        asked[pod.labels[spec["jobLabel"]]] = endpoint["port"]
    assert asked == dict.fromkeys(SERVING, "metrics") | {"rabbitmq": "prometheus-tls"}
    rules = "".join((ROOT / f"monitoring/prometheus/{name}.yml").read_text() for name in ("alerts", "recording"))
    named = {job for jobs in re.findall(r'job[=!]~?"([^"]+)"', rules) for job in jobs.split("|")}
    assert named
    assert named <= set(asked) | {"edge"}


def test_copies_of_rules_and_the_list_of_dashboards_are_those_that_are_made() -> None:
    made: dict[Path, str] = runpy.run_path(str(KUBERNETES / "make-monitoring"))["made"]()
    for path, content in made.items():
        assert path.read_text(encoding="utf-8") == content, "run deploy/kubernetes/make-monitoring"
    for name in ("alerts", "recording"):
        rules = yaml.safe_load((ROOT / f"monitoring/prometheus/{name}.yml").read_text(encoding="utf-8"))
        assert BY_NAME["PrometheusRule", f"collafuse-{name}"]["spec"] == rules


def test_every_dashboard_is_there_and_small_enough() -> None:
    files = {path.name: path for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")}
    maps = [each for each in of_kind("ConfigMap") if each["metadata"]["name"].startswith("dashboard-")]
    found = {name: text for each in maps for name, text in each["data"].items()}
    assert found == {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for each in maps:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert sum(map(len, each["data"].values())) < 1_000_000, "a ConfigMap holds a megabyte"
