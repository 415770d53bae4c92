"""`--preprocess`: recipes do what their fields' own functions do, texts are read or refused, nothing is said twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.errors import UsageError
from edgevision.export import ExportConfig, prepare
from edgevision.export.recipes import CHOICES, RECIPES, parse_recipe
from edgevision.kernels.cpu import Preprocessor
from tests.export.builders import semantic_model, yolov8_model

# keras.applications.imagenet_utils.preprocess_input(x, data_format="channels_first", mode=...) on RGB pixels 0..255,
# written again from its documentation; torchvision's ToTensor and Normalize with the published statistics.
PUBLISHED = {
    "tf": lambda rgb: rgb / 127.5 - 1.0,
    "torch": lambda rgb: (rgb / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
    "caffe": lambda rgb: rgb[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "unit": lambda rgb: rgb / 255.0,
    "raw": lambda rgb: rgb,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_to_pixels_what_its_field_does(name: str) -> None:
    prepared = prepare(semantic_model().SerializeToString(), ExportConfig(precision="fp32", preprocess=name))
    width, height = prepared.preprocess.input_wh
    bgr = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    got = np.empty((3, height, width), np.float32)
    Preprocessor(prepared.preprocess)(bgr, got)
    expected = PUBLISHED[name](bgr[..., ::-1].astype(np.float64)).transpose(2, 0, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    sources = prepared.report.steps[-2].facts["preprocess_sources"]
    assert sources["mean"] == sources["std"] == f"--preprocess {name}"


def test_every_recipe_is_offered() -> None:
    assert set(RECIPES) == set(PUBLISHED)
    assert all(f"{name} (" in CHOICES for name in RECIPES)


NUMBER = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
NOT_ZERO = NUMBER.filter(bool)


@given(
    st.one_of(NUMBER.map(lambda v: [v]), st.lists(NUMBER, min_size=3, max_size=3)),
    st.one_of(NOT_ZERO.map(lambda v: [v]), st.lists(NOT_ZERO, min_size=3, max_size=3)),
    st.sampled_from([None, "rgb", "bgr"]),
)
def test_numbers_are_read_as_they_are_written(mean: list[float], std: list[float], color: str | None) -> None:
    text = "/".join([",".join(map(str, mean)), ",".join(map(str, std)), *([color] if color else [])])
    recipe = parse_recipe(text)
    assert list(recipe.mean) == (mean * 3)[:3]
    assert list(recipe.std) == (std * 3)[:3]
    assert recipe.color == color


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keras",
        "TF",
        "1",
        "1/",
        "/1",
        "1/0",
        "1,2/3",
        "1/2/",
        "1/2/red",
        "1/2/rgb/3",
        "nan/1",
        "1/inf",
        "tf/bgr",
        "a/b",
    ],
)
def test_anything_else_is_refused_with_what_can_be_said(text: str) -> None:
    with pytest.raises(UsageError, match=r"tf .*torch .*caffe .*unit .*raw .*MEAN/STD"):
        ExportConfig(precision="fp32", preprocess=text)


@pytest.mark.parametrize(
    ("recipe", "twice"),
    [
        ("tf", {"mean": (1.0,) * 3}),
        ("tf", {"std": (1.0,) * 3}),
        ("torch", {"color": "rgb"}),
        ("0/1/bgr", {"color": "rgb"}),
    ],
)
def test_a_setting_is_said_once(recipe: str, twice: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"says {next(iter(twice))} already"):
        ExportConfig(precision="fp32", preprocess=recipe, **twice)  # type: ignore[arg-type]


def test_what_a_recipe_leaves_open_stays_the_familys_or_a_flags() -> None:
    data = yolov8_model().SerializeToString()
    spec = prepare(data, ExportConfig(precision="fp32", preprocess="tf", color="bgr", resize="stretch")).preprocess
    assert (spec.mean, spec.std, spec.color, spec.resize) == ((127.5,) * 3, (127.5,) * 3, "bgr", "stretch")
    assert prepare(data, ExportConfig(precision="fp32", preprocess="tf")).preprocess.resize == "letterbox"
    assert prepare(data, ExportConfig(precision="fp32", preprocess="caffe")).preprocess.color == "bgr"
