"""Reads deploy/kubernetes as kustomize does, as far as it is used there; whatever else stands in a kustomization is an error.

Where kubectl is at hand a test holds what is read here against what it makes.
"""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KEYS = {
    "apiVersion", "kind", "namespace", "resources", "generatorOptions", "configMapGenerator", "images", "patches",
}  # fmt: skip
CLUSTER_WIDE = {"Namespace"}

Resource = dict[str, Any]


def build(folder: Path) -> list[Resource]:
    """Every resource of a kustomization, with what the kustomization does to them.

    Raises ValueError for what kustomize would refuse, and for what is not understood here.
    """
    wanted = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    _check(set(wanted) <= KEYS, f"{folder}: {sorted(set(wanted) - KEYS)} is not understood")
    found: list[Resource] = []
    for name in wanted.get("resources", []):
        found += _resources(folder, name)
    for entry in wanted.get("configMapGenerator", []):
        found.append(_config_map(folder, entry, wanted["generatorOptions"]))
    for resource in found:
        if "namespace" in wanted and resource["kind"] not in CLUSTER_WIDE:
            resource["metadata"]["namespace"] = wanted["namespace"]
        for image in wanted.get("images", []):
            _retag(resource, image)
    for patch in wanted.get("patches", []):
        _patch(found, patch)
    names = [name_of(resource) for resource in found]
    _check(len(set(names)) == len(names), f"{folder}: a resource stands there twice")
    return found


def name_of(resource: Resource) -> tuple[str, str]:
    """Kind and name."""
    return resource["kind"], resource["metadata"]["name"]


def containers_of(resource: Resource) -> list[Resource]:
    """The containers that a workload runs; none for anything else."""
    template = resource.get("spec", {}).get("template", {})
    found: list[Resource] = template.get("spec", {}).get("containers", [])
    return found


def _resources(folder: Path, name: str) -> list[Resource]:
    place = (folder / name).resolve()
    if place.is_dir():
        return build(place)
    _check(place.is_relative_to(folder.resolve()), f"{folder}: {name} lies outside of the kustomization")
    return [document for document in yaml.safe_load_all(place.read_text(encoding="utf-8")) if document]


def _config_map(folder: Path, entry: dict[str, Any], options: dict[str, Any]) -> Resource:
    _check(set(entry) <= {"name", "envs", "files"}, f"{folder}: {sorted(entry)} is not understood")
    _check(options.get("disableNameSuffixHash") is True, f"{folder}: names with a hash are not understood")
    data: dict[str, str] = {}
    for name in entry.get("envs", []):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in entry.get("files", []):
        data[Path(name).name] = (folder / name).read_text(encoding="utf-8")
    metadata = {"name": entry["name"]}
    labels = {"labels": options["labels"]} if "labels" in options else {}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | labels, "data": data}


def _retag(resource: Resource, image: dict[str, str]) -> None:
    _check(set(image) == {"name", "newTag"}, f"{sorted(image)} is not understood")
    for container in containers_of(resource):
        name, _, _ = container.get("image", "").partition(":")
        if name == image["name"]:
            container["image"] = f"{name}:{image['newTag']}"


def _patch(resources: list[Resource], patch: dict[str, Any]) -> None:
    """Operations of RFC 6902, of which only `add` is used."""
    target = (patch["target"]["kind"], patch["target"]["name"])
    (resource,) = [each for each in resources if name_of(each) == target]
    for step in yaml.safe_load(patch["patch"]):
        _check(step["op"] == "add", f"{step['op']} is not understood")
        *way, last = [word.replace("~1", "/").replace("~0", "~") for word in step["path"].split("/")[1:]]
        place: Any = resource
        for word in way:
            place = place[int(word)] if isinstance(place, list) else place[word]
        if isinstance(place, list):
            _check(last == "-", f"{step['path']} is not understood")
            place.append(step["value"])
        else:
            place[last] = step["value"]


def _check(so: bool, otherwise: str) -> None:
    if not so:
        raise ValueError(otherwise)
