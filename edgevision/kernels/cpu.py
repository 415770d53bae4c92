"""The reference kernels, on the CPU: what every other device must match."""

from edgevision.kernels.cpu_masks import assemble, paste
from edgevision.kernels.cpu_nms import MAX_CANDIDATES, keep, suppress
from edgevision.kernels.cpu_preprocess import Preprocessor
from edgevision.kernels.cpu_semantic import ClassMapper

__all__ = ["MAX_CANDIDATES", "ClassMapper", "Preprocessor", "assemble", "keep", "paste", "suppress"]
