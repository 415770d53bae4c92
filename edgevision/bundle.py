"""`model.edge`: one self-describing file that carries a model from the workstation to the board.

A zip whose entries are stored, not deflated: `manifest.json`, the ONNX graphs, the range table and the export
report. Every entry's length and SHA-256 stand in the manifest and are checked before a byte is used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from edgevision.errors import BundleError
from edgevision.files import atomic_path, sha256
from edgevision.manifest import FileInfo, Manifest

GRAPHS = ("model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx", "cpu.onnx")
_FILES = (*GRAPHS, "ranges.json", "report.json")
_MANIFEST = "manifest.json"
_MANIFEST_LIMIT_BYTES = 4 << 20
_FILE_LIMIT_BYTES = 2 << 30
_DIRECTORY_LIMIT_BYTES = 1 << 16

# The record at the end of a zip: signature, two disk numbers, entries here and in all, length and place of the
# table of contents, length of a comment. The larger form (zip64) has its own signature before it.
_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = (b"PK\x06\x07", 20)
# What zipfile and json raise on damaged files; RecursionError and NotImplementedError are RuntimeErrors.
_DAMAGE = (zipfile.BadZipFile, struct.error, EOFError, ValueError, KeyError, RuntimeError)


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
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise BundleError(f"bundle {self.path} is not a file; write one with: edgevision export MODEL.onnx")
            with self.path.open("rb") as handle:
                size = _check_end(handle)
                with zipfile.ZipFile(handle) as archive:
                    entries = archive.infolist()
                    self._check_entries(entries, size)
                    manifest = json.loads(archive.read(_MANIFEST))
        except FileNotFoundError as error:
            raise BundleError(
                f"bundle {self.path} does not exist; write one with: edgevision export MODEL.onnx -o {self.path}"
            ) from error
        except OSError as error:
            raise BundleError(f"cannot read bundle {self.path}: {error}") from error
        except _DAMAGE as error:
            raise BundleError(
                f"{self.path} is not an edgevision bundle, or is damaged ({error}); "
                "copy it again, or export the model again"
            ) from error
        self.manifest = Manifest.from_json(manifest)
        listed = {name: info.bytes for name, info in self.manifest.files.items()}
        held = {entry.filename: entry.file_size for entry in entries if entry.filename != _MANIFEST}
        if listed != held or not set(self.manifest.graphs) <= set(held) & set(GRAPHS):
            raise BundleError(
                f"{self.path}: the manifest lists files {listed} (name: bytes) and graphs "
                f"{sorted(self.manifest.graphs)}, but the file holds {held}; export the model again"
            )

    def _check_entries(self, entries: list[zipfile.ZipInfo], size: int) -> None:
        names = [entry.filename for entry in entries]
        strange = sorted(set(names) - {*_FILES, _MANIFEST})
        if strange or len(set(names)) != len(names) or _MANIFEST not in names:
            raise BundleError(
                f"{self.path} is not an edgevision bundle: expected {_MANIFEST} and some of {_FILES}, once each"
                + (f"; unexpected: {strange[:5]}" if strange else "")
            )
        for entry in entries:
            limit = _MANIFEST_LIMIT_BYTES if entry.filename == _MANIFEST else _FILE_LIMIT_BYTES
            encrypted = entry.flag_bits & 1
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or encrypted:
                raise BundleError(
                    f"{self.path}: {entry.filename} is compressed or encrypted; bundles store their entries plain"
                )
            if entry.file_size > limit:
                raise BundleError(f"{self.path}: entry {entry.filename} has {entry.file_size} bytes, limit {limit}")
        if sum(entry.file_size for entry in entries) > size:
            raise BundleError(f"{self.path}: its entries claim more bytes than the file has ({size}); copy it again")

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
        except (OSError, *_DAMAGE) as error:
            raise BundleError(f"{self.path}: {name} cannot be read ({error}); copy the bundle again") from error
        if sha256(data) != info.sha256:
            raise BundleError(f"{self.path}: {name} was changed after export (its SHA-256 does not match the manifest)")
        return data

    def report(self) -> dict[str, Any]:
        """The export report, or an empty one where the bundle carries none.

        Raises:
            BundleError: it is not the JSON object that export writes.
        """
        if "report.json" not in self.manifest.files:
            return {}
        try:
            report = json.loads(self.read("report.json"))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.path}: report.json is not JSON ({error}); export the model again") from error
        if not isinstance(report, dict):
            raise BundleError(f"{self.path}: report.json is not an object; export the model again")
        return report


def _check_end(handle: BinaryIO) -> int:
    """Refuse a table of contents that is not a bundle's before it is read into memory; returns the file's size."""
    size = handle.seek(0, os.SEEK_END)
    signature, locator_bytes = _ZIP64_LOCATOR
    tail = min(size, locator_bytes + _END.size)
    handle.seek(size - tail)
    data = handle.read(tail)
    if size < _END.size:
        raise zipfile.BadZipFile(f"it has {size} bytes")
    magic, _, _, _, entries, directory_bytes, _, comment_bytes = _END.unpack(data[-_END.size :])
    if magic != b"PK\x05\x06" or comment_bytes:
        raise zipfile.BadZipFile("it does not end as a bundle does")
    if entries > len(_FILES) + 1 or directory_bytes > _DIRECTORY_LIMIT_BYTES or data.startswith(signature):
        raise zipfile.BadZipFile(f"its table of contents has {entries} entries in {directory_bytes} bytes")
    return size


def write_bundle(path: Path | str, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle atomically and return its manifest with `files` filled in.

    Raises:
        BundleError: a file name is not a bundle's, the whole is above 2 GiB, or `path` cannot be written (the old
            file is then untouched).
    """
    strange = sorted(set(files) - set(_FILES))
    if strange:
        raise BundleError(f"a bundle holds only {_FILES}, got {strange}")
    infos = {name: FileInfo(len(data), sha256(data)) for name, data in sorted(files.items())}
    complete = dataclasses.replace(manifest, files=infos)
    try:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=False) as archive:
            # A fixed time makes equal exports equal byte for byte.
            for name, data in [(_MANIFEST, json.dumps(complete.to_json(), indent=1).encode()), *sorted(files.items())]:
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    except zipfile.LargeZipFile as error:
        total = sum(len(data) for data in files.values())
        raise BundleError(f"cannot write {path}: a bundle is at most 2 GiB, this model makes {total} bytes") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BundleError(f"cannot write {path}: {reason}; nothing was left behind") from error
    return complete
