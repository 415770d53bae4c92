"""Repairs: each keeps the function of the network, and does to the channels what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import DECODE_PREFIX, SCALE_PREFIX, Graph
from edgevision.export.grids import half_scales, to_float, to_int8, weight_scales
from edgevision.export.placement import plan_placement
from edgevision.export.repair.bias_correction import corrections_of, explained_db
from edgevision.export.repair.channel_classes import ChannelClasses
from edgevision.export.repair.equalisation import equalise
from edgevision.export.repair.input_scaling import LEAST_GAIN_DB, scale_sites
from edgevision.export.repair.probing import Probe, probe_layers
from edgevision.export.repair.rescaling import rescale
from edgevision.export.repair.shared_grids import share_grids
from edgevision.export.repair.sites import Floats, Site, find_sites
from edgevision.export.repair.sums import float_sums
from edgevision.export.structure import decode_nodes
from tests.export.networks import Extremes, Net, measured, pictures, random_network, run, sqnr_db

IMAGES = pictures((1, 3, 16, 16), 4)


def prepared(net: Net, *outputs: str) -> Graph:
    graph = net.graph(*outputs)
    graph.infer_shapes()
    return graph


def channel_sizes(
    graph: Graph, sites: Sequence[Site], images: Sequence[NDArray[np.float32]] = IMAGES
) -> dict[str, Floats]:
    """Largest magnitude per channel (axis 1 of four, else the last), from runs that show the tensors."""
    probe = graph.copy()
    names = [site.tensor for site in sites if site.tensor not in probe.inputs]
    for name in names:
        if name not in probe.outputs:
            probe.proto.output.append(next(v for v in probe.proto.value_info if v.name == name))
    sizes: dict[str, Floats] = {}
    for image in images:
        values = {**run(probe, image), probe.inputs[0]: image}
        for site in sites:
            array = np.abs(values[site.tensor].astype(np.float64))
            axis = 1 if array.ndim == 4 else array.ndim - 1
            found = array.max(axis=tuple(i for i in range(array.ndim) if i != axis))
            sizes[site.tensor] = np.maximum(sizes.get(site.tensor, 0), found)
    return sizes


def sites_of(graph: Graph) -> list[Site]:
    return find_sites(graph, plan_placement(graph).tensorrt_inputs)


def assert_same_function(first: Graph, second: Graph, images: Sequence[NDArray[np.float32]] = IMAGES) -> None:
    for image in images:
        for name, expected in run(first, image).items():
            got = run(second, image)[name]
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(expected).max()))


def spread(sizes: Floats) -> float:
    return float(sizes.max() / sizes[sizes > 0].min())


def uneven(net: Net, x: str, cin: int, cout: int, kernel: int = 3, ratio: float = 100.0, out: str | None = None) -> str:
    """A convolution whose output channels differ in size by `ratio`."""
    gains = np.geomspace(1, ratio, cout).reshape(-1, 1, 1, 1)
    weight = net.random.normal(0, 1.4 / np.sqrt(cin * kernel**2), (cout, cin, kernel, kernel)) * gains
    bias = net.random.normal(0, 0.2, cout) * gains.ravel()
    constants = (net.constant(weight.astype(np.float32)), net.constant(bias.astype(np.float32)))
    return net.op("Conv", x, *constants, out=out, pads=[kernel // 2] * 4)


# --- channel classes --------------------------------------------------------------------------------------------------


def classes_of(net: Net, output: str) -> ChannelClasses:
    graph = prepared(net, output)
    return ChannelClasses(graph, decode_nodes(graph))


@pytest.mark.parametrize(
    ("follow", "free"),
    [
        (lambda net, x: net.op("Relu", x, out="t"), True),
        (lambda net, x: net.op("LeakyRelu", x, out="t", alpha=0.1), True),
        (lambda net, x: net.op("PRelu", x, net.constant(np.full((16, 1, 1), 0.2, np.float32)), out="t"), True),
        (lambda net, x: net.op("MaxPool", x, out="t", kernel_shape=[2, 2]), True),
        (lambda net, x: net.op("AveragePool", x, out="t", kernel_shape=[2, 2]), True),
        (lambda net, x: net.op("Mul", x, net.constant(np.float32(3)), out="t"), True),
        (lambda net, x: net.op("Add", x, net.constant(np.ones((1, 16, 1, 1), np.float32)), out="t"), True),
        (lambda net, x: net.relu6(x, out="t"), False),
        (lambda net, x: net.op("Mul", x, net.op("Sigmoid", x), out="t"), False),
        (lambda net, x: net.op("HardSwish", x, out="t"), False),
        (lambda net, x: net.op("Softmax", x, out="t", axis=1), False),
    ],
)
def test_factors_pass_what_is_homogeneous_and_stop_at_what_is_not(
    follow: Callable[[Net, str], str], free: bool
) -> None:
    net = Net()
    t = follow(net, net.convolution("image", 3, 16))
    net.convolution(t, 16, 8, out="y")
    labels = classes_of(net, "y").of("t")
    assert labels.shape == (1, 16, 1, 1)[: labels.ndim] or not free
    assert (len(np.unique(labels)) == 16) is free
    assert labels.all() == free


def test_the_picture_and_the_outputs_are_never_scaled() -> None:
    net = Net()
    net.convolution(net.convolution("image", 3, 16, out="t"), 16, 8, out="y")
    classes = classes_of(net, "y")
    assert not classes.of("image").any()
    assert not classes.of("y").any()
    assert classes.of("t").all()


def test_what_the_decode_reads_is_never_scaled() -> None:
    net = Net()
    net.op("Relu", net.convolution("image", 3, 16, out="t"), out="y")
    net.nodes[-1].name = f"{DECODE_PREFIX}relu"
    net.op("Identity", "y", out="z")
    assert not classes_of(net, "z").of("t").any()


def test_the_branches_of_a_sum_share_their_factors() -> None:
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="x")
    net.op("Add", x, net.convolution(x, 16, 16, out="branch"), out="sum")
    net.convolution("sum", 16, 8, out="y")
    classes = classes_of(net, "y")
    np.testing.assert_array_equal(classes.of("x"), classes.of("branch"))
    np.testing.assert_array_equal(classes.of("x"), classes.of("sum"))


def test_channels_keep_their_class_through_a_join_a_shuffle_and_a_split() -> None:
    """ShuffleNet's exchange: channel c of group g becomes channel 2 c + g."""
    net = Net()
    left, right = (net.convolution("image", 3, 8, out=name) for name in ("left", "right"))
    x = net.op("Concat", left, right, axis=1)
    x = net.op("Reshape", x, net.constant(np.array([1, 2, 8, 16, 16])))
    x = net.op(
        "Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.constant(np.array([1, 16, 16, 16])), out="s"
    )
    first = net.op("Slice", x, *(net.constant(np.array([v])) for v in (0, 8, 1)), out="first")
    net.convolution(first, 8, 8, out="y")
    graph = prepared(net, "y")
    classes = ChannelClasses(graph, set())
    shuffled = classes.of("s").ravel()
    np.testing.assert_array_equal(shuffled[0::2], classes.of("left").ravel())
    np.testing.assert_array_equal(shuffled[1::2], classes.of("right").ravel())
    np.testing.assert_array_equal(classes.of("first").ravel(), shuffled[:8])


def test_a_gate_leaves_the_factors_of_what_it_weighs() -> None:
    """Squeeze and excitation: x * sigmoid(conv(pool(x))): the layer in the gate takes the factor up."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="x")
    gate = net.op("Sigmoid", net.convolution(net.op("GlobalAveragePool", x), 16, 16, kernel=1))
    net.op("Mul", x, gate, out="gated")
    net.convolution("gated", 16, 8, out="y")
    classes = classes_of(net, "y")
    assert classes.of("x").all()
    np.testing.assert_array_equal(classes.of("x"), classes.of("gated"))


# --- rescaling --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_any_factors_leave_the_function_as_it_is(seed: int) -> None:
    graph, _ = random_network(seed)
    graph.infer_shapes()
    classes = ChannelClasses(graph, set())
    factors = np.exp(np.random.default_rng(seed).normal(0, 1, len(classes)))
    factors[0] = 1
    scaled = graph.copy()
    rescale(scaled, classes, factors)
    assert_same_function(graph, scaled)


def transposed(net: Net, x: str, groups: int) -> str:
    weight = net.weight(16, 16 // groups, 3, 3)
    return net.op(
        "ConvTranspose", x, weight, net.bias(16), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1], group=groups
    )


@pytest.mark.parametrize(
    "layer",
    [
        lambda net, x: net.convolution(x, 16, 16, groups=16),
        lambda net, x: net.convolution(x, 16, 16, groups=4, dilations=[2, 2]),
        lambda net, x: transposed(net, x, 1),
        lambda net, x: transposed(net, x, 4),
        lambda net, x: net.op("Conv", x, net.weight(16, 16, 1, 1)),
        lambda net, x: net.op(
            "BatchNormalization",
            net.op("Relu", x),
            *(net.constant(v) for v in np.float32([[1.5] * 16, [0.2] * 16, [0.1] * 16, [2] * 16])),
        ),
    ],
    ids=["depthwise", "grouped dilated", "transposed", "grouped transposed", "no bias", "norm"],
)
def test_every_layout_of_weights_takes_factors_on_both_sides(layer: Callable[[Net, str], str]) -> None:
    net = Net()
    x = net.op("Relu", layer(net, net.op("Relu", net.convolution("image", 3, 16))))
    net.convolution(x, 16, 8, out="y")
    graph = prepared(net, "y")
    classes = ChannelClasses(graph, set())
    factors = np.exp(np.random.default_rng(0).normal(0, 1, len(classes)))
    factors[0] = 1
    scaled = graph.copy()
    rescale(scaled, classes, factors)
    assert len(np.unique(classes.of(x))) >= 16
    assert_same_function(graph, scaled)


@pytest.mark.parametrize("transposed_weights", [0, 1])
def test_matrix_products_take_factors_on_both_sides(transposed_weights: int) -> None:
    net = Net(channels=3)
    x = net.op("Reshape", "image", net.constant(np.array([32, 24])))
    weight = net.weight(40, 24) if transposed_weights else net.weight(24, 40)
    x = net.op("Relu", net.op("Gemm", x, weight, net.bias(40), transB=transposed_weights), out="x")
    net.op("MatMul", x, net.weight(40, 8), out="y")
    graph = prepared(net, "y")
    classes = ChannelClasses(graph, set())
    factors = np.concatenate([[1.0], np.geomspace(0.1, 10, len(classes) - 1)])
    scaled = graph.copy()
    rescale(scaled, classes, factors)
    assert classes.of("x").all()
    assert_same_function(graph, scaled)


def test_shared_weights_are_told_apart_where_their_inputs_differ() -> None:
    net = Net()
    x = uneven(net, "image", 3, 16)
    weight = net.weight(16, 16, 3, 3)
    for _ in range(2):
        x = net.op("Conv", net.op("Relu", x), weight, pads=[1] * 4)
    net.convolution(net.op("Relu", x), 16, 8, out="y")
    graph = prepared(net, "y")
    result, _ = equalise(graph, sites_of(graph), channel_sizes(graph, sites_of(graph)))
    assert_same_function(graph, result)


# --- equalise ---------------------------------------------------------------------------------------------------------


def depthwise_chain(activation: Callable[[Net, str], str]) -> Graph:
    net = Net()
    x = activation(net, uneven(net, "image", 3, 32))
    x = activation(net, net.convolution(x, 32, 32, groups=32, out="depthwise"))
    net.convolution(net.op("Relu", net.convolution(x, 32, 16, kernel=1)), 16, 8, out="y")
    return prepared(net, "y")


def relu(net: Net, x: str) -> str:
    return net.op("Relu", x)


def silu(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


def test_equalising_makes_the_input_of_a_depthwise_layer_even() -> None:
    graph = depthwise_chain(relu)
    sites = sites_of(graph)
    sizes = channel_sizes(graph, sites)
    site = next(s for s in sites if "depthwise" in s.readers)
    result, claimed = equalise(graph, sites, sizes)
    assert_same_function(graph, result)
    assert spread(sizes[site.tensor]) > 30
    assert spread(claimed[site.tensor]) < 1.5
    for tensor, expected in channel_sizes(result, sites).items():
        np.testing.assert_allclose(claimed[tensor], expected, rtol=1e-3, atol=1e-6)


def test_equalising_adds_no_node() -> None:
    graph = depthwise_chain(relu)
    result, _ = equalise(graph, sites_of(graph), channel_sizes(graph, sites_of(graph)))
    assert [(n.op_type, n.output[0]) for n in result.nodes] == [(n.op_type, n.output[0]) for n in graph.nodes]


def test_channels_behind_silu_are_left_to_a_multiplication() -> None:
    graph = depthwise_chain(silu)
    sites = sites_of(graph)
    sizes = channel_sizes(graph, sites)
    same, unchanged = equalise(graph, sites, sizes)
    site = next(s for s in sites if "depthwise" in s.readers)
    np.testing.assert_array_equal(unchanged[site.tensor], sizes[site.tensor])
    result, scaled = scale_sites(same, sites, sizes)
    assert site.tensor in {entry.tensor for entry in scaled}
    assert all(entry.gain_db >= LEAST_GAIN_DB for entry in scaled)
    muls = [node for node in result.nodes if node.name.startswith(SCALE_PREFIX)]
    assert [node.input[0] for node in muls] == [entry.tensor for entry in scaled]
    assert_same_function(graph, result)


def test_even_channels_get_no_multiplication() -> None:
    net = Net()
    x = silu(net, net.convolution("image", 3, 16))
    net.convolution(net.convolution(x, 16, 16), 16, 8, out="y")
    graph = prepared(net, "y")
    sites = sites_of(graph)
    even = {site.tensor: np.ones(3 if site.tensor == "image" else 16) for site in sites}
    result, scaled = scale_sites(graph, sites, even)
    assert not scaled
    assert len(result.proto.node) == len(graph.proto.node)


def quantised(graph: Graph, **options: object) -> Graph:
    plan = plan_placement(graph)
    return emit_tensorrt(graph, plan, measured(graph, plan.observed, IMAGES), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", [relu, silu], ids=["folded", "multiplied"])
def test_uneven_channels_lose_less_once_repaired(activation: Callable[[Net, str], str]) -> None:
    """Channels from 1 to 100 on one grid: the small ones have a step or two. Repaired, each has its own."""
    graph = depthwise_chain(activation)
    sites = sites_of(graph)
    repaired, sizes = equalise(graph, sites, channel_sizes(graph, sites))
    repaired, _ = scale_sites(repaired, sites, sizes)

    def loss(candidate: Graph) -> float:
        pairs = [(run(graph, image)["y"], run(quantised(candidate), image)["y"]) for image in IMAGES]
        return sqnr_db(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))

    assert loss(repaired) > loss(graph) + 3


# --- odd channels -----------------------------------------------------------------------------------------------------


def test_dead_channels_are_left_alone_and_harm_nobody() -> None:
    net = Net()
    x = uneven(net, "image", 3, 16)
    mask = np.ones((1, 16, 1, 1), np.float32)
    mask[0, 3:6] = 0
    x = net.op("Relu", net.op("Mul", x, net.constant(mask)))
    net.convolution(net.convolution(x, 16, 16, groups=16, out="depthwise"), 16, 8, out="y")
    graph = prepared(net, "y")
    sites = sites_of(graph)
    result, sizes = equalise(graph, sites, channel_sizes(graph, sites))
    result, _ = scale_sites(result, sites, sizes)
    assert all(np.isfinite(value).all() for value in result.constants.values() if value.dtype.kind == "f")
    assert_same_function(graph, result)


@pytest.mark.parametrize("outlier", [1e4, 1e12])
def test_a_huge_outlier_scales_nothing_out_of_floats_range(outlier: float) -> None:
    graph = depthwise_chain(relu)
    sites = sites_of(graph)
    sizes = channel_sizes(graph, sites)
    for values in sizes.values():
        values[0] *= outlier
    result, _ = equalise(graph, sites, sizes)
    result, _ = scale_sites(result, sites, sizes)
    assert_same_function(graph, result)


def test_a_tensor_that_is_zero_everywhere_is_left_alone() -> None:
    graph = depthwise_chain(relu)
    sites = sites_of(graph)
    sizes = {tensor: np.zeros_like(values) for tensor, values in channel_sizes(graph, sites).items()}
    result, claimed = equalise(graph, sites, sizes)
    result, scaled = scale_sites(result, sites, claimed)
    assert not scaled
    assert_same_function(graph, result)


# --- clip weights -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([0, 1, None]))
@settings(deadline=None, max_examples=30)
def test_clipped_weights_are_never_further_off(seed: int, axis: int | None) -> None:
    values = np.random.default_rng(seed).standard_t(2, (8, 6, 3, 3)).astype(np.float32)

    def error(scales: NDArray[np.float32]) -> float:
        return float(np.square(to_float(to_int8(values, scales, axis), scales, axis) - values, dtype=np.float64).sum())

    plain, clipped = weight_scales(values, axis), weight_scales(values, axis, clip=True)
    assert plain.shape == clipped.shape == (() if axis is None else (values.shape[axis],))
    assert (clipped <= plain).all()
    assert error(clipped) <= error(plain) * (1 + 1e-6)
    np.testing.assert_array_equal(clipped, half_scales(clipped * 127.0 * (1 - 2**-12)))


@pytest.mark.parametrize("clip", [False, True])
def test_all_zero_weights_have_a_positive_scale(clip: bool) -> None:
    scales = weight_scales(np.zeros((4, 3, 3, 3), np.float32), 0, clip=clip)
    assert (scales > 0).all()
    assert np.isfinite(scales).all()


# --- correct biases ---------------------------------------------------------------------------------------------------


def shifted() -> Graph:
    """A layer on inputs far from zero: the rounding of its weights moves every sum the same way."""
    net = Net()
    x = net.op("Add", net.convolution("image", 3, 16), net.constant(np.float32(20)))
    net.convolution(x, 16, 16, kernel=1, out="layer")
    net.convolution("layer", 16, 8, out="y")
    return prepared(net, "y")


def test_probes_see_what_the_emitted_layer_does() -> None:
    graph = shifted()
    plan = plan_placement(
        graph, keep_float={node.output[0]: "other" for node in graph.nodes if node.output[0] != "layer"}
    )
    ranges = measured(graph, plan.observed, IMAGES)
    shown = graph.copy()
    shown.proto.output.append(next(v for v in graph.proto.value_info if v.name == "layer"))
    emitted = emit_tensorrt(shown, plan, ranges)
    found = probe_layers(graph, plan, ranges, "minmax", IMAGES, clip=False)["layer"]
    for image, error in zip(IMAGES, found.error, strict=True):
        difference = run(emitted, image)["layer"] - run(shown, image)["layer"]
        np.testing.assert_allclose(error, difference.mean(axis=(0, 2, 3)), atol=0.02)


def test_a_corrected_bias_takes_the_shift_out() -> None:
    graph = shifted()
    plan = plan_placement(
        graph, keep_float={node.output[0]: "other" for node in graph.nodes if node.output[0] != "layer"}
    )
    ranges = measured(graph, plan.observed, IMAGES)
    probes = probe_layers(graph, plan, ranges, "minmax", IMAGES, clip=False)
    corrections = corrections_of(graph, probes)
    assert set(corrections) == {"layer"}
    assert explained_db(probes) > 1
    fresh = pictures((1, 3, 16, 16), 4, seed=9)

    def error(**options: object) -> float:
        emitted = emit_tensorrt(graph, plan, ranges, **options)  # type: ignore[arg-type]
        return float(np.mean([np.square(run(emitted, i)["y"] - run(graph, i)["y"]).mean() for i in fresh]))

    assert error(corrections=corrections) < 0.8 * error()


def test_a_shift_that_differs_from_picture_to_picture_is_hardly_corrected() -> None:
    graph = shifted()
    random = np.random.default_rng(0).normal(0, 1, (8, 16))
    output = np.zeros_like(random), np.ones_like(random)
    noisy = Probe(random, np.square(random) + 1, *output)
    steady = Probe(random * 0.01 + 1, np.square(random * 0.01 + 1) + 1, *output)
    assert np.abs(corrections_of(graph, {"layer": noisy})["layer"]).mean() < 0.3 * np.abs(random).mean()
    np.testing.assert_allclose(corrections_of(graph, {"layer": steady})["layer"], 1, atol=0.02)


def test_one_picture_corrects_nothing() -> None:
    graph = shifted()
    plan = plan_placement(graph)
    probes = probe_layers(graph, plan, measured(graph, plan.observed, IMAGES), "minmax", IMAGES[:1], clip=True)
    assert not any(correction.any() for correction in corrections_of(graph, probes).values())


# --- sums and shared grids --------------------------------------------------------------------------------------------


def residual(ratio: float) -> Graph:
    """y = x + conv(x), with x `ratio` times as large as what the convolution makes of it."""
    net = Net()
    x = net.op("Relu", uneven(net, "image", 3, 16, ratio=1), out="x")
    branch = net.op("Conv", x, net.weight(16, 16, 3, 3, gain=1 / ratio), net.bias(16), pads=[1] * 4, out="branch")
    net.op("Add", x, branch, out="sum")
    net.convolution("sum", 16, 8, out="y")
    return prepared(net, "y")


@pytest.mark.parametrize(("ratio", "kept_float"), [(0.2, False), (30.0, True)])
def test_a_sum_stays_float_where_its_identity_would_bring_most_of_the_noise(ratio: float, kept_float: bool) -> None:
    graph = residual(ratio)
    plan = plan_placement(graph)
    assert "sum" in plan.tensorrt_inputs
    probes = probe_layers(graph, plan, measured(graph, plan.observed, IMAGES), "minmax", IMAGES, clip=False)
    reasons = float_sums(graph, plan, probes)
    assert ("sum" in reasons) is kept_float
    plan = plan_placement(graph, keep_float=reasons)
    assert ("sum" in plan.tensorrt_inputs) is not kept_float
    assert not kept_float or "dB" in plan.tensorrt["sum"].reason


@pytest.mark.parametrize(("gain", "alike"), [(1.05, True), (2.0, False)])
def test_grids_are_shared_where_they_are_nearly_the_same(gain: float, alike: bool) -> None:
    net = Net()
    a = net.op("Relu", net.convolution("image", 3, 16), out="a")
    b = net.op("Relu", net.convolution(a, 16, 16), out="b")
    net.op("Concat", a, b, axis=1, out="joined")
    net.convolution(net.convolution("joined", 32, 16), 16, 8, out="y")
    graph = prepared(net, "y")
    plan = plan_placement(graph)
    ranges = {name: Extremes(0.0, gain if name == "joined" else 1.0) for name in plan.observed}
    shared = share_grids(graph, plan, ranges, "minmax")
    assert shared == ({"a": "joined"} if alike else {})


def test_a_chain_of_moves_shares_no_further_than_one_step() -> None:
    """Three ranges, each a little above the one before: the first and the last are too far apart for one grid."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="a")
    for name in ("b", "c"):
        net.convolution(x, 16, 16, out=f"reader_{name}")
        x = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, out=name)
    joined = net.op("Concat", "reader_b", "reader_c", net.convolution(x, 16, 16), axis=1)
    net.convolution(net.convolution(joined, 48, 16), 16, 8, out="y")
    graph = prepared(net, "y")
    plan = plan_placement(graph)
    ranges = {name: Extremes(0.0, {"b": 1.1, "c": 1.2}.get(name, 1.0)) for name in plan.observed}
    assert share_grids(graph, plan, ranges, "minmax") == {"a": "b"}
