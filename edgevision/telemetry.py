"""What the machine did while something was measured: temperature, power, clocks, and who else was using it.

Read from the files that Linux offers, none of which need be there: each quantity is a value, or None with the reason.
Sources: kernel documentation of thermal sysfs, hwmon sysfs-interface, cpufreq, powercap and proc(5); INA3221 rails as
on Jetson boards.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

_INTERVAL_S = 0.5
_BOARD_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Names of the rail that feeds the whole board; without one the rails are added up."""


class Telemetry:
    """Samples the machine in a thread between `__enter__` and `__exit__`; `report()` is for afterwards."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="telemetry", daemon=True)
        self._temperatures: list[dict[str, float]] = []
        self._powers: list[dict[str, float]] = []
        self._clocks: list[float] = []

    def __enter__(self) -> Telemetry:
        self._load_before = _load_average(self._root)
        self._busy_before = _processor_seconds(self._root)
        self._energy_before = _energy_j(self._root)
        self._own_before, self._start = time.process_time(), time.monotonic()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        self._seconds = time.monotonic() - self._start
        self._own = time.process_time() - self._own_before
        self._busy_after = _processor_seconds(self._root)
        self._energy_after = _energy_j(self._root)
        self._load_after = _load_average(self._root)

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        self._temperatures.append(_temperatures_c(self._root))
        self._powers.append(_rails_w(self._root))
        self._clocks.extend(_clocks_mhz(self._root))

    def report(self) -> dict[str, Any]:
        """`temperature_c`, `power_w`, `clock_mhz`, `governor` (None where `not_measured` says why), `load_average`,
        `other_cores_busy` and `warnings`."""
        other = None
        if self._busy_before is not None and self._busy_after is not None:
            other = round(max(self._busy_after - self._busy_before - self._own, 0.0) / self._seconds, 2)
        governor = governor_in_force(self._root)
        measured = {
            "temperature_c": (self._temperature(), "no readable thermal zone in /sys/class/thermal"),
            "power_w": (
                self._power(),
                "no readable sensor in /sys/class/hwmon or /sys/class/powercap (RAPL needs root)",
            ),
            "clock_mhz": (_statistics(self._clocks), "no cpufreq, and no clock in /proc/cpuinfo"),
            "governor": (governor, "no cpufreq: something outside this system decides the clocks"),
        }
        return {
            **{key: value for key, (value, _) in measured.items()},
            "not_measured": {key: reason for key, (value, reason) in measured.items() if value is None},
            "load_average": {"before": self._load_before, "after": self._load_after},
            "other_cores_busy": other,
            "warnings": self._warnings(other, governor),
        }

    def _temperature(self) -> dict[str, Any] | None:
        first, last = self._temperatures[0], self._temperatures[-1]
        if not first:
            return None
        zones = {zone: max(s[zone] for s in self._temperatures if zone in s) for zone in first}
        return {"start": first, "end": last, "max": zones}

    def _power(self) -> dict[str, Any] | None:
        """Board power where a sensor tells it, else the processor's own energy counter."""
        if self._powers[0]:
            board = next((rail for rail in _BOARD_RAILS if rail in self._powers[0]), None)
            totals = [s[board] if board else sum(s.values()) for s in self._powers if not board or board in s]
            rails = {r: _mean([s[r] for s in self._powers if r in s]) for r in self._powers[0]}
            return {"source": board or "sum of rails", **(_statistics(totals) or {}), "rails": rails}
        if not self._energy_before or self._energy_before.keys() != self._energy_after.keys():
            return None
        # Each counter starts again from 0 at its limit.
        spent_j = sum((self._energy_after[p][0] - e) % limit for p, (e, limit) in self._energy_before.items())
        return {"source": "RAPL, processor packages only", "mean": round(spent_j / self._seconds, 2)}

    def _warnings(self, other: float | None, governor: str | None) -> list[str]:
        warnings = []
        if other is not None and other > 0.1:
            warnings.append(f"other programs kept {other:g} cores busy meanwhile: the figures are disturbed")
        if governor not in (None, "performance"):
            warnings.append(f"the cpufreq governor is {governor!r}, not 'performance': clocks vary with load")
        if self._clocks and min(self._clocks) < 0.9 * max(self._clocks):
            warnings.append(f"clocks varied between {min(self._clocks):.0f} and {max(self._clocks):.0f} MHz")
        return warnings


def governor_in_force(root: Path = Path("/")) -> str | None:
    """The first core's cpufreq governor; None where the kernel does not scale clocks (or does not say)."""
    return _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def board_facts(root: Path = Path("/")) -> dict[str, Any]:
    """`board` and `l4t` (the board's name and Jetson Linux's release; None elsewhere), `clocks_locked` (None where
    the kernel does not scale clocks)."""
    name = _text(root / "proc/device-tree/model")
    release = _text(root / "etc/nv_tegra_release")
    scaling = root / "sys/devices/system/cpu/cpu0/cpufreq"
    lowest, highest = _number(scaling / "scaling_min_freq"), _number(scaling / "scaling_max_freq")
    return {
        "board": name.rstrip("\0") if name else None,
        "l4t": release.partition("\n")[0] if release else None,
        "clocks_locked": None if lowest is None or highest is None else lowest == highest,
    }


def _temperatures_c(root: Path) -> dict[str, float]:
    zones: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            zones[_text(zone / "type") or zone.name] = value / 1000
    return zones


def _rails_w(root: Path) -> dict[str, float]:
    """hwmon sensors that measure power (uW), or voltage (mV) and current (mA) of the same channel."""
    rails: dict[str, float] = {}
    for sensor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = _text(sensor / "name") or sensor.name
        for path in sorted(sensor.glob("power*_input")):
            value = _number(path)
            if value is not None:
                label = _text(path.with_name(path.name.replace("_input", "_label")))
                rails[label or f"{name} {path.name.removesuffix('_input')}"] = value / 1e6
        for path in sorted(sensor.glob("curr*_input")):
            channel = path.name.removeprefix("curr").removesuffix("_input")
            current, voltage = _number(path), _number(sensor / f"in{channel}_input")
            if current is not None and voltage is not None:
                rails[_text(sensor / f"in{channel}_label") or f"{name} {channel}"] = current * voltage / 1e6
    return rails


def _energy_j(root: Path) -> dict[str, tuple[float, float]]:
    """Processor package -> (energy counter, its limit), joules."""
    packages: dict[str, tuple[float, float]] = {}
    for package in root.glob("sys/class/powercap/intel-rapl:*"):
        energy, limit = _number(package / "energy_uj"), _number(package / "max_energy_range_uj")
        if package.name.count(":") == 1 and energy is not None and limit:
            packages[package.name] = energy / 1e6, limit / 1e6
    return packages


def _clocks_mhz(root: Path) -> list[float]:
    readings = [_number(p) for p in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [reading / 1000 for reading in readings if reading is not None]
    if not clocks:
        lines = (_text(root / "proc/cpuinfo") or "").splitlines()
        with contextlib.suppress(ValueError):
            clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return clocks


def _processor_seconds(root: Path) -> float | None:
    """Seconds that all cores together have been busy since boot, time stolen by a hypervisor included."""
    fields = (_text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[1:9])
    return float(user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _load_average(root: Path) -> float | None:
    with contextlib.suppress(ValueError, IndexError):
        return float((_text(root / "proc/loadavg") or "").split()[0])
    return None


def _statistics(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": _mean(values), "min": round(min(values), 2), "max": round(max(values), 2)}


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # sensors vanish, and some may be read by root only
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
