"""Calibration: pictures go through the float graph once, and every tensor's range is known.

    images = CalibrationImages("photos/")
    table = collect_ranges(graph, tensors, images, preprocess)
    table["conv1_relu"].symmetric_limit("mse")

Installed as edgevision.calibration. Nothing of the runtime imports it.
"""

from edgevision.calibration.cache import load_or_collect, load_or_collect_channels
from edgevision.calibration.channels import ChannelRanges, ChannelTable, collect_channels
from edgevision.calibration.choice import choose_methods
from edgevision.calibration.collection import collect_ranges
from edgevision.calibration.histogram import AUTO, METHODS, Histogram
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.table import RangeTable

__all__ = [
    "AUTO",
    "METHODS",
    "CalibrationImages",
    "ChannelRanges",
    "ChannelTable",
    "Histogram",
    "RangeTable",
    "choose_methods",
    "collect_channels",
    "collect_ranges",
    "load_or_collect",
    "load_or_collect_channels",
]
