"""Zero-shot semantic segmentation with labels as runtime data.

    import szn_runtime as szn

    segmenter = szn.load()
    result = segmenter(image_bgr)        # (H, W, 3) uint8, as cv2.imread gives it
    result.labels, result.names, result.shares
    segmenter.with_labels("cow, sheep, grass, sky")

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from szn_runtime.backends import Backend, BackendOptions, Grids, open_backend
    from szn_runtime.bundle import (
        Artefact,
        Bundle,
        Manifest,
        Preprocess,
        default_bundle_path,
        write_bundle,
    )
    from szn_runtime.errors import (
        BackendError,
        BundleError,
        InputError,
        LabelError,
        MissingDependencyError,
        SinkError,
        SourceError,
        SznError,
        UsageError,
    )
    from szn_runtime.geometry import GridGeometry
    from szn_runtime.labels import LabelSet, label_set, parse_labels
    from szn_runtime.loading import load
    from szn_runtime.regions import Region
    from szn_runtime.segmentation import Segmentation
    from szn_runtime.segmenter import Segmenter
    from szn_runtime.sei import segment_grid
    from szn_runtime.selection import Choice, choose_backend
    from szn_runtime.vocabulary import Projection, Vocabulary

__version__ = "0.1.0"

__all__ = [
    "Artefact",
    "Backend",
    "BackendError",
    "BackendOptions",
    "Bundle",
    "BundleError",
    "Choice",
    "GridGeometry",
    "Grids",
    "InputError",
    "LabelError",
    "LabelSet",
    "Manifest",
    "MissingDependencyError",
    "Preprocess",
    "Projection",
    "Region",
    "Segmentation",
    "Segmenter",
    "SinkError",
    "SourceError",
    "SznError",
    "UsageError",
    "Vocabulary",
    "__version__",
    "choose_backend",
    "default_bundle_path",
    "label_set",
    "load",
    "open_backend",
    "parse_labels",
    "segment_grid",
    "write_bundle",
]

_MODULE_OF = {
    "backends": ("Backend", "BackendOptions", "Grids", "open_backend"),
    "bundle": (
        "Artefact",
        "Bundle",
        "Manifest",
        "Preprocess",
        "default_bundle_path",
        "write_bundle",
    ),
    "errors": (
        "BackendError",
        "BundleError",
        "InputError",
        "LabelError",
        "MissingDependencyError",
        "SinkError",
        "SourceError",
        "SznError",
        "UsageError",
    ),
    "geometry": ("GridGeometry",),
    "labels": ("LabelSet", "label_set", "parse_labels"),
    "regions": ("Region",),
    "selection": ("Choice", "choose_backend"),
    "segmentation": ("Segmentation",),
    "loading": ("load",),
    "segmenter": ("Segmenter",),
    "sei": ("segment_grid",),
    "vocabulary": ("Projection", "Vocabulary"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    for module, names in _MODULE_OF.items():
        if name in names:
            return getattr(importlib.import_module(f"szn_runtime.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
