"""A small file is there whole, or what was there before is."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.whole_files import write_whole


def test_whoever_reads_already_reads_what_was_there_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")

    with path.open(encoding="utf-8") as reader:
        write_whole(path, "after")

        assert reader.read() == "before"
    assert path.read_text(encoding="utf-8") == "after"


def test_of_two_who_write_one_file_at_a_time_each_writes_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [letter * 300_000 for letter in "abcd"]

    with ThreadPoolExecutor(len(texts)) as writers:
        for _ in range(5):
            list(writers.map(lambda text: write_whole(path, text), texts))
            assert path.read_text(encoding="utf-8") in texts

    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_as_said_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "text", mode=mode)
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "after \ud800")

    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["a file", "a link that leads nowhere"])
def test_a_new_file_is_never_put_over_one_that_is_there(tmp_path: Path, what: str) -> None:
    path = tmp_path / "file"
    if what == "a file":
        path.write_text("before", encoding="utf-8")
    else:
        path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(FileExistsError):
        write_whole(path, "after", replace=False)

    assert list(tmp_path.iterdir()) == [path], "and no draft stays"
    write_whole(tmp_path / "other", "new", replace=False)
    assert (tmp_path / "other").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "other").stat().st_nlink == 1
