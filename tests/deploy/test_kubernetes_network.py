"""The NetworkPolicies allow what is spoken, and nothing else."""

import json

from tests.deploy.manifests import BROKER_POD, CPU, DEVICES, PODS, SERVING, of_kind
from tests.deploy.policies import ANYWHERE, flows, matches, one_sided


def test_pods_speak_as_they_have_to_and_nobody_else_does() -> None:
    policies = of_kind("NetworkPolicy")
    (nothing,) = [
        each["spec"]
        for each in policies
        if each["spec"]["podSelector"] == {} and "egress" not in each["spec"]
    ]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    metrics = {pod.name: pod.ports["metrics"] for pod in PODS if pod.ports}
    assert set(metrics) == SERVING
    assert one_sided(policies, PODS) == set()
    assert flows(policies, PODS) == (
        {(name, "rabbitmq", 5671) for name in ("init", "trainer", "denoiser", "exporter")}
        | {(name, "rabbitmq", 15671) for name in ("exporter", "keda", "rabbitmq-system")}
        | {("rabbitmq", "rabbitmq", port) for port in (4369, 25672, "35672-35682")}
        | {("monitoring", name, port) for name, port in metrics.items()}
        | {(name, "rabbitmq", 15691) for name in ("exporter", "monitoring")}
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
