"""Every emitted graph against the float one, on real pictures: nothing broken leaves the house, losses are stated."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import OpenBatchSession, open_batch_session, open_session
from edgevision.calibration import CalibrationImages
from edgevision.errors import ModelError, SessionError
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Preprocess

PICTURES = 8
_AT_ONCE = 2
"""Inferences at one time, on as many cores: each needs memory of its own."""
_BEST_BOXES = 100
_ROUNDS = 15
# Below these, a user should look before deploying: (scores' SQNR in dB, share of equal pixels).
# FP16's is of graphs with every result rounded (39 to 53 dB on real detectors).
_EXPECTED = {"fp32": (80.0, 0.9999), "fp16": (36.0, 0.995), "int8": (12.0, 0.9)}
_TWICE_DB = 3.0
_NO_MATTER = 0.002

Outputs = dict[str, NDArray[Any]]


def input_tensors(
    preprocess: Preprocess, images: CalibrationImages | None, count: int = PICTURES
) -> list[NDArray[Any]]:
    """Network inputs from `count` calibration pictures, evenly spaced; from drawn ones where none are given.

    Raises:
        CalibrationError: none of the pictures can be read.
    """
    return tensors_of(preprocess, _drawn_pictures(count) if images is None else _spread(images, count))


def tensors_of(preprocess: Preprocess, pictures: Iterable[NDArray[np.uint8]]) -> list[NDArray[Any]]:
    """Network inputs from BGR pictures."""
    preprocessor = Preprocessor(preprocess)
    tensors = []
    for picture in pictures:
        tensor = np.empty(preprocessor.shape, preprocessor.dtype)
        preprocessor(picture, tensor[0])
        tensors.append(tensor)
    return tensors


def _spread(images: CalibrationImages, count: int) -> Iterator[NDArray[np.uint8]]:
    spaced = dict.fromkeys(i * len(images) // count for i in range(count))
    numbers = [*spaced, *(i for i in range(len(images)) if i not in spaced)]
    readable = (image for i in numbers if (image := images.read(i)) is not None)
    found = list(islice(readable, count))
    return iter(found) if found else (image for _, image in islice(images, count))


@cache
def _drawn_pictures(count: int) -> list[NDArray[np.uint8]]:
    """Seeded pictures with the spectrum of natural ones (amplitude falls with frequency) and hard-edged objects."""
    random = np.random.default_rng(20260101)
    height, width = 480, 640
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    pictures = []
    for _ in range(count):
        planes = []
        for _ in range(3):
            phase = np.exp(2j * np.pi * random.random(frequency.shape)) / frequency
            plane = np.fft.irfft2(phase, (height, width))
            planes.append((plane - plane.mean()) / plane.std() * 45 + random.uniform(80, 170))
        picture = np.stack(planes, axis=2)
        for _ in range(12):
            x, y = random.integers(0, (width - 40, height - 40))
            w, h = random.integers(20, 160, 2)
            area = picture[y : y + h, x : x + w]
            area[...] = random.uniform(0, 255, 3) + random.normal(0, 8, area.shape)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return pictures


def run_graph(graph: bytes, inputs: Sequence[NDArray[Any]], *, exact: bool) -> list[Outputs]:
    """Outputs of a graph for each input.

    Raises:
        ModelError: the graph does not run, or gives NaN or infinite values.
    """
    return run_all(open_graph(graph, exact=exact), inputs)


def open_graph(graph: bytes, *, exact: bool) -> OpenBatchSession:
    """Load a graph; `exact`: see open_session.

    Raises:
        ModelError: ONNX Runtime refuses it.
    """
    try:
        return open_batch_session(graph, exact=exact)
    except SessionError as error:
        raise ModelError(f"the graph does not run: {error}") from error


def run_all(session: OpenBatchSession, inputs: Sequence[NDArray[Any]]) -> list[Outputs]:
    """Outputs for each input.

    Raises:
        ModelError: the graph does not run, or gives NaN or infinite values.
    """
    try:
        results = run_each(session, inputs)
    except SessionError as error:
        raise ModelError(f"the graph does not run: {error}") from error
    for outputs in results:
        for key, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                share = 1 - float(np.mean(np.isfinite(value)))
                raise ModelError(
                    f"output {key!r} has NaN or infinite values ({share:.1%} of them) on a picture; the network's "
                    "numbers leave the range of its precision: check the preprocessing, or export at --precision fp32"
                )
    return results


def run_each(session: OpenBatchSession, inputs: Iterable[NDArray[Any]]) -> list[Outputs]:
    """Outputs for each input, which may be anything.

    Raises:
        SessionError: ONNX Runtime failed.
    """
    with ThreadPoolExecutor(min(_AT_ONCE, cores()), "inference") as pool:
        return list(pool.map(session.run, inputs))


def compare(reference: Sequence[Outputs], emitted: Sequence[Outputs]) -> dict[str, float]:
    """How near an emitted graph's outputs are to the float graph's.

    Returns:
        `scores_sqnr_db` (signal over error of all class scores), `boxes_error_px` (mean corner distance of each
        picture's best boxes), `map_agreement` (share of pixels with the same class), as far as the task has them.
    """
    facts: dict[str, float] = {}
    pairs = list(zip(reference, emitted, strict=True))
    for name in ("scores", "logits"):
        if name in reference[0]:
            facts[f"{name}_sqnr_db"] = _sqnr([a[name] for a, _ in pairs], [b[name] for _, b in pairs])
    if "boxes" in reference[0]:
        facts["boxes_error_px"] = statistics.fmean(_box_error(a, b) for a, b in pairs)
    maps = [(class_map_of(a), class_map_of(b)) for a, b in pairs if class_map_of(a) is not None]
    if maps:
        facts["map_agreement"] = statistics.fmean(float(np.mean(a == b)) for a, b in maps)
    return {name: round(value, 5) for name, value in facts.items()}


def _sqnr(reference: list[NDArray[Any]], emitted: list[NDArray[Any]]) -> float:
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in reference)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(reference, emitted, strict=True))
    return min(200.0, 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30))))


def _box_error(reference: Outputs, emitted: Outputs) -> float:
    best = np.argsort(-reference["scores"].max(axis=-1).ravel(), kind="stable")[:_BEST_BOXES]
    return float(np.abs(reference["boxes"][0, best] - emitted["boxes"][0, best]).mean())


def class_map_of(outputs: Outputs) -> NDArray[Any] | None:
    """(1, h, w) class of every cell; None of other tasks."""
    if "logits" in outputs:
        return outputs["logits"].argmax(axis=1)  # type: ignore[no-any-return]
    return outputs.get("class_map")


def concerns(precision: str, facts: Mapping[str, float]) -> list[str]:
    """Warnings, where a graph is further from float than its precision explains."""
    sqnr, agreement = _EXPECTED[precision]
    found = [
        f"{name.split('_')[0]} carry noise: {facts[name]:.1f} dB SQNR, expected at least {sqnr:g}"
        for name in ("scores_sqnr_db", "logits_sqnr_db")
        if facts.get(name, sqnr) < sqnr
    ]
    if facts.get("map_agreement", 1.0) < agreement:
        found.append(f"{facts['map_agreement']:.1%} of the pixels agree with float, expected at least {agreement:.1%}")
    return found


def noisier(facts: Mapping[str, float], than: Mapping[str, float]) -> list[str]:
    """Why one INT8 graph is clearly worse than another, TensorRT's: twice the noise, or twice the pixels that differ
    from float. Both are of one model, so both have the same figures."""
    found = [
        f"{name.split('_')[0]} carry {than[name] - facts[name]:.1f} dB more noise than those of TensorRT's graph"
        for name in ("scores_sqnr_db", "logits_sqnr_db")
        if name in facts and facts[name] < than[name] - _TWICE_DB
    ]
    if "map_agreement" in facts:
        differing, theirs = 1 - facts["map_agreement"], 1 - than["map_agreement"]
        if differing > 2 * theirs + _NO_MATTER:
            found.append(f"{differing:.1%} of the pixels differ from float, in TensorRT's graph {theirs:.1%}")
    return found


def speed_ratio(reference: bytes, candidate: bytes, tensor: NDArray[Any], candidate_tensor: NDArray[Any]) -> float:
    """How many times faster `candidate` runs than `reference` on this machine's CPU, each on its own input: one thread
    each, one process, interleaved, medians."""
    pairs = [(open_session(reference, threads=1), tensor), (open_session(candidate, threads=1), candidate_tensor)]
    sessions = [session for session, _ in pairs]
    feeds = [{session.inputs[0].name: array} for session, array in pairs]
    times: tuple[list[float], list[float]] = ([], [])
    for round_number in range(_ROUNDS + 2):
        for session, feed, taken in zip(sessions, feeds, times, strict=True):
            start = time.perf_counter()
            session.run(feed)
            if round_number >= 2:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
