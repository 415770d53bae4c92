"""Folders that hold what a Jetson keeps in /proc, /sys, /etc and /var, and programs as they answer there.

Taken from what boards print: Jetson Linux developer guide, board logs in public issue trackers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ELEMENTS = ("nvv4l2decoder", "nvv4l2h264enc", "nvv4l2h265enc", "nvarguscamerasrc", "nvvidconv", "nvjpegdec")
ORIN_NANO_MODES = ("15W", "25W", "MAXN_SUPER", "7W")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def release(major: int, revision: str) -> str:
    """First lines of /etc/nv_tegra_release."""
    return (
        f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    )


def jetson(
    root: Path,
    *,
    model: str,
    major: int,
    revision: str,
    modes: Iterable[str] = ORIN_NANO_MODES,
    mode: int = 0,
    locked: bool = False,
    free_kib: int = 5_000_000,
    swap_kib: int = 3_800_000,
    python: str | None = "3.10",
    cuda: str | None = "12.6.68",
    jetpack: str | None = None,
    gpu: str = "17000000.gpu",
) -> Path:
    """A board's files; returns `root`."""
    names = "\n".join(
        f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for number, name in enumerate(modes)
    )
    files = {
        "proc/device-tree/model": f"{model}\0",
        "proc/meminfo": f"MemTotal: 7800000 kB\nMemAvailable: {free_kib} kB\nSwapFree: {swap_kib} kB\n",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 asimddp\n",
        "etc/nv_tegra_release": release(major, revision),
        "etc/nvpmodel.conf": f"# nvpmodel configuration\n{names}\n< PM_CONFIG DEFAULT=0 >\n",
        "var/lib/nvpmodel/status": f"pmode:{mode:04d} fmode:quiet\n",
        "var/lib/dpkg/status": "Package: bash\nStatus: install ok installed\nVersion: 5.1-6ubuntu1.1\n\n",
    }
    for core in range(2):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files[f"{folder}/scaling_min_freq"] = "1510400\n" if locked else "729600\n"
        files[f"{folder}/scaling_max_freq"] = "1510400\n"
    files[f"sys/class/devfreq/{gpu}/min_freq"] = "1020000000\n" if locked else "306000000\n"
    files[f"sys/class/devfreq/{gpu}/max_freq"] = "1020000000\n"
    if python is not None:
        files[f"usr/lib/python{python}/dist-packages/tensorrt/__init__.py"] = ""
    if cuda is not None:
        files["usr/local/cuda/version.json"] = f'{{"cuda": {{"name": "CUDA SDK", "version": "{cuda}"}}}}'
    if jetpack is not None:
        files["var/lib/dpkg/status"] += (
            "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\nSection: metapackages\n"
            f"Installed-Size: 194\nMaintainer: NVIDIA Corporation\nArchitecture: arm64\nVersion: {jetpack}\n"
            "Depends: nvidia-jetpack-runtime\n\n"
        )
    write(root, files)
    return root


def gst_inspect(folder: Path, elements: Iterable[str] = ELEMENTS) -> Path:
    """A gst-inspect-1.0 that knows `elements`; returns the folder, to be put on the PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "gst-inspect-1.0"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "--version) echo 'gst-inspect-1.0 version 1.20.3'; echo 'GStreamer 1.20.3'; exit 0;;\n"
        f'--exists) case " {" ".join(elements)} " in *" $2 "*) exit 0;; esac;;\n'
        "esac\nexit 1\n"
    )
    program.chmod(0o755)
    return folder
