"""What the doctor says on a Jetson, by files and programs as boards have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgevision import doctor
from edgevision.cli import main
from edgevision.doctor import ABSENT, OK, PROBLEM, Finding, examine
from tests.edgevision.jetson_roots import ELEMENTS, ORIN_NANO_MODES, gst_inspect, jetson, release, write

ORIN_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
AGX_ORIN = "NVIDIA Jetson AGX Orin Developer Kit"
THOR = "NVIDIA Jetson AGX Thor Developer Kit"
XAVIER = "Jetson-AGX"
OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"


def board(tmp_path: Path, **facts: Any) -> dict[str, Finding]:
    """Findings by subject, on a board with these facts (see `jetson`)."""
    given = {"model": ORIN_NANO, "major": 36, "revision": "4.3", **facts}
    return {finding.subject: finding for finding in examine(jetson(tmp_path / "root", **given))}


@pytest.mark.parametrize(
    ("major", "revision", "package", "expected"),
    [
        (36, "3.0", None, "6.0 (L4T 36.3.0)"),
        (36, "2.0", None, "6.0 (L4T 36.2.0)"),
        (36, "4.0", None, "6.1 (L4T 36.4.0)"),
        (36, "4.3", None, "6.2 (L4T 36.4.3)"),
        (36, "4.4", "6.2.1+b38", "6.2.1 (L4T 36.4.4)"),
        (36, "3.0", "6.0+b106", "6.0 (L4T 36.3.0)"),
        (38, "2.0", None, "7.0 (L4T 38.2.0)"),
        (38, "4.0", None, "7.1 (L4T 38.4.0)"),
        (39, "2.0", "7.2-b68", "7.2 (L4T 39.2.0)"),
    ],
)
def test_jetpack_comes_from_its_package_or_else_from_the_release(
    tmp_path: Path, major: int, revision: str, package: str | None, expected: str
) -> None:
    found = board(tmp_path, model=THOR, major=major, revision=revision, jetpack=package)
    assert found["board"].detail == THOR
    assert (found["JetPack"].state, found["JetPack"].detail) == (OK, expected)


@pytest.mark.parametrize(("major", "revision", "name"), [(35, "4.1", "5 (L4T 35.4.1)"), (32, "7.4", "4 (L4T 32.7.4)")])
def test_jetpack_5_and_older_are_out_of_scope(tmp_path: Path, major: int, revision: str, name: str) -> None:
    found = board(tmp_path, model=XAVIER, major=major, revision=revision, python="3.8", cuda="11.4.19")
    assert found["JetPack"].state == PROBLEM
    assert found["JetPack"].detail.startswith(f"{name} is out of scope: ")
    assert "flash JetPack 6" in found["JetPack"].remedy
    assert "out of scope (JetPack 5 and older)" in found["TensorRT"].remedy


@pytest.mark.parametrize("version", ["3.8.18", "3.9.18"])
def test_an_old_python_is_told_so_in_one_sentence(version: str) -> None:
    """Where pyenv has one; pip refuses it as well, by the package's metadata."""
    program = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    command = [str(program), "-m", "edgevision", "doctor"]
    if not program.exists():
        old = tuple(map(int, version.split(".")[:2]))
        script = f"import sys; sys.version_info = {old}; import edgevision"
        command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=Path(doctor.__file__).parents[2], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: edgevision needs Python 3.10 or newer, this is {version[:3]}. JetPack 5")


def test_a_container_on_a_board_is_told_what_to_mount(tmp_path: Path) -> None:
    write(tmp_path, {"proc/device-tree/model": f"{AGX_ORIN}\0"})
    found = {finding.subject: finding for finding in examine(tmp_path)}
    assert found["board"].detail == AGX_ORIN
    assert found["JetPack"].state == PROBLEM
    assert "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" in found["JetPack"].remedy
    for subject in ("power mode", "clocks"):
        assert found[subject].state == ABSENT
        assert "host" in found[subject].remedy


def test_elsewhere_nothing_is_said_about_boards(tmp_path: Path) -> None:
    write(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert not {"board", "JetPack", "power mode", "clocks", "CUDA toolkit"} & {f.subject for f in examine(tmp_path)}


@pytest.mark.parametrize(
    ("mode", "detail", "remedy"),
    [
        (0, "15W (mode 0; others: 1 25W, 2 MAXN_SUPER, 3 7W)", "sudo nvpmodel -m 2 (MAXN_SUPER)"),
        (2, "MAXN_SUPER (mode 2; others: 0 15W, 1 25W, 3 7W)", ""),
    ],
)
def test_the_power_mode_and_the_way_to_the_fastest(tmp_path: Path, mode: int, detail: str, remedy: str) -> None:
    found = board(tmp_path, mode=mode)["power mode"]
    assert (found.state, found.detail) == (OK, detail)
    assert found.remedy.endswith(remedy)
    assert bool(found.remedy) == bool(remedy)


def test_without_a_chosen_power_mode_the_default_is_in_force(tmp_path: Path) -> None:
    root = jetson(tmp_path, model=ORIN_NANO, major=36, revision="4.3")
    (root / "var/lib/nvpmodel/status").unlink()
    assert next(f for f in examine(root) if f.subject == "power mode").detail.startswith(
        f"{ORIN_NANO_MODES[0]} (mode 0"
    )


@pytest.mark.parametrize("gpu", ["17000000.gpu", "gpu-gpc-0"])
def test_locked_clocks_are_told_from_those_that_follow_the_load(tmp_path: Path, gpu: str) -> None:
    loose = board(tmp_path / "loose", gpu=gpu)["clocks"]
    assert loose.detail == "follow the load: CPU 730 to 1510 MHz, GPU 306 to 1020 MHz"
    assert loose.remedy == "for steady timings: sudo jetson_clocks"
    locked = board(tmp_path / "locked", gpu=gpu, locked=True)["clocks"]
    assert (locked.detail, locked.remedy) == ("locked (jetson_clocks): CPU at 1510 MHz, GPU at 1020 MHz", "")


@pytest.mark.parametrize(
    ("free_kib", "swap_kib", "state"), [(4_000_000, 0, OK), (900_000, 3_800_000, OK), (900_000, 500_000, PROBLEM)]
)
def test_memory_for_a_build_is_what_is_free_with_swap(tmp_path: Path, free_kib: int, swap_kib: int, state: str) -> None:
    found = board(tmp_path, free_kib=free_kib, swap_kib=swap_kib)["memory"]
    assert found.state == state
    assert f"{free_kib / 1048576:.1f} GiB free, {swap_kib / 1048576:.1f} GiB of swap free" in found.detail
    assert ("swapon" in found.remedy) == (state == PROBLEM)


def test_a_board_without_its_driver_or_tensorrt_has_problems_not_options(tmp_path: Path) -> None:
    found = board(tmp_path, python=None, cuda=None)
    assert found["NVIDIA driver"].state == found["TensorRT"].state == PROBLEM
    assert "python3-libnvinfer" in found["TensorRT"].remedy
    assert "cuda-toolkit" in found["CUDA toolkit"].remedy


@pytest.mark.parametrize(
    ("python", "remedy"),
    [
        ("3.99", f"it is installed for Python 3.99, this is {OURS}; use that one: python3.99 -m venv"),
        (
            OURS,
            "which this virtual environment does not see; make it anew with: /usr/bin/python3 -m venv --system-site",
        ),
    ],
)
def test_a_tensorrt_for_another_python_is_found(tmp_path: Path, python: str, remedy: str) -> None:
    assert remedy in board(tmp_path, python=python)["TensorRT"].remedy


@pytest.mark.parametrize(
    ("version", "model", "state", "words"),
    [
        ("10.3.0", AGX_ORIN, OK, "YOLO26 needed TensorRT 10.7"),
        ("10.16.2.10", AGX_ORIN, OK, "strongly typed INT8 graphs fail"),
        ("10.16.2.10", THOR, OK, ""),
        ("8.6.2", AGX_ORIN, OK, ""),
        ("11.4.0.106", THOR, PROBLEM, "do not support JetPack"),
        ("10.2.0", AGX_ORIN, PROBLEM, "Ultralytics refuses this version"),
    ],
)
def test_a_tensorrt_that_is_known_to_fail_on_this_gpu_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, model: str, state: str, words: str
) -> None:
    write(tmp_path / "site", {"tensorrt/__init__.py": f"__version__ = {version!r}\n"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = board(tmp_path, model=model)["TensorRT"]
    sys.modules.pop("tensorrt", None)
    assert (found.state, found.detail.startswith(version)) == (state, True)
    assert words in (found.detail if state == PROBLEM else found.remedy)
    assert bool(found.remedy) == bool(words)


def test_video_elements_are_asked_for_not_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(gst_inspect(tmp_path / "bin", ELEMENTS)))
    found = board(tmp_path, model=AGX_ORIN)
    assert (found["GStreamer"].detail, found["video elements"].detail) == ("1.20.3", ", ".join(ELEMENTS))
    assert "video encoder" not in found
    gst_inspect(tmp_path / "bin", ELEMENTS[1:])
    missing = board(tmp_path)
    assert missing["video elements"].state == ABSENT
    assert missing["video elements"].detail == "missing: nvv4l2decoder (hardware decoding)"
    assert "nvidia-l4t-gstreamer" in missing["video elements"].remedy
    assert "Orin Nano has none" in missing["video encoder"].detail


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n", "no program\0", "#!/no/such/interpreter\n"])
def test_without_a_working_gst_inspect_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    if script is not None:
        (folder / "gst-inspect-1.0").write_text(script)
        (folder / "gst-inspect-1.0").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    found = board(tmp_path)
    assert found["GStreamer"].state == ABSENT
    assert found["GStreamer"].remedy == "sudo apt-get install gstreamer1.0-tools"
    assert "video elements" not in found


@pytest.mark.parametrize(
    "damage",
    [
        {"etc/nv_tegra_release": "\xff\xfe rubbish"},
        {"etc/nv_tegra_release": release(36, "")},
        {"etc/nvpmodel.conf": "< POWER_MODEL ID=x NAME= >"},
        {"var/lib/nvpmodel/status": "pmode:"},
        {"sys/class/devfreq/17000000.gpu/min_freq": "-"},
        {"proc/meminfo": "MemAvailable:\n"},
        {"usr/local/cuda/version.json": "[]"},
        {"var/lib/dpkg/status": "Package: nvidia-jetpack\n" * 20_000},
    ],
)
def test_damaged_files_are_findings_never_failures(tmp_path: Path, damage: dict[str, str]) -> None:
    root = jetson(tmp_path, model=ORIN_NANO, major=36, revision="4.3")
    write(root, damage)
    for finding in examine(root):
        assert "check itself failed" not in finding.detail, finding
        assert finding.state == OK or finding.remedy, finding


def test_the_cache_folder_says_how_much_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plans = tmp_path / "edgevision" / "plans"
    plans.mkdir(parents=True)
    for name in ("a.plan", "b.plan", "a.plan.json"):
        (plans / name).write_bytes(bytes(1 << 20))
    found = next(f for f in examine() if f.subject == "cache folder")
    assert found.detail.startswith(f"{tmp_path / 'edgevision'}: 3 MiB, 2 plans; ")


def test_the_table_shows_every_remedy_under_its_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jetson(tmp_path, model=ORIN_NANO, major=36, revision="4.3", free_kib=900_000, swap_kib=0)
    monkeypatch.setattr("edgevision.cli.doctor.examine", lambda: examine(root))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    memory = next(number for number, line in enumerate(lines) if line.startswith(" FIX  memory"))
    assert lines[memory + 1].strip().startswith("-> close other programs")
    assert lines[-1].endswith("problem(s)")
