"""What is measured: models with their pictures, named by a TOML file like models.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevision.errors import UsageError
from edgevision.export.toml_files import read_toml

_KEYS = {"file", "dataset", "export"}


@dataclass(frozen=True)
class Subject:
    """One model.

    Attributes:
        name: in tables and as a folder's name.
        file: the trained ONNX model.
        dataset: labelled pictures, as `edgevision eval` takes them.
        pictures: folder or glob to calibrate on.
        options: of ExportConfig, by name.
    """

    name: str
    file: Path
    dataset: str
    pictures: str
    options: Mapping[str, Any]


def read_subjects(path: Path) -> list[Subject]:
    """Every model that the file names, in its order.

    Raises:
        UsageError: the file cannot be read, or does not say what is needed.
    """
    table = read_toml(path)
    here = path.resolve().parent
    models, pictures = table.get("models"), table.get("calibration_images")
    if not isinstance(models, dict) or not models or not isinstance(pictures, str):
        raise UsageError(f"{path}: expected calibration_images = FOLDER and a table [models.NAME] for each model")
    subjects = []
    for name, entry in models.items():
        if not isinstance(entry, dict) or not {"file", "dataset"} <= set(entry) <= _KEYS:
            raise UsageError(f"{path}: [models.{name}] takes file, dataset and export, the first two always")
        options = _placed(entry.get("export", {}), here)
        file = here / entry["file"]
        if not file.is_file():
            raise UsageError(
                f"{path}: [models.{name}] names {file}, which is no file; name your own models with --models"
            )
        subjects.append(Subject(name, file, _placed(entry["dataset"], here), str(here / pictures), options))
    return subjects


def _placed(value: Any, here: Path) -> Any:
    """The value with {here} filled in, wherever it stands in it."""
    if isinstance(value, dict):
        return {key: _placed(entry, here) for key, entry in value.items()}
    return value.replace("{here}", str(here)) if isinstance(value, str) else value
