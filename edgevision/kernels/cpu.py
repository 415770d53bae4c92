"""The reference kernels, on the CPU: what every other device must match."""

from edgevision.kernels.cpu_masks import FEATURES, KERNELS, assemble, convolve, paste
from edgevision.kernels.cpu_nms import MAX_CANDIDATES, keep, suppress
from edgevision.kernels.cpu_preprocess import Preprocessor
from edgevision.kernels.cpu_semantic import ClassMapper

__all__ = [
    "FEATURES",
    "KERNELS",
    "MAX_CANDIDATES",
    "ClassMapper",
    "Preprocessor",
    "assemble",
    "convolve",
    "keep",
    "paste",
    "suppress",
]
