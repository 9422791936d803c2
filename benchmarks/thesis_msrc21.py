"""What `thesis_tables.py --dataset msrc21` compares, on the runs of `thesis_msrc21_runs.py`."""

from __future__ import annotations

from thesis_msrc21_runs import RECIPE, SPLITS, VARIANTS
from thesis_plan import (
    ALL_LABELS,
    BASELINE,
    PERFECT,
    SZN,
    Claim,
    Comparison,
    Plan,
    Side,
    between,
    figures,
    szn_claims,
)

__all__ = ["MSRC21"]

_OVERALL = (BASELINE, "overall", "miou")
_SEEN = (BASELINE, "train_seen", "miou")
_UNSEEN = (PERFECT, "unseen", "pa")
_LEARNED = (SZN, "unseen", "pa")

_DENSITIES = (("", "reduced", "standard"), (", cosine,", "reduced-cosine", "cosine"))


def _density_claim(suffix: str, reduced: str, standard: str) -> Claim:
    """Table 6: the same unseen classes are told better where more classes are seen."""
    table = "table6_szn_ps_unseen_sheep_train"
    above, below = (
        Side(
            name=name + suffix,
            variants=(variant,),
            model=PERFECT,
            published=(table, row, "unseen", "PA"),
        )
        for name, variant, row in (
            ("(17, 2, 2)", standard, "(17, 2, 2)"),
            ("(9, 2, 10)", reduced, "(9, 2, 2)"),
        )
    )
    return Claim(above=above, below=below, metric="pa", group="unseen")


_ADAM, _SGD_RUNS = ("standard", "adam-3e-4"), ("sgd-1e-1", "sgd-1e-2")

MSRC21 = Plan(
    recipe=RECIPE,
    same_images=True,
    splits=SPLITS,
    variants=VARIANTS,
    comparisons=(
        Comparison(name="variance", title="Variance of the words that j dimensions keep", table=1),
        Comparison(
            name="baselines",
            title="Baselines with all classes seen, (21, 0, 0)",
            table=2,
            variants={
                "softmax": "fcn-s",
                "joint embedding, cosine cross-entropy": "fcn-je",
                "joint embedding, cosine": "fcn-je-cosine",
            },
            claims=(
                Claim(
                    above=Side(
                        name="FCN-S",
                        variants=("fcn-s",),
                        published=("table2_baselines", "VOC FCN-S (21, 0, 0)", "mIoU"),
                    ),
                    below=Side(
                        name="FCN-JE, cosine,",
                        variants=("fcn-je-cosine",),
                        published=("table2_baselines", "VOC FCN-JE (21, 0, 0)", "mIoU"),
                    ),
                    metric="miou",
                    group="overall",
                ),
                *between(
                    ("FCN-S", ("fcn-s",)),
                    ("FCN-JE, cosine cross-entropy,", ("fcn-je",)),
                    _OVERALL,
                ),
            ),
        ),
        Comparison(
            name="standard",
            title="Standard class density, (17, 2, 2): U is sheep and bicycle",
            table=4,
            variants={"cosine": "cosine", "cosine cross-entropy": "standard"},
            claims=(
                *szn_claims("cosine", "table4_voc_17_2_2", ", cosine,"),
                *szn_claims("standard", "table4_voc_17_2_2"),
            ),
        ),
        Comparison(
            name="seeds",
            title="What another seed changes, (17, 2, 2)",
            variants={"1337": "standard", "1": "seed-1", "2": "seed-2"},
            note="A difference within the range of these three is not decided; between two models "
            "of one run it is the range of their difference. Claims of other splits and losses are "
            "measured by this range as well.",
        ),
        Comparison(
            name="reduced",
            title="Reduced class density, (9, 2, 10)",
            table=3,
            variants={"cosine": "reduced-cosine", "cosine cross-entropy": "reduced"},
            claims=(
                *szn_claims("reduced-cosine", "table3_voc_9_2_10", ", cosine,"),
                *szn_claims("reduced", "table3_voc_9_2_10"),
            ),
        ),
        Comparison(
            name="other",
            title="Standard class density, (17, 2, 2): U is cow and car",
            table=5,
            variants={"(17, 2, 2)": "other"},
            claims=szn_claims("other", "table5_context_31_2_2"),
            note="In place of the thesis' second data set: its numbers below are PASCAL-Context's.",
        ),
        Comparison(
            name="density",
            title="The same unseen classes, sheep and bicycle, at three class densities",
            table=6,
            variants={
                "(9, 2, 10)": "reduced",
                "(13, 2, 6)": "middle",
                "(17, 2, 2)": "standard",
                "(9, 2, 10), cosine": "reduced-cosine",
                "(17, 2, 2), cosine": "cosine",
            },
            unseen=("sheep", "bicycle"),
            claims=(
                *between(
                    ("(13, 2, 6)", ("middle",)), ("(9, 2, 10)", ("reduced",)), _UNSEEN, _LEARNED
                ),
                *between(
                    ("(17, 2, 2)", ("standard",)), ("(13, 2, 6)", ("middle",)), _UNSEEN, _LEARNED
                ),
                *(_density_claim(suffix, *runs) for suffix, *runs in _DENSITIES),
            ),
            note="Unseen scores are those of sheep and bicycle in all rows. Epochs are scaled so "
            "that all train on about as many images; those of a reduced split repeat more often. "
            "SZN and SZN-PS choose among 12, 8 and 4 labels that are not train_seen, which alone "
            "makes the standard density easier.",
        ),
        Comparison(
            name="losses",
            title="Loss of the embedding, (17, 2, 2)",
            variants={"cosine": "cosine", "MSE": "mse", "cosine cross-entropy": "standard"},
            claims=(
                *between(("cosine", ("cosine",)), ("MSE", ("mse",)), _OVERALL, _SEEN, _UNSEEN),
                *between(
                    ("cosine cross-entropy", ("standard",)),
                    ("cosine", ("cosine",)),
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
                *between(
                    ("FCN-JE (all labels) with words", ("standard",)),
                    ("with one-hot", ("one-hot",)),
                    (ALL_LABELS, "unseen", "pa"),
                ),
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
            "teaches the seenmask is lost to the embedding: (18, 1, 2), (17, 2, 2), (15, 4, 2). "
            "SZN-PS chooses among 3, 4 and 6 labels that are not train_seen.",
        ),
        Comparison(
            name="full",
            title="Baselines by the recipe of szn-mini, (21, 0, 0)",
            variants={"softmax": "full-fcn-s", "joint embedding": "full-fcn-je"},
            claims=(
                *between(("FCN-S", ("full-fcn-s",)), ("FCN-JE", ("full-fcn-je",)), _OVERALL),
                *(
                    Claim(
                        above=Side(name=name, variants=(variant,)),
                        below=Side(name=other, value=value),
                        metric="pa",
                        group="overall",
                    )
                    for name, variant in (("FCN-S", "full-fcn-s"), ("FCN-JE", "full-fcn-je"))
                    for other, value in (("fully connected CRFs", 86.0), ("the goal", 88.0))
                ),
            ),
            note="Published overall PA on another split of the images: TextonBoost 72, fully "
            "connected CRFs 86.0.",
        ),
    ),
    figures=figures(("reduced", "standard", "other"), ("fcn-s", "fcn-je")),
)
