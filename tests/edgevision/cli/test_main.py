"""The frame of the command line: exit codes, JSON, and that errors never show a traceback."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgevision.cli import VERBS, main
from edgevision.cli.output import finish, table
from edgevision.errors import UsageError

pytestmark = pytest.mark.smoke


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert "--json" in said
        assert "--quiet" in said


def test_the_general_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["doctor", "--fast"], ["run"], ["export", "model.onnx"]])
def test_bad_usage_exits_with_2_and_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("verb", ["info", "run", "eval", "bench", "build"])
def test_a_missing_bundle_is_one_clear_line_for_every_verb(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"run": ["clip.mp4"], "eval": ["--dataset", "coco:a.json:b"]}.get(verb, [])
    assert main([verb, str(tmp_path / "absent.edge"), *extra]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "absent.edge" in said
    assert "Traceback" not in said


def test_json_goes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    finish(argparse.Namespace(json=str(target), quiet=False), {"a": 1}, "text")
    assert capsys.readouterr().out == "text\n"
    assert json.loads(target.read_text()) == {"a": 1}
    finish(argparse.Namespace(json="-", quiet=False), {"a": 1}, "text")
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    with pytest.raises(UsageError, match="cannot be written"):
        finish(argparse.Namespace(json=str(tmp_path), quiet=True), {}, "")


def test_json_into_a_missing_folder_is_refused_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json", "/no/such/folder/out.json"])
    assert stop.value.code == 2
    assert "/no/such/folder" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    shell = f"{sys.executable} -m edgevision doctor | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] in {"0", "1"}


def test_tables_align() -> None:
    assert table(["name", "n"], [["a", 1], ["long", 22]]) == "name   n\n----  --\na      1\nlong  22"
