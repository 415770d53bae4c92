"""Pictures in device memory become the network's input tensor: one launch for a whole batch (preprocess.cu).

The device does whole-number arithmetic only: the weights of the resize and the normalised value of every level are
worked out here, once per picture size and once per model. So the tensor has the bits of the CPU's Preprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.frame import check_sides
from edgevision.geometry import Placement, place
from edgevision.kernels.fixed_point import taps
from edgevision.kernels.picture import PICTURE, describe
from edgevision.kernels.resident import resident
from edgevision.manifest import Preprocess

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module, Stream

DTYPES = ("float32", "float16", "uint8")
_TILE_WH, _THREADS = (64, 16), 256  # preprocess.cu's


class CudaPreprocessor:
    """Writes batches of pictures into input tensors as one `Preprocess` says.

    Every picture of a batch has its own size and format. They are described in device memory, so a launch that was
    captured in a CUDA graph serves whatever `place` says later.

    Attributes:
        spec: what it does.
        shape: of the input tensor, (batch, channels, h, w) or (batch, h, w, channels).
        dtype: of the input tensor.
        pictures_address: the batch's records (picture.PICTURE) in device memory, for the kernels after the network.
    """

    def __init__(
        self, device: Device, module: Module, spec: Preprocess, batch: int = 1, dtype: str | None = None
    ) -> None:
        """
        Args:
            device: where the pictures are.
            module: the kernels, from compile.load_kernels.
            spec: what to do.
            batch: pictures at once.
            dtype: what the engine takes, one of DTYPES; by default what `spec` says. float16 is float32, rounded.

        Raises:
            UsageError: dtype or batch cannot be.
            DeviceError: the device refuses.
        """
        self.dtype: np.dtype[Any] = np.dtype(dtype or spec.dtype)
        if self.dtype.name not in DTYPES or (self.dtype.name == "uint8") != (spec.dtype == "uint8"):
            raise UsageError(f"an input of {spec.dtype} cannot be made as {self.dtype.name}; types are {DTYPES}")
        if not 1 <= batch <= 65535:
            raise UsageError(f"a batch has 1 to 65535 pictures, got {batch}")
        self.spec = spec
        width, height = spec.input_wh
        self.shape = (batch, *spec.input_shape)
        self._device = device
        # One channel lies in memory alike in either layout.
        form = "gray" if spec.color == "gray" else spec.layout
        self._kernel = module.kernel(f"preprocess_{form}_{self.dtype.itemsize}", "PPPiii")
        self._grid = (-(-width // _TILE_WH[0]), -(-height // _TILE_WH[1]), batch)
        self._slots: list[_Slot | None] = [None] * batch
        self._filled: set[int] = set()
        self._taps_bytes = 4 * (width + height)
        values = value_table(spec, self.dtype)
        records = np.zeros(batch * (PICTURE.itemsize + self._taps_bytes), np.uint8)
        self._memory = resident(device, np.concatenate([records, values.view(np.uint8)]))
        self.pictures_address = self._memory.address
        self._taps_address = self.pictures_address + batch * PICTURE.itemsize
        self._values_address = self._taps_address + batch * self._taps_bytes

    def place(
        self,
        index: int,
        width: int,
        height: int,
        pixel_format: str,
        pitch_bytes: int,
        address: int,
        stream: Stream,
        *,
        chroma_address: int | None = None,
        chroma_pitch_bytes: int | None = None,
    ) -> Placement:
        """Say where a picture of the batch lies; uploads its record, and a new size's weights, only when they change.

        Not while a stream captures.

        Args:
            index: position in the batch.
            width, height: its size, pixels.
            pixel_format: one of picture.PIXEL_FORMATS.
            pitch_bytes: from one row to the next.
            address: of its first row, device memory. For full speed a multiple of 8, as is the pitch.
            stream: the one that the launches are put on.
            chroma_address, chroma_pitch_bytes: nv12's second plane; by default right behind the first, of equal pitch.

        Returns:
            Where the picture lies in the input.

        Raises:
            UsageError: sides, pitch or format cannot be.
            DeviceError: the device refuses.
        """
        source = (width, height, pixel_format, pitch_bytes, address, chroma_address, chroma_pitch_bytes)
        slot = self._slots[index]
        if slot is not None and slot.source == source:
            return slot.placement
        check_sides((width, height))
        placement = place((width, height), self.spec.input_wh, self.spec.resize)
        taps_address = self._taps_address + index * self._taps_bytes
        record = describe(
            placement,
            pixel_format,
            address,
            pitch_bytes,
            chroma_address=chroma_address,
            chroma_pitch_bytes=chroma_pitch_bytes,
            taps_address=taps_address,
        )
        self._slots[index] = None  # until both uploads are under way
        self._filled.add(index)
        if slot is not None and slot.placement == placement:
            weights = slot.weights
        else:
            weights = taps(placement)
            self._device.upload(taps_address, weights, stream)
        self._device.upload(self.pictures_address + index * PICTURE.itemsize, record, stream)
        self._slots[index] = _Slot(source, placement, weights, record)
        return placement

    def clear(self, index: int, stream: Stream) -> None:
        """Let a position of the batch hold no picture. Not while a stream captures.

        Raises:
            DeviceError: the device refuses.
        """
        if index in self._filled:
            self._slots[index] = None
            self._device.fill(self.pictures_address + index * PICTURE.itemsize, 0, PICTURE.itemsize, stream)
            self._filled.discard(index)

    def __call__(self, out_address: int, stream: Stream) -> None:
        """Write the input tensor of `shape` and `dtype`; slots where nothing was placed become padding.

        Args:
            out_address: device memory, a multiple of 16.
            stream: where the launch goes.

        Raises:
            DeviceError: the device refuses.
        """
        width, height = self.spec.input_wh
        rgb = int(self.spec.color == "rgb")
        self._kernel(
            stream,
            self._grid,
            (_THREADS, 1, 1),
            self.pictures_address,
            self._values_address,
            out_address,
            width,
            height,
            rgb,
        )

    def close(self) -> None:
        """Free the device memory; may be called twice."""
        self._memory.close()


@dataclass(frozen=True)
class _Slot:
    """What the device was told about one picture; holds the arrays while they are copied."""

    source: tuple[Any, ...]
    placement: Placement
    weights: NDArray[np.uint32]
    record: NDArray[Any]


def value_table(spec: Preprocess, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What the network is given for every level of every channel, then for the padding of every channel.

    Returns:
        (channels * 256 + channels,) of `dtype`, channels in the network's order.
    """
    mean, std = np.array(spec.mean, np.float32)[:, None], np.array(spec.std, np.float32)[:, None]
    levels = (np.arange(256, dtype=np.float32) - mean) / std
    # A grey level between two is kept where the type can; bytes are rounded as the CPU's are.
    grey = round(spec.pad_value) if dtype == np.uint8 else spec.pad_value
    padding = (np.float32(grey) - mean) / std
    with np.errstate(over="ignore"):  # beyond float16 lies infinity
        return np.concatenate([levels.ravel(), padding.ravel()]).astype(dtype)
