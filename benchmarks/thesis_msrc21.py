"""What `thesis_tables.py --dataset msrc21` trains and compares: MSRC-21 in its 21-class protocol.

`horse` and `mountain` are void, as usual. To add a run or a comparison, write a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thesis_plan import (
    BASELINE,
    PERFECT,
    SZN,
    Claim,
    Comparison,
    Plan,
    Side,
    Variant,
    between,
    figures,
    merged,
    szn_claims,
)

from szn_train.config import load_preset

__all__ = ["MSRC21"]

_SHEEP_BICYCLE = ["sheep", "bicycle"]
_SIX = [*_SHEEP_BICYCLE, "flower", "sign", "book", "chair"]
_TEN = [*_SIX, "bird", "dog", "face", "body"]
_TAUGHT = ["cat", "boat"]
_RARE = {"void": ["horse", "mountain"]}

_MSRC_RECIPE: Mapping[str, Any] = {
    "backbone": "efficientnet_lite0",
    "weights": "imagenet",
    "stride": 16,
    "embeddings": "glove",
    "dim": 20,
    "loss": "cosine",
    "long_side": 224,
    "crop_hw": [160, 224],
    "embedding_step": {
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "head_rate": 3.0,
        "optimizer": "adam",
        "schedule": "cosine",
        "warmup": 0.1,
        "augment": True,
    },
    "seenmask_step": {
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "schedule": "cosine",
    },
}
"""About three minutes on two cores for the 394 training images."""

_SOFTMAX = {"embeddings": "one-hot", "loss": "cross_entropy"}
_SGD = {"optimizer": "sgd", "momentum": 0.9}


def _full(**changes: Any) -> Variant:
    """The preset szn-mini, with all classes seen."""
    preset = load_preset("szn-mini")
    for key in ("void", "train_unseen", "unseen"):
        preset.pop(key, None)
    return Variant(split="all-seen", changes=merged(preset, changes))


_OVERALL = (BASELINE, "overall", "miou")
_SEEN = (BASELINE, "train_seen", "miou")
_UNSEEN = (PERFECT, "unseen", "pa")
_LEARNED = (SZN, "unseen", "pa")

_ADAM, _SGD_RUNS = ("standard", "adam-3e-4"), ("sgd-1e-1", "sgd-1e-2")

MSRC21 = Plan(
    recipe=_MSRC_RECIPE,
    same_images=True,
    splits={
        "all-seen": _RARE,
        "reduced": {**_RARE, "train_unseen": _TAUGHT, "unseen": _TEN},
        "middle": {**_RARE, "train_unseen": _TAUGHT, "unseen": _SIX},
        "standard": {**_RARE, "train_unseen": _TAUGHT, "unseen": _SHEEP_BICYCLE},
        "other": {**_RARE, "train_unseen": ["dog", "chair"], "unseen": ["cow", "car"]},
        "taught-1": {**_RARE, "train_unseen": _TAUGHT[:1], "unseen": _SHEEP_BICYCLE},
        "taught-4": {
            **_RARE,
            "train_unseen": [*_TAUGHT, "dog", "chair"],
            "unseen": _SHEEP_BICYCLE,
        },
    },
    variants={
        "fcn-s": Variant(split="all-seen", changes=_SOFTMAX),
        "fcn-je": Variant(split="all-seen"),
        "standard": Variant(split="standard"),
        "reduced": Variant(split="reduced"),
        "middle": Variant(split="middle"),
        "other": Variant(split="other"),
        "mse": Variant(split="standard", changes={"loss": "mse"}),
        "cosine-ce": Variant(split="standard", changes={"loss": "cosine_ce"}),
        "one-hot": Variant(split="standard", changes={"embeddings": "one-hot"}),
        "fcn-je-one-hot": Variant(split="all-seen", changes={"embeddings": "one-hot"}),
        "adam-3e-4": Variant(split="standard", changes={"embedding_step": {"learning_rate": 3e-4}}),
        "sgd-1e-1": Variant(
            split="standard", changes={"embedding_step": {**_SGD, "learning_rate": 0.1}}
        ),
        "sgd-1e-2": Variant(
            split="standard", changes={"embedding_step": {**_SGD, "learning_rate": 0.01}}
        ),
        **{f"j-{dim}": Variant(split="standard", changes={"dim": dim}) for dim in (2, 5, 10, 50)},
        "balanced": Variant(split="standard", changes={"balance_seenmask": True}),
        "taught-1": Variant(split="taught-1"),
        "taught-4": Variant(split="taught-4"),
        "seed-1": Variant(split="standard", changes={"seed": 1}),
        "seed-2": Variant(split="standard", changes={"seed": 2}),
        "full-fcn-s": _full(**_SOFTMAX),
        "full-fcn-je": _full(),
    },
    comparisons=(
        Comparison(name="variance", title="Variance of the words that j dimensions keep", table=1),
        Comparison(
            name="baselines",
            title="Baselines with all classes seen, (21, 0, 0)",
            table=2,
            variants={"softmax": "fcn-s", "joint embedding": "fcn-je"},
            claims=(
                Claim(
                    above=Side(
                        name="FCN-S",
                        variants=("fcn-s",),
                        published=("table2_baselines", "VOC FCN-S (21, 0, 0)", "mIoU"),
                    ),
                    below=Side(
                        name="FCN-JE",
                        variants=("fcn-je",),
                        published=("table2_baselines", "VOC FCN-JE (21, 0, 0)", "mIoU"),
                    ),
                    metric="miou",
                    group="overall",
                ),
            ),
        ),
        Comparison(
            name="standard",
            title="Standard class density, (17, 2, 2): U is sheep and bicycle",
            table=4,
            variants={"(17, 2, 2)": "standard"},
            claims=szn_claims("standard", "table4_voc_17_2_2"),
        ),
        Comparison(
            name="seeds",
            title="What another seed changes, (17, 2, 2)",
            variants={"1337": "standard", "1": "seed-1", "2": "seed-2"},
            note="Claims say where their difference is within the range of these.",
        ),
        Comparison(
            name="reduced",
            title="Reduced class density, (9, 2, 10)",
            table=3,
            variants={"(9, 2, 10)": "reduced"},
            claims=szn_claims("reduced", "table3_voc_9_2_10"),
        ),
        Comparison(
            name="other",
            title="Standard class density, (17, 2, 2): U is cow and car",
            table=5,
            variants={"(17, 2, 2)": "other"},
            claims=szn_claims("other", "table5_context_31_2_2"),
            note="In place of the thesis' second data set: the numbers are PASCAL-Context's.",
        ),
        Comparison(
            name="density",
            title="The same unseen classes, sheep and bicycle, at three class densities",
            table=6,
            variants={"(9, 2, 10)": "reduced", "(13, 2, 6)": "middle", "(17, 2, 2)": "standard"},
            unseen=("sheep", "bicycle"),
            claims=(
                *between(
                    ("(13, 2, 6)", ("middle",)), ("(9, 2, 10)", ("reduced",)), _UNSEEN, _LEARNED
                ),
                *between(
                    ("(17, 2, 2)", ("standard",)), ("(13, 2, 6)", ("middle",)), _UNSEEN, _LEARNED
                ),
                Claim(
                    above=Side(
                        name="(17, 2, 2)",
                        variants=("standard",),
                        model=PERFECT,
                        published=(
                            "table6_szn_ps_unseen_sheep_train",
                            "(17, 2, 2)",
                            "unseen",
                            "PA",
                        ),
                    ),
                    below=Side(
                        name="(9, 2, 10)",
                        variants=("reduced",),
                        model=PERFECT,
                        published=(
                            "table6_szn_ps_unseen_sheep_train",
                            "(9, 2, 2)",
                            "unseen",
                            "PA",
                        ),
                    ),
                    metric="pa",
                    group="unseen",
                ),
            ),
            note="Epochs are scaled so that all three train on about as many images; those of a "
            "reduced split repeat more often.",
        ),
        Comparison(
            name="losses",
            title="Loss of the embedding, (17, 2, 2)",
            variants={"cosine": "standard", "MSE": "mse", "cosine cross-entropy": "cosine-ce"},
            claims=(
                *between(("cosine", ("standard",)), ("MSE", ("mse",)), _OVERALL, _SEEN, _UNSEEN),
                *between(
                    ("cosine cross-entropy", ("cosine-ce",)),
                    ("cosine", ("standard",)),
                    _OVERALL,
                    _SEEN,
                    _UNSEEN,
                ),
            ),
        ),
        Comparison(
            name="optimisers",
            title="Optimiser of the embedding step, two learning rates each, (17, 2, 2)",
            variants={
                "Adam 1e-3": "standard",
                "Adam 3e-4": "adam-3e-4",
                "SGD 1e-1": "sgd-1e-1",
                "SGD 1e-2": "sgd-1e-2",
            },
            claims=between(("Adam", _ADAM), ("SGD", _SGD_RUNS), _OVERALL, _SEEN, _UNSEEN),
            note="SGD has a momentum of 0.9. A claim takes the better of the two rates on either "
            "side, by the validation images themselves.",
        ),
        Comparison(
            name="dimensions",
            title="Dimensions j of the joint embedding space, (17, 2, 2)",
            variants={"2": "j-2", "5": "j-5", "10": "j-10", "20": "standard", "50": "j-50"},
            x="j",
            claims=(
                *between(("j = 20", ("standard",)), ("j = 2", ("j-2",)), _OVERALL, _UNSEEN),
                *between(("j = 50", ("j-50",)), ("j = 20", ("standard",)), _OVERALL, _UNSEEN),
            ),
        ),
        Comparison(
            name="one-hot",
            title="Control: one-hot label embeddings, which know nothing of the words",
            variants={
                "words (21, 0, 0)": "fcn-je",
                "one-hot (21, 0, 0)": "fcn-je-one-hot",
                "words (17, 2, 2)": "standard",
                "one-hot (17, 2, 2)": "one-hot",
            },
            claims=(
                *between(("words", ("fcn-je",)), ("one-hot", ("fcn-je-one-hot",)), _OVERALL),
                *between(("words", ("standard",)), ("one-hot", ("one-hot",)), _SEEN, _UNSEEN),
            ),
        ),
        Comparison(
            name="balance",
            title="The seenmask's loss with seen and unseen pixels weighed equally, (17, 2, 2)",
            variants={"as they come": "standard", "balanced": "balanced"},
            claims=between(
                ("balanced", ("balanced",)),
                ("as they come", ("standard",)),
                _LEARNED,
                (SZN, "train_seen", "miou"),
                (SZN, "overall", "harmonic"),
            ),
        ),
        Comparison(
            name="taught",
            title="Size of train_unseen: cat; with boat; with dog and chair",
            variants={"1": "taught-1", "2": "standard", "4": "taught-4"},
            x="classes in train_unseen",
            claims=(
                *between(("2", ("standard",)), ("1", ("taught-1",)), _LEARNED),
                *between(("4", ("taught-4",)), ("2", ("standard",)), _LEARNED),
                *between(("4", ("taught-4",)), ("1", ("taught-1",)), (SZN, "overall", "harmonic")),
            ),
            note="The thesis blames its seenmask on a small train_unseen (section 8.2.3). What "
            "teaches the seenmask is lost to the embedding: (18, 1, 2), (17, 2, 2), (15, 4, 2).",
        ),
        Comparison(
            name="full",
            title="Baselines by the recipe of szn-mini, (21, 0, 0)",
            variants={"softmax": "full-fcn-s", "joint embedding": "full-fcn-je"},
            claims=between(("FCN-S", ("full-fcn-s",)), ("FCN-JE", ("full-fcn-je",)), _OVERALL),
            note="Published overall PA on another split of the images: TextonBoost 72, fully "
            "connected CRF 86.0.",
        ),
    ),
    figures=figures(("reduced", "standard", "other"), ("fcn-s", "fcn-je")),
)
