"""Plans built on this machine, kept in the user's cache folder, so that each is built once.

    <cache>/edgevision/plans/<key>.plan        the plan, plain, as trtexec loads it
                             <key>.plan.json   what it was built from and for, with its hash: see plan_facts
                             <key>.lock        while it is being built

A plan is loaded only when the facts beside it name exactly the wanted key and the plan's hash; whatever is damaged,
half there or from elsewhere is built again. The least recently used plans go when the folder grows over its limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from edgevision import file_lock
from edgevision.backends.built_plan import BuiltPlan
from edgevision.errors import BuildError
from edgevision.files import sha256, user_cache
from edgevision.plan_facts import PlanFacts, PlanKey, facts_path, read_facts, write_plan

LIMIT_BYTES = 4 << 30
WAIT_LIMIT_S = 3600.0
_log = logging.getLogger(__name__)
_told: set[Path] = set()


@dataclass
class CachedPlan:
    """A plan in memory, and in use: while it is not closed, its file is not evicted.

    Attributes:
        plan: the serialised engine; its owner may drop it once the engine is loaded.
        facts: about it.
        path: its file; None where it could not be kept.
        built: whether it was built just now.
    """

    plan: bytes
    facts: PlanFacts
    path: Path | None
    built: bool = False
    _mark: BinaryIO | None = field(default=None, repr=False)

    def close(self) -> None:
        """The plan is no longer in use; may be called twice."""
        if self._mark is not None:
            self._mark.close()


class PlanCache:
    """The plans of one folder; several processes and threads may share it.

    Attributes:
        folder: where they are.
    """

    def __init__(
        self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES, wait_limit_s: float = WAIT_LIMIT_S
    ) -> None:
        """
        Args:
            folder: None: this user's.
            limit_bytes: size of all plans above which unused ones are removed, the longest unused first.
            wait_limit_s: how long to wait for another process that builds the same plan.
        """
        self.folder = folder or user_cache("plans")
        self._limit_bytes, self._wait_limit_s = limit_bytes, wait_limit_s

    def path(self, key: PlanKey) -> Path:
        """The file of a plan, whether it is there or not."""
        return self.folder / f"{key.file_stem}.plan"

    def timing_cache(self, key: PlanKey) -> Path:
        """The file where builders of this key's TensorRT and GPU may keep what they measured."""
        return self.folder / f"{key.file_stem.partition('-sm')[0]}-sm{key.sm}.timing"

    def find(self, plan_sha256: str) -> PlanFacts | None:
        """What is known about a plan of this content, wherever it was copied to; None: it was not built here."""
        for path in sorted(self.folder.glob("*.plan")):
            with contextlib.suppress(OSError, ValueError):
                facts = read_facts(path)
                if facts.plan_sha256 == plan_sha256:
                    return facts
        return None

    def get_or_build(self, key: PlanKey, build: Callable[[], BuiltPlan], *, refresh: bool = False) -> CachedPlan:
        """The plan of `key`: from the folder, or built now and put there.

        Whoever comes second while it is being built waits and takes it. Where the folder cannot be written the plan
        is built and not kept, which is said once.

        Args:
            key: what it must fit.
            build: builds it; what it raises passes through.
            refresh: build it even if it is there.

        Raises:
            BuildError: another process has been building it for longer than the limit.
        """
        if not refresh and (found := self._load(key)) is not None:
            return found
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = self.folder / f"{key.file_stem}.lock"
                stack.enter_context(file_lock.exclusive(lock, self._wait_limit_s, self._waiting))
            except TimeoutError as error:
                raise BuildError(
                    f"{error} has been building this plan for over {self._wait_limit_s:.0f} s; wait until it is done, "
                    "or end it and try again"
                ) from error
            except OSError as error:
                self._say_once(error)
                return _unkept(key, build())
            if not refresh and (found := self._load(key, explain=True)) is not None:
                return found
            for part in self.folder.glob(f".{key.file_stem}.plan*.part"):  # of a builder that was killed
                part.unlink(missing_ok=True)
            return self._keep(key, build())

    def _waiting(self, holder: str) -> None:
        _log.warning("%s is building the same plan: waiting for it, %.0f s at most", holder, self._wait_limit_s)

    def _say_once(self, error: OSError) -> None:
        if self.folder not in _told:
            _told.add(self.folder)
            reason = error.strerror or error
            _log.warning(
                "plans cannot be kept in %s (%s), so every start builds anew; make it writable, or set XDG_CACHE_HOME",
                self.folder,
                reason,
            )

    def _load(self, key: PlanKey, *, explain: bool = False) -> CachedPlan | None:
        """The plan of `key` where it is there and whole; otherwise None, with the reason logged if asked."""
        path = self.path(key)
        try:
            return _read(path, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if explain:
                _log.warning("the plan %s is not used: %s; building it again", path, error)
            return None

    def _keep(self, key: PlanKey, built: BuiltPlan) -> CachedPlan:
        try:
            write_plan(self.path(key), built.plan, PlanFacts.of(key, built))
        except OSError as error:
            self._say_once(error)
            return _unkept(key, built)
        kept = self._load(key)
        if kept is None:  # someone else removed it at once
            return _unkept(key, built)
        kept.built = True
        self._evict()
        return kept

    def _evict(self) -> None:
        """Remove the plans that were used longest ago until the rest fits; plans in use stay."""
        plans = []
        for path in self.folder.glob("*.plan"):
            with contextlib.suppress(OSError):
                state = path.stat()
                plans.append((state.st_mtime_ns, state.st_size, path))
        surplus = sum(size for _, size, _ in plans) - self._limit_bytes
        for _, size, path in sorted(plans):
            if surplus <= 0:
                break
            with contextlib.suppress(OSError), path.open("rb") as handle:
                if file_lock.claim(handle):
                    facts_path(path).unlink(missing_ok=True)
                    path.unlink()
                    surplus -= size


def _read(path: Path, key: PlanKey) -> CachedPlan:
    """Read a plan, mark it as in use and check it.

    Raises:
        FileNotFoundError: it is not there, or is being evicted.
        ValueError: it is not what `key` says, or damaged.
    """
    facts = read_facts(path)
    if misfits := facts.misfits(key):
        raise ValueError("; ".join(misfits))
    mark = path.open("rb")
    try:
        if not file_lock.share(mark):
            raise FileNotFoundError(path)
        plan = mark.read()
        if sha256(plan) != facts.plan_sha256:
            raise ValueError("its hash is not the one recorded when it was built")
    except BaseException:
        mark.close()
        raise
    with contextlib.suppress(OSError):
        os.utime(path)  # when it was last used
    return CachedPlan(plan, facts, path, _mark=mark)


def _unkept(key: PlanKey, built: BuiltPlan) -> CachedPlan:
    return CachedPlan(built.plan, PlanFacts.of(key, built), None, built=True)
