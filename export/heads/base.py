"""What a head is: it recognises one family of models in a graph and rewrites the graph's end into the normal form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgevision.errors import UsageError
from edgevision.export.config import ExportConfig
from edgevision.export.graph import Graph
from edgevision.export.metadata import Metadata
from edgevision.export.recipes import Triple
from edgevision.manifest import Nms


@dataclass(frozen=True)
class ImageInput:
    """The input that takes the picture.

    Attributes:
        name: tensor name.
        wh: width and height, pixels.
        layout: `nchw` or `nhwc`.
        dtype: `float32` or `uint8`.
        channels: 3, or 1 for grey pictures.
    """

    name: str
    wh: tuple[int, int]
    layout: str
    dtype: str
    channels: int


@dataclass(frozen=True)
class SourceModel:
    """What a head looks at.

    Attributes:
        graph: the loaded graph, constants folded. `recognise` leaves it alone, `normalise` edits it.
        image: its picture input.
        metadata: what the exporter noted.
        config: what the user said.
        labels: class names from the user or the metadata, as they stand there (background included).
        chosen: the user (`--family`) or the file's metadata names this family: structural doubts are settled.
    """

    graph: Graph
    image: ImageInput
    metadata: Metadata
    config: ExportConfig
    labels: tuple[str, ...] | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Match:
    """A head recognised its family.

    Attributes:
        reason: what it saw, in words.
        found: what `normalise` needs to know again, head by head.
    """

    reason: str
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A head does not recognise its family: what is different, and which flags would settle a doubt."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class PreprocessDefaults:
    """A family's own preprocessing; None where the family does not fix it.

    Attributes:
        source: where these come from, for the report.
        candidates: what `--preprocess` commonly is for this family, offered where something is None.
    """

    source: str
    resize: str | None = "stretch"
    color: str | None = "rgb"
    mean: Triple | None = None
    std: Triple | None = None
    pad_value: float = 114.0
    candidates: str = ""


@dataclass(frozen=True)
class NormalForm:
    """What a head made of a graph.

    Attributes:
        task: one of manifest.TASKS; the graph's outputs are that task's.
        classes: number of classes, background removed.
        preprocess: the family's preprocessing.
        nms: the family's suppression; None for tasks without.
        facts: decisions taken and what was cut, for the report.
        labels: the family's own class names, where it always has the same.
        float_only: why the graph runs in float32 alone, with sizes inside it that depend on the picture; empty where
            it takes every precision.
    """

    task: str
    classes: int
    preprocess: PreprocessDefaults
    nms: Nms | None
    facts: Mapping[str, object]
    labels: tuple[str, ...] = ()
    float_only: str = ""


class Head(Protocol):
    """A family.

    Attributes:
        name: its name, equal to the module's.
        about: one line for the documentation.
        options: what `--head NAME=VALUE` takes: name -> what it means.
    """

    name: str
    about: str
    options: Mapping[str, str]

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """Say whether the model is of this family, looking at metadata first, then names, then structure."""
        ...

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """Cut the graph at the head and append the decode.

        Raises:
            ModelError: something that the file does not say is needed; the message names the flag.
        """
        ...


def choice(model: SourceModel, head: Head, name: str, allowed: tuple[str, ...]) -> tuple[str, str] | None:
    """An option's value and where it came from (the user's flag, else the metadata's section of the head's name).

    Raises:
        UsageError: it is none of `allowed`.
    """
    for value, source in (
        (model.config.head.get(name), f"--head {name}="),
        (model.metadata.section(head.name).get(name), "metadata"),
    ):
        if value is None:
            continue
        text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if text not in allowed:
            raise UsageError(f"{source}{value}: {head.name}'s {name} is one of {', '.join(allowed)}")
        return str(text), source.rstrip("=")
    return None
