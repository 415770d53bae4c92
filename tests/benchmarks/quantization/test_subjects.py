"""A TOML file names models and pictures, relative to itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import benchmarks.quantization.subjects as subjects
from benchmarks.quantization.subjects import Subject, read_subjects
from edgevision.errors import UsageError
from edgevision.evaluation import open_dataset
from edgevision.export import ExportConfig

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "own.toml").write_text(
        'calibration_images = "photos"\n'
        '[models.net]\nfile = "net.onnx"\ndataset = "coco:{here}/a.json:{here}/b"\nexport.head.anchors = "1,2"\n'
        'export.priors = "{here}/p.npy"\n'
    )
    expected = Subject(
        "net",
        tmp_path / "net.onnx",
        f"coco:{tmp_path}/a.json:{tmp_path}/b",
        str(tmp_path / "photos"),
        {"head": {"anchors": "1,2"}, "priors": f"{tmp_path}/p.npy"},
    )
    assert read_subjects(tmp_path / "own.toml") == [expected]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected calibration_images"),
        ('calibration_images = "x"\n', "a table"),
        ('calibration_images = "x"\n[models.net]\nfile = "net.onnx"\n', "takes file, dataset and export"),
        ('calibration_images = "x"\n[models.net]\nfile = "net.onnx"\ndataset = "y"\nflags = "z"\n', "takes file"),
        ('calibration_images = "x"\n[models.net]\nfile = "net.onnx"\ndataset = "y"\n', "which is no file"),
    ],
)
def test_a_file_that_says_too_little_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_subjects(tmp_path / "own.toml")


def test_the_default_models_can_be_exported_and_judged(shared: Path) -> None:
    found = read_subjects(Path(subjects.__file__).with_name("models.toml"))
    assert len(found) == 5
    for subject in found:
        assert Path(subject.pictures).is_dir()
        assert len(open_dataset(subject.dataset).pictures) > 0
        ExportConfig(precision="fp32", **subject.options)
