"""What an exported file says about itself: how its pictures are prepared and how its outputs are read."""

from __future__ import annotations

from typing import Any

from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES

KEY = "edgevision"  # in the ONNX file's metadata_props; the value is JSON
FILE_NAMES = {"detector": "aerial_detector.onnx", "segmenter": "aerial_segmenter.onnx"}
VARIANCES = (0.1, 0.1, 0.2, 0.2)

_PREPROCESS = {
    "resize": "stretch",
    "color": "rgb",
    "mean": [127.5, 127.5, 127.5],
    "std": [127.5, 127.5, 127.5],
    "pad_value": 0,
}

DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "detector": {
        "family": "ssd",
        "labels": list(DETECTION_CLASSES),
        "preprocess": _PREPROCESS,
        "ssd": {
            "activation": "sigmoid",
            "background": False,
            "coder": "torchvision",
            "variances": list(VARIANCES),
            "priors_format": "cxcywh",
        },
        "nms": {"iou_threshold": 0.5, "confidence": 0.3},
    },
    "segmenter": {"family": "semantic", "labels": list(SEGMENTATION_CLASSES), "preprocess": _PREPROCESS},
}
