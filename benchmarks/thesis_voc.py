"""What `thesis_tables.py` trains and compares on the thesis' own data: VOC with SBD, and Context.

Class splits come from the presets `voc-*` and `context-*`, everything else from the preset
`thesis`.
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
    figures,
    szn_claims,
)

from szn_train.datasets.devkit import DEVKITS
from szn_train.preset_files import load_preset

__all__ = ["DOWNLOADS", "KINDS", "thesis_plan"]

KINDS = ("voc", "context")
"""Values of `TrainConfig.dataset` that the plan needs."""

DOWNLOADS = (
    *DEVKITS.values(),
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
)
"""Archives that give, unpacked in one folder, both data sets."""

_ABOUT_CLASSES = ("dataset", "void", "train_unseen", "unseen")
_PRESETS = ("voc-21-0-0", "voc-9-2-10", "voc-17-2-2", "context-33-0-0", "context-31-2-2")

_SOFTMAX: Mapping[str, Any] = {"embeddings": "one-hot", "loss": "cross_entropy"}
"""FCN-S, whose SGD comes with the thesis' protocol."""


def thesis_plan() -> Plan:
    """Tables 1 to 6 and figures 8 to 18.

    Raises:
        UsageError: If a preset is missing.
    """
    splits: dict[str, dict[str, Any]] = {}
    for name in _PRESETS:
        preset = load_preset(name)
        splits[name] = {key: preset[key] for key in _ABOUT_CLASSES if key in preset}
        if preset["dataset"] == "context":
            splits[name]["drop_void"] = True  # as the thesis' code does
    return Plan(
        recipe=load_preset("thesis"),
        same_images=False,
        splits=splits,
        variants={
            "voc-fcn-s": Variant(split="voc-21-0-0", changes=_SOFTMAX),
            "voc-fcn-je": Variant(split="voc-21-0-0"),
            "context-fcn-s": Variant(split="context-33-0-0", changes=_SOFTMAX),
            "context-fcn-je": Variant(split="context-33-0-0"),
            "voc-reduced": Variant(split="voc-9-2-10"),
            "voc-standard": Variant(split="voc-17-2-2"),
            "context-standard": Variant(split="context-31-2-2"),
        },
        comparisons=(
            Comparison(name="variance", title="Table 1: explained variance", table=1),
            _baselines(),
            _density("reduced", "Table 3: VOC (9, 2, 10)", 3, "voc-reduced", "table3_voc_9_2_10"),
            _density(
                "standard", "Table 4: VOC (17, 2, 2)", 4, "voc-standard", "table4_voc_17_2_2"
            ),
            _density(
                "context", "Table 5: Context (31, 2, 2)", 5, "context-standard",
                "table5_context_31_2_2",
            ),
            _unseen_density(),
        ),
        figures=figures(
            ("voc-reduced", "voc-standard", "context-standard"), ("voc-fcn-s", "voc-fcn-je")
        ),
    )  # fmt: skip


def _baselines() -> Comparison:
    table = "table2_baselines"
    rows = {
        "VOC FCN-S (21, 0, 0)": "voc-fcn-s",
        "VOC FCN-JE (21, 0, 0)": "voc-fcn-je",
        "Context FCN-S (33, 0, 0)": "context-fcn-s",
        "Context FCN-JE (33, 0, 0)": "context-fcn-je",
    }
    sides = {
        name: Side(name=name, variants=(variant,), published=(table, name, "mIoU"))
        for name, variant in rows.items()
    }
    names = list(rows)
    return Comparison(
        name="baselines",
        title="Table 2: baselines with all classes seen",
        table=2,
        variants=rows,
        published={(name, BASELINE): (table, name) for name in rows},
        claims=tuple(
            Claim(above=sides[above], below=sides[below], metric="miou", group="overall")
            for above, below in (names[:2], names[2:])
        ),
    )


def _density(name: str, title: str, table: int, variant: str, published: str) -> Comparison:
    """Tables 3 to 5. Their FCN-JE chooses among all labels, as the thesis' code does."""
    text = title.partition(": ")[2]
    return Comparison(
        name=name,
        title=title,
        table=table,
        variants={text: variant},
        published={
            (text, "FCN-JE (all labels)"): (published, "FCN-JE"),
            (text, SZN): (published, "SZN"),
            (text, PERFECT): (published, "SZN-PS"),
        },
        claims=szn_claims(variant, published),
    )


def _unseen_density() -> Comparison:
    table = "table6_szn_ps_unseen_sheep_train"
    sides = {
        name: Side(
            name=name, variants=(variant,), model=PERFECT, published=(table, name, "unseen", "PA")
        )
        for name, variant in (
            ("(9, 2, 2)", "voc-reduced"),
            ("(17, 2, 2)", "voc-standard"),
            ("(31, 2, 2)", "context-standard"),
        )
    }
    return Comparison(
        name="density",
        title="Table 6: the same unseen classes, sheep and train, at three class densities",
        table=6,
        variants={name: side.variants[0] for name, side in sides.items()},
        unseen=("sheep", "train"),
        published={(name, PERFECT): (table, name) for name in sides},
        claims=(
            Claim(above=sides["(17, 2, 2)"], below=sides["(9, 2, 2)"], metric="pa", group="unseen"),
            Claim(
                above=sides["(31, 2, 2)"], below=sides["(17, 2, 2)"], metric="pa", group="unseen"
            ),
        ),
    )
