"""The machine's own sensors, read from trees of files as Linux lays them out."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgevision.telemetry import Telemetry, board_facts, governor_in_force


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def measured(root: Path, after: dict[str, str] | None = None) -> dict[str, Any]:
    with Telemetry(root) as telemetry:
        write(root, after or {})
    return telemetry.report()


JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n# KERNEL_VARIANT: oot\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "47500\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_SOC\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "300\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600\n",
}


def test_a_board_reports_its_rails_temperature_and_clocks(tmp_path: Path) -> None:
    write(tmp_path, JETSON)
    got = measured(
        tmp_path,
        {"sys/class/hwmon/hwmon1/curr1_input": "1600\n", "sys/class/thermal/thermal_zone0/temp": "51000\n"},
    )
    # 5 V at 1.2 A, then at 1.6 A: the board rail contains the others.
    assert got["power_w"] == {
        "source": "VDD_IN", "mean": 7.0, "min": 6.0, "max": 8.0, "rails": {"VDD_IN": 7.0, "VDD_SOC": 1.5},
    }  # fmt: skip
    assert got["temperature_c"] == {
        "start": {"cpu-thermal": 47.5}, "end": {"cpu-thermal": 51.0}, "max": {"cpu-thermal": 51.0},
    }  # fmt: skip
    assert got["clock_mhz"] == {"mean": 1120.0, "min": 729.6, "max": 1510.4}
    assert any("'schedutil'" in warning for warning in got["warnings"])
    assert any("between 730 and 1510 MHz" in warning for warning in got["warnings"])
    assert got["not_measured"] == {}
    assert board_facts(tmp_path) == {
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "# R36 (release), REVISION: 4.3",
        "clocks_locked": False,
    }
    write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1510400\n"})
    assert board_facts(tmp_path)["clocks_locked"] is True
    assert governor_in_force(tmp_path) == "schedutil"


def test_rails_are_added_where_none_feeds_the_whole_board(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "ina238\n",
            "sys/class/hwmon/hwmon0/power1_input": "2500000\n",
            "sys/class/hwmon/hwmon1/name": "ina3221\n",
            "sys/class/hwmon/hwmon1/in1_input": "12000\n",
            "sys/class/hwmon/hwmon1/curr1_input": "500\n",
        },
    )
    got = measured(tmp_path)["power_w"]
    assert (got["source"], got["mean"]) == ("sum of rails", 8.5)
    assert got["rails"] == {"ina238 power1": 2.5, "ina3221 1": 6.0}


def test_processor_energy_counters_may_wrap(tmp_path: Path) -> None:
    package = "sys/class/powercap/intel-rapl:0"
    core = f"{package}:0"  # lies under the class folder as a sibling; part of the package
    write(
        tmp_path,
        {
            f"{package}/energy_uj": "99000000",
            f"{package}/max_energy_range_uj": "100000000",
            f"{core}/energy_uj": "5",
            f"{core}/max_energy_range_uj": "100000000",
        },
    )
    with Telemetry(tmp_path) as telemetry:
        start = time.monotonic()
        write(tmp_path, {f"{package}/energy_uj": "3000000"})
        time.sleep(0.5)
    seconds = time.monotonic() - start
    assert telemetry.report()["power_w"]["mean"] == pytest.approx(4 / seconds, rel=0.2)


def test_a_machine_without_sensors_says_why(tmp_path: Path) -> None:
    got = measured(tmp_path)
    assert set(got["not_measured"]) == {"temperature_c", "power_w", "clock_mhz", "governor"}
    for key, reason in got["not_measured"].items():
        assert got[key] is None
        assert reason
    assert (got["other_cores_busy"], got["load_average"]) == (None, {"before": None, "after": None})
    assert got["warnings"] == []
    assert board_facts(tmp_path) == {"board": None, "l4t": None, "clocks_locked": None}


def test_nonsense_and_unreadable_sensors_are_passed_over(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "hot",
            "sys/class/hwmon/hwmon0/power1_input": "",
            "proc/stat": "cpu 1 2",
            "proc/loadavg": "",
            "proc/cpuinfo": "cpu MHz : fast",
        },
    )
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").mkdir(parents=True)
    assert set(measured(tmp_path)["not_measured"]) == {"temperature_c", "power_w", "clock_mhz", "governor"}


def test_work_of_other_programs_is_told_from_our_own(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu  1000 0 0 5000 0 0 0 0 0 0\n", "proc/loadavg": "0.25 0 0 1/2 3\n"})
    with Telemetry(tmp_path) as telemetry:
        time.sleep(0.2)
        write(tmp_path, {"proc/stat": "cpu  1300 0 0 5000 0 0 0 0 0 0\n"})
    got = telemetry.report()
    # Three seconds of work by others within a fraction of a second.
    assert got["other_cores_busy"] > 3
    assert "disturbed" in got["warnings"][0]
    assert got["load_average"] == {"before": 0.25, "after": 0.25}


def test_the_sampling_thread_ends_with_the_measurement() -> None:
    with Telemetry():
        assert any(thread.name == "telemetry" for thread in threading.enumerate())
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())
