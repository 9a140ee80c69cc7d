"""Who may speak to whom, by the NetworkPolicies of a set of manifests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.deploy.kustomize import Resource, containers_of

ANYWHERE = "anywhere"
"""Where a policy names nobody: every pod of the cluster, and whatever is outside of it."""


@dataclass(frozen=True)
class Pod:
    """What policies go by: labels, and the ports with names."""

    name: str
    labels: dict[str, str]
    ports: dict[str, int]


Flow = tuple[str, str, int | str]
"""From whom (a pod, or a namespace), to whom, and to which port; a range reads 1-2."""


def pods_of(resources: Iterable[Resource]) -> list[Pod]:
    """The pods of every workload among the manifests."""
    found = []
    for resource in resources:
        if containers := containers_of(resource):
            labels = resource["spec"]["template"]["metadata"]["labels"]
            ports = {
                port["name"]: port["containerPort"] for each in containers for port in each.get("ports", [])
            }
            found.append(Pod(resource["metadata"]["name"], labels, ports))
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", []):
        if wanted["operator"] != "In":
            raise ValueError(f"{wanted['operator']} is not understood")
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def flows(policies: list[Resource], pods: list[Pod]) -> set[Flow]:
    """What is allowed at both ends. Traffic with what is no pod of ours is judged at our end alone."""
    outward, inward = _allowed(policies, pods)
    return {flow for flow in outward | inward if not _among(flow, pods) or flow in outward & inward}


def one_sided(policies: list[Resource], pods: list[Pod]) -> set[Flow]:
    """What one pod is allowed and the other is not, which has no effect."""
    outward, inward = _allowed(policies, pods)
    return {flow for flow in outward ^ inward if _among(flow, pods)}


def _allowed(policies: list[Resource], pods: list[Pod]) -> tuple[set[Flow], set[Flow]]:
    """What may leave a pod of ours, and what may enter one."""
    outward: set[Flow] = set()
    inward: set[Flow] = set()
    for policy in policies:
        spec = policy["spec"]
        for pod in (pod for pod in pods if matches(spec["podSelector"], pod.labels)):
            for rule in spec.get("egress", []):
                outward |= {(pod.name, who, port) for who, port in _ends(rule, "to", pods, pod)}
            for rule in spec.get("ingress", []):
                inward |= {(who, pod.name, port) for who, port in _ends(rule, "from", pods, pod)}
    return outward, inward


def _among(flow: Flow, pods: list[Pod]) -> bool:
    return {flow[0], flow[1]} <= {pod.name for pod in pods}


def _ends(rule: dict[str, Any], key: str, pods: list[Pod], here: Pod) -> set[tuple[str, int | str]]:
    others: set[str] = set()
    for peer in rule.get(key, [{}]):
        if not peer:
            others.add(ANYWHERE)
        elif "namespaceSelector" in peer:
            others.add(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
        else:
            others |= {pod.name for pod in pods if matches(peer["podSelector"], pod.labels)}
    return {(other, _port(port, here)) for other in others for port in rule["ports"]}


def _port(port: dict[str, Any], here: Pod) -> int | str:
    if "endPort" in port:
        return f"{port['port']}-{port['endPort']}"
    number = port["port"]
    return here.ports[number] if isinstance(number, str) else int(number)
