"""The Dockerfiles are pinned, run as somebody without rights, and copy everything that the package is made of."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.deploy.composition import SERVICES

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))


def instructions(file: Path) -> list[str]:
    text = re.sub(r"\\\n", " ", file.read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_an_image_is_pinned_has_two_stages_and_no_root(file: Path) -> None:
    lines = instructions(file)
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)
    last_stage = lines[max(k for k, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last_stage
    assert not [line for line in last_stage if line.startswith("COPY") and "--from=build" not in line]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_an_image_gets_every_package_and_the_pinned_versions(file: Path) -> None:
    copied = {word for line in instructions(file) if line.startswith("COPY") for word in line.split()[1:-1]}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    packages = set(wheel["targets"]["wheel"]["packages"])
    assert packages <= copied
    assert {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"} <= copied
    ignored = Path(f"{file}.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert copied - {"--from=build", "/opt/collafuse"} == allowed
    assert any("--constraint constraints.txt" in line for line in instructions(file))


def test_the_extras_that_the_images_install_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    chosen = [
        service["build"]["args"]["EXTRAS"]
        for service in SERVICES.values()
        if "EXTRAS" in service.get("build", {}).get("args", ())
    ]
    for file in DOCKERFILES:
        text = file.read_text(encoding="utf-8")
        (installed,) = re.findall(r'"\.\[([^\]]+)\]"', text)
        chosen += re.findall(r"^ARG EXTRAS=(.+)$", text, re.MULTILINE) if "$" in installed else [installed]
    assert len(chosen) > len(DOCKERFILES)
    assert {extra for words in chosen for extra in words.split(",")} <= set(extras)


def test_no_image_has_pip_or_compiles_anything() -> None:
    for file in DOCKERFILES:
        lines = instructions(file)
        assert "RUN python -m venv --without-pip /opt/collafuse" in lines
        (install,) = [line for line in lines if "pip install" in line]
        assert "--only-binary=:all:" in install, "the slim image has no compiler"


@pytest.mark.parametrize(("extras", "asked"), [("operator", ""), ("server", "https://torch.example/")])
def test_only_an_image_with_torch_asks_torchs_index(extras: str, asked: str, tmp_path: Path) -> None:
    """Its installing line is run as it stands, with another `pip` that says where it would look."""
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "asked:$PIP_EXTRA_INDEX_URL: $@"; exit 1\n')
    pip.chmod(0o755)
    (install,) = [line for line in instructions(DOCKERFILES[-1]) if "pip install" in line]
    done = subprocess.run(
        ["sh", "-c", install.removeprefix("RUN ")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "EXTRAS": extras, "TORCH_INDEX": "https://torch.example/"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert DOCKERFILES[-1].name == "server.Dockerfile"
    assert done.stdout.startswith(f"asked:{asked}: install ")
    assert f".[{extras}]" in done.stdout


def test_the_edge_image_has_no_torch() -> None:
    text = (ROOT / "deploy" / "edge.Dockerfile").read_text(encoding="utf-8")
    assert '".[edge]"' in text
    assert '! /opt/collafuse/bin/python -c "import torch"' in text


def test_the_edge_image_knows_where_its_state_is() -> None:
    lines = instructions(ROOT / "deploy" / "edge.Dockerfile")
    (variables,) = [line for line in lines if line.startswith("ENV PATH=")]
    (state,) = re.findall(r"COLLAFUSE_EDGE_STATE=(\S+)", variables)
    (made,) = [line for line in lines if "install -d" in line]
    assert state in made.split(), "a volume there belongs to the agent's user"


def test_the_edge_image_can_be_built_for_either_kind_of_machine() -> None:
    lines = instructions(ROOT / "deploy" / "edge.Dockerfile")
    assert not [
        line for line in lines if re.search(r"amd64|arm64|x86_64|aarch64|--platform|TARGETARCH", line)
    ]
