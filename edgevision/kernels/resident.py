"""Arrays that kernels read and that never change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgevision.cuda import Buffer, Device


def resident(device: Device, array: NDArray[Any]) -> Buffer:
    """Device memory that holds a contiguous array, already there when this returns.

    Raises:
        DeviceError: the device refuses; nothing is left behind.
    """
    buffer = device.allocate(array.nbytes)
    try:
        stream = device.stream()
        try:
            device.upload(buffer.address, array, stream)
            stream.synchronize()
        finally:
            stream.close()
    except BaseException:
        buffer.close()
        raise
    return buffer
