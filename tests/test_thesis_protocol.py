"""The thesis' protocol through szn-train, szn-eval, szn-export and szn-run, on a tiny VOC tree.

The network is the real VGG16 with caffe's padding and pixels, at the least size that there is: all
frames are 48 x 36 pixels, which it takes as 64 x 64, and its grid of 3 x 3 nodes reaches past them.
Two images are trained on, and two evaluated. It starts from random weights in a file of FCN-32s,
scaled so that features differ from place to place; those of `--weights none` hardly do, and every
pixel would get the same label.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from szn_export.cli import main as export_main
from szn_runtime.bundle import Bundle
from szn_runtime.cli import main as run_main
from szn_train.classes import VOID, ClassSplit
from szn_train.cli import eval_main, train_main
from szn_train.datasets.voc import VOC_CLASSES, VocDataset
from szn_train.decisions import Predictor
from szn_train.metrics import confusion_matrix
from szn_train.run import Run, open_run
from szn_train.word_vectors import load_word_vectors
from tests.train import trees
from tests.train.test_pretrained import fcn_state

pytestmark = pytest.mark.slow

TRAIN = ("2008_000002", "2009_000001", "2008_000008")
"""One of train_seen, one of train_unseen as well, one of U."""

VAL = ("2007_000033", "2007_000042")
SEEN_WORD, NEW_WORDS = "cat", ("zebra", "river", "lamp", "harbour")
MODELS = ("FCN-JE", "FCN-JE (all labels)", "SZN", "SZN-PS")


def command(main: click.Command, *arguments: object) -> str:
    """Run a command, and return what it printed."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def write_words(path: Path) -> Path:
    """Vectors of VOC's classes and of `NEW_WORDS`, in GloVe's form."""
    names = (*VOC_CLASSES, *NEW_WORDS)
    vectors = np.random.default_rng(3).normal(size=(len(names), 8)).round(4)
    lines = [
        f"{name} {' '.join(map(str, row))}\n" for name, row in zip(names, vectors, strict=True)
    ]
    path.write_text("".join(lines))
    return path


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What the commands left behind."""

    root: Path
    run: Run
    bundle: Path
    trained: str
    exported: str

    @property
    def images(self) -> Path:
        return self.root / "pascal" / "VOCdevkit" / "VOC2012" / "JPEGImages"

    @property
    def dataset(self) -> VocDataset:
        return VocDataset(root=self.root / "pascal", split="val")

    def json(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.run.folder / name).read_text())
        return values

    def truth(self, image_id: str) -> NDArray[np.uint8]:
        truth: NDArray[np.uint8] = self.run.split.mask_lookup()[self.dataset.mask(image_id)]
        return truth

    def segment(self, inputs: Path, name: str, *options: object) -> Path:
        """`szn-run` in the arithmetic that is compared; the folder with its outputs."""
        out = self.root / name
        out.mkdir()
        command(
            run_main, inputs, "--bundle", self.bundle, "--backend", "onnxruntime",
            "--precision", "fp32", "--masks", out, "--json", out / "records.jsonl", *options,
        )  # fmt: skip
        return out


def all_commands(root: Path) -> Outcome:
    """Train, evaluate and export; `Outcome.segment` does the rest."""
    run, bundle = root / "run", root / "bundle"
    data = trees.write_voc_sbd(root / "pascal")
    trees.write_list(data / "benchmark_RELEASE" / "dataset" / "train.txt", TRAIN)
    segmentation = data / "TrainVal" / "VOCdevkit" / "VOC2011" / "ImageSets" / "Segmentation"
    trees.write_list(segmentation / "val.txt", VAL)
    torch.save(fcn_state(), root / "fcn32s.pth")
    # at the thesis' rate of 1e-3 a seenmask of random features calls all pixels seen at once
    trained = command(
        train_main, "--data", data, "--preset", "voc-9-2-10", "--protocol", "thesis",
        "--weights", root / "fcn32s.pth", "--embeddings", write_words(root / "words.txt"),
        "--dim", 2, "--epochs", 1, "--seenmask-epochs", 1, "--seenmask-learning-rate", 1e-5,
        "--long-side", 48, "--out", run,
    )  # fmt: skip
    evaluated = run / "eval-val.json"
    first = evaluated.read_bytes()
    evaluated.unlink()
    command(eval_main, run, "--quiet")
    assert evaluated.read_bytes() == first
    with pytest.MonkeyPatch.context() as patch:
        # its gate would read 0.5 GB for each of three precisions, and has tests of its own
        patch.setitem(sys.modules, "openvino", None)
        exported = command(export_main, run, "-o", bundle, "--quiet", "--name", "thesis")
    return Outcome(root=root, run=open_run(run), bundle=bundle, trained=trained, exported=exported)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    root = tmp_path_factory.mktemp("thesis")
    try:
        yield all_commands(root)
    finally:
        shutil.rmtree(root)  # 3 GB


def read_masks(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_training_follows_the_protocol_and_leaves_a_run(outcome: Outcome) -> None:
    config, folder = outcome.run.config, outcome.run.folder
    assert (config.protocol, config.dataset, config.backbone) == ("thesis", "voc", "vgg16")
    assert (config.padding, config.pixels, config.resize) == ("caffe", "caffe", False)
    assert config.embedding_step.optimizer == "adam"
    assert outcome.run.split.sizes == (9, 2, 10)
    assert "fcn32s.pth: FCN-32s; heads start anew" in outcome.trained
    selection = outcome.json("selection.json")
    assert (selection["embedding_images"], selection["seenmask_images"]) == (1, 2)
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"]) for row in rows] == [("embedding", "1"), ("seenmask", "1")]
    assert all(0 < float(row["loss"]) < 2 for row in rows)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "checkpoint.pt", "label_space.npz", "model.safetensors"}


def test_the_evaluation_counts_every_labelled_pixel(outcome: Outcome) -> None:
    saved, labels = outcome.json("eval-val.json"), outcome.run.split.labels
    assert saved["images"] == len(VAL)
    truths = np.stack([outcome.truth(image_id) for image_id in VAL])
    height, width = trees.SIZE_HW
    assert (truths != VOID).sum() == len(VAL) * (height - 1) * width  # the last row is void
    counts = np.bincount(truths[truths != VOID], minlength=len(labels))
    assert tuple(saved["confusions"]) == MODELS
    for matrix in saved["confusions"].values():
        np.testing.assert_array_equal(np.sum(matrix, axis=1), counts)


def test_the_bundle_passed_its_gate_and_states_the_networks_facts(outcome: Outcome) -> None:
    bundle = Bundle.open(outcome.bundle)
    (row,) = json.loads(bundle.read("export_report.json"))["rows"]
    assert (row["artefact"], row["runner"], row["verdict"]) == (
        "model.onnx", "onnxruntime fp32", "ok",
    )  # fmt: skip
    assert row["comparison"]["images"] == len(VAL)
    assert row["comparison"]["embedding_max"] < 1e-4 * row["comparison"]["embedding_scale"]
    assert "onnxruntime fp32" in outcome.exported
    manifest = bundle.manifest
    assert (manifest.stride, manifest.node_offset) == (32, 12.5)  # 31.5 - 100 + 96 - 15.5
    assert manifest.preprocess.channel_order == "bgr"
    assert manifest.preprocess.mean == pytest.approx((104.007, 116.669, 122.679), abs=1e-3)
    assert set(manifest.preprocess.std) == {1}
    assert (manifest.preprocess.long_side, manifest.preprocess.multiple) == (48, 32)
    assert manifest.training["padding"] == "caffe"
    assert bundle.label_set().names == outcome.run.split.labels


def test_szn_run_labels_as_the_evaluation_does(outcome: Outcome) -> None:
    folder = outcome.segment(outcome.images / "2007_*.jpg", "labelled")
    masks, labels = read_masks(folder), outcome.run.split.labels
    assert tuple(masks) == VAL
    # the thesis leaves images at their size, which is the bundle's long side here
    predict = Predictor(outcome.run)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    for image_id, mask in masks.items():
        truth = outcome.truth(image_id)
        maps, _ = predict(outcome.dataset.image(image_id), truth)
        # at a border rounding may give a pixel to the other label
        assert mask.shape == trees.SIZE_HW
        assert (mask != maps["SZN"]).sum() <= 1, image_id
        confusion += confusion_matrix(truth, mask, len(labels))
    expected = np.array(outcome.json("eval-val.json")["confusions"]["SZN"])
    assert np.abs(confusion - expected).sum() <= 2
    # none of that says anything if all pixels are alike, or one of SEI's two sides is idle
    found = np.unique(np.stack(list(masks.values())))
    seen = outcome.run.split.is_member(outcome.run.split.train_seen)
    assert set(seen[found]) == {True, False}
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == list(masks)
    for record, mask in zip(records, masks.values(), strict=True):
        values, counts = np.unique(mask, return_counts=True)
        shares = {labels[v]: n / mask.size for v, n in zip(values, counts, strict=True)}
        assert record["shares"] == pytest.approx(shares, abs=1e-6)
        assert set(record["unseen"]) == {labels[v] for v in values if not seen[v]}


def test_the_bundle_takes_words_that_it_was_not_trained_on(outcome: Outcome) -> None:
    image_id = VAL[0]
    names = (SEEN_WORD, *NEW_WORDS)
    folder = outcome.segment(
        outcome.images / f"{image_id}.jpg", "swapped", "--labels", ", ".join(names)
    )
    (mask,) = read_masks(folder).values()
    # what the evaluation would say of these labels
    run, source = outcome.run, load_word_vectors(outcome.run.config.embeddings)
    assert run.space.mean is not None
    assert run.space.basis is not None
    words = source.vectors[[source.words.index(name) for name in names]]
    embeddings = ((words - run.space.mean) @ run.space.basis.T).astype(np.float32)
    space = replace(run.space, names=names, embeddings=embeddings)
    split = ClassSplit(names=names, unseen=NEW_WORDS)
    image = outcome.dataset.image(image_id)
    maps, _ = Predictor(replace(run, split=split, space=space))(image, np.zeros_like(mask))
    assert (mask != maps["SZN"]).sum() <= 1
    (record,) = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert set(record["shares"]) == {names[value] for value in np.unique(mask)}
    assert set(record["unseen"]) == set(record["shares"]) - {SEEN_WORD} != set()
