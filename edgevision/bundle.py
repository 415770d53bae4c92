"""`model.edge`: one self-describing file that carries a model from the workstation to the board.

A zip whose entries are stored, not deflated: `manifest.json`, the ONNX graphs, the range table and the export
report. Every entry's length and SHA-256 stand in the manifest and are checked before a byte is used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevision.errors import BundleError
from edgevision.files import atomic_path, sha256
from edgevision.manifest import FileInfo, Manifest

GRAPHS = ("model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx", "cpu.onnx")
_FILES = (*GRAPHS, "ranges.json", "report.json")
_MANIFEST = "manifest.json"
_MANIFEST_LIMIT_BYTES = 4 << 20
_FILE_LIMIT_BYTES = 2 << 30


class Bundle:
    """An opened bundle. Reading is lazy; nothing is ever extracted to disk.

    Attributes:
        path: the file.
        manifest: its checked manifest.
    """

    def __init__(self, path: Path | str) -> None:
        """Open and check the structure of `path`.

        Raises:
            BundleError: the file is missing, not a bundle, truncated, or its table of contents is not exactly
                what its manifest says.
        """
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
                self._check_entries(entries)
                manifest = json.loads(archive.read(_MANIFEST))
        except BundleError:
            raise
        except FileNotFoundError as error:
            raise BundleError(
                f"bundle {self.path} does not exist; write one with: edgevision export MODEL.onnx -o {self.path}"
            ) from error
        except OSError as error:
            raise BundleError(f"cannot read bundle {self.path}: {error}") from error
        except (zipfile.BadZipFile, ValueError, KeyError, NotImplementedError, RecursionError) as error:
            raise BundleError(
                f"{self.path} is not an edgevision bundle, or is damaged ({error}); "
                "copy it again, or export the model again"
            ) from error
        self.manifest = Manifest.from_json(manifest)
        listed = {name: info.bytes for name, info in self.manifest.files.items()}
        held = {entry.filename: entry.file_size for entry in entries if entry.filename != _MANIFEST}
        if listed != held or not set(self.manifest.graphs) <= set(held):
            raise BundleError(f"{self.path}: the manifest lists {listed} (name: bytes) but the file holds {held}")

    def _check_entries(self, entries: list[zipfile.ZipInfo]) -> None:
        names = [entry.filename for entry in entries]
        strange = sorted(set(names) - {*_FILES, _MANIFEST})
        if strange or len(set(names)) != len(names) or _MANIFEST not in names:
            raise BundleError(
                f"{self.path} is not an edgevision bundle: expected {_MANIFEST} and some of {_FILES}, once each"
                + (f"; unexpected: {strange[:5]}" if strange else "")
            )
        for entry in entries:
            limit = _MANIFEST_LIMIT_BYTES if entry.filename == _MANIFEST else _FILE_LIMIT_BYTES
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise BundleError(
                    f"{self.path}: {entry.filename} is compressed; bundles store their entries plain"
                )
            if entry.file_size > limit:
                raise BundleError(f"{self.path}: entry {entry.filename} has {entry.file_size} bytes, limit {limit}")

    def read(self, name: str) -> bytes:
        """One file's bytes, verified against the manifest's hash.

        Raises:
            BundleError: there is no such file, or its content is not what the manifest says.
        """
        info = self.manifest.files.get(name)
        if info is None:
            raise BundleError(f"{self.path} has no {name}; it holds {sorted(self.manifest.files)}")
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = archive.read(name)
        except (OSError, zipfile.BadZipFile) as error:
            raise BundleError(f"{self.path}: {name} cannot be read ({error}); copy the bundle again") from error
        if sha256(data) != info.sha256:
            raise BundleError(f"{self.path}: {name} was changed after export (its SHA-256 does not match the manifest)")
        return data

    def report(self) -> dict[str, Any]:
        """The export report, or an empty one where the bundle carries none."""
        if "report.json" not in self.manifest.files:
            return {}
        report: dict[str, Any] = json.loads(self.read("report.json"))
        return report


def write_bundle(path: Path | str, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle atomically and return its manifest with `files` filled in.

    Raises:
        BundleError: a file name is not a bundle's, or `path` cannot be written (the old file is then untouched).
    """
    strange = sorted(set(files) - set(_FILES))
    if strange:
        raise BundleError(f"a bundle holds only {_FILES}, got {strange}")
    infos = {name: FileInfo(len(data), sha256(data)) for name, data in sorted(files.items())}
    complete = dataclasses.replace(manifest, files=infos)
    try:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            # A fixed time makes equal exports equal byte for byte.
            for name, data in [(_MANIFEST, json.dumps(complete.to_json(), indent=1).encode()), *sorted(files.items())]:
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BundleError(f"cannot write {path}: {reason}; nothing was left behind") from error
    return complete
