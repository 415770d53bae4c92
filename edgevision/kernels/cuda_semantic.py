"""From a semantic network's output to class maps of the source pictures, on the device (semantic.cu).

The same two definitions as on the CPU (cpu_semantic.py): logits are upsampled to the input's size and the largest wins
there, a class map goes to the source by nearest neighbour. The second is done in whole numbers, the first with
OpenCV's own operations (bilinear.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.kernels.bilinear import taps
from edgevision.kernels.resident import resident

if TYPE_CHECKING:
    from edgevision.cuda import Buffer, Device, Module, Stream

_BLOCK = (32, 8, 1)
_ROWS = 4  # semantic.cu's
_SOURCE_GRID = (16, 64)  # blocks for the source pictures, of whatever size: four pixels of 2048, one of 512 rows


class CudaSemantic:
    """Makes class maps at source size for a batch.

    Attributes:
        dtype: of the maps: uint8, int32 above 255 classes.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        input_wh: tuple[int, int],
        map_hw: tuple[int, int],
        classes: int,
        has_map: bool,
        batch: int = 1,
    ) -> None:
        """
        Args:
            device: where the network runs.
            module: the kernels, from compile.load_kernels.
            input_wh: the network's input size, pixels.
            map_hw: height and width of the network's output.
            classes: how many.
            has_map: the output is a class map already, [batch, h, w] of `dtype`; otherwise logits float32
                [batch, classes, h, w].
            batch: pictures at once.

        Raises:
            DeviceError: the device refuses.
        """
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if classes <= 255 else np.int32)
        self._input_wh, self._output_hw, self._classes, self._batch = input_wh, map_hw, classes, batch
        width, height = input_wh
        self._map_wh = map_hw[::-1] if has_map else input_wh
        size = self.dtype.itemsize
        self._to_source = module.kernel(f"semantic_to_source_{size}", "PPPiiii")
        self._argmax = None if has_map else module.kernel(f"semantic_argmax_{size}", "PPPiiiii")
        self._argmax_grid = (-(-width // _BLOCK[0]), -(-height // (_ROWS * _BLOCK[1])), batch)
        self._memory: list[Buffer] = []
        self._taps_address = 0
        if has_map:
            return
        try:
            self._memory.append(device.allocate(batch * height * width * size))
            if map_hw != (height, width):
                weights = np.concatenate([taps(map_hw[1], width), taps(map_hw[0], height)])
                self._memory.append(resident(device, weights))
                self._taps_address = self._memory[1].address
        except BaseException:
            self.close()
            raise

    def __call__(self, output_address: int, pictures_address: int, result_address: int, stream: Stream) -> None:
        """Put the work on `stream`.

        Args:
            output_address: the network's output, device memory.
            pictures_address: the batch's records, device memory (CudaPreprocessor.pictures_address).
            result_address: where the maps go, one right behind the other, each (source h, source w) of `dtype`:
                `result_bytes` of memory.
            stream: where the launches go.

        Raises:
            DeviceError: the device refuses.
        """
        maps = output_address
        if self._argmax is not None:
            maps = self._memory[0].address
            (rows, columns), (width, height) = self._output_hw, self._input_wh
            self._argmax(
                stream,
                self._argmax_grid,
                _BLOCK,
                output_address,
                self._taps_address,
                maps,
                self._classes,
                columns,
                rows,
                width,
                height,
            )
        self._to_source(
            stream,
            (*_SOURCE_GRID, self._batch),
            _BLOCK,
            maps,
            pictures_address,
            result_address,
            *self._map_wh,
            *self._input_wh,
        )

    def result_bytes(self, sizes_wh: Sequence[tuple[int, int]]) -> int:
        """Bytes of the maps of pictures of these sizes."""
        return self.dtype.itemsize * sum(width * height for width, height in sizes_wh)

    def split(self, result: NDArray[np.uint8], sizes_wh: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
        """Views (h, w) of `dtype`, one for each picture, of the result's bytes.

        Raises:
            UsageError: the bytes are fewer than those pictures have.
        """
        if result.nbytes < self.result_bytes(sizes_wh):
            raise UsageError(
                f"maps of {list(sizes_wh)} have {self.result_bytes(sizes_wh)} bytes, the result has {result.nbytes}"
            )
        maps, start = [], 0
        for width, height in sizes_wh:
            end = start + width * height * self.dtype.itemsize
            maps.append(result[start:end].view(self.dtype).reshape(height, width))
            start = end
        return maps

    def close(self) -> None:
        """Free the device memory; may be called twice."""
        for buffer in self._memory:
            buffer.close()
