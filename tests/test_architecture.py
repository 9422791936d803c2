"""Dependencies point one way: szn_export -> szn_train -> szn_runtime, and the runtime is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = {
    "szn_runtime": REPOSITORY / "runtime" / "szn_runtime",
    "szn_train": REPOSITORY / "train" / "szn_train",
    "szn_export": REPOSITORY / "export" / "szn_export",
}
ALLOWED = {
    "szn_runtime": set(),
    "szn_train": {"szn_runtime"},
    "szn_export": {"szn_runtime", "szn_train"},
}
# What an edge box installs, beside the standard library. The second set is of extras and may be
# imported only where it is used, never by importing a module.
RUNTIME_LIBRARIES = {"av", "click", "cv2", "numba", "numpy", "platformdirs", "rich"}
RUNTIME_EXTRAS = {"cuda", "onnxruntime", "openvino", "sklearn", "tensorrt"}
RUNTIME_EXTRAS |= {"tensorrt_rtx", "tensorrt_rtx_bindings"}

# Imports every module of the runtime, with all but its own libraries out of reach.
PROBE = """
import importlib, pkgutil, sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"forbidden import: {name}")

sys.meta_path.insert(0, Gate())
import szn_runtime
for module in pkgutil.walk_packages(szn_runtime.__path__, "szn_runtime."):
    importlib.import_module(module.name)
EXTRA
print("clean")
"""
FORBIDDEN = {"torch", "torchvision", "timm", "gensim", "sklearn", "scipy", "matplotlib", "onnx"}
FORBIDDEN |= {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}
FORBIDDEN |= {"cuda", "szn_train", "szn_export"}


def run_probe(extra: str = "") -> subprocess.CompletedProcess[str]:
    source = f"FORBIDDEN = {FORBIDDEN!r}\n" + PROBE.replace("EXTRA", extra)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def modules(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def imported_roots(path: Path) -> set[str]:
    roots: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return roots


def test_every_module_of_the_runtime_imports_without_heavy_libraries() -> None:
    result = run_probe()
    assert result.returncode == 0, result.stderr
    assert result.stdout == "clean\n"


@pytest.mark.parametrize("library", ["torch", "sklearn", "szn_train"])
def test_the_probe_can_fail(library: str) -> None:
    result = run_probe(f"import {library}")
    assert result.returncode != 0
    assert f"forbidden import: {library}" in result.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    found = {
        str(path.relative_to(REPOSITORY)): sorted(
            imported_roots(path) & (set(PACKAGES) - {package} - ALLOWED[package])
        )
        for path in modules(package)
    }
    assert {path: roots for path, roots in found.items() if roots} == {}


def test_the_runtime_names_no_library_but_its_own() -> None:
    known = RUNTIME_LIBRARIES | RUNTIME_EXTRAS | {"szn_runtime"} | set(sys.stdlib_module_names)
    found = {
        str(path.relative_to(REPOSITORY)): sorted(imported_roots(path) - known)
        for path in modules("szn_runtime")
    }
    assert {path: roots for path, roots in found.items() if roots} == {}


def test_importing_the_runtime_costs_nothing() -> None:
    source = (
        "import sys, szn_runtime; "
        "roots = {m.partition('.')[0] for m in sys.modules}; "
        "print(sorted(roots & {'cv2', 'numba', 'numpy', 'av'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
    assert result.stderr == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_state_what_is_public(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()
    without = [
        str(path.relative_to(REPOSITORY))
        for path in modules(package)
        if not path.name.startswith("_") and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert without == []


@pytest.mark.parametrize("package", PACKAGES)
def test_input_is_never_checked_with_assert(package: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []
