"""Which layers cost the most in INT8, and how few of them have to stay in floating point.

Each layer is quantised alone, all others left in floating point, so that its cost is its own and is
measured from zero. Leaving it alone in floating point would give small differences of two large
numbers, in which the rounding of all other layers drowns its own. What the costliest layers do
together is then measured, not added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from szn_export._layers import Layers, parse
from szn_export.calibration import Calibration
from szn_export.precision import Target, to_int8
from szn_runtime.errors import UsageError

__all__ = ["LayerCost", "Sensitivity", "find_float_layers", "sensitivity_markdown"]


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer costs in INT8.

    Attributes:
        layer: Name of its node.
        flips_percent: The cost when nothing else is quantised, such as percent of label flips.
        weight: Name of its weights, which says where in the network it is.
    """

    layer: str
    flips_percent: float
    weight: str = ""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What a sensitivity pass found.

    Attributes:
        keep_float: Layers to leave in floating point, the costliest first.
        table: Cost of every layer, the worst first; empty if the budget was kept without a pass.
        cost_before: With every layer quantised.
        cost_after: With `keep_float` in floating point. Above the budget if no allowed number of
            layers is enough.
        budget: That the cost was to keep.
    """

    keep_float: tuple[str, ...]
    table: tuple[LayerCost, ...]
    cost_before: float
    cost_after: float
    budget: float


def find_float_layers(
    model: bytes,
    calibration: Calibration,
    cost: Callable[[bytes], float],
    *,
    budget: float,
    target: Target,
    most: int,
    progress: Callable[[str], None],
) -> Sensitivity:
    """Find the layers that have to stay in floating point.

    Calls `cost` once if the budget is kept, else once more for each layer and about
    2 log2(`most`) times to find how many are needed.

    Args:
        model: The ONNX file that was calibrated.
        calibration: Ranges of its tensors.
        cost: Of an INT8 file, such as percent of labels that differ from FP32. A number that is
            none counts as infinite.
        budget: What the cost may be.
        target: As for `to_int8`.
        most: Layers that may be left in floating point; one is always quantised.
        progress: Is given a line before every call of `cost`.

    Raises:
        UsageError: If budget or `most` are negative.
        ExportError: As `to_int8`.
    """
    if not budget >= 0 or most < 0:
        raise UsageError(
            "limits of the sensitivity pass", got=f"budget {budget}, {most} layers", expected=">= 0"
        )
    layers = Layers(parse(model).graph)
    names = [name for name in layers.layers if name not in layers.heads]

    def measure(what: str, keep_float: list[str]) -> float:
        progress(what)
        content = to_int8(model, calibration, target=target, keep_float=keep_float)
        value = float(cost(content))
        return math.inf if math.isnan(value) else value

    before = measure(f"INT8 in all {len(names)} layers", [])
    if before <= budget:
        return Sensitivity(
            keep_float=(), table=(), cost_before=before, cost_after=before, budget=budget
        )
    table = sorted(
        (
            LayerCost(
                layer=name,
                flips_percent=measure(
                    f"INT8 in layer {index} of {len(names)} only",
                    [other for other in names if other != name],
                ),
                weight=layers.layers[name].input[1],
            )
            for index, name in enumerate(names, 1)
        ),
        key=lambda entry: -entry.flips_percent,
    )
    worst = [entry.layer for entry in table]

    def measure_first(count: int) -> float:
        return measure(f"the {count} costliest layers in floating point", worst[:count])

    count, after = _find_least(measure_first, before, budget, min(most, len(names) - 1))
    return Sensitivity(
        keep_float=tuple(worst[:count]),
        table=tuple(table),
        cost_before=before,
        cost_after=after,
        budget=budget,
    )


def _find_least(
    cost: Callable[[int], float], before: float, budget: float, most: int
) -> tuple[int, float]:
    """A number of layers that keeps the budget where one less does not, else `most`; its cost.

    Doubles the number until it is enough, then halves the step; few layers are tried first, since
    every one in floating point is slower.
    """
    too_few, cost_of_most = 0, before
    enough = 1
    while too_few < most:
        enough = min(enough, most)
        cost_of_most = cost(enough)
        if cost_of_most <= budget:
            break
        too_few, enough = enough, 2 * enough
    else:
        return most, cost_of_most
    after = cost_of_most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        value = cost(middle)
        if value <= budget:
            enough, after = middle, value
        else:
            too_few = middle
    return enough, after


def sensitivity_markdown(sensitivity: Sensitivity) -> str:
    """A section of the report: what was kept in floating point, and every layer's cost."""
    found = sensitivity
    budget = f"the budget of {found.budget:g} %"
    if not found.table:
        return (
            f"INT8 in every layer costs {found.cost_before:.3f} %, within {budget}: no layer is "
            "kept in floating point.\n"
        )
    verdict = "within" if found.cost_after <= found.budget else "past"
    lines = [
        f"INT8 in every layer costs {found.cost_before:.3f} %, past {budget}. With "
        f"{len(found.keep_float)} of {len(found.table)} layers in floating point it costs "
        f"{found.cost_after:.3f} %, {verdict} the budget.",
        "",
        "| layer | weights | cost when quantised alone | kept in floating point |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {entry.layer} | {entry.weight} | {entry.flips_percent:.3f} % "
        f"| {'yes' if entry.layer in found.keep_float else ''} |"
        for entry in found.table
    ]
    return "\n".join(lines) + "\n"
