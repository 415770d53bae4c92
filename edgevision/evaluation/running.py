"""Pictures through models: one single-threaded lane of each model per worker, one worker per core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.evaluation.datasets import Picture
from edgevision.manifest import Preprocess
from edgevision.model import Model
from edgevision.progress import Progress
from edgevision.results import Result

_UINT8_GAIN = 12 / 11  # of uniform noise in -0.5..0.5: rounded, its variance is 1/12, as it was


class Dither:
    """Uniform noise of up to half a grey level on the network's input, a function of run and picture number only: all
    graphs of a bundle see the same, whatever form their input has.

    An input of whole levels has no room for it. There the noise, a little enlarged, is rounded: one value of twelve
    moves by a level, which is the same variance.
    """

    def __init__(self, spec: Preprocess, run: int) -> None:
        self._spec, self._run = spec, run
        self._levels = (1 / np.array(spec.std, np.float32))[:, None, None]

    def __call__(self, tensor: NDArray[Any], picture: int) -> NDArray[Any]:
        """`tensor` with noise, a new array."""
        width, height = self._spec.input_wh
        random = np.random.default_rng([self._run, picture])
        noise: NDArray[Any] = random.random((self._spec.channels, height, width), np.float32) - np.float32(0.5)
        if self._spec.color == "bgr":  # drawn as red, green, blue
            noise = noise[::-1]
        whole = self._spec.dtype == "uint8"
        noise = np.rint(noise * np.float32(_UINT8_GAIN)) if whole else noise * self._levels
        if self._spec.layout == "nhwc":
            noise = noise.transpose(1, 2, 0)
        moved: NDArray[Any] = np.ascontiguousarray(noise) + tensor
        return moved.clip(0, 255).astype(np.uint8) if whole else moved


def dithers(models: Sequence[Model], run: int) -> list[Dither | None]:
    """The noise of one of several runs, for each model's own input."""
    return [Dither(model.manifest.preprocess_of(model.graph_name), run) for model in models]


def run_pictures(
    models: Sequence[Model],
    noise: Sequence[Dither | None],
    pictures: Sequence[Picture],
    numbers: Sequence[int],
    take: Callable[[int, list[Result]], None],
    progress: Progress,
    known: Callable[[int], Result | None] | None = None,
) -> None:
    """Send the pictures `numbers` through all models and give the results, in the models' order, to `take`.

    Args:
        noise: of each model's input, or None.
        take: called with the picture's number and its results, once per picture, from several threads.
        known: gives, from several threads, too, the first model's result on a picture, which is then not run on it.

    Raises:
        DatasetError: a picture cannot be read.
        SessionError: inference failed.
    """
    waiting = iter(numbers)
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        with ExitStack() as stack:
            lanes = []
            for model in models:
                lanes.append(model.open_lane())
                stack.callback(lanes[-1].close)
            while not stop.is_set():
                with lock:
                    index = next(waiting, None)
                if index is None:
                    return
                image = pictures[index].read()
                for lane, dither in zip(lanes, noise, strict=True):
                    lane.perturb = None if dither is None else _bound(dither, index)
                first = None if known is None else known(index)
                results = [] if first is None else [first]
                take(index, results + [lane(image) for lane in lanes[len(results) :]])
                with lock:
                    progress.update()

    workers = min(len(numbers), *(model.lanes() for model in models))
    with ThreadPoolExecutor(workers, "evaluate") as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            for future in futures:
                future.result()
        finally:  # after an error or Ctrl-C the others finish the picture they are at
            stop.set()


def _bound(dither: Dither, picture: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda tensor: dither(tensor, picture)
