from __future__ import annotations

from typing import Any

import pytest

from szn_train.config import TrainConfig
from szn_train.preset_files import load_preset, load_presets
from szn_train.protocol import PROTOCOLS, under_protocol


def config_of(**values: Any) -> TrainConfig:
    return TrainConfig.from_dict({"data": "d", **values})


def test_the_modern_protocol_is_the_default_and_changes_no_default() -> None:
    assert PROTOCOLS == ("modern", "thesis")
    assert config_of() == config_of(protocol="modern") == TrainConfig(data="d")


def test_the_thesis_protocol_is_that_of_the_public_code() -> None:
    config = config_of(protocol="thesis")
    assert (config.backbone, config.stride, config.padding) == ("vgg16", 32, "caffe")
    assert (config.pixels, config.head_init, config.resize) == ("caffe", "torch", False)
    assert (config.loss, config.embeddings, config.dim) == ("cosine", "glove", 20)
    assert config.seed == 1337
    first, second = config.embedding_step, config.seenmask_step
    assert (first.epochs, first.optimizer, first.learning_rate) == (30, "adam", 1e-5)
    assert (second.epochs, second.optimizer, second.learning_rate) == (10, "adam", 1e-3)
    for step in (first, second):
        assert (step.batch_size, step.accumulation, step.bias_rate) == (1, 1, 2.0)
        assert (step.schedule, step.warmup, step.ema, step.early_stop) == ("constant", 0, 0, 0)
        assert (step.augment, step.weight_decay) == (False, 0)


def test_fcn_s_of_the_thesis_sums_its_loss_and_has_sgd() -> None:
    config = config_of(protocol="thesis", loss="cross_entropy")
    assert (config.embeddings, config.reduction) == ("one-hot", "sum")
    step = config.embedding_step
    assert (step.optimizer, step.learning_rate, step.momentum) == ("sgd", 1e-10, 0.99)
    assert (step.weight_decay, step.bias_rate) == (5e-4, 2.0)
    assert config.seenmask_step == config_of(protocol="thesis").seenmask_step
    assert config_of(loss="cross_entropy").reduction == "mean"


@pytest.mark.parametrize("loss", ["cosine", "cross_entropy"])
def test_what_is_given_lies_above_the_protocol(loss: str) -> None:
    config = config_of(
        protocol="thesis", loss=loss, resize=True, embedding_step={"epochs": 90}, dim=300
    )
    assert config.resize
    assert config.dim == 300
    assert config.embedding_step.epochs == 90
    assert config.embedding_step.bias_rate == 2.0


@pytest.mark.parametrize(("dataset", "drops"), [("voc", False), ("context", True)])
def test_the_thesis_drops_images_of_context_with_void(dataset: str, drops: bool) -> None:
    assert config_of(protocol="thesis", dataset=dataset).drop_void is drops
    assert config_of(dataset=dataset).drop_void is False


def test_another_protocol_keeps_the_classes_of_a_preset_and_drops_its_recipe() -> None:
    preset = load_preset("context-31-2-2")
    values = under_protocol(preset, "thesis")
    config = TrainConfig.from_dict({**values, "data": "d"})
    expected = config_of(
        protocol="thesis", dataset="context", train_unseen=("aeroplane", "horse"),
        unseen=("sheep", "train"),
    )  # fmt: skip
    assert config == expected
    assert config.drop_void
    assert load_presets("context-31-2-2,thesis") == values
    assert under_protocol(preset, "modern") == preset
    assert under_protocol(values, "thesis") == values
    # a preset after the protocol lies above it
    assert load_presets("thesis,context-31-2-2")["embedding_step"] == preset["embedding_step"]


def test_the_thesis_refits_no_embedding() -> None:
    assert config_of(protocol="thesis").refit_embedding is False
    preset = {"refit_embedding": True, "loss": "cosine_ce", "dim": 50, "workers": 2}
    values = under_protocol(preset, "thesis")
    assert values == {"dim": 50, "workers": 2, "protocol": "thesis"}
    assert TrainConfig.from_dict({**values, "data": "d"}).refit_embedding is False
    assert config_of(protocol="thesis", refit_embedding=True).refit_embedding is True


def test_a_saved_configuration_comes_back_as_it_was() -> None:
    config = config_of(protocol="thesis", backbone="efficientnet_lite0", pixels="imagenet")
    assert TrainConfig.from_dict(config.to_dict()) == config
