"""Which family a model belongs to: every head is asked, and exactly one may say yes."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass

from edgevision.errors import UnknownFamilyError, UsageError
from edgevision.export import heads
from edgevision.export.head_plugins import plugin_heads
from edgevision.export.head_spec import read_head_spec
from edgevision.export.heads.base import Head, Match, Refusal, SourceModel
from edgevision.export.spec_head import SpecHead


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
    """All heads by name: the built-in ones, then those that other distributions bring."""
    known = built_in_families()
    return {**known, **plugin_heads(known)}


def built_in_families() -> dict[str, Head]:
    """The heads of this package by name: one per module in export/heads except base."""
    names = sorted(module.name for module in pkgutil.iter_modules(heads.__path__) if module.name != "base")
    return {name: importlib.import_module(f"{heads.__name__}.{name}").HEAD for name in names}


def identify(model: SourceModel) -> Identification:
    """Find the one family that recognises `model`.

    The user's `--head-spec` or `--family` decides; without them the file's own metadata; without that every family is
    asked.

    Raises:
        UsageError: `--family`, `--head` or `--head-spec` name something that does not exist or cannot be used.
        UnknownFamilyError: none or several families recognise the model; lists each one's reason.
    """
    known = families()
    wanted, said = _wanted(model, known)
    asked = known if wanted is None else {wanted: known[wanted]}
    answers = {
        name: head.recognise(dataclasses.replace(model, chosen=wanted is not None)) for name, head in asked.items()
    }
    matches = {name: answer for name, answer in answers.items() if isinstance(answer, Match)}
    considered = {name: _in_words(answer) for name, answer in answers.items()}
    if len(matches) != 1:
        outcome = "several families recognise the model" if matches else "no family recognises the model"
        outputs = ", ".join(f"{name} {list(model.graph.shape(name) or ())}" for name in model.graph.outputs)
        outcome = f"{outcome}, whose outputs are {outputs}"
        listed = "\n".join(f"  {name}: {words}" for name, words in considered.items())
        remedy = (
            "Say which it is with --family NAME, describe its outputs with --head-spec FILE, or export the network "
            "without its post-processing."
        )
        raise UnknownFamilyError(f"{outcome}:\n{listed}\n{remedy}", considered, f"{outcome}. {remedy}")
    name, match = next(iter(matches.items()))
    head = known[name]
    unknown = sorted(set(model.config.head) - set(head.options))
    if unknown:
        raise UsageError(f"--head {unknown[0]}: family {name} has the options {', '.join(head.options) or '(none)'}")
    not_asked = {other: f"not asked: {said} says {name}" for other in known if other not in considered}
    return Identification(head, match, {**considered, **not_asked})


def _wanted(model: SourceModel, known: dict[str, Head]) -> tuple[str | None, str]:
    """The family that the user or the file names, and where; a specified one joins `known`."""
    config = model.config
    if config.head_spec is not None:
        if config.family != "auto":
            raise UsageError(f"--head-spec {config.head_spec} and --family {config.family}: give one of them")
        spec = read_head_spec(config.head_spec)
        if spec.name in known:
            raise UsageError(f"{config.head_spec}: there is a family {spec.name!r} already; choose another name")
        known[spec.name] = SpecHead(spec)
        return spec.name, "--head-spec"
    stated, said = (config.family, "--family") if config.family != "auto" else (model.metadata.family, "the metadata")
    if stated is not None and stated not in known:
        raise UsageError(f"family {stated!r} is not known; choose one of {', '.join(known)}")
    return stated, said


def _in_words(answer: Match | Refusal) -> str:
    if isinstance(answer, Match):
        return f"yes: {answer.reason}"
    return f"no: {answer.reason}" + (f" ({answer.remedy})" if answer.remedy else "")
