"""A stand-in for NVIDIA TensorRT, version by version.

It has exactly the names and signatures of the real bindings (api.txt), refuses what they refuse, and behaves as
documented and measured where the SDK can notice: what the parser and the builder accept, when errors show, what plans
fit what device. A plan holds the network as ONNX; a context runs it with ONNX Runtime on the addresses bound to it, as
work on the CUDA stream that it is given (on stream 0 at once, on host addresses).

    with install("10.3.0") as standin:          # `import tensorrt` gives it
        standin.world.no_int8.add("conv_7")     # see World
"""

from tests.standins.tensorrt.facts import load, versions
from tests.standins.tensorrt.module import Standin, install
from tests.standins.tensorrt.world import World

__all__ = ["Standin", "World", "install", "load", "versions"]
