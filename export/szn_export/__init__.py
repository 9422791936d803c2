"""Export of trained runs: ONNX and the bundle, each compared with PyTorch before it is written."""

from __future__ import annotations

__all__: list[str] = []
