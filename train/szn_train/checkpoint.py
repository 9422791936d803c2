"""What a run keeps on disk, written so that a crash or a full disk loses nothing older."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from szn_runtime.errors import TrainingError
from szn_train.semantic import LabelSpace

__all__ = [
    "load_checkpoint",
    "load_label_space",
    "load_weights",
    "read_json",
    "save_checkpoint",
    "save_label_space",
    "save_weights",
    "write_atomically",
    "write_csv",
    "write_json",
]


_CHECKPOINT_KEYS = {"step", "network", "optimizer", "average", "history"}


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the file, then rename: readers see the old content or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Indented JSON with a final newline; NaN becomes null."""
    plain = _without_nan(values)
    write_atomically(path, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """JSON of a run folder.

    Raises:
        TrainingError: If the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(
            f"{path.parent} is not a run folder", expected=path.name, fix="give szn-train's --out"
        ) from None
    except ValueError as error:
        raise TrainingError(f"{path} is damaged ({error})") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} is damaged", expected="a JSON object")
    return values


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a CSV file with a header; a key that a row lacks is left empty."""
    text = io.StringIO()
    keys = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, fieldnames=list(keys), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Everything a run needs to go on: weights, optimiser, position, history."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_atomically(path, content.getbuffer())  # no second copy of gigabytes


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed (`weights_only`).

    Raises:
        TrainingError: If it is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(
            f"{path.parent} has no checkpoint", fix="train without --resume"
        ) from None
    except Exception as error:  # torch raises whatever its unpickler meets
        raise TrainingError(f"{path} is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or not set(state) >= _CHECKPOINT_KEYS:
        raise TrainingError(f"{path} is no checkpoint of szn-train")
    return state


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Weights as safetensors."""
    from safetensors.torch import save

    write_atomically(path, save({name: t.cpu().contiguous() for name, t in weights.items()}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a run.

    Raises:
        TrainingError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise TrainingError(
            f"{path.parent} has no finished weights", fix="finish the run with --resume"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TrainingError(f"{path} is damaged ({error})") from error


def save_label_space(path: Path, space: LabelSpace) -> None:
    """The labels' embeddings and the PCA."""
    arrays: dict[str, Any] = {
        "names": np.array(space.names),
        "embeddings": space.embeddings,
    }
    if space.mean is not None and space.basis is not None:
        arrays |= {"mean": space.mean, "basis": space.basis}
    facts = {"source": space.source, "explained_variance": space.explained_variance}
    content = io.BytesIO()
    np.savez(content, facts=np.array(json.dumps(facts)), **arrays)
    write_atomically(path, content.getvalue())


def load_label_space(path: Path) -> LabelSpace:
    """What `save_label_space` wrote.

    Raises:
        TrainingError: If the file is missing or damaged.
    """
    try:
        # From memory, because numpy leaves files open that are no npz.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            return LabelSpace(
                source=facts["source"],
                names=tuple(map(str, arrays["names"])),
                embeddings=arrays["embeddings"],
                mean=arrays.get("mean"),
                basis=arrays.get("basis"),
                explained_variance=facts["explained_variance"],
            )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is missing or damaged ({error})") from error
