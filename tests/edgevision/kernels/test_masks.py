"""Instance masks: the CPU against a plain definition in float64 and OpenCV, the emulated GPU against both."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import Placement, place
from edgevision.kernels.cpu_masks import assemble, paste
from edgevision.kernels.cuda_masks import CudaMasks, unpack
from edgevision.kernels.cuda_nms import CudaNms
from edgevision.kernels.picture import describe
from edgevision.manifest import Nms
from tests.standins.host_device import HostDevice, HostModule, open_kernels


@pytest.fixture(scope="module")
def module() -> HostModule:
    return open_kernels(["masks.cu", "nms.cu"])


def definition(
    prototypes: NDArray[Any], weights: NDArray[Any], box: Any, placement: Placement, size_wh: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The logits at a mask's pixels, and which pixels' centres lie in the box: one pixel after the other."""
    logits = np.tensordot(weights.astype(np.float64), prototypes.astype(np.float64), axes=1)
    high, wide = logits.shape
    values, inside = np.zeros(size_wh[::-1]), np.zeros(size_wh[::-1], np.bool_)
    for row in range(size_wh[1]):
        for column in range(size_wh[0]):
            share = (column + 0.5) / size_wh[0], (row + 0.5) / size_wh[1]
            source = [share[i] * placement.source_wh[i] for i in (0, 1)]
            inside[row, column] = box[0] <= source[0] < box[2] and box[1] <= source[1] < box[3]
            x, y = (
                (placement.offset_xy[i] + share[i] * placement.content_wh[i]) / placement.input_wh[i] * (wide, high)[i]
                - 0.5
                for i in (0, 1)
            )
            for cell_y in (np.floor(y), np.floor(y) + 1):
                for cell_x in (np.floor(x), np.floor(x) + 1):
                    weight = (1 - abs(x - cell_x)) * (1 - abs(y - cell_y))
                    at = int(np.clip(cell_y, 0, high - 1)), int(np.clip(cell_x, 0, wide - 1))
                    values[row, column] += weight * logits[at]
    return values, inside


def undecided(logits: NDArray[np.float64], prototypes: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Where float32 may round across zero: positions of up to 1024 cells and sums of the prototypes."""
    scale = np.abs(weights).astype(np.float64) @ np.abs(prototypes).reshape(len(weights), -1).max(axis=1)
    close: NDArray[np.bool_] = np.abs(logits) <= scale * (len(weights) + 1024) * np.finfo(np.float32).eps
    return close


def on_gpu(
    module: HostModule,
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    xyxy: NDArray[np.float32],
    placements: list[Placement],
    seed: int = 1,
) -> list[NDArray[np.bool_]]:
    """Each picture's masks of (b, k, 4) detections in source pixels; the network's rows are the detections in
    reverse."""
    device = HostDevice()
    batch, count = xyxy.shape[:2]
    limit = count + 1
    nms: Any = CudaNms(device, module, count, Nms(max_detections=limit), np.zeros(1, np.float32), batch)
    memory = np.zeros(nms.result_nbytes, np.uint8)
    detections = nms.split(memory)
    detections.num_detections[:] = count
    detections.detection_boxes[:, :count] = xyxy
    detections.detection_rows[:, :count] = np.arange(count)[::-1]
    kernel: Any = CudaMasks(
        module,
        boxes=count,
        prototypes=prototypes.shape[1:],
        input_wh=placements[0].input_wh,
        result=nms.result,
    )
    pictures = np.stack([describe(p, "bgr", 64, 3 * p.source_wh[0]) for p in placements])
    given = [device.put(a) for a in (coefficients[:, ::-1].copy(), prototypes, pictures, memory)]
    sizes = [p.source_wh for p in placements]
    masks = device.allocate(kernel.result_bytes(sizes))
    module.seed(seed)
    kernel(*(buffer.address for buffer in given), masks.address, None)
    spans = kernel.spans(sizes, [count] * batch)
    found = [unpack(masks.bytes[span], *given) for span, *given in zip(spans, xyxy, sizes, strict=True)]
    for span, given_back in zip(spans, found, strict=True):
        assert np.unpackbits(masks.bytes[span]).sum() == given_back.sum()  # nothing outside of the boxes
    for span in spans:
        masks.bytes[span] = 0xA5
    assert (masks.bytes == 0xA5).all()  # nothing is written behind a picture's last
    return found


@st.composite
def problems(draw: st.DrawFn) -> Any:
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    sizes = st.tuples(st.integers(1, 70), st.integers(1, 30))
    input_wh, cells = draw(sizes), draw(sizes)
    batch, count, m = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    mode = draw(st.sampled_from(["stretch", "letterbox", "letterbox-topleft"]))
    placements = [place(draw(sizes), input_wh, mode) for _ in range(batch)]
    wh = np.array([p.source_wh for p in placements], np.float64)[:, None]
    corners = random.uniform(-0.1, 1.1, (batch, count, 2, 2)) * wh[:, :, None]
    xyxy = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2).clip(0).astype(np.float32)
    prototypes = random.normal(size=(batch, m, *cells)).astype(np.float32)
    return prototypes, random.normal(size=(batch, count, m)).astype(np.float32), xyxy, placements


@given(problems())
@settings(max_examples=60)
def test_both_devices_follow_the_definition(module: HostModule, problem: Any) -> None:
    prototypes, coefficients, xyxy, placements = problem
    gpu = on_gpu(module, *problem)
    for i, placement in enumerate(placements):
        size_wh = placement.source_wh
        cpu = assemble(prototypes[i], coefficients[i], xyxy[i], placement, size_wh)
        for k, (weights, box) in enumerate(zip(coefficients[i], xyxy[i], strict=True)):
            logits, inside = definition(prototypes[i], weights, box.astype(np.float64), placement, size_wh)
            clear = ~undecided(logits, prototypes[i], weights)
            expected = (logits > 0) & inside
            np.testing.assert_array_equal(cpu[k][clear], expected[clear])
            np.testing.assert_array_equal(gpu[i][k][clear], expected[clear])


@pytest.mark.parametrize("size_wh", [(640, 480), (1283, 721), (160, 160), (60, 40)])
def test_everyday_sizes_as_opencv_enlarges(size_wh: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    placement = place((1280, 720), (640, 640), "letterbox")
    fields = random.normal(size=(32, 10, 10)).astype(np.float32)
    prototypes = np.stack([cv2.resize(field, (160, 160), interpolation=cv2.INTER_CUBIC) for field in fields])
    coefficients = random.normal(size=(5, 32)).astype(np.float32)
    corner = random.uniform(0, 0.7, (5, 2)) * (1280, 720)
    xyxy = np.concatenate([corner, corner + random.uniform(20, 400, (5, 2))], axis=1)
    xyxy = xyxy.clip(0, (1280, 720) * 2).astype(np.float32)
    xyxy[0] = [0, 0, 1280, 720]
    cpu = assemble(prototypes, coefficients, xyxy, placement, size_wh)
    # The picture's part of the prototypes, 90 of 160 rows, by OpenCV: the same where its border does not reach.
    logits = np.tensordot(coefficients[0], prototypes, axes=1)[35:125]
    whole = cv2.resize(logits, size_wh, interpolation=cv2.INTER_LINEAR)
    rim = -(-size_wh[1] // 90)
    clear = ~undecided(whole.astype(np.float64), prototypes, coefficients[0])
    clear[:rim] = clear[-rim:] = False
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(cpu[0][clear], whole[clear] > 0)
    assert 0.02 < cpu.mean() < 0.5


def test_everyday_sizes_on_both_devices(module: HostModule) -> None:
    random = np.random.default_rng(3)
    placements = [place(size_wh, (640, 640), "letterbox") for size_wh in [(640, 480), (1283, 721), (100, 160)]]
    prototypes = random.normal(size=(3, 32, 160, 160)).astype(np.float32)
    coefficients = random.normal(size=(3, 5, 32)).astype(np.float32)
    corners = np.sort(random.uniform(0, 1, (3, 5, 2, 2)), axis=2).reshape(3, 5, 4)
    xyxy = (corners * [[p.source_wh * 2] for p in placements]).astype(np.float32)
    gpu = on_gpu(module, prototypes, coefficients, xyxy, placements)
    for i, placement in enumerate(placements):
        cpu = assemble(prototypes[i], coefficients[i], xyxy[i], placement, placement.source_wh)
        assert (cpu != gpu[i]).mean() < 1e-4  # where logits are zero but for rounding
        assert 0.01 < cpu.mean() < 0.5


# Cells finer than the masks' pixels are not worth keeping: they are summed where they are looked at.
@pytest.mark.parametrize(("cells", "sizes_wh"), [(16, [(150, 37), (50, 80)]), (64, [(10, 7), (3, 9)])])
def test_the_order_of_threads_changes_nothing(module: HostModule, cells: int, sizes_wh: list[tuple[int, int]]) -> None:
    random = np.random.default_rng(5)
    placements = [place(size_wh, (64, 64), "letterbox") for size_wh in sizes_wh]
    prototypes = random.normal(size=(2, 8, cells, cells)).astype(np.float32)
    coefficients = random.normal(size=(2, 40, 8)).astype(np.float32)  # more than are done at once
    corner = random.uniform(0, 0.4, (2, 40, 2))
    corners = np.concatenate([corner, corner + random.uniform(0.3, 0.6, (2, 40, 2))], axis=2)
    xyxy = (corners * [[p.source_wh * 2] for p in placements]).astype(np.float32)
    results = [on_gpu(module, prototypes, coefficients, xyxy, placements, seed) for seed in range(4)]
    for i, at in enumerate(placements):
        assert all(np.array_equal(results[0][i], other[i]) for other in results[1:])
        cpu = assemble(prototypes[i], coefficients[i], xyxy[i], at, at.source_wh)
        assert (results[0][i] != cpu).mean() < 1e-4  # where logits are zero but for rounding
        assert results[0][i].any(axis=(1, 2)).mean() > 0.8


def test_an_empty_box_and_a_box_outside_give_empty_masks() -> None:
    placement = place((40, 40), (40, 40), "stretch")
    xyxy = np.array([[5, 5, 5, 9], [50, 50, 60, 60], [0, 0, 40, 40]], np.float32)
    ones = np.ones((1, 4, 4), np.float32)
    masks = assemble(ones, np.ones((3, 1), np.float32), xyxy, placement, (40, 40))
    assert masks.sum(axis=(1, 2)).tolist() == [0, 0, 1600]
    assert assemble(ones, np.ones((0, 1), np.float32), xyxy[:0], placement, (8, 6)).shape == (0, 6, 8)


def test_too_many_prototypes_are_refused(module: HostModule) -> None:
    nms: Any = CudaNms(HostDevice(), module, 5, Nms(), np.zeros(1, np.float32), 1)
    with pytest.raises(UsageError, match="up to 256 prototypes, got 257"):
        CudaMasks(module, boxes=5, prototypes=(257, 8, 8), input_wh=(32, 32), result=nms.result)


# --- a small map per box ----------------------------------------------------------------------------------------------


def enlarged(cells: NDArray[Any], box: NDArray[Any], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """What OpenCV makes of a map with its border of zeros, laid over its box in a picture."""
    side = len(cells)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * np.float32((side + 2) / side)
    x1, y1, x2, y2 = (int(v) for v in np.concatenate([centre - half, centre + half]))
    wide, high = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    resized = cv2.resize(np.pad(cells, 1).astype(np.float64), (wide, high), interpolation=cv2.INTER_LINEAR)
    picture = np.zeros(size_wh[::-1])
    for row in range(max(y1, 0), min(y1 + high, size_wh[1])):
        for column in range(max(x1, 0), min(x1 + wide, size_wh[0])):
            picture[row, column] = resized[row - y1, column - x1]
    return picture


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 14, 28]), st.booleans())
def test_a_map_is_pasted_over_its_box_as_opencv_enlarges_it(seed: int, side: int, outside: bool) -> None:
    random = np.random.default_rng(seed)
    size_wh = int(random.integers(1, 70)), int(random.integers(1, 70))
    reach = 40 if outside else 0
    corners = np.sort(random.uniform(-reach, max(size_wh) + reach, (3, 2, 2)), axis=1).astype(np.float32)
    boxes = corners.reshape(3, 4)
    cells = random.random((3, side, side)).astype(np.float32)
    masks = paste(cells, boxes, size_wh)
    assert masks.shape == (3, size_wh[1], size_wh[0])
    for mask, values, box in zip(masks, cells, boxes, strict=True):
        expected = enlarged(values, box, size_wh)
        clear = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal(mask[clear], expected[clear] > 0.5)


def test_a_map_of_an_enormous_box_costs_no_more_than_the_picture() -> None:
    masks = paste(np.ones((2, 28, 28), np.float32), np.float32([[-1e18, -1e18, 1e18, 1e18], [5e8, 0, 1e9, 4]]), (8, 6))
    assert masks[0].all()
    assert not masks[1].any()
