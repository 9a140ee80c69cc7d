"""The manifests against published schemas: Kubernetes' own, and those of the operators' resources.

RabbitMQ's Cluster Operator publishes none in a package. What we use of its resource is written down here, by the
reference of its version 2.22; what that resource holds of Kubernetes' own is held against Kubernetes' schemas.
"""

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.kustomize import KUBERNETES, Resource, build, name_of
from tests.deploy.manifests import BROKER, CPU, DEVICES, GPU

OLDEST, NEWEST = "1.30", "1.37"
PUBLISHED = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
"""apiVersion → a package that was generated from its CustomResourceDefinitions."""

REFERENCE = "rabbitmq.com/v1beta1"
CLUSTER: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": REFERENCE},
        "kind": {"const": "RabbitmqCluster"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "replicas": {"type": "integer", "minimum": 0},
                "image": {"type": "string"},
                "persistence": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"storage": {"type": "string"}, "storageClassName": {"type": "string"}},
                },
                "resources": {"type": "object"},
                "affinity": {"type": "object"},
                "tls": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "secretName": {"type": "string"},
                        "caSecretName": {"type": "string"},
                        "disableNonTLSListeners": {"type": "boolean"},
                    },
                },
                "rabbitmq": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "additionalPlugins": {
                            "type": "array",
                            "maxItems": 100,
                            "items": {"type": "string", "pattern": r"^\w+$", "maxLength": 100},
                        },
                        "additionalConfig": {"type": "string", "maxLength": 100_000},
                    },
                },
                "override": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"statefulSet": {"type": "object"}},
                },
            },
        },
    },
}
ALL = [*CPU, *(resource for resource in GPU if resource not in CPU), *DEVICES]
OWN = [resource for resource in ALL if resource["apiVersion"] not in {*PUBLISHED, REFERENCE}]
OTHERS = [resource for resource in CPU if resource["apiVersion"] in PUBLISHED]


def label(resource: Resource) -> str:
    return "-".join(name_of(resource))


@cache
def schema_of(api_version: str, kind: str) -> dict[str, Any]:
    """The schema of an operator's resource, in which a word that it does not know is an error, as it is for `kubectl apply`."""
    model = getattr(importlib.import_module(PUBLISHED[api_version]), kind)
    schema: dict[str, Any] = model.model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema


def complaints(schema: dict[str, Any], resource: Resource) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_resource_of_its_own(version: str) -> None:
    assert {"Deployment", "StatefulSet", "Job", "NetworkPolicy", "PodDisruptionBudget"} <= {
        each["kind"] for each in OWN
    }
    for resource in OWN:
        assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_kubernetes_would_not_take_a_word_that_it_does_not_know() -> None:
    (deployment,) = [
        each for each in build(KUBERNETES / "base") if name_of(each) == ("Deployment", "denoiser")
    ]
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGraceSeconds"):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


@pytest.mark.parametrize("resource", OTHERS, ids=label)
def test_the_operators_take_their_resources(resource: Resource) -> None:
    assert complaints(schema_of(resource["apiVersion"], resource["kind"]), resource) == []


def test_keda_would_not_take_a_word_that_it_does_not_know() -> None:
    (scaled,) = [json.loads(json.dumps(each)) for each in OTHERS if each["kind"] == "ScaledObject"]
    scaled["spec"]["coolDownPeriod"] = 300
    assert "coolDownPeriod" in str(complaints(schema_of(scaled["apiVersion"], "ScaledObject"), scaled))


def test_the_cluster_operator_knows_what_it_is_told() -> None:
    assert complaints(CLUSTER, BROKER) == []
    spec = BROKER["spec"]
    override = spec["override"]["statefulSet"]["spec"]
    assert set(override) == {"template"}
    pod = {**override["template"]["spec"], "affinity": spec["affinity"]}
    pod["containers"] = [{**container, "resources": spec["resources"]} for container in pod["containers"]]
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rabbitmq-server-0"}, "spec": pod},
            version,
            strict=True,
        )


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")
@pytest.mark.parametrize("folder", ["overlays/cpu", "overlays/gpu", "devices"])
def test_kustomize_makes_of_it_what_these_tests_read(folder: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert squeezed(yaml.safe_load_all(made)) == squeezed(build(KUBERNETES / folder))


def squeezed(resources: Iterable[Resource]) -> dict[tuple[str, str], str]:
    """Resources as text without white space: kustomize puts an empty line into expressions that run over several."""
    return {name_of(each): re.sub(r"\s|\\n", "", json.dumps(each, sort_keys=True)) for each in resources}
