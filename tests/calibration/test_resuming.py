"""A pass that was stopped goes on: the same table, and no picture twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.calibration import (
    CalibrationImages,
    collect_channels,
    collect_ranges,
    load_or_collect,
    load_or_collect_channels,
)
from edgevision.errors import CalibrationError
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]
TENSORS = ["image", "relu", "signed", "clip", "sum", "moved", "flat"]


class Stopping(CalibrationImages):
    """Pictures that are interrupted when one more than `most` is asked for; counts those that were read."""

    most = 0
    reads: list[int]

    def read(self, index: int) -> np.ndarray | None:
        if len(self.reads) == self.most:
            raise KeyboardInterrupt
        self.reads.append(index)
        return super().read(index)


def stopping(folder: Path, most: int) -> Stopping:
    images = Stopping(folder)
    images.most, images.reads = most, []
    return images


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("load", "collect", "name"),
    [
        (load_or_collect, collect_ranges, "ranges.json"),
        (load_or_collect_channels, collect_channels, "ranges.json.channels"),
    ],
    ids=["ranges", "channels"],
)
def test_it_goes_on_where_it_was_stopped(
    network: bytes,
    preprocess: Preprocess,
    write_pictures: WritePictures,
    tmp_path: Path,
    load: Any,
    collect: Any,
    name: str,
    workers: int,
) -> None:
    """Twice, with an unreadable picture and two equal ones among them."""
    folder = write_pictures(11)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 cut")
    (folder / "twin.png").write_bytes((folder / "4.png").read_bytes())
    whole = collect(network, TENSORS, CalibrationImages(folder), preprocess, quiet=True).to_json()
    cache, part, read = tmp_path / "ranges.json", tmp_path / f"{name}.part", []
    for most in (5, 3):
        images = stopping(folder, most)
        with pytest.raises(KeyboardInterrupt):
            load(cache, network, TENSORS, images, preprocess, workers=workers, quiet=True)
        assert not (tmp_path / name).exists()
        read += [index for index in images.reads if images.names[index] not in images.skipped]
        assert len(json.loads(part.read_bytes())["done"]) == len(read)
    images = stopping(folder, -1)
    table, origin = load(cache, network, TENSORS, images, preprocess, workers=workers, quiet=True)
    assert table.to_json() == whole == (tmp_path / name).read_text()
    assert f"{len(read)} of them were finished in an earlier run" in origin
    read += [index for index in images.reads if images.names[index] not in images.skipped]
    assert len(read) == table.images == 12
    readable = [index for index, path in enumerate(images.names) if path != "bad.jpg"]
    assert sorted(images.digests[index] for index in read) == sorted(images.digests[index] for index in readable)
    assert not part.exists()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda data: b"{", "damaged"),
        (lambda data: b"\xff\xfe", "damaged"),
        (lambda data: {**data, "format_version": 0}, "damaged: format version 0, expected 1"),
        (lambda data: {**data, "key": "other"}, "another graph, preprocessing or set of pictures"),
        (lambda data: {**data, "found": {}}, "damaged"),
        (lambda data: {**data, "done": [1]}, "damaged"),
        (lambda data: {**data, "found": {**data["found"], "relu": [{}, {}]}}, "damaged"),
        (lambda data: {**data, "found": {**data["found"], "relu": 5}}, "damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_said_and_replaced(
    network: bytes,
    preprocess: Preprocess,
    write_pictures: WritePictures,
    tmp_path: Path,
    change: Callable[[Any], Any],
    note: str,
) -> None:
    folder, cache, part = write_pictures(4), tmp_path / "ranges.json", tmp_path / "ranges.json.part"
    with pytest.raises(KeyboardInterrupt):
        load_or_collect(cache, network, TENSORS, stopping(folder, 3), preprocess, quiet=True)
    changed = change(json.loads(part.read_bytes()))
    part.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    table, origin = load_or_collect(cache, network, TENSORS, CalibrationImages(folder), preprocess, quiet=True)
    assert f"{part} was not continued" in origin
    assert note in origin
    anew = collect_ranges(network, TENSORS, CalibrationImages(folder), preprocess, quiet=True)
    assert table.to_json() == anew.to_json()
    assert not part.exists()


def test_an_error_leaves_no_checkpoint(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures, tmp_path: Path
) -> None:
    cache = tmp_path / "kept" / "ranges.json"
    cache.parent.mkdir()
    with pytest.raises(CalibrationError):
        load_or_collect(cache, network, ["nowhere"], CalibrationImages(write_pictures(2)), preprocess, quiet=True)
    assert list(cache.parent.iterdir()) == []


_ENDLESS = """
import sys
from edgevision.calibration import CalibrationImages, load_or_collect, passes
from edgevision.manifest import Preprocess

passes._SAVE_S = 0.1


class Endless(CalibrationImages):
    def read(self, index):
        return super().read(index % 5)

images = CalibrationImages(sys.argv[2])
images.__class__ = Endless
images.paths, images.names = images.paths * 20_000, images.names * 20_000
images.__dict__["digests"] = tuple(f"{i:064x}" for i in range(len(images)))
spec = Preprocess("image", (32, 24))
print("started", flush=True)
try:
    load_or_collect(sys.argv[3], open(sys.argv[1], "rb").read(), ["relu"], images, spec, workers=2, quiet=True)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_real_process_leaves_what_it_has_done(
    network: bytes, write_pictures: WritePictures, tmp_path: Path, sent: signal.Signals
) -> None:
    """Killed, it leaves the last of its regular checkpoints; interrupted, all it has done. Each goes on from there."""
    (tmp_path / "model.onnx").write_bytes(network)
    cache = tmp_path / "cache"
    cache.mkdir()
    part = cache / "ranges.json.part"
    arguments = [str(tmp_path / "model.onnx"), str(write_pictures(5)), str(cache / "ranges.json")]
    finished = 0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            try:
                assert child.stdout.readline() == "started\n"
                wait_for_more(part, finished)
                child.send_signal(sent)
                said = child.communicate(timeout=60)[0]
            finally:
                child.kill()
        assert (child.returncode, said) == ((0, "stopped\n") if sent == signal.SIGINT else (-signal.SIGKILL, ""))
        assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [part.name]
        assert pictures_done(part) > finished
        finished = pictures_done(part)


def pictures_done(part: Path) -> int:
    return len(json.loads(part.read_bytes())["done"])


def wait_for_more(part: Path, finished: int) -> None:
    deadline = time.monotonic() + 60
    while not (part.exists() and pictures_done(part) > finished):
        assert time.monotonic() < deadline
        time.sleep(0.02)
