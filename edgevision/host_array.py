"""Bytes that the GPU writes and the host reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgevision.cuda import Buffer, Device, Pinned, Stream


class HostArray:
    """Mapped host memory where the GPU shares it, else a pair of buffers.

    Attributes:
        nbytes: how many there are.
    """

    def __init__(self, device: Device, nbytes: int = 0) -> None:
        """Raises DeviceError: the memory does not suffice."""
        self._device, self.nbytes = device, 0
        self._pinned: Pinned | None = None
        self._buffer: Buffer | None = None
        self.fit(nbytes)

    def fit(self, nbytes: int) -> bool:
        """Make it at least so large; whether it moved, and lost its bytes. The stream must be idle.

        Raises:
            DeviceError: the memory does not suffice.
        """
        if nbytes <= self.nbytes:
            return False
        self.close()
        self._pinned = self._device.pinned((nbytes,), np.uint8)
        if self._pinned.address is None:
            try:
                self._buffer = self._device.allocate(nbytes)
            except BaseException:
                self.close()
                raise
        self.nbytes = nbytes
        return True

    @property
    def shared(self) -> bool:
        """Whether the GPU writes where the host reads: nothing is ever copied."""
        return self._buffer is None

    @property
    def address(self) -> int:
        """Where the GPU writes."""
        assert self._pinned is not None
        address = self._pinned.address if self._buffer is None else self._buffer.address
        assert address is not None
        return address

    @property
    def array(self) -> NDArray[np.uint8]:
        """(nbytes,) uint8: what the host reads once the stream is done."""
        assert self._pinned is not None
        array: NDArray[np.uint8] = self._pinned.array
        return array

    def fetch(self, part: slice, stream: Stream) -> None:
        """Bring a part of the bytes to the host, unless they are written there anyway."""
        if self._buffer is not None:
            self._device.download(self.array[part], self._buffer.address + part.start, stream)

    def close(self) -> None:
        """Free it; may be called twice."""
        self.nbytes = 0
        for handle in (self._pinned, self._buffer):
            if handle is not None:
                handle.close()
        self._pinned = self._buffer = None
