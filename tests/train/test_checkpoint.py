from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import (
    load_checkpoint,
    load_label_space,
    load_weights,
    read_json,
    save_checkpoint,
    save_label_space,
    save_weights,
    write_atomically,
    write_csv,
    write_json,
)
from szn_train.semantic import LabelSpace


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text is not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_weights_and_checkpoints_come_back(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    save_weights(tmp_path / "w.safetensors", weights)
    save_checkpoint(tmp_path / "c.pt", {"network": weights, "history": [{"epoch": 1}]})
    for loaded in (
        load_weights(tmp_path / "w.safetensors"),
        load_checkpoint(tmp_path / "c.pt")["network"],
    ):
        assert {k: v.tolist() for k, v in loaded.items()} == {
            k: v.tolist() for k, v in weights.items()
        }


def test_the_label_space_comes_back(tmp_path: Path) -> None:
    space = LabelSpace(
        source="s", names=("a", "b"), embeddings=np.eye(2, dtype=np.float32),
        mean=np.ones(3, np.float32), basis=np.ones((2, 3), np.float32), explained_variance=0.5,
    )  # fmt: skip
    save_label_space(tmp_path / "l.npz", space)
    loaded = load_label_space(tmp_path / "l.npz")
    assert (loaded.source, loaded.names, loaded.explained_variance) == ("s", ("a", "b"), 0.5)
    assert loaded.basis is not None
    np.testing.assert_array_equal(loaded.basis, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("c.pt", load_checkpoint),
        ("w.safetensors", load_weights),
        ("l.npz", load_label_space),
        ("j.json", read_json),
    ],
)
@pytest.mark.parametrize("content", [b"", b"not what it says", None])
def test_missing_and_damaged_files(tmp_path: Path, name: str, load, content) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"damaged|missing|has no|is not a run folder"):
        load(path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "j.json", {"a": float("nan"), "b": [1, (2.5, float("inf"))]})
    assert json.loads((tmp_path / "j.json").read_text()) == {"a": None, "b": [1, [2.5, None]]}


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": 1, "b": "x"}, {"a": 2, "b": "y, z"}])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,x\n2,"y, z"\n'
