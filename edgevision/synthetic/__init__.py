"""The synthetic camera: seeded aerial scenes with exact boxes and class maps.

Needs OpenCV, and is imported only where it is used.
"""

from edgevision.synthetic.aerial import (
    DETECTION_CLASSES,
    SEGMENTATION_CLASSES,
    AerialFrame,
    AerialScene,
)

__all__ = ["DETECTION_CLASSES", "SEGMENTATION_CLASSES", "AerialFrame", "AerialScene"]
