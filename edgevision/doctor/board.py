"""A Jetson board: which one, its JetPack, and how fast it is allowed to run.

Everything is read from files, so that it needs no root rights. Sources: NVIDIA's Jetson Linux developer guide (power
modes, jetson_clocks), the JetPack archive (which JetPack brings which Jetson Linux, "L4T").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgevision.doctor.finding import ABSENT, OK, PROBLEM, Finding, read

# First Jetson Linux release of each JetPack, newest first.
_JETPACKS = (
    ((39, 2), "7.2"),
    ((38, 4), "7.1"),
    ((38, 0), "7.0"),
    ((36, 4, 3), "6.2"),
    ((36, 4), "6.1"),
    ((36, 0), "6.0"),
    ((34, 0), "5"),
    ((32, 0), "4"),
)
_OLDEST = (36, 0)
_SM = {"Orin": 87, "Thor": 110}
_IN_CONTAINER = "in a container, ask for it on the host"


def is_board(root: Path) -> bool:
    """Whether this is a Jetson, or a container on one."""
    return bool(read(root / "etc/nv_tegra_release")) or "Jetson" in read(root / "proc/device-tree/model")


def board_sm(root: Path) -> int | None:
    """Compute capability of the board's GPU, by the board's name; None elsewhere."""
    name = read(root / "proc/device-tree/model")
    return next((sm for word, sm in _SM.items() if word in name), None)


def check_board(root: Path) -> Iterator[Finding]:
    """Nothing on other machines."""
    if is_board(root):
        yield Finding("board", OK, read(root / "proc/device-tree/model") or "a Jetson that does not give its name")
        yield _jetpack(root)
        yield _power_mode(root)
        yield _clocks(root)


def _jetpack(root: Path) -> Finding:
    stated = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root / "etc/nv_tegra_release"))
    if stated is None:
        remedy = "in a container, mount the host's: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        return Finding("JetPack", PROBLEM, "unknown: there is no readable /etc/nv_tegra_release", remedy)
    release = (int(stated[1]), *(int(number) for number in stated[2].split(".") if number))
    jetpack = _installed_jetpack(root) or next((name for first, name in _JETPACKS if release >= first), "unknown")
    detail = f"{jetpack} (L4T {'.'.join(map(str, release))})"
    if release < _OLDEST:
        return Finding(
            "JetPack",
            PROBLEM,
            f"{detail} is out of scope: edgevision's device path needs TensorRT 8.6 and Python 3.10, which came with "
            "JetPack 6",
            "flash JetPack 6 or later (Orin and newer); on boards that end with JetPack 5 models run on the CPU only",
        )
    return Finding("JetPack", OK, detail)


def _installed_jetpack(root: Path) -> str:
    """Version of the package nvidia-jetpack, which not every image has; empty without it."""
    for package in read(root / "var/lib/dpkg/status").split("\n\n"):
        if package.startswith("Package: nvidia-jetpack\n"):
            found = re.search(r"^Version: (\d+(?:\.\d+)*)", package, re.MULTILINE)
            return found[1] if found else ""
    return ""


def _power_mode(root: Path) -> Finding:
    config = read(root / "etc/nvpmodel.conf")
    modes = {int(number): name for number, name in re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", config)}
    now = re.search(r"pmode:(\d+)", read(root / "var/lib/nvpmodel/status")) or re.search(
        r"PM_CONFIG\s+DEFAULT=(\d+)", config
    )
    if not modes or now is None:
        remedy = f"sudo apt-get install nvidia-l4t-nvpmodel; {_IN_CONTAINER}: nvpmodel -q"
        return Finding("power mode", ABSENT, "unknown: no /etc/nvpmodel.conf that names modes", remedy)
    current = int(now[1])
    others = ", ".join(f"{number} {name}" for number, name in sorted(modes.items()) if number != current)
    fastest = next((number for number, name in modes.items() if name.startswith("MAXN")), current)
    remedy = "" if fastest == current else f"for the highest speed: sudo nvpmodel -m {fastest} ({modes[fastest]})"
    return Finding("power mode", OK, f"{modes.get(current, '?')} (mode {current}; others: {others or 'none'})", remedy)


def _clocks(root: Path) -> Finding:
    folders = {
        "CPU": [(f / "scaling_min_freq", f / "scaling_max_freq", 1e3) for f in _folders(root, "devices/system/cpu")],
        "GPU": [(f / "min_freq", f / "max_freq", 1e6) for f in _folders(root, "class/devfreq")],
    }
    spans = {kind: [span for files in found if (span := _span_mhz(*files))] for kind, found in folders.items()}
    known = {kind: found for kind, found in spans.items() if found}
    if not known:
        remedy = f"{_IN_CONTAINER}: sudo jetson_clocks --show"
        return Finding("clocks", ABSENT, "unknown: no clock can be read here", remedy)
    limits = {kind: (min(low for low, _ in found), max(high for _, high in found)) for kind, found in known.items()}
    if all(low == high for found in known.values() for low, high in found):
        shown = ", ".join(f"{kind} at {high:.0f} MHz" for kind, (_, high) in limits.items())
        return Finding("clocks", OK, f"locked (jetson_clocks): {shown}")
    shown = ", ".join(f"{kind} {low:.0f} to {high:.0f} MHz" for kind, (low, high) in limits.items())
    return Finding("clocks", OK, f"follow the load: {shown}", "for steady timings: sudo jetson_clocks")


def _folders(root: Path, where: str) -> list[Path]:
    pattern = "cpu[0-9]*/cpufreq" if where.endswith("cpu") else "*gpu*"
    return sorted((root / "sys" / where).glob(pattern))


def _span_mhz(low: Path, high: Path, unit: float) -> tuple[float, float] | None:
    values = [read(path) for path in (low, high)]
    return (int(values[0]) / unit, int(values[1]) / unit) if all(value.isdigit() for value in values) else None
