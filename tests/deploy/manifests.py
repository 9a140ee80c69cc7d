"""The manifests of deploy/kubernetes as they are applied, and what tests ask of them."""

import shlex
from typing import Any

from tests.deploy.kustomize import KUBERNETES, Resource, build, containers_of, name_of
from tests.deploy.policies import Pod, pods_of

CPU = build(KUBERNETES / "overlays" / "cpu")
GPU = build(KUBERNETES / "overlays" / "gpu")
DEVICES = build(KUBERNETES / "devices")
BY_NAME = {name_of(resource): resource for resource in CPU}
WORKLOADS = {resource["metadata"]["name"]: resource for resource in CPU if containers_of(resource)}
SERVING = {"trainer", "denoiser", "exporter"}
BROKER = BY_NAME["RabbitmqCluster", "rabbitmq"]
BROKER_POD = Pod(
    "rabbitmq", {"app.kubernetes.io/name": "rabbitmq", "app.kubernetes.io/component": "rabbitmq"}, {}
)
"""What the Cluster Operator makes of it: it labels pods by the name of the cluster."""

PODS = [*pods_of(CPU), BROKER_POD]


def of_kind(kind: str, resources: list[Resource] = CPU) -> list[Resource]:
    """Every resource of a kind."""
    return [resource for resource in resources if resource["kind"] == kind]


def pod_spec(name: str) -> dict[str, Any]:
    """What a workload's pods are made by."""
    found: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return found


def container(name: str, resources: list[Resource] = CPU) -> dict[str, Any]:
    """The only container of a workload."""
    (resource,) = [each for each in resources if containers_of(each) and each["metadata"]["name"] == name]
    (found,) = containers_of(resource)
    return found


def variables(name: str, resources: list[Resource] = CPU) -> dict[str, str]:
    """The environment of a workload, with the ConfigMaps that it takes whole."""
    found: dict[str, str] = {}
    for source in container(name, resources).get("envFrom", []):
        wanted = ("ConfigMap", source["configMapRef"]["name"])
        (settings,) = [each for each in resources if name_of(each) == wanted]
        found |= settings["data"]
    return found | {entry["name"]: entry["value"] for entry in container(name, resources).get("env", [])}


def words_after_collafuse(name: str) -> list[str]:
    """What a workload gives to our command line."""
    found = container(name)
    if "command" not in found:  # the image's entry point is `collafuse`
        args: list[str] = found["args"]
        return args
    words = shlex.split(" ".join(found["args"]))
    return words[words.index("collafuse") + 1 :]
