"""Families that other distributions bring: objects like those of export/heads, named under the entry point group
`edgevision.heads`. Whatever one of them does wrong is reported as its own failure and leaves the others alone."""

from __future__ import annotations

from collections.abc import Container, Mapping
from importlib.metadata import EntryPoint, entry_points

from edgevision.errors import EdgeVisionError, ModelError
from edgevision.export.heads.base import Head, Match, NormalForm, Refusal, SourceModel

GROUP = "edgevision.heads"
_OUTPUTS = {
    "detection": {"boxes", "scores"},
    "instance": {"boxes", "scores", "mask_coefficients", "mask_prototypes"},
    "keypoints": {"boxes", "scores", "keypoints"},
    "classification": {"scores"},
}


class PluginHead:
    """A head of another distribution; its exceptions become refusals and errors that name the distribution."""

    def __init__(self, head: Head, origin: str) -> None:
        self.name = head.name
        self.about = head.about
        self.options: Mapping[str, str] = dict(head.options)
        self._head = head
        self._origin = origin

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        try:
            answer: object = self._head.recognise(model)
        except Exception as error:  # noqa: BLE001 - one family's fault must not stop the others
            return Refusal(f"{self._origin}, which brings this family, failed: {_words(error)}")
        if not isinstance(answer, (Match, Refusal)):
            return Refusal(f"{self._origin}: recognise() gave {type(answer).__name__}, expected Match or Refusal")
        return answer

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        remedy = f"report it to the authors of {self._origin}"
        try:
            form: object = self._head.normalise(model, match)
        except EdgeVisionError:
            raise
        except Exception as error:
            raise ModelError(f"family {self.name!r} of {self._origin} failed: {_words(error)}; {remedy}") from error
        if not isinstance(form, NormalForm):
            raise ModelError(f"family {self.name!r}: normalise() gave {type(form).__name__}; {remedy}")
        missing = _OUTPUTS.get(form.task, set()) - set(model.graph.outputs)
        if missing:
            raise ModelError(
                f"family {self.name!r} leaves out the outputs {', '.join(sorted(missing))} that the task {form.task} "
                f"has; {remedy}"
            )
        return form


class BrokenHead:
    """Stands for an entry point that cannot be used, and says why."""

    about = "does not load"
    options: Mapping[str, str] = {}

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        return Refusal(self._reason)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        raise ModelError(self._reason)


def plugin_heads(taken: Container[str]) -> dict[str, Head]:
    """The heads of installed distributions by name.

    Args:
        taken: names of the built-in families, which no other may bear.
    """
    found: dict[str, Head] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        head = _load(entry)
        if entry.name in taken or entry.name in found:
            name = f"{entry.name} of {_origin(entry)}"
            found[name] = BrokenHead(name, f"{_origin(entry)}: there is a family {entry.name!r} already; rename it")
        else:
            found[entry.name] = head
    return found


def _load(entry: EntryPoint) -> Head:
    origin = _origin(entry)
    try:
        head = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one family's fault must not stop the others
        return BrokenHead(
            entry.name,
            f"{origin} promises it as {entry.value}, which does not load: {_words(error)}; update or remove it",
        )
    wrong = _shortcoming(entry.name, head)
    if wrong:
        return BrokenHead(entry.name, f"{origin} promises it as {entry.value}, which {wrong}; update or remove it")
    return PluginHead(head, origin)


def _shortcoming(name: str, head: object) -> str:
    """What keeps an object from being a head of this name; empty where nothing does."""
    if isinstance(head, type):
        return "is a class, not an instance of it"
    missing = [part for part in ("recognise", "normalise") if not callable(getattr(head, part, None))]
    if missing:
        return f"has no method {' and no '.join(missing)}"
    if getattr(head, "name", None) != name:
        return f"has the name {getattr(head, 'name', None)!r}, not the entry point's {name!r}"
    options = getattr(head, "options", None)
    if not isinstance(getattr(head, "about", None), str) or not isinstance(options, Mapping):
        return "lacks the text 'about' or the mapping 'options'"
    return ""


def _origin(entry: EntryPoint) -> str:
    return f"distribution {entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a distribution"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
