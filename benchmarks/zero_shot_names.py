"""Names of the ways to tell unseen from seen.

A method is named `BASE[/WINDOW][@POINT]`, as in `stats/5@1.5`:

    BASE    thesis   the trainer's own seenmask: a 1x1 convolution of the frozen features
            linear   the same, fitted on cells with every class counting the same
            stats    logistic regression on `szn_train.seen_statistics`
            both     the same with `linear`'s logit as one more number
            gap      largest cosine with a seen label minus that with any other label: what a bias
                     on seen scores does. Those labels are only known at run time, so it cannot be
                     in the graph
    WINDOW  mean over so many nodes squared, 1 if not given
    POINT   `5%`: the bias that loses at most so many of the held-out seen cells; `1.5`: that costs
            at most so many points of train_seen mIoU on them. Without one no bias is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from szn_runtime.errors import UsageError

__all__ = ["BASES", "DEFAULT", "Method", "parse_method"]

BASES = ("thesis", "linear", "stats", "both", "gap")
DEFAULT = tuple(
    f"{base}{window}{point}"
    for base in BASES
    for window in ("", "/3", "/5")
    for point in ("", "@5%", "@1.5")
    if base != "gap" or point
)
_NAME = re.compile(r"(?P<base>[a-z]+)(/(?P<window>\d+))?(@(?P<number>[\d.]+)(?P<percent>%)?)?")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A name in its parts.

    Attributes:
        name: As it is shown.
        base: One of `BASES`.
        window: Nodes along each side of the mean.
        lost: Share of held-out seen cells that may be lost, or None.
        drop: Points of held-out train_seen mIoU that may be lost, or None.
    """

    name: str
    base: str
    window: int = 1
    lost: float | None = None
    drop: float | None = None


def parse_method(name: str) -> Method:
    """A method by its name.

    Raises:
        UsageError: If it is none.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["base"] not in BASES or int(match["window"] or 1) % 2 == 0:
        raise UsageError(f"no method {name!r}", expected=f"{'|'.join(BASES)}[/3|/5|...][@5%|@1.5]")
    number = None if match["number"] is None else float(match["number"])
    return Method(
        name=name,
        base=match["base"],
        window=int(match["window"] or 1),
        lost=number / 100 if number is not None and match["percent"] else None,
        drop=number if not match["percent"] else None,
    )
