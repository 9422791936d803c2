from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from szn_export.cli import main
from szn_export.config import ExportConfig
from szn_export.export import export
from szn_runtime import load
from szn_runtime.errors import InputError, UsageError
from szn_train import sentence_vectors
from szn_train.progress import Progress
from szn_train.semantic import label_space
from tests.export.conftest import Exported, small_network
from tests.train import catalogue


def test_the_bundle_segments(exported: Exported) -> None:
    image, _ = catalogue.scene("grass", "sky")
    with load(exported.folder) as segmenter:
        result = segmenter(image)
        assert result.labels.shape == catalogue.SIZE_HW
        assert set(result.names) == {"grass", "sky", "cow", "boat", "sheep"}
        segmenter.with_labels("horse, river")
        assert set(segmenter(image).shares) <= {"horse", "river"}


def test_the_manifest_says_where_it_comes_from(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert (manifest.name, manifest.backbone, manifest.stride) == ("tiny", "efficientnet_lite0", 32)
    assert manifest.train_seen == ("grass", "sky", "cow")
    assert (manifest.train_unseen, manifest.unseen) == (("boat",), ("sheep",))
    # names of files, not where they lay on this machine
    assert (manifest.training["data"], manifest.training["embeddings"]) == ("data", "words.txt")
    assert "workers" not in manifest.training


def test_words_land_where_the_labels_are(exported: Exported) -> None:
    vocabulary, labels = exported.bundle.vocabulary(), exported.bundle.label_set()
    assert vocabulary is not None
    assert vocabulary.words == catalogue.WORDS[:20]
    for name, unit in zip(labels.names, labels.embeddings, strict=True):
        word = vocabulary.embed(name)
        np.testing.assert_allclose(word / np.linalg.norm(word), unit, atol=2e-3)


def test_words_beside_a_sentence_encoder_make_a_vocabulary(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoder(*, progress: Progress) -> sentence_vectors.Encoder:
        def encode(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([[t.count(x) for x in "aeioulnrst"] + [len(t)] for t in texts], "f4")

        return encode

    monkeypatch.setattr(sentence_vectors, "minilm_encoder", encoder)
    monkeypatch.setattr(sentence_vectors.metadata, "version", lambda _: "0")
    monkeypatch.setattr(sentence_vectors, "FREQUENT_WORDS", 20_000)
    words = {"sheep": ("lamb", "flock")}
    config = dataclasses.replace(
        exported.run.config, embeddings="glove+minilm", label_words=(("sheep", words["sheep"]),)
    )
    space = label_space(exported.run.split.labels, source="glove+minilm", dim=4, words=words)
    run = dataclasses.replace(exported.run, config=config, space=space)
    quiet = Progress(quiet=True)
    export(run, tmp_path / "b", ExportConfig(name="t", vocabulary_size=15_000), progress=quiet)
    with load(tmp_path / "b") as segmenter:
        manifest, vocabulary = segmenter.bundle.manifest, segmenter.bundle.vocabulary()
        labels = segmenter.bundle.label_set()
    assert manifest.embeddings_source == "glove-6b-50d+all-minilm-l6-v2"
    assert manifest.training["embeddings"] == "glove+minilm"
    assert manifest.training["label_words"] == {"sheep": ["lamb", "flock"]}
    assert vocabulary is not None
    assert len(vocabulary) == 15_000
    places = dict(zip(labels.names, labels.embeddings, strict=True))
    for name, same in (("cow", True), ("sheep", False)):  # which is not at its own word
        word = vocabulary.embed(name)
        close = float(word @ places[name] / np.linalg.norm(word)) > 0.999
        assert close == same


def test_the_report_has_the_numbers(exported: Exported) -> None:
    report = json.loads(exported.bundle.read("export_report.json"))
    first = report["rows"][0]
    assert (first["artefact"], first["runner"]) == ("model.onnx", "onnxruntime fp32")
    assert first["verdict"] == "ok"
    comparison = exported.result.rows[0].comparison
    assert comparison is not None
    assert first["comparison"]["label_flips"] == comparison.label_flips
    text = exported.bundle.read("export_report.md").decode()
    assert "| model.onnx | onnxruntime fp32 |" in text
    assert "4 images, 6 frames, in batches of 1, 3" in text
    assert "FCN-JE mIoU" in text


def test_the_manifest_says_what_each_precision_costs(exported: Exported) -> None:
    gate = exported.bundle.artefact().facts["gate"]
    assert gate["onnxruntime fp32"] == {"label_flips": 0.0, "within_budget": True, "miou_lost": 0.0}


@pytest.mark.parametrize("older", [False, True])
def test_nothing_is_written_without_images(exported: Exported, tmp_path: Path, older: bool) -> None:
    target = exported.folder if older else tmp_path / "bundle"
    before = (exported.folder / "manifest.json").read_bytes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images for the gate"):
        export(
            exported.run,
            target,
            ExportConfig(images=tmp_path / "empty"),
            progress=Progress(quiet=True),
        )
    assert (exported.folder / "manifest.json").read_bytes() == before
    assert not (tmp_path / "bundle").exists()


def test_finished_embeddings_give_no_vocabulary(exported: Exported, tmp_path: Path) -> None:
    space = dataclasses.replace(exported.run.space, mean=None, basis=None)
    export(
        dataclasses.replace(exported.run, space=space, network=small_network()),
        tmp_path / "bundle",
        ExportConfig(gate_images=1),
        progress=Progress(quiet=True),
    )
    with load(tmp_path / "bundle") as segmenter:
        assert segmenter.bundle.vocabulary() is None
        with pytest.raises(InputError, match="vocabulary"):
            segmenter.with_labels("meadow")


def test_one_hot_labels_are_exported_and_run(exported: Exported, tmp_path: Path) -> None:
    names = exported.run.space.names
    run = dataclasses.replace(
        exported.run,
        config=dataclasses.replace(
            exported.run.config,
            embeddings="one-hot",
            loss="cross_entropy",
            dim=len(names),
            weights="somewhere/else/fcn32s.pth",
        ),
        space=label_space(names, source="one-hot", dim=len(names)),
        network=small_network(dim=len(names)),
    )
    export(run, tmp_path / "bundle", ExportConfig(gate_images=1), progress=Progress(quiet=True))
    image, _ = catalogue.scene("grass", "sky")
    with load(tmp_path / "bundle") as segmenter:
        manifest = segmenter.bundle.manifest
        assert (manifest.embeddings_source, manifest.dim) == ("one-hot", 5)
        assert manifest.training["weights"] == "fcn32s.pth"  # not where it lay
        assert segmenter.bundle.vocabulary() is None
        result = segmenter(image)
        assert result.names == names
        assert result.labels.shape == catalogue.SIZE_HW


@pytest.mark.parametrize(
    "values",
    [
        {"vocabulary_size": -1},
        {"gate_images": 0},
        {"calibration_images": 0},
        {"precisions": ("fp32", "fp4")},
        {"openvino_fp16": True},
        {"budgets": {}},
    ],
)
def test_configuration_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"expected|add --openvino|no budget"):
        ExportConfig(**values)


class TestCommand:
    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(main, [str(tmp_path), "-o", str(tmp_path / "bundle")])
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "is not a run folder" in result.stderr

    def test_a_run_that_is_not_finished(self, exported: Exported, tmp_path: Path) -> None:
        config = exported.run.folder / "config.json"
        (tmp_path / "config.json").write_bytes(config.read_bytes())
        result = CliRunner().invoke(main, [str(tmp_path), "-o", str(tmp_path / "bundle")])
        assert result.exit_code == 1
        assert "has no finished weights; finish the run with --resume" in result.stderr

    def test_where_to_write_is_required(self) -> None:
        for arguments in (["run"], [], ["--verify", "b"], ["--verify", "b", "-o", "c"]):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code in (1, 2)
            assert "Traceback" not in result.output
