from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

STATE: dict[str, Any] = {
    "step": "embedding",
    "network": {"weight": torch.arange(6.0).reshape(2, 3)},
    "optimizer": {"state": {}, "param_groups": []},
    "average": {},
    "history": [{"step": "embedding", "epoch": 1, "loss": 0.5}],
}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full after some bytes of each file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# atomic writes --------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"another", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(5000))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        save_checkpoint(path, {**STATE, "network": {"weight": torch.zeros(10_000)}})
    assert torch.equal(load_checkpoint(path)["network"]["weight"], STATE["network"]["weight"])


def test_a_name_that_is_taken_by_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file", b"new")


# JSON and CSV ---------------------------------------------------------------------------------


def test_json_has_no_nan(tmp_path: Path) -> None:
    values = {
        "a": math.nan,
        "b": {"c": [1, math.inf, (2.5, -math.inf)], 3: np.float64("nan")},
        "d": "text",
        "e": None,
        "f": True,
    }
    write_json(tmp_path / "values.json", values)
    text = (tmp_path / "values.json").read_text()
    assert text.endswith("}\n")
    assert read_json(tmp_path / "values.json") == {
        "a": None,
        "b": {"c": [1, None, [2.5, None]], "3": None},
        "d": "text",
        "e": None,
        "f": True,
    }
    assert math.isnan(values["a"])  # type: ignore[arg-type]  # the caller's values stay


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a run folder: expected config\.json; give szn-train's --out"),
        (b"{", r"config\.json is damaged \("),
        (b"\xff\xfe", r"config\.json is damaged \("),
        (b"[1, 2]", r"config\.json is damaged: expected a JSON object"),
    ],
)
def test_json_that_cannot_be_read_is_an_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=message) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_csv_has_a_header_and_a_line_a_row(tmp_path: Path) -> None:
    rows = [{"step": "embedding", "loss": 0.5}, {"step": 'see"n,', "loss": math.nan}]
    write_csv(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text() == 'step,loss\nembedding,0.5\n"see""n,",nan\n'


# checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    back = load_checkpoint(path)
    assert torch.equal(back["network"].pop("weight"), STATE["network"]["weight"])
    assert back == {**STATE, "network": {}}


class Thief:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", {**STATE, "average": Thief(tmp_path / "stolen")})
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged \(UnpicklingError\)"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    changed = {"empty": b"", "text": b"weights\n", "cut": path.read_bytes()[:-100]}
    path.write_bytes(changed.get(damage, b"PK" + bytes(content[40:])))
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged \(\w+\)$") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no checkpoint; train without --resume"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("other", [{"weight": torch.zeros(2)}, [1, 2]])
def test_another_torch_file_is_no_checkpoint(tmp_path: Path, other: object) -> None:
    torch.save(other, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is no checkpoint of szn-train"):
        load_checkpoint(tmp_path / "checkpoint.pt")


# weights --------------------------------------------------------------------------------------


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "b": torch.tensor(7),
        "c": torch.randn(4, 6).T,
    }
    save_weights(tmp_path / "model.safetensors", weights)
    back = load_weights(tmp_path / "model.safetensors")
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_weights_are_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.zeros(100)})
    cut = path.read_bytes()[:-10]
    path.write_bytes({"empty": b"", "text": b"these are no weights\n", "cut": cut}[damage])
    with pytest.raises(TrainingError, match=r"model\.safetensors is damaged \(") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_those_of_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no finished weights; finish the run with --resum"):
        load_weights(tmp_path / "model.safetensors")


# label spaces ---------------------------------------------------------------------------------


def space(*, pca: bool) -> LabelSpace:
    rng = np.random.default_rng(0)
    return LabelSpace(
        source="glove-6b-50d",
        names=("cow", "traffic light"),
        embeddings=rng.normal(size=(2, 3)).astype(np.float32),
        mean=rng.normal(size=5).astype(np.float32) if pca else None,
        basis=rng.normal(size=(3, 5)).astype(np.float32) if pca else None,
        explained_variance=0.75 if pca else None,
    )


@pytest.mark.parametrize("pca", [True, False])
def test_a_label_space_comes_back_as_it_was(tmp_path: Path, pca: bool) -> None:
    written = space(pca=pca)
    save_label_space(tmp_path / "label_space.npz", written)
    back = load_label_space(tmp_path / "label_space.npz")
    assert (back.source, back.names) == (written.source, written.names)
    assert back.explained_variance == written.explained_variance
    np.testing.assert_array_equal(back.embeddings, written.embeddings)
    if pca:
        np.testing.assert_array_equal(back.mean, written.mean)  # type: ignore[arg-type]
        np.testing.assert_array_equal(back.basis, written.basis)  # type: ignore[arg-type]
    else:
        assert (back.mean, back.basis) == (None, None)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "flipped", "other", "facts"])
def test_a_damaged_label_space_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "label_space.npz"
    save_label_space(path, space(pca=True))
    content = bytearray(path.read_bytes())
    content[content.index(b"c\0\0\0o")] ^= 1  # a letter of "cow", in UTF-32
    changed = {
        "empty": b"",
        "text": b"no arrays",
        "cut": path.read_bytes()[:-50],
        "flipped": bytes(content),
    }
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    elif damage == "other":
        np.savez(path, weights=np.zeros(3))
    elif damage == "facts":
        facts = np.array(json.dumps({"source": "x"}))
        np.savez(path, facts=facts, names=np.array(["a"]), embeddings=np.ones((1, 2), np.float32))
    with pytest.raises(TrainingError, match=r"label_space\.npz is missing or damaged \(") as caught:
        load_label_space(path)
    assert "\n" not in str(caught.value)
