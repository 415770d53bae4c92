"""The first use of a bundle on a device builds its plan, once, whatever happens to the process meanwhile."""

from __future__ import annotations

import gc
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgevision
from edgevision.backends.build_options import BuildOptions
from edgevision.cuda import open_device
from edgevision.errors import PlanError
from edgevision.plan_facts import facts_path
from tests.device_models import noise
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin, World, install
from tests.tiny_models import detector_bundle

ROOT = Path(__file__).resolve().parents[2]
PICTURE = noise(40, 30)

# Another process that loads the bundle; `BEFORE` runs at each step of a build.
WORKER = """
import os, signal, sys, time
from tests.standins import cuda
cuda.load().reset()
import edgevision
from tests.standins.tensorrt import World, install
from tests.device_models import noise
steps = 0
def on_step(phase, step):
    global steps
    steps += 1
    {before}
with install("10.3.0", World(on_step=on_step)) as standin:
    with edgevision.load(sys.argv[1], backend="tensorrt", quiet=True) as model:
        print("builds", len(standin.world.builds), "steps", steps, "boxes", len(model(noise(40, 30))), flush=True)
"""


def worker(bundle: Path, before: str = "pass") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(before=before), str(bundle)],
        cwd=ROOT,
        env=standin.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    words = out.split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return detector_bundle(
        tmp_path / "detector.edge",
        (16, 16),
        "letterbox",
    )


@pytest.fixture
def files(home: Path) -> Iterator[Path]:
    """The folder of plans, in which nobody may leave half a file."""
    yield home / "plans"
    assert {path.suffix for path in (home / "plans").iterdir()} <= {".plan", ".json", ".timing", ".lock"}


def test_killed_during_a_build_the_next_start_builds(bundle: Path, files: Path) -> None:
    for step in (1, 2):
        killed = worker(bundle, f"if steps == {step}: os.kill(os.getpid(), signal.SIGKILL)")
        killed.communicate(timeout=120)
        assert killed.returncode == -signal.SIGKILL
        assert not list(files.glob("*.plan"))
    assert said(worker(bundle))["builds"] == 1
    assert said(worker(bundle))["builds"] == 0


def test_killed_during_a_rebuild_the_old_plan_is_there(bundle: Path, files: Path, trt: Standin) -> None:
    edgevision.load(bundle, backend="tensorrt", quiet=True).close()
    code = (
        "import os, signal; from edgevision.cli import main; from tests.standins import cuda; cuda.load().reset();"
        "from tests.standins.tensorrt import World, install;"
        "held = install('10.3.0', World(on_step=lambda *_: os.kill(os.getpid(), signal.SIGKILL))); held.__enter__();"
        f"main(['build', {str(bundle)!r}, '--refresh', '--quiet'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=standin.environment(), timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    trt.world.builds.clear()
    with edgevision.load(bundle, backend="tensorrt", quiet=True) as model:
        assert len(model(PICTURE))
    assert trt.world.builds == []


def test_two_processes_that_start_together_build_once(bundle: Path, files: Path) -> None:
    both = [worker(bundle, "time.sleep(0.3)") for _ in range(2)]
    reports = [said(process) for process in both]
    assert sorted(report["builds"] for report in reports) == [0, 1]
    assert reports[0]["boxes"] == reports[1]["boxes"]


@pytest.mark.parametrize("change", ["version", "sm", "options"])
def test_another_device_another_plan(driver: standin.Driver, bundle: Path, files: Path, change: str) -> None:
    def builds(version: str = "10.3.0", **options: object) -> int:
        with install(version, World()) as installed:
            edgevision.load(bundle, backend="tensorrt", quiet=True, **options).close()
            count = len(installed.world.builds)
        gc.collect()
        open_device().close()
        return count

    assert builds() == 1
    if change == "version":
        assert builds("10.13.3.9") == 1
    elif change == "options":
        assert builds(build=BuildOptions("fp32", workspace_bytes=1 << 24)) == 1
    assert builds() == 0


def test_a_plan_that_tensorrt_refuses_is_built_again(
    trt: Standin, bundle: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Right key, right hash, and yet refused, as after an update that left the version's name alone."""
    edgevision.load(bundle, backend="tensorrt", quiet=True).close()
    (plan,) = files.glob("*.plan")
    facts = facts_path(plan).read_text()
    rubbish = b"not a plan at all"
    plan.write_bytes(rubbish)
    changed = {**json.loads(facts), "plan_sha256": hashlib.sha256(rubbish).hexdigest()}
    facts_path(plan).write_text(json.dumps(changed))
    with edgevision.load(bundle, backend="tensorrt", quiet=True) as model:
        assert len(model(PICTURE))
    assert "refuses this plan, which was built for stand-in GPU (SM 87) with tensorrt 10.3.0" in caplog.text
    assert len(trt.world.builds) == 2


def test_a_plan_of_another_gpu_says_what_it_was_built_for(trt: Standin, driver: standin.Driver, bundle: Path) -> None:
    from edgevision.backends.engine import Engine
    from edgevision.backends.tensorrt_api import load_api

    with edgevision.load(bundle, backend="tensorrt", quiet=True) as model:
        path = model._runner._cached.path
    trt.world.sm = 110
    with pytest.raises(PlanError, match=r"on stand-in GPU \(SM 87\) refuses this plan, which was built for an Orin"):
        Engine(load_api("tensorrt"), path.read_bytes(), open_device(), origin="an Orin")


def test_where_nothing_can_be_kept_it_still_runs(
    trt: Standin, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        with edgevision.load(bundle, backend="tensorrt", quiet=True) as model:
            assert len(model(PICTURE))
    assert len(trt.world.builds) == 2
    assert caplog.text.count("plans cannot be kept") == 1


def test_progress_is_shown_unless_quiet(
    trt: Standin, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    edgevision.load(bundle, backend="tensorrt").close()
    assert "building colours for stand-in GPU" in capsys.readouterr().err
