"""Where do the float and the INT8 version of a bundle disagree? Prints boxes that only one of them finds.

python examples/03_compare_precisions.py detector.edge "photos/*.jpg"
"""

import sys

import edgevision
from edgevision.geometry import box_iou

bundle, uri = sys.argv[1], sys.argv[2]
with (
    edgevision.load(bundle, precision="fp32") as reference,
    edgevision.load(bundle, precision="int8") as quantised,
    edgevision.open_source(uri) as source,
):
    for frame in source:
        left, right = reference(frame), quantised(frame)
        same = (box_iou(left.xyxy, right.xyxy) > 0.5) & (left.class_id[:, None] == right.class_id[None, :])
        lost, gained = left[~same.any(axis=1)], right[~same.any(axis=0)]
        print(f"{frame.name or frame.frame_id}: {len(left)} boxes in float, {len(lost)} lost, {len(gained)} gained")
