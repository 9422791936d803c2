"""Training and evaluation of Seenmask Zero-shot Networks (PyTorch).

`szn-train` and `szn-eval` are the command lines; `szn_train.trainer.train` and
`szn_train.evaluate.evaluate` the same from Python.
"""

from __future__ import annotations

__all__: list[str] = []
