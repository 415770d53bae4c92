"""Plans kept on disk: found by their full key, built once, never loaded half."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.errors import BuildError
from edgevision.plan_cache import CachedPlan, PlanCache
from edgevision.plan_facts import PlanFacts, PlanKey, facts_path, read_facts
from tests.plan_kit import GRAPHS, KEY, built

ROOT = Path(__file__).resolve().parents[2]


class Builder:
    """Counts how often it is asked to build."""

    def __init__(self, plan: bytes = b"a plan") -> None:
        self.plan, self.calls = plan, 0

    def __call__(self) -> BuiltPlan:
        self.calls += 1
        return built(self.plan)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


class TestFinding:
    def test_a_plan_is_built_once(self, cache: PlanCache) -> None:
        build = Builder()
        first, second = cache.get_or_build(KEY, build), cache.get_or_build(KEY, build)
        assert (build.calls, first.built, second.built) == (1, True, False)
        assert first.plan == second.plan == b"a plan"

    def test_its_file_is_the_plan_and_nothing_else(self, cache: PlanCache) -> None:
        plan = cache.get_or_build(KEY, Builder(b"plain"))
        assert plan.path is not None
        assert plan.path.read_bytes() == b"plain"

    def test_the_facts_come_back_as_they_were(self, cache: PlanCache) -> None:
        facts = cache.get_or_build(KEY, Builder()).facts
        assert facts == cache.get_or_build(KEY, Builder()).facts == PlanFacts.of(KEY, built())
        assert (facts.rung, facts.reasons, facts.graph) == ("int8", ("int8: no kernel",), "tensorrt.onnx")
        assert facts.key["gpu"] == "Orin (nvgpu)"

    def test_refresh_builds_although_it_is_there(self, cache: PlanCache) -> None:
        cache.get_or_build(KEY, Builder(b"old"))
        assert cache.get_or_build(KEY, Builder(b"new"), refresh=True).plan == b"new"
        assert cache.get_or_build(KEY, Builder(b"never")).plan == b"new"

    def test_a_failing_build_leaves_nothing(self, cache: PlanCache) -> None:
        def fail() -> BuiltPlan:
            raise BuildError("no")

        with pytest.raises(BuildError, match="no"):
            cache.get_or_build(KEY, fail)
        assert list(cache.folder.iterdir()) == []
        assert cache.get_or_build(KEY, Builder()).built

    @pytest.mark.parametrize(
        "change",
        [
            {"graphs": {**GRAPHS, "tensorrt_fp16.onnx": "ef" * 32}},
            {"graphs": {"tensorrt.onnx": "ab" * 32}},
            {"runtime": "tensorrt-rtx"},
            {"version": "10.3.1"},
            {"gpu": "Orin NX"},
            {"sm": 110},
            {"board": "R36, REVISION: 4.3"},
            {"options": BuildOptions("fp16")},
            {"options": BuildOptions("int8", batch=(1, 2, 4))},
            {"options": BuildOptions("int8", workspace_bytes=1 << 20)},
            {"options": BuildOptions("int8", dla_core=0)},
            {"options": BuildOptions("int8", optimization_level=5)},
            {"options": BuildOptions("int8", version_compatible=True)},
        ],
        ids=str,
    )
    def test_whatever_changes_the_plan_makes_another(self, cache: PlanCache, change: dict[str, Any]) -> None:
        other, build = dataclasses.replace(KEY, **change), Builder(b"other")
        cache.get_or_build(KEY, Builder())
        assert cache.get_or_build(other, build).plan == b"other"
        assert cache.get_or_build(KEY, Builder(b"never")).plan == b"a plan"
        assert build.calls == 1

    def test_the_cache_is_the_users(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert PlanCache().folder == tmp_path / "edgevision" / "plans"


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x40
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the plan": lambda plan: _flip(plan, 3),
    "the plan cut short": lambda plan: plan.write_bytes(plan.read_bytes()[:-1]),
    "the plan emptied": lambda plan: plan.write_bytes(b""),
    "the plan a folder": lambda plan: (plan.unlink(), plan.mkdir()),
    "the facts cut short": lambda plan: facts_path(plan).write_bytes(facts_path(plan).read_bytes()[:40]),
    "the facts gone": lambda plan: facts_path(plan).unlink(),
    "the facts no JSON object": lambda plan: facts_path(plan).write_text("[1]"),
    "the facts nested": lambda plan: facts_path(plan).write_text("[" * 100_000),
    "the facts not text": lambda plan: facts_path(plan).write_bytes(b"\xff\xfe"),
    "the facts of a newer version": lambda plan: facts_path(plan).write_text(
        facts_path(plan).read_text().replace('"format_version": 1', '"format_version": 9')
    ),
    "the plan gone": lambda plan: plan.unlink(),
}


class TestDamage:
    @pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "the plan a folder"])
    def test_a_damaged_plan_is_built_again(self, cache: PlanCache, damage: str) -> None:
        cache.get_or_build(KEY, Builder(b"the first plan")).close()
        DAMAGE[damage](cache.path(KEY))
        again = cache.get_or_build(KEY, Builder(b"the second"))
        assert (again.plan, again.built) == (b"the second", True)
        assert cache.get_or_build(KEY, Builder()).plan == b"the second"

    def test_a_folder_in_its_place_is_no_plan(self, cache: PlanCache) -> None:
        cache.get_or_build(KEY, Builder()).close()
        DAMAGE["the plan a folder"](cache.path(KEY))
        assert cache.get_or_build(KEY, Builder(b"built")).plan == b"built"

    def test_why_is_said(self, cache: PlanCache, caplog: pytest.LogCaptureFixture) -> None:
        cache.get_or_build(KEY, Builder()).close()
        _flip(cache.path(KEY), 2)
        cache.get_or_build(KEY, Builder())
        assert "its hash is not the one recorded when it was built; building it again" in caplog.text

    def test_a_plan_from_elsewhere_is_not_loaded(self, cache: PlanCache, caplog: pytest.LogCaptureFixture) -> None:
        """Another board's plan under this board's name, hash and all."""
        other = dataclasses.replace(KEY, gpu="Thor", sm=110)
        cache.get_or_build(other, Builder(b"foreign")).close()
        for where in (Path, facts_path):
            where(cache.path(other)).rename(where(cache.path(KEY)))
        assert cache.get_or_build(KEY, Builder(b"own")).plan == b"own"
        assert "built for gpu Thor, wanted is Orin (nvgpu); built for sm 110, wanted is 87" in caplog.text

    @given(data=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
    def test_facts_take_no_other_json(self, data: Any) -> None:
        for broken in (
            data,
            {"format_version": 1, "layers": data},
            {**PlanFacts.of(KEY, built()).to_json(), "key": data},
        ):
            with pytest.raises(ValueError):
                PlanFacts.from_json(broken)


class TestRoom:
    """Folder limit 10 bytes, plans of 4."""

    def keys(self, count: int) -> list[PlanKey]:
        return [dataclasses.replace(KEY, graphs={"tensorrt.onnx": f"{i:064x}"}) for i in range(count)]

    def fill(self, cache: PlanCache, keys: list[PlanKey]) -> list[CachedPlan]:
        """Build them a day ago, one second apart."""
        plans = []
        for age, key in enumerate(keys):
            plans.append(cache.get_or_build(key, Builder(b"1234")))
            when = time.time() - 86400 + age
            os.utime(cache.path(key), (when, when))
        return plans

    def test_the_longest_unused_goes(self, tmp_path: Path) -> None:
        cache = PlanCache(tmp_path, limit_bytes=10)
        old, used, new = self.keys(3)
        for plan in self.fill(cache, [old, used]):
            plan.close()
        cache.get_or_build(old, Builder()).close()  # used just now
        cache.get_or_build(new, Builder(b"1234")).close()
        assert [cache.path(key).exists() for key in (old, used, new)] == [True, False, True]
        assert not facts_path(cache.path(used)).exists()

    def test_what_is_in_use_stays(self, tmp_path: Path) -> None:
        cache = PlanCache(tmp_path, limit_bytes=10)
        in_use, unused, new = self.keys(3)
        plans = self.fill(cache, [in_use, unused])
        plans[1].close()
        newest = cache.get_or_build(new, Builder(b"1234"))
        assert [cache.path(key).exists() for key in (in_use, unused, new)] == [True, False, True]
        plans[0].close()
        plans[0].close()
        newest.close()
        cache.get_or_build(unused, Builder(b"1234")).close()
        assert not cache.path(in_use).exists()

    def test_a_plan_above_the_limit_is_kept_while_it_is_used(self, tmp_path: Path) -> None:
        cache = PlanCache(tmp_path, limit_bytes=10)
        with_it = cache.get_or_build(KEY, Builder(bytes(100)))
        assert with_it.path is not None
        assert cache.path(KEY).exists()


class TestNoFolder:
    """A folder that cannot be made: its parent is a file, which stops root too."""

    def test_the_plan_is_built_and_that_is_said_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").touch()
        cache, build = PlanCache(tmp_path / "file" / "plans"), Builder()
        plans = [cache.get_or_build(KEY, build) for _ in range(3)]
        assert build.calls == 3
        assert [(plan.plan, plan.path) for plan in plans] == [(b"a plan", None)] * 3
        assert caplog.text.count("plans cannot be kept in") == 1
        assert "Not a directory" in caplog.text

    def test_a_plan_is_read_from_a_folder_that_cannot_be_written(self, cache: PlanCache) -> None:
        cache.get_or_build(KEY, Builder(b"shipped")).close()
        cache.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            assert cache.get_or_build(KEY, Builder(b"never")).plan == b"shipped"
        finally:
            cache.folder.chmod(stat.S_IRWXU)

    def test_a_full_disk(
        self, cache: PlanCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("edgevision.plan_cache.write_plan", full)
        assert cache.get_or_build(KEY, Builder(b"kept in memory")).plan == b"kept in memory"
        assert "No space left on device" in caplog.text


# What another process does, given the folder: builds KEY's plan by calling `build`, defined before this runs.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from edgevision.plan_cache import PlanCache
from tests.plan_kit import KEY, built
cache = PlanCache(Path(sys.argv[1]), wait_limit_s=float(sys.argv[2]))
"""


def worker(folder: Path, code: str, wait_s: float = 60) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER + code, str(folder), str(wait_s)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
def build():
    print("building", flush=True)
    time.sleep(0.5)
    return built(b"by %d" % os.getpid())
print(cache.get_or_build(KEY, build).plan, flush=True)
"""
FOREVER = SLOW.replace("0.5", "600")


class TestTwoAtOnce:
    def test_processes_build_once(self, cache: PlanCache) -> None:
        both = [worker(cache.folder, SLOW) for _ in range(2)]
        said = [process.communicate(timeout=60)[0].split("\n") for process in both]
        assert sum(lines.count("building") for lines in said) == 1
        assert said[0][-2] == said[1][-2]
        assert said[0][-2].startswith("b'by ")

    def test_threads_build_once(self, cache: PlanCache) -> None:
        build, plans = Builder(), []
        threads = [threading.Thread(target=lambda: plans.append(cache.get_or_build(KEY, build))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (build.calls, len(plans)) == (1, 8)

    def test_the_wait_is_bounded_and_names_who_builds(self, cache: PlanCache, caplog: pytest.LogCaptureFixture) -> None:
        other = worker(cache.folder, FOREVER)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "building\n"
            impatient = PlanCache(cache.folder, wait_limit_s=0.3)
            with pytest.raises(BuildError, match=f"process {other.pid} has been building this plan for over"):
                impatient.get_or_build(KEY, Builder())
            assert f"process {other.pid} is building the same plan: waiting" in caplog.text
        finally:
            other.kill()
            other.communicate(timeout=60)

    def test_a_killed_builder_leaves_the_way_free(self, cache: PlanCache) -> None:
        other = worker(cache.folder, FOREVER)
        assert other.stdout is not None
        assert other.stdout.readline() == "building\n"
        waiting: list[CachedPlan] = []
        waiter = threading.Thread(target=lambda: waiting.append(cache.get_or_build(KEY, Builder(b"mine"))))
        waiter.start()
        other.kill()
        other.communicate(timeout=60)
        waiter.join(60)
        assert [plan.plan for plan in waiting] == [b"mine"]
        assert not list(cache.folder.glob("*.lock"))


# Kills itself at the n-th thing it does to a file of the folder.
KILL_AT = """
left = int(sys.argv[3])
def watch(event, args):
    global left
    if event in ("open", "os.rename", "os.remove", "os.truncate", "fcntl.flock") and (
        event == "fcntl.flock" or sys.argv[1] in str(args[0])
    ):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
cache.get_or_build(KEY, lambda: built(b"new" * 100_000), refresh=True)
print("survived")
"""


def kill_at(folder: Path, point: int) -> bool:
    """Whether the writer outlived so many file operations."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER + KILL_AT, str(folder), "60", str(point)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (0 if done.stdout else -signal.SIGKILL), done.stderr
    return bool(done.stdout)


@pytest.mark.parametrize("before", [b"old", None], ids=["over an old plan", "the first plan"])
def test_killed_at_any_point_there_is_a_whole_plan_or_none(cache: PlanCache, before: bytes | None) -> None:
    """Every file operation of a build in turn is the last thing the process does."""
    for point in itertools.count():
        if before is not None:
            cache.get_or_build(KEY, Builder(before), refresh=True).close()
        survived = kill_at(cache.folder, point)
        found = cache.get_or_build(KEY, Builder(b"rebuilt"))
        assert found.plan in (before, b"new" * 100_000, b"rebuilt")
        assert found.built == (found.plan == b"rebuilt")
        found.close()
        if survived:
            break
        for path in cache.folder.iterdir():
            path.unlink()
    assert point > 8  # it did see the operations
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".plan"]


def test_killed_at_any_time_no_broken_plan_is_found(cache: PlanCache) -> None:
    """The same from outside, at times the program does not choose."""
    code = """
for size in range(10**6):
    cache.get_or_build(KEY, lambda: built(b"%07d" % size * 200_000), refresh=True).close()
    print(size, flush=True)
"""
    for delay_ms in range(0, 40, 4):
        other = worker(cache.folder, code)
        assert other.stdout is not None
        other.stdout.readline()
        time.sleep(delay_ms / 1e3)
        other.kill()
        other.communicate(timeout=60)
        found = cache.get_or_build(KEY, Builder(b"rebuilt"))
        assert found.plan in (b"rebuilt", found.plan[:7] * 200_000)
        found.close()


def test_facts_lie_beside_the_plan_in_plain_json(cache: PlanCache) -> None:
    plan = cache.get_or_build(KEY, Builder())
    assert plan.path is not None
    words = json.loads(facts_path(plan.path).read_text())
    assert words["key"]["version"] == "10.3.0"
    assert words["key"]["options"]["precision"] == "int8"
    assert read_facts(plan.path) == plan.facts


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
