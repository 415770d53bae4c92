"""Heads of other distributions: found, asked like the built-in ones, and harmless when they are broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevision.errors import ModelError, UnknownFamilyError
from edgevision.export import ExportConfig, prepare
from edgevision.export.families import families
from tests.export.builders import yolov8_model
from tests.export.plugin_kit import ALWAYS, install

FP32 = ExportConfig(precision="fp32")


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("_module")]:
        del sys.modules[name]


def test_a_head_of_another_distribution_is_asked_like_the_built_in_ones(site: Path) -> None:
    install(site, "always = acme_heads_module:HEAD", ALWAYS)
    assert families()["always"].about == "says yes to everything"
    data = yolov8_model().SerializeToString()
    with pytest.raises(UnknownFamilyError, match=r"several families[\s\S]*always: yes: it says yes"):
        prepare(data, FP32)
    assert prepare(data, ExportConfig(precision="fp32", family="yolov8")).family == "yolov8"


@pytest.mark.parametrize(
    ("entry", "source", "words"),
    [
        (
            "always = acme_heads_module:HEAD",
            "import absent_package",
            "ModuleNotFoundError: No module named 'absent_package'",
        ),
        ("always = acme_heads_module:HEAD", "def (", "SyntaxError"),
        ("always = acme_heads_module:HEAD", "raise SystemExit(3)", "SystemExit"),
        ("always = acme_heads_module:HEAD", "", "AttributeError"),
        ("always = acme_heads_module", "", "has no method recognise and no normalise"),
        ("always = acme_heads_module:Head", ALWAYS, "is a class, not an instance"),
        ("other = acme_heads_module:HEAD", ALWAYS, "has the name 'always', not the entry point's 'other'"),
        (
            "always = acme_heads_module:HEAD",
            ALWAYS.replace("{}", "[]"),
            "lacks the text 'about' or the mapping 'options'",
        ),
        ("always = acme_heads_module:HEAD", ALWAYS.replace("return Match", "Match"), "recognise() gave NoneType"),
        ("always = acme_heads_module:HEAD", ALWAYS.replace("return Match", "1 / 0 #"), "failed: ZeroDivisionError"),
        (
            "yolov8 = acme_heads_module:HEAD",
            ALWAYS.replace('"always"', '"yolov8"'),
            "there is a family 'yolov8' already",
        ),
        ("always = not a path", None, "does not load"),
    ],
)
def test_a_broken_one_is_named_and_stops_nobody(site: Path, entry: str, source: str | None, words: str) -> None:
    install(site, entry, source)
    prepared = prepare(yolov8_model().SerializeToString(), FP32)
    assert prepared.family == "yolov8"
    considered = next(step.facts["considered"] for step in prepared.report.steps if step.name == "identify")
    (answer,) = [said for said in considered.values() if "distribution acme" in said]
    assert answer.startswith("no: distribution acme_heads 1.2")
    assert words in answer


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("raise KeyError('anchors')", "family 'always' of distribution acme_heads 1.2 failed: KeyError"),
        ("return None", r"normalise\(\) gave NoneType"),
        (
            "from edgevision.export.heads.base import NormalForm as N; return N('detection', 3, None, None, {})",
            "leaves out the outputs boxes, scores",
        ),
    ],
)
def test_a_head_that_fails_at_its_work_is_named(site: Path, line: str, words: str) -> None:
    install(site, "always = acme_heads_module:HEAD", ALWAYS.replace('raise AssertionError("unfinished")', line))
    with pytest.raises(ModelError, match=words):
        prepare(yolov8_model().SerializeToString(), ExportConfig(precision="fp32", family="always"))
