"""A TensorRT plan, loaded: the engine, and contexts that run it on addresses of device memory.

One engine serves any number of contexts; each context belongs to one stream and one thread at a time. Everything that
touches the GPU does so in the device's primary context, from whatever thread it is called.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edgevision.backends.base import TensorSpec
from edgevision.backends.tensorrt_api import Api, Records, open_logger, open_recorder
from edgevision.backends.tensorrt_types import (
    DataType,
    ICudaEngine,
    IErrorRecorder,
    IExecutionContext,
    ILogger,
    Runtime,
)
from edgevision.errors import PlanError, SessionError

if TYPE_CHECKING:
    from edgevision.cuda import Device, Stream


class Engine:
    """A plan on one GPU.

    Attributes:
        title: the TensorRT that runs it.
        device: where it is.
        inputs, outputs: its tensors at the largest batch.
        batch: smallest, preferred and largest number of pictures in one run.
        open_shape: the number must be said before a run, even where only one is possible.
    """

    def __init__(
        self, api: Api, plan: bytes, device: Device, *, origin: str = "unknown", dla_core: int | None = None
    ) -> None:
        """Load a plan.

        Args:
            api: the TensorRT that built it.
            plan: the serialised engine.
            device: the GPU to load it on.
            origin: what the plan was built for, for messages.
            dla_core: the accelerator it was built for; None: the GPU.

        Raises:
            PlanError: TensorRT refuses the plan; says what it was built for and what this machine is.
            SessionError: the engine cannot be used here: it has tensors of open shape or of a type numpy lacks.
        """
        self.title, self.device = api.title, device
        self._api, self._lock = api, threading.Lock()
        log = open_logger(api)
        self._log: ILogger = log  # the runtime does not keep it alive
        self._records: Records = log.records
        self._engine: ICudaEngine | None = None
        self._runtime: Runtime | None = None
        with device.current():
            runtime: Runtime = api.module.Runtime(log)
            # Version-compatible plans carry code for the host. Plans come from our own cache, hash and all.
            runtime.engine_host_code_allowed = True
            if dla_core is not None:
                runtime.DLA_core = dla_core
            engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise PlanError(
                    f"{api.title} on {device.name} (SM {device.sm}) refuses this plan, which was built for {origin}"
                    f"{self._records.said}. Build it for this machine with: edgevision build BUNDLE"
                )
            # An engine does not keep its runtime alive.
            self._runtime, self._engine = runtime, engine
            try:
                self.inputs, self.outputs, self.batch, self.open_shape = _tensors(api, engine, self._records)
            except BaseException:
                self.close()
                raise

    def open_context(self) -> EngineContext:
        """A way to run it, with its own memory. From any thread.

        Raises:
            SessionError: the engine is closed, or TensorRT cannot make one (most often: out of memory).
        """
        with self._lock, self.device.current():
            if self._engine is None:
                raise SessionError("this engine is closed; load the model again")
            context: IExecutionContext = self._engine.create_execution_context()
            if context is None:
                raise SessionError(
                    f"{self.title} cannot open an execution context{self._records.said}; "
                    "if memory is short, close other models or run fewer lanes"
                )
            recorder = open_recorder(self._api)
            return EngineContext(self, context, recorder, recorder.records)

    def close(self) -> None:
        """Free it; contexts must be closed before. May be called twice."""
        with self._lock, self.device.current():
            # The engine first: it needs its runtime.
            self._engine = None
            self._runtime = None


class EngineContext:
    """One stream's way to run an engine; open it with `Engine.open_context`. Not for two threads at once."""

    def __init__(self, engine: Engine, context: IExecutionContext, recorder: IErrorRecorder, records: Records) -> None:
        self._engine, self._records = engine, records
        self._recorder: IErrorRecorder = recorder
        context.error_recorder = recorder
        self._context: IExecutionContext | None = context
        self._batch = 0
        try:
            self.set_batch(engine.batch[1])
        except BaseException:
            self.close()
            raise

    def bind(self, name: str, address: int) -> None:
        """Say where in device memory a tensor lies; it holds until said otherwise.

        Raises:
            SessionError: there is no such tensor, or TensorRT refuses the address.
        """
        if not self._open().set_tensor_address(name, address):
            raise SessionError(
                f"{self._engine.title} refuses address {address:#x} for tensor {name!r}{self._records.said}"
            )

    def set_batch(self, count: int) -> None:
        """The number of pictures of the following runs.

        Raises:
            SessionError: the engine was not built for it.
        """
        if count == self._batch:
            return
        least, _, most = self._engine.batch
        if not least <= count <= most:
            raise SessionError(
                f"this engine runs {least} to {most} pictures at once, got {count}; build it with --batch"
            )
        context = self._open()
        if self._engine.open_shape:
            for spec in self._engine.inputs:
                if not context.set_input_shape(spec.name, (count, *spec.shape[1:])):
                    raise SessionError(f"{self._engine.title} refuses a batch of {count}{self._records.said}")
        self._batch = count

    def enqueue(self, stream: Stream) -> None:
        """Run on `stream`; returns before it is done.

        Raises:
            SessionError: TensorRT could not enqueue it.
        """
        if not self._open().execute_async_v3(stream.handle):
            raise SessionError(f"{self._engine.title} failed to run{self._records.said}")

    def _open(self) -> IExecutionContext:
        if self._context is None:
            raise SessionError("this context is closed; open another one")
        return self._context

    def close(self) -> None:
        """Free it; may be called twice."""
        with self._engine.device.current():
            self._context = None


def _tensors(
    api: Api, engine: ICudaEngine, records: Records
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[int, int, int], bool]:
    """Inputs and outputs at the largest batch; the smallest, preferred and largest batch; whether it is open."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name) for name in names}
    ins = [name for name in names if modes[name] == api.module.TensorIOMode.INPUT]
    context: IExecutionContext = engine.create_execution_context()
    if context is None:
        raise SessionError(
            f"{api.title} cannot open an execution context{records.said}; if memory is short, close other models"
        )
    batch: tuple[int, int, int] | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ins:
        shape = tuple(engine.get_tensor_shape(name))
        if -1 in shape:
            low, best, high = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
            batch, shape = (low[0], best[0], high[0]), high
            context.set_input_shape(name, shape)
        shapes[name] = shape
    open_shape = batch is not None
    if batch is None:
        batch = (shapes[ins[0]][0],) * 3 if ins else (1, 1, 1)
    specs = {}
    for name in names:
        shape = shapes.get(name) or tuple(context.get_tensor_shape(name))
        if any(side < 0 for side in shape):
            raise SessionError(f"tensor {name!r} of this engine has the open shape {shape}; export the model again")
        specs[name] = TensorSpec(name, shape, _dtype(api, name, engine.get_tensor_dtype(name)))
    outs = [name for name in names if name not in ins]
    return tuple(specs[name] for name in ins), tuple(specs[name] for name in outs), batch, open_shape


def _dtype(api: Api, name: str, kind: DataType) -> str:
    try:
        dtype: str = api.module.nptype(kind)().dtype.name
    except TypeError as error:
        raise SessionError(f"tensor {name!r} is {kind}, which numpy lacks; export the model again") from error
    return dtype
