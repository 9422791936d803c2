"""Which model a benchmark's numbers belong to: the shipped one is trained anew now and then."""

from __future__ import annotations

import hashlib
from typing import Any

from szn_runtime.bundle import Bundle

__all__ = ["bundle_facts"]


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """`name`, `backbone`, `stride`, `dim`, and the SHA-256 of the FP32 graph."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "backbone": manifest.backbone,
        "stride": manifest.stride,
        "dim": manifest.dim,
        "onnx_sha256": hashlib.sha256(bundle.model_bytes()).hexdigest(),
    }
