"""Which family a model belongs to: every head file is asked, and exactly one may say yes."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass

from edgevision.errors import UnknownFamilyError, UsageError
from edgevision.export import heads
from edgevision.export.heads.base import Head, Match, Refusal, SourceModel


@dataclass(frozen=True)
class Identification:
    """Which head it is, and what every head said.

    Attributes:
        head: the family.
        match: what it saw.
        considered: family -> its answer, in words.
    """

    head: Head
    match: Match
    considered: dict[str, str]


def families() -> dict[str, Head]:
    """All heads by name: one per module in export/heads except base."""
    names = sorted(module.name for module in pkgutil.iter_modules(heads.__path__) if module.name != "base")
    return {name: importlib.import_module(f"{heads.__name__}.{name}").HEAD for name in names}


def identify(model: SourceModel) -> Identification:
    """Find the one family that recognises `model`.

    The user's `--family` decides; without it the file's own metadata; without that every family is asked.

    Raises:
        UsageError: `--family` or `--head` name something that does not exist.
        UnknownFamilyError: none or several families recognise the model; lists each one's reason.
    """
    known = families()
    wanted = model.config.family if model.config.family != "auto" else model.metadata.family
    if wanted is not None:
        if wanted not in known:
            raise UsageError(f"family {wanted!r} is not known; choose one of {', '.join(known)}")
        known = {wanted: known[wanted]}
    answers = {
        name: head.recognise(dataclasses.replace(model, chosen=wanted is not None)) for name, head in known.items()
    }
    matches = {name: answer for name, answer in answers.items() if isinstance(answer, Match)}
    considered = {name: _in_words(answer) for name, answer in answers.items()}
    if len(matches) != 1:
        outcome = "several families recognise the model" if matches else "no family recognises the model"
        listed = "\n".join(f"  {name}: {words}" for name, words in considered.items())
        outputs = ", ".join(f"{name} {list(model.graph.shape(name) or ())}" for name in model.graph.outputs)
        raise UnknownFamilyError(
            f"{outcome}, whose outputs are {outputs}:\n{listed}\n"
            "Say which it is with --family NAME, or export the network without its post-processing."
        )
    name, match = next(iter(matches.items()))
    head = known[name]
    unknown = sorted(set(model.config.head) - set(head.options))
    if unknown:
        raise UsageError(f"--head {unknown[0]}: family {name} has the options {', '.join(head.options) or '(none)'}")
    return Identification(head, match, considered)


def _in_words(answer: Match | Refusal) -> str:
    if isinstance(answer, Match):
        return f"yes: {answer.reason}"
    return f"no: {answer.reason}" + (f" ({answer.remedy})" if answer.remedy else "")
