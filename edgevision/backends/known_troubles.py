"""TensorRT versions that are known to fail on a kind of GPU: said before a build that may take ten minutes.

A build is tried all the same, since another model may pass, and the ladder goes down where it fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.tensorrt_api import Api

_ORIN, _THOR = 87, 110


@dataclass(frozen=True)
class Trouble:
    """One known trouble.

    Attributes:
        first, last: versions it is known of; a version counts up to the length of these.
        sms: compute capabilities; empty: all.
        when: `int8` (Q/DQ in the graph), `calibrator`, or `always`.
        text: what happens.
        source: where it is described.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    sms: tuple[int, ...]
    when: str
    text: str
    source: str


TROUBLES = (
    Trouble(
        (10, 16, 2),
        (10, 16, 2),
        (_ORIN,),
        "int8",
        "strongly typed INT8 graphs fail in its graph compiler on Orin, while Thor builds the same file",
        "github.com/NVIDIA/TensorRT/issues/4832",
    ),
    Trouble(
        (10, 3),
        (10, 3),
        (_ORIN,),
        "calibrator",
        "INT8 calibration stops with an assertion for models of operator set 19 or later, while FP16 builds",
        "github.com/NVIDIA/TensorRT/issues/4797 and 4494",
    ),
    Trouble(
        (10, 3),
        (10, 3),
        (_ORIN,),
        "int8",
        "YOLO26 needed TensorRT 10.7 for INT8 on JetPack 6",
        "github.com/ultralytics/ultralytics/pull/24368",
    ),
    Trouble(
        (10, 2, 0),
        (10, 2, 0),
        (),
        "always",
        "Ultralytics refuses this version",
        "ultralytics/utils/export/engine.py",
    ),
    Trouble(
        (10, 0),
        (10, 14),
        (_THOR,),
        "always",
        "Ultralytics asks for 10.15 or later on JetPack 7",
        "ultralytics/utils/export/engine.py",
    ),
    Trouble(
        (11, 0, 0),
        (11, 4, 0),
        (_ORIN, _THOR),
        "always",
        "these versions do not support JetPack; 11.4.1 does",
        "docs.nvidia.com/deeplearning/tensorrt/11.4.1, migration from 10.x to 11.x on Jetson",
    ),
)


def known_troubles(api: Api, sm: int | None, options: BuildOptions) -> list[str]:
    """What is known to go wrong with this version on this GPU, as sentences with their source."""
    version = tuple(int(number) for number in re.findall(r"\d+", api.version))
    case = "calibrator" if options.calibrator else options.precision
    return [
        f"known trouble with {api.title} on SM {sm}: {trouble.text} ({trouble.source})"
        for trouble in TROUBLES
        if api.flavour == "tensorrt"
        and trouble.first <= version[: len(trouble.first)]
        and version[: len(trouble.last)] <= trouble.last
        and (not trouble.sms or sm in trouble.sms)
        and trouble.when in ("always", case)
    ]
