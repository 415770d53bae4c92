"""CUDA kernels compile for the boards' GPUs without a remark, once per machine, and problems are told in words."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgevision.errors import DeviceError
from edgevision.files import user_cache
from edgevision.kernels import compile as compiling
from edgevision.kernels import nvrtc
from edgevision.kernels.compile import SOURCES, compile_kernels, find_compiler
from edgevision.kernels.nvrtc import Nvrtc, libraries
from tests.standins.host_device import NVCC

KERNEL = 'extern "C" __global__ void {name}(float* out) {{ out[threadIdx.x] = {value}; }}\n'
BOARDS = [("nvrtc 12.6", 87), ("nvrtc 13.0", 87), ("nvrtc 13.0", 110)]


def installed(version: str) -> Nvrtc:
    """An NVRTC from pip: scripts/set-up-device installs both."""
    major = int(version.split()[1].split(".")[0])
    for library in libraries(major):
        if "site-packages" in library:
            found = Nvrtc(library)
            assert found.version == version
            return found
    raise AssertionError(f"{version} is not installed here; run scripts/set-up-device")


@pytest.mark.parametrize(("version", "sm"), BOARDS)
def test_the_kernels_compile_for_every_board_without_a_remark(version: str, sm: int) -> None:
    everything = "".join(f'#include "{path.name}"\n' for path in sorted(SOURCES.glob("*.cu")))
    cubin, log = installed(version).compile(everything, [*compiling._options(sm), "--ptxas-options=-v"])
    assert cubin.startswith(b"\x7fELF")
    assert "warning" not in log
    kernels = re.findall(r"Compiling entry function '(\w+)'", log)
    assert {"nms_collect", "nms_suppress", "masks_assemble"} <= set(kernels)
    # No register spills into slow memory.
    assert re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log) == [("0", "0")] * len(kernels)


@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.cu")))
def test_every_file_includes_what_it_needs(source: str) -> None:
    installed("nvrtc 12.6").compile(f'#include "{source}"\n', compiling._options(87))


def test_nvrtc_tells_the_compilers_words() -> None:
    with pytest.raises(DeviceError, match=r'(?s)nvrtc 12.6 could not compile.*identifier "nonsense" is undefined'):
        installed("nvrtc 12.6").compile('extern "C" __global__ void f() { nonsense; }', ["-arch=sm_87"])


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small kernel in place of the real ones; an empty cache; every nvcc call leaves a line."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "one.cu").write_text(KERNEL.format(name="one", value=1))
    monkeypatch.setattr(compiling, "SOURCES", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUEMU_FOLDER", str(tmp_path / "libraries"))
    monkeypatch.setenv("CUEMU_FLAGS", "-O0")
    compiler = tmp_path / "nvcc"
    compiler.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\nexec {sys.executable} {NVCC} "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("EDGEVISION_NVCC", str(compiler))
    return folder


def compilations(sources: Path) -> int:
    calls = (sources.parent / "calls").read_text().splitlines()
    return sum("-cubin" in call for call in calls)


def entries() -> list[Path]:
    return sorted(user_cache("kernels").iterdir())


def test_kernels_are_compiled_once(sources: Path) -> None:
    image = compile_kernels(87, 12)
    assert Path(image.decode().removeprefix("CUEMU:")).is_file()
    assert compile_kernels(87, 12) == image
    assert compilations(sources) == 1
    assert [path.name[:6] for path in entries()] == ["sm_87-"]


def test_another_gpu_source_or_compiler_is_another_entry(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_kernels(87, 12)
    compile_kernels(110, 13)
    (sources / "one.cu").write_text(KERNEL.format(name="one", value=2))
    compile_kernels(87, 12)
    (sources / "shared.cuh").write_text("#pragma once\n")
    compile_kernels(87, 12)
    monkeypatch.setenv("CUEMU_FLAGS", "-O0 -DANOTHER")
    compile_kernels(87, 12)
    assert compilations(sources) == len(entries()) == 5


@pytest.mark.parametrize("damage", [b"", b"\n", b"garbage", None])
def test_a_damaged_entry_is_compiled_anew(sources: Path, damage: bytes | None) -> None:
    image = compile_kernels(87, 12)
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + b"?" if damage is None else damage)
    assert compile_kernels(87, 12) == image
    assert entry.read_bytes() == whole
    assert compilations(sources) == 2


def test_without_a_writable_cache_every_start_compiles_and_says_so(
    sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = sources.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert compile_kernels(87, 12) == compile_kernels(87, 12)
    assert compilations(sources) == 2
    assert "set XDG_CACHE_HOME" in caplog.text


def test_processes_that_start_at_once_all_get_the_kernels(sources: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgevision.kernels import compile as c\n"
        "c.SOURCES = Path(sys.argv[1]); print(c.compile_kernels(87, 12).decode())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(sources)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    images = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0] * 3
    assert images == {compile_kernels(87, 12).decode()}
    assert len(entries()) == 1  # and nothing half-written beside it


def test_errors_in_a_kernel_are_told_in_nvccs_words_and_cache_nothing(sources: Path) -> None:
    (sources / "two.cu").write_text('extern "C" __global__ void two() { nonsense; }\n')
    with pytest.raises(DeviceError, match=r"(?s)nvcc .*-arch=sm_87.* failed \(1\).*two.cu:1.*nonsense"):
        compile_kernels(87, 12)
    assert not user_cache("kernels").exists()


def test_a_compiler_that_is_not_there_is_named(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVISION_NVCC", "/nowhere/nvcc")
    with pytest.raises(DeviceError, match=r"/nowhere/nvcc does not run .*set EDGEVISION_NVCC"):
        compile_kernels(87, 12)


@pytest.fixture
def only_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose only compilers are pip's."""
    monkeypatch.delenv("EDGEVISION_NVCC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(nvrtc, "cuda_folders", list)
    monkeypatch.setattr(compiling, "cuda_folders", list)


@pytest.mark.parametrize(
    ("sm", "driver", "chosen"),
    [(87, 12, "nvrtc 12.6"), (87, 13, "nvrtc 13.0"), (110, 13, "nvrtc 13.0"), (70, 13, "nvrtc 12.6")],
)
@pytest.mark.usefixtures("only_pip")
def test_the_newest_compiler_is_chosen_that_the_driver_and_the_gpu_understand(
    sm: int, driver: int, chosen: str
) -> None:
    assert find_compiler(sm, driver).identity == chosen


@pytest.mark.usefixtures("only_pip")
def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"sm_110.*nvrtc 12.6 \(.*\) does not compile for sm_110.*cuda-nvrtc-12"):
        find_compiler(110, 12)
    monkeypatch.setattr(compiling, "libraries", lambda major: iter(["libabsent.so"]))
    with pytest.raises(
        DeviceError, match=r'no CUDA compiler .*pip install "nvidia-cuda-nvrtc==13.\*".*EDGEVISION_NVCC'
    ):
        find_compiler(87, 13)


def test_an_nvcc_of_the_drivers_generation_is_taken(
    only_pip: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "nvcc"
    compiler.write_text('#!/bin/sh\necho "Cuda compilation tools, release 13.0, V13.0.88"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setattr(compiling, "libraries", lambda major: iter([]))
    assert find_compiler(110, 13).identity.startswith(str(compiler))
    with pytest.raises(DeviceError, match=r"nvcc is of another CUDA generation than the driver's 12"):
        find_compiler(87, 12)
