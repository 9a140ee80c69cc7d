"""The platform engineer's page: its commands make every secret that the manifests use, and what it names exists."""

import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from collafuse.deploy.broker_users import KEDA, holder
from collafuse.deploy.cli import app as deploy
from tests.deploy.commands import code_of, commands_of, unknown_options
from tests.deploy.composition import COMPOSE
from tests.deploy.kustomize import KUBERNETES, ROOT, containers_of
from tests.deploy.manifests import BROKER, BY_NAME, CPU, DEVICES, PODS, WORKLOADS, of_kind, pod_spec

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
LINES = code_of(PAGE)
MADE = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
"""The files that are made in ./secrets."""


def secrets_made() -> dict[str, dict[str, str | None]]:
    """Secret → key → file in ./secrets that the page's commands put there; None for a word."""
    found: dict[str, dict[str, str | None]] = {}
    for line in (line for line in LINES if "create secret" in line):
        kind, name, *rest = shlex.split(line.split("create secret ")[1])
        given = [word.removeprefix("--").split("=", 2) for word in rest]
        if kind == "tls":
            found[name] = {f"tls.{'crt' if key == 'cert' else key}": value for key, value in given}
        else:
            found[name] = {key: value if how == "from-file" else None for how, key, value in given}
    return found


def secrets_used() -> set[tuple[str, str]]:
    """Secret and key of whatever the manifests read."""
    used = {("rabbitmq-tls", "tls.crt"), ("rabbitmq-tls", "tls.key"), ("rabbitmq-ca", "ca.crt")}
    assert BROKER["spec"]["tls"] == {
        "secretName": "rabbitmq-tls", "caSecretName": "rabbitmq-ca", "disableNonTLSListeners": True,
    }  # fmt: skip
    for name in WORKLOADS:
        used |= files_read(pod_spec(name), str(WORKLOADS[name]))
    override = BROKER["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]
    used |= files_read(override, BROKER["spec"]["rabbitmq"]["additionalConfig"])
    for reference in BY_NAME["TriggerAuthentication", "rabbitmq"]["spec"]["secretTargetRef"]:
        used.add((reference["name"], reference["key"]))
    for monitor in of_kind("ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            if authority := endpoint.get("tlsConfig", {}).get("ca"):
                used.add((authority["secret"]["name"], authority["secret"]["key"]))
    return used


def files_read(pod: dict[str, Any], text: str) -> set[tuple[str, str]]:
    """Of every secret that a pod mounts, the file that its words name."""
    found = set()
    for volume in (volume for volume in pod["volumes"] if "secret" in volume):
        (place,) = [
            mount["mountPath"]
            for container in pod["containers"]
            for mount in container["volumeMounts"]
            if mount["name"] == volume["name"]
        ]
        (key,) = set(re.findall(rf"{place}/([\w.]+)", text))
        found.add((volume["secret"]["secretName"], key))
    return found


def test_every_secret_of_the_manifests_is_made_and_no_other() -> None:
    made = secrets_made()

    assert {(name, key) for name, keys in made.items() for key in keys} == secrets_used()
    files = {file for keys in made.values() for file in keys.values() if file}
    assert files - {f"secrets/{holder(KEDA)}"} <= {f"secrets/{name}" for name in MADE}
    assert not [file for file in files if file.endswith("ca.key")]


def test_keda_is_given_its_own_user_and_the_password_of_its_file(tmp_path: Path) -> None:
    (init,) = [shlex.split(line) for line in LINES if line.startswith("collafuse deploy init --keda")]
    made = CliRunner().invoke(deploy, [*init[2:], "--directory", str(tmp_path)], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    (line,) = [line for line in LINES if "create secret generic keda-rabbitmq" in line]
    given = dict(re.findall(r"--from-(?:literal|file)=(\w+)=(\S+)", line))

    assert given == {"username": KEDA, "password": f"secrets/{holder(KEDA)}"}
    password = (tmp_path / holder(KEDA)).read_text(encoding="utf-8")
    assert password == password.strip(), "Kubernetes takes the file as it is"
    assert KEDA in (tmp_path / "rabbitmq_definitions.json").read_text(encoding="utf-8")


def test_the_certificate_is_for_every_name_by_which_the_broker_is_asked() -> None:
    named = {"rabbitmq"} | {name for line in LINES for name in re.findall(r"--host '?([\w.*-]+)", line)}
    name, namespace = BROKER["metadata"]["name"], BROKER["metadata"]["namespace"]

    assert name in named, "the secrets' URLs, and Prometheus, say so"
    assert f"*.{name}-nodes.{namespace}.svc" in named
    text = "".join(path.read_text(encoding="utf-8") for path in KUBERNETES.rglob("*.yaml"))
    nodes = {f"{name}-server-{k}.{name}-nodes.{namespace}.svc" for k in range(BROKER["spec"]["replicas"])}
    asked = set(re.findall(r"https://([\w.-]+):", text))
    assert nodes < asked
    assert asked - nodes <= named
    assert set(re.findall(r"serverName: (\S+)", text)) <= named


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")
def test_a_folder_of_ones_own_builds_as_it_is_shown(tmp_path: Path) -> None:
    (shown,) = re.findall(
        r"(?:^    .*\n)+", PAGE.split("Make a folder of your own")[1].split("## ")[0], re.MULTILINE
    )
    (tmp_path / "kustomization.yaml").write_text(textwrap.dedent(shown))
    (tmp_path / "collafuse").symlink_to(ROOT)

    made = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )

    assert (made.returncode, made.stderr) == (0, "")
    resources = [resource for resource in yaml.safe_load_all(made.stdout) if resource]
    images = {each["image"] for resource in resources for each in containers_of(resource)}
    assert images
    assert all(image.startswith("images.example.org/collafuse-") for image in images)
    (storage,) = [each for each in resources if each["kind"] == "PersistentVolumeClaim"]
    assert storage["spec"]["storageClassName"] == "shared"
    assert len(resources) == len(CPU) + len(DEVICES)


def test_commands_and_options_exist() -> None:
    assert len(commands_of(PAGE)) >= 2
    for words in commands_of(PAGE):
        assert not unknown_options(words), words


def test_files_and_links_exist() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", PAGE))
    assert len(named) >= 6
    for path in named:
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
    for folder in ("base", "rabbitmq", "keda", "monitoring", "devices", "overlays/cpu", "overlays/gpu"):
        assert f"`{folder}`" in PAGE
        assert (KUBERNETES / folder / "kustomization.yaml").is_file()


def test_what_kubectl_is_told_to_look_at_is_there() -> None:
    known = {f"{resource['kind']}/{resource['metadata']['name']}".lower() for resource in CPU}
    known |= {"service/rabbitmq", "statefulset/rabbitmq-server"}  # made by the Cluster Operator
    kinds = "|".join({name.partition("/")[0] for name in known})
    named = {found for line in LINES for found in re.findall(rf"\b(?:{kinds})/[a-z][\w-]*", line)}
    assert named
    assert named <= known
    pods = {pod for line in LINES for pod in re.findall(r"kubectl .*\bexec (\S+)", line)}
    assert pods == {"trainer-0", "rabbitmq-server-0"}
    chosen = {found for line in LINES for found in re.findall(r"component=(\w+)", line)}
    assert chosen <= {pod.labels["app.kubernetes.io/component"] for pod in PODS}


@pytest.mark.parametrize("name", ["operations.md", "../README.md"])
def test_it_is_found_from_elsewhere(name: str) -> None:
    assert "kubernetes.md" in (ROOT / "docs" / name).read_text(encoding="utf-8")
