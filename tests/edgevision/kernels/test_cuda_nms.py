"""NMS on the emulated GPU against the CPU's: the same detections, bit for bit, whatever the order of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import Placement, place
from edgevision.kernels.cpu_nms import MAX_CANDIDATES, keep
from edgevision.kernels.cuda_nms import CudaNms, DetectionArrays
from edgevision.kernels.picture import PICTURE, describe
from edgevision.manifest import Nms
from tests.standins.host_device import HostDevice, HostModule, open_kernels

Picture = Placement | None
WIDE = place((1280, 720), (640, 640), "letterbox")


@pytest.fixture(scope="module")
def module() -> HostModule:
    return open_kernels(["nms.cu"])


def records(pictures: list[Picture]) -> NDArray[Any]:
    slots = [np.zeros((), PICTURE) if p is None else describe(p, "bgr", 64, 3 * p.source_wh[0]) for p in pictures]
    return np.stack(slots)


def run(
    module: HostModule,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    nms: Nms,
    thresholds: NDArray[np.float32],
    pictures: list[Picture],
    class_ids: NDArray[np.int32] | None = None,
    seed: int = 1,
) -> DetectionArrays:
    """The device's result for a batch; (b, n, 4), (b, n, c) or (b, n)."""
    device = HostDevice()
    batch, n = boxes.shape[:2]
    module.seed(seed)
    kernel: Any = CudaNms(device, module, n, nms, thresholds, batch)
    given = [device.put(array) for array in (boxes, scores, records(pictures))]
    ids = None if class_ids is None else device.put(class_ids)
    result = device.allocate(kernel.result_nbytes)
    kernel(*(b.address for b in given), result.address, device.stream(), ids.address if ids else 0)
    kernel.close()
    found: DetectionArrays = kernel.split(result.bytes)
    return found


def check(
    module: HostModule,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    nms: Nms,
    thresholds: NDArray[np.float32] | None = None,
    pictures: list[Picture] | None = None,
    class_ids: NDArray[np.int32] | None = None,
    seed: int = 1,
) -> DetectionArrays:
    """Compares every slot with the CPU's answer."""
    if thresholds is None:
        thresholds = np.full(scores.shape[2], nms.confidence, np.float32)
    pictures = pictures or [WIDE] * len(boxes)
    found = run(module, boxes, scores, nms, thresholds, pictures, class_ids, seed)
    for i, picture in enumerate(pictures):
        rows, confidence, class_id = keep(
            boxes[i], scores[i], nms, thresholds, None if class_ids is None else class_ids[i]
        )
        if picture is None:
            rows = rows[:0]
        else:
            xyxy = picture.to_source(boxes[i][rows])
            inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
            rows, xyxy, confidence, class_id = rows[inside], xyxy[inside], confidence[inside], class_id[inside]
        count = int(found.num_detections[i])
        assert count == len(rows)
        np.testing.assert_array_equal(found.detection_rows[i, :count], rows)
        if count:
            np.testing.assert_array_equal(found.detection_boxes[i, :count], xyxy)
            np.testing.assert_array_equal(found.detection_scores[i, :count], confidence)
            np.testing.assert_array_equal(found.detection_classes[i, :count], class_id)
        for part in found[1:]:
            assert not part[i, count:].any()
    return found


def crowd(batch: int, n: int, classes: int, seed: int, objects: int | None = None) -> tuple[Any, Any]:
    """Boxes jittered around objects, each confident about one class."""
    random = np.random.default_rng(seed)
    objects = objects or max(1, n // 6)
    which = random.integers(0, objects, (batch, n))
    centre = random.uniform(0, 640, (objects, 2))[which] + random.normal(0, 5, (batch, n, 2))
    size = random.uniform(20, 120, (objects, 2))[which] * random.uniform(0.8, 1.25, (batch, n, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=2).astype(np.float32)
    scores = random.uniform(0, 0.2, (batch, n, classes)).astype(np.float32)
    best = random.integers(0, classes, objects)[which]
    np.put_along_axis(scores, best[..., None], random.uniform(0.2, 1, (batch, n, 1)).astype(np.float32), axis=2)
    return boxes, scores


coordinates = st.integers(0, 12).map(float)
wild = st.one_of(coordinates, st.floats(width=32, allow_nan=True, allow_infinity=True))
levels = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0]),
    st.floats(0, 1, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf, -1.0]),
)
placements = st.builds(
    place,
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.sampled_from(["stretch", "letterbox", "letterbox-topleft"]),
)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    batch, n, c = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    final = draw(st.booleans())
    total = batch * n
    coordinate = draw(st.sampled_from([coordinates, wild]))
    corners = draw(st.lists(st.tuples(*[coordinate] * 4), min_size=total, max_size=total))
    boxes = np.array(corners, np.float32).reshape(batch, n, 4)
    if draw(st.booleans()):
        boxes = np.concatenate([np.fmin(boxes[..., :2], boxes[..., 2:]), np.fmax(boxes[..., :2], boxes[..., 2:])], 2)
    shape = (batch, n) if final else (batch, n, c)
    count = int(np.prod(shape))
    scores = np.array(draw(st.lists(levels, min_size=count, max_size=count)), np.float32).reshape(shape)
    ids = draw(st.lists(st.integers(-1, c), min_size=total, max_size=total)) if final else None
    nms = Nms(
        iou_threshold=draw(st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.7, 1.0])),
        class_agnostic=draw(st.booleans()),
        multi_label=draw(st.booleans()),
        max_detections=draw(st.integers(1, 6)),
        suppression="none" if final else "greedy",
    )
    thresholds = draw(st.lists(st.sampled_from([0.0, 0.3, 0.5, np.inf]), min_size=c, max_size=c))
    return {
        "boxes": boxes,
        "scores": scores,
        "nms": nms,
        "thresholds": np.array(thresholds, np.float32),
        "pictures": draw(st.lists(st.none() | placements, min_size=batch, max_size=batch)),
        "class_ids": None if ids is None else np.array(ids, np.int32).reshape(batch, n),
        "seed": draw(st.integers(0, 1000)),
    }


@given(problems())
@settings(max_examples=150)
def test_any_small_problem_has_the_cpus_answer(module: HostModule, problem: dict[str, Any]) -> None:
    check(module, **problem)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("n", "classes"), [(63, 3), (64, 1), (65, 3), (1024, 2), (1025, 3), (2500, 7)])
def test_crowds_have_the_cpus_answer(
    module: HostModule, n: int, classes: int, multi_label: bool, agnostic: bool
) -> None:
    nms = Nms(0.5, 0.1, class_agnostic=agnostic, multi_label=multi_label, max_detections=150)
    found = check(module, *crowd(1, n, classes, seed=n), nms, seed=n)
    assert found.num_detections[0] > 3


@pytest.mark.parametrize("batch", range(1, 9))
def test_pictures_of_a_batch_keep_apart_whatever_their_sizes(module: HostModule, batch: int) -> None:
    # 77 boxes x 13 classes: no picture's scores begin on a boundary of 16 bytes but the first's.
    boxes, scores = crowd(batch, 77, 13, seed=batch)
    pictures = [place((100 + 31 * i, 900 - 57 * i), (640, 640), "letterbox") for i in range(batch)]
    for multi_label in (False, True):
        found = check(module, boxes, scores, Nms(0.5, 0.15, multi_label=multi_label), pictures=list(pictures))
        assert found.num_detections.sum() > batch


@pytest.mark.parametrize("classes", [1, 80, 1203, 3000])
@pytest.mark.parametrize("multi_label", [False, True])
def test_any_number_of_classes(module: HostModule, classes: int, multi_label: bool) -> None:
    boxes, scores = crowd(2, 60, classes, seed=classes)
    assert check(module, boxes, scores, Nms(0.5, 0.18, multi_label=multi_label)).num_detections.min() > 3


def test_a_detector_of_everyday_size(module: HostModule) -> None:
    boxes, scores = crowd(1, 8400, 80, seed=4)
    scores[:, 400:] *= 0.2
    found = check(module, boxes, scores, Nms(0.5, 0.25))
    assert 100 < found.num_detections[0] < 300


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("good", "expected"), [(374, 2), (375, 1)])
def test_beyond_the_candidate_limit_the_best_are_considered(
    module: HostModule, ties: bool, good: int, expected: int
) -> None:
    random = np.random.default_rng(5)
    scores = np.full((1, 500, 80), 0.5, np.float32)  # 40,000 candidates
    boxes = np.tile(np.array([300, 300, 340, 340], np.float32), (1, 500, 1))  # one place, and one for the others
    rank = np.arange(500)
    if not ties:
        random.shuffle(rank)
        scores[0] -= (rank[:, None] + random.uniform(0, 0.9, (500, 80))) / 2000
    assert MAX_CANDIDATES == 375 * 80
    boxes[0, rank >= good] = [100, 200, 110, 300]
    found = check(module, boxes, scores, Nms(0.5, 0.0, multi_label=True, class_agnostic=True))
    assert found.num_detections[0] == expected


def test_every_score_above_the_threshold(module: HostModule) -> None:
    boxes, scores = crowd(2, 8400, 4, seed=7)
    found = check(module, boxes, scores, Nms(0.6, 0.0, multi_label=True, max_detections=300))
    assert (found.num_detections > 150).all()


def test_more_detections_than_threads(module: HostModule) -> None:
    boxes, scores = crowd(1, 4000, 2, seed=6, objects=4000)
    found = check(module, boxes, scores, Nms(0.9, 0.0, max_detections=3500))
    assert 2000 < found.num_detections[0] < 3500


def test_nothing_above_the_threshold_gives_nothing_and_leaves_nothing_of_the_call_before(module: HostModule) -> None:
    boxes, scores = crowd(2, 300, 4, seed=8)
    device, nms = HostDevice(), Nms(0.5, 0.3)
    kernel: Any = CudaNms(device, module, 300, nms, np.full(4, 0.3, np.float32), 2)
    result, pictures = device.allocate(kernel.result_nbytes), device.put(records([WIDE, WIDE]))
    found = kernel.split(result.bytes)
    corners, full, empty = device.put(boxes), device.put(scores), device.put(scores * 0)
    for levels, expected in ((full, True), (empty, False), (full, True)):
        kernel(corners.address, levels.address, pictures.address, result.address, None)
        assert found.num_detections.astype(bool).tolist() == [expected] * 2
        assert found.detection_boxes.any() == found.detection_scores.any() == expected
    alone = check(module, boxes, scores, nms)
    assert all(np.array_equal(again, once) for again, once in zip(found, alone, strict=True))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_order_of_threads_changes_no_byte(module: HostModule, multi_label: bool) -> None:
    boxes, scores = crowd(2, 1500, 3, seed=9)
    scores = np.round(scores * 16) / np.float32(16)  # ties everywhere
    nms = Nms(0.4, 0.05, multi_label=multi_label)
    thresholds = np.full(3, nms.confidence, np.float32)
    results = [run(module, boxes, scores, nms, thresholds, [WIDE] * 2, seed=seed) for seed in range(6)]
    assert len({b"".join(part.tobytes() for part in result) for result in results}) == 1
    assert (results[0].num_detections > 50).all()


def test_boxes_in_the_padding_are_dropped_after_the_limit_as_on_the_cpu(module: HostModule) -> None:
    boxes = np.array([[[0, 10, 50, 100], [10, 500, 60, 600], [100, 300, 200, 400], [300, 300, 400, 400]]], np.float32)
    scores = np.array([[[0.9], [0.8], [0.7], [0.6]]], np.float32)
    found = check(module, boxes, scores, Nms(0.5, 0.1, max_detections=3))
    assert found.num_detections[0] == 1  # the first two lie in the bars above and below, the last is the fourth
    np.testing.assert_array_equal(found.detection_boxes[0, 0], [200, 320, 400, 520])


def test_a_network_without_duplicates_needs_thresholds_only(module: HostModule) -> None:
    random = np.random.default_rng(3)
    boxes, _ = crowd(3, 300, 1, seed=3, objects=5)  # heavy overlaps stay
    scores = random.uniform(0, 1, (3, 300)).astype(np.float32)
    class_ids = random.integers(-2, 92, (3, 300)).astype(np.int32)
    thresholds = np.full(90, 0.3, np.float32)
    thresholds[7] = np.inf
    nms = Nms(0.5, 0.3, suppression="none", max_detections=100)
    found = check(module, boxes, scores, nms, thresholds, class_ids=class_ids)
    assert (found.num_detections > 50).all()
    assert not np.isin(found.detection_classes[:, :50], [-2, -1, 7, 90, 91]).any()


@pytest.mark.parametrize(
    ("boxes", "thresholds", "batch", "words"),
    [
        (10, [0.3, -0.1], 1, "not negative"),
        (10, [0.3, np.nan], 1, "not negative"),
        (1 << 24, [0.3] * 80, 2, "use less batch"),
    ],
)
def test_what_it_cannot_do_is_refused(
    module: HostModule, boxes: int, thresholds: list[float], batch: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        CudaNms(HostDevice(), module, boxes, Nms(), np.array(thresholds, np.float32), batch)
