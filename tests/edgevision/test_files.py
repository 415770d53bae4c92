"""Written files are whole or not there."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from edgevision.files import atomic_path, sha256


def leftovers(folder: Path, *expected: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)


def test_the_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_text() == "new"
    leftovers(tmp_path, "out.txt")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    leftovers(tmp_path, "out.txt")


def test_a_reader_that_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with target.open() as reader:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_is_that_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "ours") as temporary:
            temporary.write_text("")
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "out.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "out.txt").read_text() == "new"
    leftovers(tmp_path / "real", "out.txt")


def test_a_device_is_written_to_not_replaced() -> None:
    with atomic_path("/dev/null") as temporary:
        temporary.write_text("gone")
    assert Path("/dev/null").is_char_device()
    # A disk that is full: the operating system's own stand-in for one.
    with pytest.raises(OSError, match="No space left"), atomic_path("/dev/full") as temporary:
        temporary.write_text("does not fit")


def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with atomic_path(pipe) as temporary:
        temporary.write_text("through")
    reader.join(timeout=10)
    assert read == ["through"]


@pytest.mark.parametrize(("target", "words"), [("none/out.txt", "No such file"), (".", "Is a directory")])
def test_a_target_that_cannot_be_is_an_os_error(tmp_path: Path, target: str, words: str) -> None:
    with pytest.raises(OSError, match=words), atomic_path(tmp_path / target):
        raise AssertionError("must not get here")
    leftovers(tmp_path)


def test_the_longest_names_work(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with atomic_path(target) as one, atomic_path(target) as two:
        one.write_text("one")
        two.write_text("two")
        assert one.read_text() == "one"
    assert target.read_text() == "one"
    leftovers(tmp_path, "out.txt")


def test_sha256_is_the_published_one() -> None:
    # FIPS 180-4 example
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()
