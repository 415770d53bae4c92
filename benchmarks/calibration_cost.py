"""What calibration costs, in plain forward passes: both run in turn in one process, on the same pictures.

    python -m benchmarks.calibration_cost MODEL.onnx PICTURES [--workers N] [--rounds N]

A plain pass is what the calibration needs anyway: the graph as it is, one run per picture, as many single-threaded
workers. It is taken twice: with decoding and preprocessing, and bare (the input is there already), the hardest measure.
Calibration observes the input and the output of every convolution and addition, and decodes and preprocesses. It has
two passes, each judged for itself: the channels of the inputs of convolutions, and the ranges of all tensors.
Memory is the peak of a process of its own, for all pictures and for a third of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from edgevision.calibration import CalibrationImages, collect_channels, collect_ranges
from edgevision.export.graph import Graph
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess


def observed_tensors(graph: Graph) -> list[str]:
    """Inputs and outputs of convolutions and additions; an activation that fuses stands for what it follows."""
    found: list[str] = []
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add"):
            output = node.output[0]
            readers = graph.consumers[output]
            if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
                output = readers[0].output[0]
            inputs = node.input if node.op_type == "Add" else node.input[:1]
            found += [name for name in (*inputs, output) if name not in graph.constants]
    return list(dict.fromkeys(found))


class Bench:
    """One model with its pictures."""

    def __init__(self, model: Path, pictures: str, workers: int, limit: int) -> None:
        proto = onnx.load(model)
        graph = Graph(proto)
        spec = next(i for i in proto.graph.input if i.name == graph.inputs[0])
        sides = [d.dim_value for d in spec.type.tensor_type.shape.dim]
        self.preprocess = Preprocess(spec.name, (sides[3], sides[2]), mean=(128.0,) * 3, std=(128.0,) * 3)
        self.graph, self.tensors = proto.SerializeToString(), observed_tensors(graph)
        self.inputs = list(dict.fromkeys(node.input[0] for node in graph.nodes if node.op_type == "Conv"))
        self.images, self.workers = CalibrationImages(pictures, limit), workers

    def calibrate(self) -> None:
        """The product, as it is used."""
        images = CalibrationImages(self.images.pattern, len(self.images))
        collect_ranges(self.graph, self.tensors, images, self.preprocess, workers=self.workers, quiet=True)

    def channels(self) -> None:
        """The pass before it, where channels are repaired."""
        images = CalibrationImages(self.images.pattern, len(self.images))
        collect_channels(self.graph, self.inputs, images, self.preprocess, workers=self.workers, quiet=True)

    def plain(self, *, bare: bool) -> None:
        """Every picture through the unchanged graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

        def work(first: int) -> None:
            prepare = Preprocessor(self.preprocess)
            array = np.zeros(prepare.shape, prepare.dtype)
            slot = array[0]
            binding = session.io_binding()
            binding.bind_cpu_input(self.preprocess.input_name, array)
            for output in session.get_outputs():
                binding.bind_output(output.name)
            for index in range(first, len(self.images), self.workers):
                if not bare:
                    image = self.images.read(index)
                    if image is None:
                        continue
                    prepare(image, slot)
                    binding.bind_cpu_input(self.preprocess.input_name, array)
                session.run_with_iobinding(binding)

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(work, range(self.workers)))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; exit code 1 where a pass costs more than 1.5 plain ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--memory", choices=("calibrate", "channels", "plain"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    bench = Bench(args.model, args.pictures, args.workers, args.limit)
    sides: dict[str, Callable[[], None]] = {
        "bare": lambda: bench.plain(bare=True),
        "plain": lambda: bench.plain(bare=False),
        "calibrate": bench.calibrate,
        "channels": bench.channels,
    }
    if args.memory:
        sides[args.memory]()
        # VmHWM, not ru_maxrss: a process inherits the latter from the one that started it.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
        return 0

    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, run in sides.items():
            start = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    count = len(bench.images)
    memory = {
        f"{side}, {limit} pictures": _peak_mib(args, side, limit)
        for side, limit in itertools.product(("plain", "calibrate", "channels"), (count, max(1, count // 3)))
    }
    result = {
        "model": args.model.name,
        "pictures": count,
        "workers": args.workers,
        "tensors": len(bench.tensors),
        "forward_passes_per_picture": {"calibrate": 1, "channels": 1},
        "wall_s": {name: round(statistics.median(values), 3) for name, values in wall.items()},
        "ratio_to_plain_passes": {"wall": _ratios(wall, "plain"), "cpu": _ratios(cpu, "plain")},
        "ratio_to_bare_passes": {"wall": _ratios(wall, "bare"), "cpu": _ratios(cpu, "bare")},
        "peak_mib": memory,
    }
    print(json.dumps(result, indent=1))
    return 0 if max(_ratios(wall, "plain").values()) <= 1.5 else 1


def _ratios(times: dict[str, list[float]], floor: str) -> dict[str, float]:
    """Median over the rounds of each pass's time to that of `floor` beside it."""
    return {
        side: round(statistics.median(cost / base for cost, base in zip(times[side], times[floor], strict=True)), 3)
        for side in ("calibrate", "channels")
    }


def _peak_mib(args: argparse.Namespace, side: str, limit: int) -> int:
    command = [sys.executable, "-m", "benchmarks.calibration_cost", str(args.model), args.pictures]
    command += ["--workers", str(args.workers), "--limit", str(limit), "--memory", side]
    return round(float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout))


if __name__ == "__main__":
    sys.exit(main())
