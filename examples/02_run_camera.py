"""Run a bundle over a camera from Python: the loop of a robot.

python examples/02_run_camera.py detector.edge rtsp://camera/stream
"""

import sys

import edgevision

bundle, uri = sys.argv[1], sys.argv[2]
with edgevision.load(bundle, confidence=0.4) as model, edgevision.open_source(uri) as source:
    for frame in source:
        detections = model(frame)
        for i in range(len(detections)):
            x1, y1, x2, y2 = detections.xyxy[i]
            print(f"frame {frame.frame_id}: {detections.name(i)} {detections.confidence[i]:.2f}", end=" ")
            print(f"at {x1:.0f},{y1:.0f} to {x2:.0f},{y2:.0f}")
