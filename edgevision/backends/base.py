"""What an inference backend is: it opens a graph's bytes as a session that maps named arrays to named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and numpy dtype name of a session's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(Protocol):
    """One loaded graph with its own memory. Not for use from two threads at once: open one per worker."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Infer. Returned arrays stay valid until the next run of this session.

        Raises:
            SessionError: an input is missing or does not fit, or the backend failed.
        """
        ...

    def sibling(self) -> Session:
        """A session over the same loaded graph with its own buffers, for use from another thread."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice."""
        ...
