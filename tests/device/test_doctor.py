"""What the doctor says where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from edgevision.cuda import Device
from edgevision.doctor import OK, PROBLEM, Finding
from edgevision.doctor.gpu import check_gpu
from tests.edgevision.jetson_roots import jetson
from tests.standins import cuda as standin

NVCC = Path(standin.__file__).parents[1] / "nvcc"


def by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return jetson(tmp_path, model="NVIDIA Jetson AGX Orin Developer Kit", major=36, revision="4.3")


def test_a_machine_in_order(device: Device, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVISION_NVCC", str(NVCC))
    found = by_subject(check_gpu(root))
    assert {finding.state for finding in found.values()} == {OK}
    assert found["NVIDIA driver"].detail == "offers CUDA 12.6"
    assert found["CUDA toolkit"].detail == "12.6.68 in /usr/local/cuda"
    assert found["GPU"].detail.startswith("stand-in GPU, SM 8.7, ")
    assert found["CUDA compiler"].detail.startswith(str(NVCC))


def test_no_compiler_for_the_kernels(
    device: Device, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVISION_NVCC", str(tmp_path / "nvcc"))
    compiler = by_subject(check_gpu(root))["CUDA compiler"]
    assert compiler.state == PROBLEM
    assert "does not run" in compiler.detail
    assert "EDGEVISION_NVCC" in compiler.remedy


def test_a_driver_that_does_not_start(driver: standin.Driver, root: Path) -> None:
    driver.set(devices=0)
    found = by_subject(check_gpu(root))
    assert (found["NVIDIA driver"].state, found["NVIDIA driver"].remedy) == (PROBLEM, "check with: nvidia-smi")
    assert "GPU" not in found


def test_a_pycuda_for_a_newer_cuda(driver: standin.Driver, root: Path) -> None:
    driver.set(driver_version=11080)
    found = by_subject(check_gpu(root))
    assert found["NVIDIA driver"].detail == "offers CUDA 11.8"
    assert found["pycuda"].state == PROBLEM
    assert found["pycuda"].detail == "pycuda was built for CUDA 12.6, this driver offers CUDA 11.8"
    assert "GPU" not in found


def test_no_compiler_is_installed(device: Device, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEVISION_NVCC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("edgevision.kernels.compile.libraries", lambda major: iter(()))
    monkeypatch.setattr("edgevision.kernels.compile.cuda_folders", list)
    compiler = by_subject(check_gpu(root))["CUDA compiler"]
    assert compiler.state == PROBLEM
    assert compiler.detail.startswith("no CUDA compiler for this GPU (sm_87, driver for CUDA 12): ")
    assert compiler.remedy.startswith("sudo apt-get install cuda-nvrtc-12-")
