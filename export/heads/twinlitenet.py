"""TwinLiteNet: two masks, the drivable area and the lane lines, as two outputs `da` and `ll` of two channels.

The lanes are drawn above the area. Source: Che et al., "TwinLiteNet: An Efficient and Lightweight Model for Driveable
Area and Lane Segmentation", arXiv:2307.10705; chequanghuy/TwinLiteNet, its test_image.py (stretched to 640x360, RGB /
255, argmax over each output's two channels).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.heads.semantic import HEAD as SEMANTIC

_OUTPUTS = ("da", "ll")
_LABELS = ("background", "drivable area", "lane line")


class TwinLiteNetHead:
    """Two maps [1,2,h,w] called da and ll."""

    name = "twinlitenet"
    about = "TwinLiteNet: masks of the drivable area and of lane lines, outputs da and ll [1,2,h,w]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        width, height = model.image.wh
        shapes = {name: model.graph.shape(name) for name in model.graph.outputs}
        if shapes != dict.fromkeys(_OUTPUTS, (1, 2, height, width)):
            expected = " and ".join(f"{name} [1,2,{height},{width}]" for name in _OUTPUTS)
            return Refusal(f"expected the outputs {expected}, got {', '.join(shapes)}")
        if "output" in model.config.head:
            return Refusal("--head output= says which of several maps to use")
        found = SEMANTIC.recognise(_both(model))
        if isinstance(found, Match):
            return Match("outputs da and ll of two channels", found.found)
        return found

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        maps = {name: match.found["maps"][name] for name in _OUTPUTS}
        form = SEMANTIC.normalise(_both(model), Match(match.reason, {"maps": maps}))
        preprocess = PreprocessDefaults("TwinLiteNet", mean=(0.0,) * 3, std=(255.0,) * 3)
        return dataclasses.replace(form, preprocess=preprocess, labels=_LABELS)


def _both(model: SourceModel) -> SourceModel:
    head = {"output": "+".join(_OUTPUTS)}
    return dataclasses.replace(model, config=dataclasses.replace(model.config, head=head))


HEAD = TwinLiteNetHead()
