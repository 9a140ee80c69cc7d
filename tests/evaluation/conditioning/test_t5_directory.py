"""What tells one T5 from another, and that it does not matter where it lies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.conditioning.t5_directory import T5Directory
from evaluation.errors import TextError
from tests.evaluation.tiny_t5 import save_tiny_t5


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "t5-copy"))


def test_the_same_files_elsewhere_are_the_same_encoder(saved: Path, copy: Path) -> None:
    (copy / "README.md").write_text("not read")
    here, there = T5Directory.at(saved), T5Directory.at(copy)
    assert here.digest == there.digest
    assert there.path == copy
    assert there.name == f"the T5 encoder t5-copy (files {here.digest})"


def test_a_directory_named_by_a_dot_still_has_a_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    assert T5Directory.at(Path()).name.startswith("the T5 encoder t5-copy ")


def end_differently(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-1] + b" ")


@pytest.mark.parametrize(
    "change",
    [
        end_differently("model.safetensors"),
        end_differently("tokenizer.json"),
        lambda path: (path / "special_tokens_map.json").write_text("{}"),
        lambda path: (path / "spiece.model").write_bytes(b""),
    ],
    ids=["other weights", "other pieces", "other marks", "one file more"],
)
def test_any_other_byte_is_another_encoder(copy: Path, change: Callable[[Path], object]) -> None:
    before = T5Directory.at(copy).digest
    change(copy)
    assert T5Directory.at(copy).digest != before


def test_what_holds_no_t5_has_no_digest(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TextError, match="type 'bert': give one of type 't5'"):
        T5Directory.at(copy)


def test_a_file_that_cannot_be_read_is_told(copy: Path) -> None:
    (copy / "spiece.model").symlink_to("/proc/self/mem")  # opens, and fails when read
    with pytest.raises(
        TextError, match=r"cannot read the T5 in .*t5-copy: Input/output error; make its files readable"
    ):
        T5Directory.at(copy)
