from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from szn_runtime.errors import UsageError
from szn_train.classes import ClassSplit
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets.context import CONTEXT_CLASSES
from szn_train.datasets.voc import VOC_CLASSES
from szn_train.preset_files import load_preset, load_presets, preset_names
from szn_train.run import build_network, class_split

# checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "bad", "expected"),
    [
        ("epochs", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
        ("batch_size", -3, "1 or more"),
        ("learning_rate", 0.0, "> 0"),
        ("learning_rate", float("nan"), "> 0"),
        ("learning_rate", float("inf"), "> 0"),
        ("head_rate", -1.0, "> 0"),
        ("weight_decay", -0.1, ">= 0"),
        ("weight_decay", float("nan"), ">= 0"),
        ("warmup", 1.0, r"in \[0, 1\)"),
        ("warmup", -0.1, r"in \[0, 1\)"),
        ("ema", 1.0, r"in \[0, 1\)"),
        ("accumulation", 0, "1 or more"),
        ("early_stop", -1, "0 or more"),
        ("checkpoint_every", -1, "0 or more"),
        ("bias_rate", 0.0, "> 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("optimizer", "lion", "adam or adamw or sgd"),
        ("schedule", "step", "constant or cosine"),
        ("epochs", "ten", "an integer"),
        ("epochs", 2.5, "an integer"),
        ("learning_rate", "fast", "a number"),
        ("augment", "no", "true or false"),
        ("epochs", True, "an integer"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(key: str, bad: Any, expected: str) -> None:
    values: dict[str, Any] = {"epochs": 2, key: bad}
    with pytest.raises(UsageError, match=rf"configuration: {key}: got {bad}, expected {expected}"):
        StepConfig(**values)


@pytest.mark.parametrize(
    ("key", "bad", "expected"),
    [
        ("dim", 1, "2 or more"),
        ("stride", 4, "32, 16 or 8"),
        ("long_side", 31, "32 or more"),
        ("similarity_scale", 0.0, "> 0"),
        ("similarity_scale", float("inf"), "> 0"),
        ("seed", -1, "0 to 4294967295"),
        ("seed", 2**32, "0 to 4294967295"),
        ("crop_hw", (320, 300), "two multiples of the stride 32"),
        ("crop_hw", (320,), "a list of two integers"),
        ("crop_hw", (0, 320), "two multiples of the stride 32"),
        ("loss", "hinge", "cosine or mse or cosine_ce or cross_entropy"),
        ("reduction", "none", "mean or sum"),
        ("weights", "voc", "imagenet or none, or a .pth or .safetensors file"),
        ("pixels", "raw", "imagenet or caffe"),
        ("head_init", "zero", "small or torch"),
        ("precision", "int8", "fp32 or bf16 or fp16"),
        ("workers", -1, "auto, or an integer of 0 or more"),
        ("workers", "many", "auto, or an integer of 0 or more"),
        ("workers", 1.5, "auto, or an integer of 0 or more"),
        ("workers", True, "auto, or an integer of 0 or more"),
        ("protocol", "classic", "modern or thesis"),
        ("resize", "no", "true or false"),
        ("dataset", "coco", "folder or voc or context"),
        ("drop_void", 1, "true or false"),
        ("padding", "valid", "same or caffe"),
        ("dim", "20", "an integer"),
        ("crop_hw", ("a", "b"), "a list of two integers"),
        ("crop_hw", 320, "a list of two integers"),
        ("unseen", "sheep", "a list of names"),
        ("void", (3,), "a list of names"),
        ("backbone", 7, "a text"),
        ("balance_seenmask", 1, "true or false"),
        ("refit_embedding", 1, "true or false"),
        ("exposure", -0.5, "0 or more"),
        ("exposure", float("inf"), "0 or more"),
        ("seenmask", "perfect", "statistics or linear"),
        ("hold_share", 0.0, r"in \(0, 0.5\]"),
        ("hold_share", 0.6, r"in \(0, 0.5\]"),
        ("hold_share", "few", "a number"),
        ("seenmask_drop", -1.0, "0 or more"),
        ("seenmask_drop", float("inf"), "0 or more"),
        ("label_words", (("chair", "stool"),), "a table of lists of words"),
        ("label_words", (("chair", ("stool", 3)),), "a table of lists of words"),
        ("label_words", {"chair": ("stool",)}, "a table of lists of words"),  # could be changed
    ],
)
def test_a_run_that_makes_no_sense_is_refused(key: str, bad: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=rf"configuration: {key}: got .*, expected {expected}"):
        TrainConfig(**{"data": "d", key: bad})


def test_the_softmax_loss_takes_one_hot_embeddings() -> None:
    expected = "cross_entropy takes .*: got embeddings 'glove', expected 'one-hot'; give --embed"
    with pytest.raises(UsageError, match=expected):
        TrainConfig(data="d", loss="cross_entropy")
    with pytest.raises(UsageError, match=expected):
        TrainConfig.from_dict({"data": "d", "loss": "cross_entropy", "embeddings": "glove"})
    config = TrainConfig.from_dict({"data": "d", "loss": "cross_entropy"})
    assert config.embeddings == "one-hot"
    assert TrainConfig(data="d", embeddings="one-hot").loss == "cosine"  # the control experiment


@pytest.mark.parametrize("embeddings", ["one-hot", "labels.npz"])
def test_words_of_labels_are_looked_up_in_word_vectors(embeddings: str) -> None:
    words = (("chair", ("stool",)),)
    expected = f"label_words are looked up in word vectors: got embeddings '{embeddings}'; leave"
    with pytest.raises(UsageError, match=expected):
        TrainConfig(data="d", embeddings=embeddings, label_words=words)
    assert TrainConfig(data="d", embeddings=embeddings).label_words == ()
    assert hash(TrainConfig(data="d", label_words=words)) == hash(
        TrainConfig.from_dict({"data": "d", "label_words": {"chair": ["stool"]}})
    )


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [("exposure", 1.0, "set it to 0"), ("refit_embedding", True, "give --no-refit-embedding")],
)
def test_what_needs_a_loss_of_cosines(key: str, value: Any, fix: str) -> None:
    expected = f"{key} is about cosines: got loss 'mse', expected cosine, cosine_ce; {fix}, or"
    with pytest.raises(UsageError, match=expected):
        TrainConfig(**{"data": "d", "loss": "mse", key: value})
    for loss in ("cosine", "cosine_ce"):
        assert getattr(TrainConfig(**{"data": "d", "loss": loss, key: value}), key) == value


def test_crops_fit_the_stride_of_the_run() -> None:
    assert TrainConfig(data="d", stride=16, crop_hw=(48, 112)).crop_hw == (48, 112)
    with pytest.raises(UsageError, match="crop_hw"):
        TrainConfig(data="d", stride=32, crop_hw=(48, 112))


def test_the_defaults_are_the_thesis() -> None:
    config = TrainConfig(data="d")
    assert (config.backbone, config.loss, config.stride, config.dim) == ("vgg16", "cosine", 32, 20)
    assert (config.embedding_step.epochs, config.embedding_step.learning_rate) == (30, 1e-5)
    assert (config.seenmask_step.epochs, config.seenmask_step.learning_rate) == (10, 1e-3)
    for step in (config.embedding_step, config.seenmask_step):
        assert (step.batch_size, step.optimizer, step.schedule) == (1, "adam", "constant")
        assert not step.augment


# values ---------------------------------------------------------------------------------------


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(
        data="somewhere",
        unseen=("sheep", "bicycle"),
        crop_hw=(64, 96),
        label_words=(("sheep", ("lamb", "flock")), ("cow", ())),
        embedding_step=StepConfig(epochs=3, warmup=0.1, schedule="cosine", ema=0.9),
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no data set is named; give --data DIR"),
        ({"data": ""}, "no data set is named; give --data DIR"),
        ({"data": "d", "epochs": 3}, "preset has the unknown key 'epochs': expected .*embedding_s"),
        (
            {"data": "d", "seenmask_step": {"epochs": 1, "rate": 2}},
            r"preset \[seenmask_step\] has the unknown key 'rate': expected .*learning_rate",
        ),
        ({"data": "d", "embedding_step": {"epochs": 0}}, "configuration: epochs: got 0"),
        ({"data": "d", "embedding_step": 3}, r"preset \[embedding_step\]: got 3, expected a table"),
        ({"data": "d", "label_words": ["a"]}, r"label_words: got \['a'\], expected a table of"),
        ({"data": "d", "label_words": {"a": "b"}}, r"label_words: got .*, expected a table of li"),
        ({"data": "d", "loss": "hinge"}, "configuration: loss: got hinge"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(values)


def test_a_step_keeps_the_defaults_that_a_preset_does_not_name() -> None:
    config = TrainConfig.from_dict({"data": "d", "seenmask_step": {"batch_size": 4}})
    assert config.seenmask_step == StepConfig(epochs=10, learning_rate=1e-3, batch_size=4)


# presets --------------------------------------------------------------------------------------


def test_the_presets_are_named() -> None:
    assert set(preset_names()) >= {
        "szn-mini", "thesis", "voc-21-0-0", "voc-9-2-10", "voc-17-2-2", "context-33-0-0",
        "context-31-2-2", "msrc-17-2-2", "camvid",
    }  # fmt: skip


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_network(name: str) -> None:
    import torch

    values = load_preset(name)
    config = TrainConfig.from_dict({**values, "data": "d"})
    assert TrainConfig.from_dict(config.to_dict()) == config
    split = ClassSplit(names=("a", "b", "c"), train_unseen=("c",))
    with torch.device("meta"):  # shapes without memory
        network = build_network(config, split, weights="none")
    side = config.crop_hw[0]
    grids = network.eval()(torch.zeros(1, 3, side, side, device="meta"))
    caffe = config.padding == "caffe"  # rounds up after a padding of 100, and fc6 takes 6 nodes
    nodes = -(-(side + 198) // 32) - 6 if caffe else side // config.stride
    assert grids.embedding.shape == (1, config.dim, nodes, nodes)
    assert grids.seenmask.shape == (1, 2, nodes, nodes)


def test_the_thesis_has_its_own_seenmask() -> None:
    assert TrainConfig.from_dict({"data": "d"}).seenmask == "statistics"
    assert TrainConfig.from_dict({"data": "d", "protocol": "thesis"}).seenmask == "linear"
    for names in ("thesis", "szn-mini,thesis", "voc-17-2-2,thesis"):
        assert TrainConfig.from_dict({**load_presets(names), "data": "d"}).seenmask == "linear"
    config = TrainConfig.from_dict({**load_preset("szn-mini"), "data": "d"})
    assert (config.seenmask, config.hold_share, config.seenmask_drop) == ("statistics", 0.125, 1.5)


def test_the_thesis_preset_is_the_thesis_protocol() -> None:
    config = TrainConfig.from_dict({**load_preset("thesis"), "data": "d"})
    assert config == TrainConfig.from_dict({"data": "d", "protocol": "thesis"})
    assert config.protocol == "thesis"


def test_a_preset_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('unseen = ["sheep"]\ndim = 10\n[embedding_step]\nepochs = 3\n')
    values = load_preset(str(path))
    assert values == {"unseen": ["sheep"], "dim": 10, "embedding_step": {"epochs": 3}}
    assert TrainConfig.from_dict({**values, "data": "d"}).unseen == ("sheep",)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"no preset 'szn-maxi': expected .*szn-mini, thesis, .*or a"
    ):
        load_preset("szn-maxi")
    with pytest.raises(UsageError, match=r"no preset 'nowhere\.toml'"):
        load_preset("nowhere.toml")


@pytest.mark.parametrize("content", [b"dim = \n", b"\xff\xfe\x00"])
def test_a_preset_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"preset .*mine\.toml is not TOML"):
        load_preset(str(path))


def test_a_preset_may_extend_one_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "msrc-17-2-2"\ndim = 10\n[embedding_step]\nepochs = 3\n')
    base = load_preset("szn-mini")  # which msrc-17-2-2 extends
    expected = {**base, "dataset": "folder", "dim": 10}
    expected["embedding_step"] = {**base["embedding_step"], "epochs": 3}
    assert load_preset(str(path)) == expected


def test_a_preset_of_another_protocol_keeps_the_classes_of_what_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "voc-17-2-2"\nprotocol = "thesis"\n')
    assert load_preset(str(path)) == load_presets("voc-17-2-2,thesis")


@pytest.mark.parametrize("base", ['"mine.toml"', '"szn-maxi"', '["szn-mini"]', "3"])
def test_what_extends_no_preset_of_the_package_is_refused(tmp_path: Path, base: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"extends = {base}\n")
    with pytest.raises(UsageError, match=r"mine\.toml extends no preset: got .*expected camvid, "):
        load_preset(str(path))


MSRC_CLASSES = (
    "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water",
    "face", "car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog",
    "body", "boat",
)  # fmt: skip
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [
        ("voc-21-0-0", VOC_CLASSES, (21, 0, 0)),
        ("voc-9-2-10", VOC_CLASSES, (9, 2, 10)),
        ("voc-17-2-2", VOC_CLASSES, (17, 2, 2)),
        ("context-33-0-0", CONTEXT_CLASSES, (33, 0, 0)),
        ("context-31-2-2", CONTEXT_CLASSES, (29, 2, 2)),  # the thesis counts train_unseen twice
        ("msrc-17-2-2", MSRC_CLASSES, (17, 2, 2)),
        ("camvid", CAMVID_CLASSES, (11, 0, 0)),
    ],
)
def test_the_presets_split_the_classes_as_their_names_say(
    name: str, classes: tuple[str, ...], sizes: tuple[int, int, int]
) -> None:
    config = TrainConfig.from_dict({**load_preset(name), "data": "d"})
    assert class_split(config, classes).sizes == sizes
    assert config.dataset == {"voc": "voc", "con": "context"}.get(name[:3], "folder")


def test_the_voc_and_context_splits_are_the_thesis() -> None:
    def indices(name: str, classes: tuple[str, ...]) -> tuple[list[int], list[int]]:
        values = load_preset(name)
        return (
            [classes.index(c) for c in values["train_unseen"]],
            [classes.index(c) for c in values["unseen"]],
        )

    ten = [6, 7, 10, 14, 15, 16, 17, 18, 19, 20]
    assert indices("voc-9-2-10", VOC_CLASSES) == ([1, 13], ten)
    assert indices("voc-17-2-2", VOC_CLASSES) == ([1, 13], [17, 19])
    assert indices("context-31-2-2", CONTEXT_CLASSES) == ([0, 12], [16, 18])


def test_presets_combine_and_the_later_one_wins() -> None:
    values = load_presets("voc-17-2-2, thesis")
    config = TrainConfig.from_dict({**values, "data": "d"})
    assert (config.dataset, config.unseen) == ("voc", ("sheep", "train"))
    assert (config.backbone, config.stride, config.loss) == ("vgg16", 32, "cosine")
    assert (config.embedding_step.epochs, config.embedding_step.learning_rate) == (30, 1e-5)
    other_way_round = load_presets("thesis,voc-17-2-2")
    assert other_way_round["backbone"] == "efficientnet_lite0"
    assert other_way_round["embedding_step"]["learning_rate"] == 3e-4
    assert load_presets("thesis") == load_preset("thesis")
    with pytest.raises(UsageError, match="no preset 'vok'"):
        load_presets("thesis,vok")


def test_steps_of_combined_presets_are_merged_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[embedding_step]\nepochs = 3\nbatch_size = 2\n")
    (tmp_path / "b.toml").write_text("dim = 5\n[embedding_step]\nepochs = 9\n")
    values = load_presets(f"{tmp_path / 'a.toml'},{tmp_path / 'b.toml'}")
    assert values == {"dim": 5, "embedding_step": {"epochs": 9, "batch_size": 2}}


def test_words_of_labels_are_merged_label_by_label(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[label_words]\ncow = ["bull"]\ncar = ["auto"]\n')
    (tmp_path / "b.toml").write_text(
        'extends = "camvid"\n[label_words]\ncow = ["cattle", "calf"]\n'
    )
    both = f"{tmp_path / 'a.toml'},{tmp_path / 'b.toml'}"
    for names, kept in ((both, {"car": ["auto"]}), (f"{both},thesis", {"car": ["auto"]}),
                        (str(tmp_path / "b.toml"), {})):  # fmt: skip
        values = load_presets(names)
        assert values["label_words"] == {"cow": ["cattle", "calf"], **kept}
    (tmp_path / "b.toml").write_text("label_words = 3\n")
    with pytest.raises(UsageError, match=r"preset \[label_words\]: got 3, expected a table"):
        load_presets(both)
