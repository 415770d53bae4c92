"""`edgevision run`, with real bundles: what is written, what is said, and how it ends."""

from __future__ import annotations

import csv
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgevision.cli import main
from tests.camera_kit import no_thread_left, write_video
from tests.tiny_models import detector_bundle, segmenter_bundle

SIZE_WH = (128, 96)
COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of red, green and blue cells."""
    return detector_bundle(tmp_path_factory.mktemp("model") / "colours.edge")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames: ten with a red rectangle, ten with a blue one, ten with none."""
    path = tmp_path_factory.mktemp("clip") / "colours.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "bf": "0"}
        for i in range(30):
            image = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
            if i < 20:
                cv2.rectangle(image, (32, 32), (63, 63), COLOURS["red" if i < 10 else "blue"], -1)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        output.mux(stream.encode(None))
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.smoke
def test_a_clip_becomes_video_lines_pictures_and_results(
    bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sinks = [
        str(tmp_path / "out.mp4"),
        str(tmp_path / "out.jsonl"),
        str(tmp_path / "f_%03d.png"),
        f"coco:{tmp_path}/r.json",
    ]
    with no_thread_left():
        code = main(
            ["run", str(bundle), str(clip), *(f"--sink={sink}" for sink in sinks), f"--json={tmp_path}/run.json"]
        )
    assert code == 0
    said = capsys.readouterr()
    assert "30 of 30 frames" in said.out
    assert said.err == ""
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["frames"] == {"captured": 30, "processed": 30, "dropped": {}}
    assert {"read", "queue", "preprocess", "inference", "postprocess", "order", "output"} == set(report["latency_ms"])
    records = lines(tmp_path / "out.jsonl")
    assert [record["frame_id"] for record in records] == list(range(30))
    found = [{detection["class"] for detection in record["detections"]} for record in records]  # type: ignore[attr-defined]
    assert found == [{"red"}] * 10 + [{"blue"}] * 10 + [set()] * 10
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 30
    assert len(list(tmp_path.glob("f_*.png"))) == 30
    entries = json.loads((tmp_path / "r.json").read_text())
    assert {entry["image_id"] for entry in entries} == set(range(20))


def test_choosing_classes_and_confidence(bundle: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["run", str(bundle), str(clip), "--sink", str(out), "--classes", "green,2", "--quiet"]) == 0
    assert {d["class"] for record in lines(out) for d in record["detections"]} == {"blue"}  # type: ignore[attr-defined]
    assert main(["run", str(bundle), str(clip), "--sink", str(out), "--max-detections", "1", "--quiet"]) == 0
    assert max(len(record["detections"]) for record in lines(out)) == 1  # type: ignore[arg-type]
    assert main(["run", str(bundle), str(clip), "--classes", "purple"]) == 2


def test_a_segmenter_runs_the_same_way(clip: Path, tmp_path: Path) -> None:
    model = segmenter_bundle(tmp_path / "segmenter.edge")
    sinks = ["--sink", str(tmp_path / "out.mp4"), "--sink", str(tmp_path / "out.jsonl")]
    assert main(["run", str(model), str(clip), *sinks, "--frames", "5", "--quiet"]) == 0
    assert len(lines(tmp_path / "out.jsonl")) == 5
    assert all("fractions" in record for record in lines(tmp_path / "out.jsonl"))


def test_several_sources_side_by_side(bundle: Path, clip: Path, tmp_path: Path) -> None:
    arguments = [
        str(bundle),
        str(clip),
        str(clip),
        "--sink",
        f"{tmp_path}/{{source}}.mp4",
        "--sink",
        f"{tmp_path}/a.jsonl",
    ]
    assert main(["run", *arguments, "--quiet", "--json", f"{tmp_path}/run.json"]) == 0
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"colours.mp4", "colours-2.mp4"}
    assert len(lines(tmp_path / "a.jsonl")) == 60
    report = json.loads((tmp_path / "run.json").read_text())
    assert [source["processed"] for source in report["sources"]] == [30, 30]


def test_quiet_says_nothing_and_json_goes_to_standard_output(
    bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(bundle), str(clip), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["run", str(bundle), str(clip), "--json", "-", "--frames", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"]["processed"] == 3


def test_the_help_lists_sources_and_sinks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    assert all(form in said for form in ("rtsp://", "synthetic://aerial", "out_%06d.jpg", "coco:out.json", "{source}"))


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "absent.mp4 does not exist"),
        (["nonsense"], "is not understood"),
        (["CLIP", "--sink", "out.wmv"], "is not understood"),
        (["CLIP", "--sink", "absent/out.mp4"], "create it first"),
        (["CLIP", "--sink", "CLIP"], "would overwrite the source"),
        (["CLIP", "--sink", "a.jsonl", "--sink", "a.jsonl"], "got one twice"),
        (["CLIP", "CLIP", "--sink", "out.mp4"], "takes one source, got 2"),
        (["CLIP", "--frames", "0"], "frames is above zero"),
        (["CLIP", "--confidence", "7"], "confidence"),
        (["CLIP", "--precision", "int8"], "no graph for precision int8"),
        (["9"], "/dev/video9"),
    ],
)
def test_bad_usage_is_one_clear_error_and_leaves_nothing(
    arguments: list[str],
    message: str,
    bundle: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = clip.read_bytes()
    with no_thread_left():
        assert main(["run", str(bundle), *(str(clip) if a == "CLIP" else a for a in arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.out == ""
    assert clip.read_bytes() == before
    # Nothing was written; the JSON lines of the doubled sink were not even opened.
    assert [path for path in tmp_path.iterdir() if path.stat().st_size] == []


def test_a_cut_clip_gives_what_it_had_then_an_error(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "cut.mp4", 60)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    out = [tmp_path / "out.jsonl", tmp_path / "out.mp4"]
    assert (
        main(["run", str(bundle), str(clip), *(f"--sink={sink}" for sink in out), f"--json={tmp_path}/run.json"]) == 2
    )
    said = capsys.readouterr()
    assert "cut.mp4 is cut short: it ends at frame" in said.err
    assert said.err.count("cut short") == 1
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["sources"][0]["state"] == "dead"
    assert "cut short" in report["sources"][0]["error"]
    assert 15 < report["frames"]["processed"] == len(lines(out[0]))
    with av.open(str(out[1])) as video:
        assert sum(1 for _ in video.decode(video=0)) == report["frames"]["processed"]


def test_bad_pictures_among_good_ones_are_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["run", str(bundle), str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 frames" in said
    assert "1 decode_error" in said
    assert "1.jpg" in said


# ---- in a process of its own: a full disk, and being stopped -------------------------------------------------------


def command(bundle: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgevision", "run", str(bundle), *map(str, arguments)]


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "coco:r.json", "out_%03d.png"])
def test_a_full_disk_is_told_and_the_run_stops_cleanly(name: str, bundle: Path, clip: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    prefix, _, file = name.rpartition(":")
    sink = f"{prefix}:{tmp_path / file}" if prefix else tmp_path / file
    big = tmp_path / "big.png"  # its picture does not fit either
    cv2.imwrite(str(big), np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    source = big if "png" in name else clip
    done = subprocess.run(
        command(bundle, source, "--sink", sink), preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert f"{file.replace('%03d', '000')} cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob(".*")), "a temporary file was left"
    if name.startswith("coco:"):
        assert not (tmp_path / file).exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_finalises_the_files_and_reports(how: signal.Signals, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    running = subprocess.Popen(
        command(bundle, "synthetic://aerial?live=1&size=128x96", "--sink", tmp_path / "out.mp4", "--sink", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and len(lines(out)) >= 10) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(how)
    asked = time.monotonic()
    said, complaints = running.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert running.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert f"{len(lines(out))} of " in said
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(lines(out))


@pytest.mark.parametrize("least", [1, 200])
def test_a_run_that_is_killed_leaves_readable_files(least: int, bundle: Path, tmp_path: Path) -> None:
    out, table, video = (tmp_path / name for name in ("out.jsonl", "out.csv", "out.mp4"))
    sinks = [f"--sink={path}" for path in (out, table, video)]
    source = "synthetic://aerial?size=128x96&frames=100000"
    running = subprocess.Popen(command(bundle, source, "--quiet", "--confidence=0.01", *sinks))
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text().count("\n") >= least) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.2))
    running.kill()
    running.wait(10)
    text = out.read_text()
    assert text.endswith("\n")
    numbers = [json.loads(line)["frame_id"] for line in text.splitlines()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= least
    rows = list(csv.reader(table.read_text().splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert table.read_text().endswith("\n")
    if least > 120:  # the last two seconds may be lost
        with av.open(str(video)) as written:
            assert sum(1 for _ in written.decode(video=0)) > len(numbers) - 120


def test_what_happens_during_a_run_is_logged(bundle: Path, clip: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert main(["run", str(bundle), str(clip), "--quiet", f"--log={log}"]) == 0
    states = [entry["state"] for entry in map(json.loads, log.read_text().splitlines()) if "state" in entry]
    assert states == ["live", "ended"]
