from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import szn_runtime

PUBLIC = """
Artefact Backend BackendError BackendOptions Bundle BundleError Choice GridGeometry Grids InputError
LabelError LabelSet Manifest MissingDependencyError Preprocess Projection Region Segmentation
Segmenter SinkError SourceError SznError UsageError Vocabulary __version__ choose_backend
default_bundle_path label_set load open_backend parse_labels segment_grid write_bundle
"""


def test_public_names_are_these() -> None:
    assert szn_runtime.__all__ == PUBLIC.split()
    assert set(szn_runtime.__all__) <= set(dir(szn_runtime))


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    value = getattr(szn_runtime, name)
    assert getattr(value, "__doc__", None)


def test_other_names_do_not() -> None:
    with pytest.raises(AttributeError, match="module 'szn_runtime' has no attribute 'train'"):
        szn_runtime.train  # noqa: B018


def test_version_is_what_the_distribution_takes() -> None:
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    source = root / settings["tool"]["hatch"]["version"]["path"]
    assert source.samefile(szn_runtime.__file__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", szn_runtime.__version__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, szn_runtime\n"
        "heavy = {'numpy', 'cv2', 'numba', 'av', 'onnxruntime', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "szn_runtime.LabelSet\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    # the second line shows that the probe can fail
    assert done.stdout.splitlines() == ["[]", "['numpy']"]
