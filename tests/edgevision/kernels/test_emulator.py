"""The emulator that kernels are tested on computes what CUDA defines, and finds what CUDA leaves undefined."""

from __future__ import annotations

import numpy as np
import pytest

from tests.standins.host_device import HostDevice, HostModule, LaunchError, build

SOURCE = """
extern "C" __global__ void __launch_bounds__(256) sum(const float* values, float* total) {
    __shared__ float part[256];
    part[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) total[blockIdx.x] = part[0];
}

extern "C" __global__ void warp(int* out) {
    const int lane = threadIdx.x;
    out[lane] = __ballot_sync(~0u, lane % 3 == 0);
    out[32 + lane] = __shfl_sync(~0u, lane * 10, 5);
    out[64 + lane] = __shfl_xor_sync(~0u, lane, 1);
    out[96 + lane] = __shfl_up_sync(~0u, lane, 2);
    out[128 + lane] = __shfl_down_sync(~0u, lane, 3);
    if (lane < 16) out[160 + lane] = __any_sync(0x0000FFFFu, lane == 3);
    else out[160 + lane] = __all_sync(0xFFFF0000u, lane > 16);
}

extern "C" __global__ void order(int* count, int* ranks) {
    ranks[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(count, 1);
}

extern "C" __global__ void poison(unsigned* out) {
    __shared__ unsigned left;
    out[blockIdx.x] = left;
    left = 7;
}

extern "C" __global__ void missing_barrier(int* out) {
    __shared__ int next[128];
    next[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = next[(threadIdx.x + 1) % 128];
}

extern "C" __global__ void early_exit() {
    if (threadIdx.x == 3) return;
    __syncthreads();
}

extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void half_a_warp(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __ballot_sync(~0u, 1);
    __syncthreads();
}

extern "C" __global__ void absent_lane(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 20);
}
"""


@pytest.fixture(scope="module")
def module() -> HostModule:
    return HostModule(build(SOURCE))


@pytest.mark.parametrize("seed", range(5))
def test_barriers_and_shared_memory(module: HostModule, seed: int) -> None:
    device = HostDevice()
    values = np.random.default_rng(seed).integers(0, 100, (7, 256)).astype(np.float32)
    given, total = device.put(values), device.allocate(7 * 4)
    module.seed(seed)
    module.kernel("sum", "PP")(None, (7, 1, 1), (256, 1, 1), given.address, total.address)
    np.testing.assert_array_equal(total.bytes.view(np.float32), values.sum(axis=1))


@pytest.mark.parametrize("seed", range(5))
def test_warp_functions(module: HostModule, seed: int) -> None:
    out = HostDevice().allocate(192 * 4)
    module.seed(seed)
    module.kernel("warp", "P")(None, (1, 1, 1), (32, 1, 1), out.address)
    lanes = np.arange(32)
    votes, broadcast, swapped, up, down, halves = out.bytes.view(np.int32).reshape(6, 32)
    assert set(votes.view(np.uint32)) == {sum(1 << i for i in range(0, 32, 3))}
    assert set(broadcast) == {50}
    np.testing.assert_array_equal(swapped, lanes ^ 1)
    np.testing.assert_array_equal(up, np.where(lanes < 2, lanes, lanes - 2))
    np.testing.assert_array_equal(down, np.where(lanes > 28, lanes, lanes + 3))
    np.testing.assert_array_equal(halves, lanes < 16)


def ranks(module: HostModule, seed: int) -> list[int]:
    device = HostDevice()
    count, out = device.put(np.zeros(1, np.int32)), device.allocate(4 * 96 * 4)
    module.seed(seed)
    module.kernel("order", "PP")(None, (4, 1, 1), (96, 1, 1), count.address, out.address)
    found: list[int] = out.bytes.view(np.int32).tolist()
    assert sorted(found) == list(range(384))
    return found


def test_seeds_choose_the_order_of_blocks_and_threads(module: HostModule) -> None:
    assert ranks(module, 0) == list(range(384))
    assert ranks(module, 1) == ranks(module, 1)
    first, second = (np.array(ranks(module, seed)).reshape(4, 96) for seed in (1, 2))
    assert (first != second).mean() > 0.9
    assert np.argsort(first.mean(axis=1)).tolist() != np.argsort(second.mean(axis=1)).tolist()


def test_shared_memory_is_poisoned_for_every_block(module: HostModule) -> None:
    out = HostDevice().allocate(4 * 4)
    for seed, poison in ((1, 0xFFFFFFFF), (2, 0xA5A5A5A5)):
        module.seed(seed)
        module.kernel("poison", "P")(None, (4, 1, 1), (1, 1, 1), out.address)
        assert set(out.bytes.view(np.uint32)) == {poison}


def test_a_missing_barrier_shows(module: HostModule) -> None:
    out = HostDevice().allocate(128 * 4)
    module.seed(1)
    module.kernel("missing_barrier", "P")(None, (1, 1, 1), (128, 1, 1), out.address)
    assert (out.bytes.view(np.int32) == -1).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("early_exit", r"__syncthreads at line \d+ reached by 63 of 64 threads"),
        ("two_barriers", r"divergent code.* lines \d+, \d+"),
        ("half_a_warp", r"a warp function at line \d+ waits for lanes .* __syncthreads at line \d+"),
        ("absent_lane", r"reads lane 20, which does not take part \(block 0,0,0\)"),
    ],
)
def test_divergence_fails_the_launch_and_the_next_one_works(module: HostModule, name: str, message: str) -> None:
    out = HostDevice().allocate(64 * 4)
    arguments = [out.address] if "lane" in name or "warp" in name else []
    for seed in (0, 1, 2):
        module.seed(seed)
        with pytest.raises(LaunchError, match=message):
            module.kernel(name, "P" * len(arguments))(None, (1, 1, 1), (64, 1, 1), *arguments)
        test_barriers_and_shared_memory(module, seed)


def test_what_does_not_compile_is_told_in_the_compilers_words() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        build('extern "C" __global__ void broken() { nonsense; }')
