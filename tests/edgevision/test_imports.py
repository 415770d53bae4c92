"""Import layers: arrows point down only, heavy packages stay where they belong, `import edgevision` is light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgevision"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. A module belongs to the entry with its longest matching prefix; what is not named is assembly.
LAYERS = ("types", "computation", "device and I/O", "assembly", "command line")
NAMED = {
    "activity": "types",
    "nv12": "types",
    "errors": "types",
    "results": "types",
    "frame": "types",
    "geometry": "types",
    "manifest": "types",
    "bundle": "types",
    "files": "types",
    "labels": "types",
    "latency": "types",
    "machine": "types",
    "optional": "types",
    "polling": "types",
    "progress": "types",
    "redaction": "types",
    "registry": "types",
    "backends.base": "types",
    "sources.base": "types",
    "sinks.base": "types",
    "drawing": "computation",
    "kernels": "computation",
    "synthetic": "computation",
    "backends": "device and I/O",
    "cuda": "device and I/O",
    "cuda_driver": "device and I/O",
    "cuda_handles": "device and I/O",
    "sources": "device and I/O",
    "sinks": "device and I/O",
    "pictures": "device and I/O",
    "cli": "command line",
    "demo": "command line",
    "cli.output": "assembly",
    "__main__": "command line",
}
# The workstation's half of the project, and what only it needs. Only these verbs may reach for it, inside functions.
WORKSTATION = {"onnx", "torch", "edgevision.export", "edgevision.calibration"}
MAY_REACH = {"cli.build", "cli.export", "cli.demo", "cli.info"}
DEVICES = {"av", "gi", "onnxruntime", "pycuda", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}


def module_name(path: Path) -> str:
    """Dotted name below `edgevision`; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def layer(module: str) -> int:
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return LAYERS.index(next((NAMED[p] for p in prefixes if p in NAMED), "assembly"))


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Each full name that a file imports or requires, and whether it does so at its top."""
    tree = ast.parse(path.read_text())
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    inside = {child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if node in for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # `from package import name`: the name may be a module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in ("require", "import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [node.args[0].value]
        found += [(name, node not in inside) for name in names]
    return tuple(found)


def own_modules(path: Path) -> Iterator[str]:
    """The modules of `edgevision` that a file imports."""
    for name, _ in imports(path):
        if name == "edgevision" or name.startswith("edgevision."):
            inner = name.removeprefix("edgevision").lstrip(".")
            while inner and inner not in MODULES:
                inner = inner.rpartition(".")[0]
            yield inner


def names(path: Path, *, top_only: bool = False) -> set[str]:
    return {name for name, top in imports(path) if top or not top_only}


def reaches(found: set[str], packages: set[str]) -> set[str]:
    return {package for package in packages for name in found if name == package or name.startswith(f"{package}.")}


def test_the_walk_sees_imports() -> None:
    """The other tests would pass on a walk that sees nothing."""
    assert "numpy" in names(PACKAGE / "geometry.py")
    assert "onnxruntime" in names(PACKAGE / "backends" / "onnxruntime.py")
    assert "manifest" in set(own_modules(PACKAGE / "bundle.py"))
    assert layer("backends.base") < layer("kernels.cpu") < layer("backends.onnxruntime") < layer("model") < layer("cli")


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m or "edgevision")
def test_no_arrow_points_up(module: str) -> None:
    if module == "":
        return  # the package itself names everything, lazily: see the last test
    upward = {
        f"{module} ({LAYERS[layer(module)]}) imports {other} ({LAYERS[layer(other)]})"
        for other in own_modules(MODULES[module])
        if other and layer(other) > layer(module)
    }
    assert not upward


@pytest.mark.parametrize("module", [m for m in MODULES if m and LAYERS[layer(m)] == "types"])
def test_types_need_numpy_only(module: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "edgevision"}
    assert {name.partition(".")[0] for name in names(MODULES[module])} <= allowed


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m or "edgevision")
def test_the_runtime_does_not_need_the_workstations_half(module: str) -> None:
    reached = reaches(names(MODULES[module]), WORKSTATION)
    at_the_top = reaches(names(MODULES[module], top_only=True), WORKSTATION)
    assert not at_the_top
    assert not reached or module in MAY_REACH


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m or "edgevision")
def test_one_device_package_per_file(module: str) -> None:
    families = {package.partition("_")[0] for package in reaches(names(MODULES[module]), DEVICES)}
    assert len(families) <= 1


def test_importing_edgevision_loads_numpy_and_nothing_heavier() -> None:
    code = """
import sys
before = set(sys.modules)
import edgevision
for name in edgevision.__dir__():
    if name not in edgevision._LAZY:
        getattr(edgevision, name)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["edgevision", "numpy"]
