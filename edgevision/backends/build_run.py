"""Runs a build in a thread of its own, so that Ctrl-C arrives and the time is shown while native code works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import Builder, IBuilderConfig, INetworkDefinition, IProgressMonitor
from edgevision.progress import Progress

Current = Callable[[], AbstractContextManager[object]]
"""Makes a GPU's context current in a `with` block."""
_CANCEL_LIMIT_S = 600.0
_WAIT_S = 0.1


def run_build(
    api: Api,
    builder: Builder,
    network: INetworkDefinition,
    config: IBuilderConfig,
    progress: Progress | None,
    current: Current,
) -> bytes | None:
    """The serialised engine, or None where the builder failed (its log says why).

    TensorRT 10 and later report their steps and can be cancelled. TensorRT 8 can neither: the time passed is shown,
    and after Ctrl-C the thread is left to end with the process.

    Args:
        api, builder, network, config: what to build.
        progress: shows how far it is.
        current: makes the GPU's context current, in the thread that builds.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    cancelled = threading.Event()
    monitor = None
    if hasattr(config, "progress_monitor"):
        monitor = _monitor(api, cancelled, progress)
        config.progress_monitor = monitor
    result: list[bytes] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            if cancelled.is_set():
                return
            with current():
                plan = builder.build_serialized_network(network, config)
                if plan is not None:
                    result.append(bytes(plan))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failure.append(error)
        finally:
            finished.set()

    # Not Thread.join: interrupted by Ctrl-C, it takes a running thread for a finished one.
    finished = threading.Event()
    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    start = time.monotonic()
    try:
        thread.start()
        while not finished.wait(_WAIT_S):
            if monitor is None and progress is not None:
                progress.update(0, f"{time.monotonic() - start:.0f} s so far; this TensorRT gives no estimate")
    except KeyboardInterrupt:
        cancelled.set()
        give_up = time.monotonic() + (_CANCEL_LIMIT_S if monitor is not None else 0)
        while thread.is_alive() and time.monotonic() < give_up:
            finished.wait(_WAIT_S)
        raise
    thread.join()
    if failure:
        raise failure[0]
    return result[0] if result else None


def _monitor(api: Api, cancelled: threading.Event, progress: Progress | None) -> IProgressMonitor:
    trt = api.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        """Steps of phases, which nest: a phase takes the place of one step of its parent."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._start = time.monotonic()
            self._phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[phase] = (None if parent == phase else parent, 0, max(steps, 1))

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                parent, _, steps = self._phases.get(phase, (None, 0, 1))
                self._phases[phase] = (parent, min(step + 1, steps), steps)
                if progress is not None:
                    progress.update(note=f"{phase}{self._estimate()}")
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def _estimate(self) -> str:
            """What the outermost phase has done, with the shares of the phases within its current step."""
            done = sum(self._share(name) for name, entry in self._phases.items() if entry[0] not in self._phases)
            if not 0.02 < done <= 1:
                return ""
            left = (time.monotonic() - self._start) * (1 - done) / done
            return f", {done:.0%}, about {left:.0f} s left"

        def _share(self, phase: str) -> float:
            _, step, steps = self._phases[phase]
            inner = sum(self._share(name) for name, entry in self._phases.items() if entry[0] == phase)
            return min((step + min(inner, 1)) / steps, 1)

    return Monitor()
