"""Files are written beside their target and renamed, so a reader sees the old file or the new one, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Lend a temporary path next to `target`; on success it becomes `target`, on any failure it is removed.

    A link is followed; a device or pipe (`/dev/stdout`) cannot be replaced and is lent itself.

    Raises:
        OSError: the folder does not exist or cannot be written, the target is a folder, or the disk is full.
    """
    target = Path(os.path.realpath(target))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    # Created here, so that the file gets the mode that any new file of this user gets.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(data: bytes | memoryview) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def user_cache(kind: str) -> Path:
    """This user's cache folder for one kind of file; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgevision" / kind
