"""Which layers cost the most in INT8, and how few of them have to stay in floating point.

Each layer is quantised alone, all others left in floating point, so that its cost is its own and is
measured from zero. Leaving it alone in floating point would give small differences of two large
numbers, in which the rounding of all other layers drowns its own. What the costliest layers do
together is then measured, not added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from szn_export._layers import Layers, parse
from szn_export.calibration import Calibration
from szn_export.precision import Target, to_int8
from szn_runtime.errors import UsageError

__all__ = ["LayerCost", "Sensitivity", "SensitivityPass", "sensitivity_markdown"]


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


class SensitivityPass:
    """Finds the layers that have to stay in floating point, for one budget after the other.

    Every variant is quantised and measured at most once, whatever number of budgets asks for it:
    one of all layers, one of each layer alone if a budget is not kept, and about 2 log2(`most`)
    for each budget to find how many are needed.

    Args:
        model: The ONNX file that was calibrated.
        calibration: Ranges of its tensors.
        cost: Of an INT8 file, such as percent of labels that differ from FP32; always the same of
            the same file. A number that is none counts as infinite.
        target: As for `to_int8`.
        most: Layers that may be left in floating point; one is always quantised.
        progress: Is given a line before every call of `cost`.

    Raises:
        UsageError: If `most` is negative.
        ExportError: If the model is no ONNX file, or quantised already.
    """

    def __init__(
        self,
        model: bytes,
        calibration: Calibration,
        cost: Callable[[bytes], float],
        *,
        target: Target,
        most: int,
        progress: Callable[[str], None],
    ) -> None:
        if most < 0:
            raise UsageError("most layers in floating point", got=most, expected=">= 0")
        layers = Layers(parse(model).graph)
        self._weights = {
            name: node.input[1] for name, node in layers.layers.items() if name not in layers.heads
        }
        self._most = min(most, len(self._weights) - 1)
        self._model, self._calibration, self._target = model, calibration, target
        self._cost, self._progress = cost, progress
        self._costs: dict[frozenset[str], float] = {}  # by what stays in floating point

    def within(self, budget: float) -> Sensitivity:
        """The fewest of the costliest layers without which the cost is within a budget.

        Args:
            budget: What the cost may be.

        Raises:
            UsageError: If it is negative.
            ExportError: As `to_int8`.
        """
        if not budget >= 0:
            raise UsageError("budget of the sensitivity pass", got=budget, expected=">= 0")
        before = self._cost_without(0)
        if before <= budget:
            return Sensitivity(
                keep_float=(), table=(), cost_before=before, cost_after=before, budget=budget
            )
        table = self._table
        count, after = _find_least(self._cost_without, before, budget, self._most)
        return Sensitivity(
            keep_float=tuple(entry.layer for entry in table[:count]),
            table=table,
            cost_before=before,
            cost_after=after,
            budget=budget,
        )

    @cached_property
    def _table(self) -> tuple[LayerCost, ...]:
        """Every layer's own cost, the costliest first."""
        entries = [
            LayerCost(
                layer=name,
                flips_percent=self._measure(
                    f"INT8 in layer {index} of {len(self._weights)} only",
                    self._weights.keys() - {name},
                ),
                weight=weight,
            )
            for index, (name, weight) in enumerate(self._weights.items(), 1)
        ]
        return tuple(sorted(entries, key=lambda entry: -entry.flips_percent))

    def _cost_without(self, count: int) -> float:
        """The cost with so many of the costliest layers in floating point."""
        if count == 0:
            return self._measure(f"INT8 in all {len(self._weights)} layers", ())
        return self._measure(
            f"the {count} costliest layers in floating point",
            [entry.layer for entry in self._table[:count]],
        )

    def _measure(self, what: str, keep_float: Collection[str]) -> float:
        kept = frozenset(keep_float)
        if kept not in self._costs:
            self._progress(what)
            content = to_int8(self._model, self._calibration, target=self._target, keep_float=kept)
            value = float(self._cost(content))
            self._costs[kept] = math.inf if math.isnan(value) else value
        return self._costs[kept]


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
