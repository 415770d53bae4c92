"""When the CPU's INT8 graph is too far from float: by itself, and beside TensorRT's of the same model."""

from __future__ import annotations

import pytest

from edgevision.export.verification import concerns, noisier


@pytest.mark.parametrize(
    ("cpu", "tensorrt", "refused"),
    [
        ({"scores_sqnr_db": 26.2}, {"scores_sqnr_db": 27.9}, False),
        ({"scores_sqnr_db": 34.8}, {"scores_sqnr_db": 33.5}, False),
        ({"scores_sqnr_db": 16.7}, {"scores_sqnr_db": 23.3}, True),
        ({"logits_sqnr_db": 20.0}, {"logits_sqnr_db": 23.5}, True),
        ({"map_agreement": 0.9978}, {"map_agreement": 0.9965}, False),
        ({"map_agreement": 0.9985}, {"map_agreement": 1.0}, False),
        ({"map_agreement": 0.95}, {"map_agreement": 0.99}, True),
    ],
)
def test_twice_the_noise_of_tensorrt_s_graph_is_too_much(
    cpu: dict[str, float], tensorrt: dict[str, float], refused: bool
) -> None:
    reasons = noisier(cpu, tensorrt)
    assert bool(reasons) is refused
    assert all("TensorRT's graph" in reason for reason in reasons)


def test_each_precision_has_a_least_likeness_of_its_own() -> None:
    assert not concerns("int8", {"scores_sqnr_db": 12.5})
    assert concerns("fp16", {"scores_sqnr_db": 12.5}) == ["scores carry noise: 12.5 dB SQNR, expected at least 36"]
    assert concerns("int8", {"map_agreement": 0.85})
