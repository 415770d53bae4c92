"""torchvision's compiled operators beside a torch for the CPU.

The wheel on the ordinary index is linked against CUDA's libraries, so that its `nms` and `roi_align` do not load where
torch came without CUDA. Their CPU code needs nothing of CUDA: empty libraries in its place are enough.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
from pathlib import Path


def load_operators(folder: Path) -> None:
    """Import torchvision so that its operators are there; `folder` keeps the stand-ins.

    Raises:
        RuntimeError: they are not there even so.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise RuntimeError("torchvision is not installed: make test-families makes the environment")
    if torch.version.cuda is None:
        _stand_in(Path(spec.origin).with_name("_C.so"), folder)
    from torchvision.extension import _has_ops

    if not _has_ops():
        raise RuntimeError("torchvision's compiled operators do not load")


def _stand_in(extension: Path, folder: Path) -> None:
    """Load a library under each CUDA name that `extension` is linked with, and every CUDA symbol that it wants."""
    needed = _output("readelf", "-d", str(extension))
    libraries = re.findall(r"\[(libcudart\.so[.\d]*|libc10_cuda\.so|libtorch_cuda\.so)\]", needed)
    undefined = {line.split()[-1].split("@")[0] for line in _output("nm", "-D", "-u", str(extension)).splitlines()}
    symbols = sorted(name for name in undefined if "cuda" in name.lower())
    for library in libraries:
        mangled = "cudart" not in library
        source = "".join(f"long {name}(void) {{ return 0; }}\n" for name in symbols if name.startswith("_Z") == mangled)
        versions = folder / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};")
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
        subprocess.run([*command, "-o", str(folder / library), "-xc", "-"], input=source, text=True, check=True)
        ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
