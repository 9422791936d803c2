from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_export import sensitivity
from szn_export.calibration import Calibration, calibrate
from szn_export.precision import quantizable_layers, to_int8
from szn_export.sensitivity import (
    LayerCost,
    Sensitivity,
    SensitivityPass,
    sensitivity_markdown,
)
from szn_runtime._cv import cv2
from szn_runtime.backends.onnxrt import OnnxRuntimeBackend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import UsageError
from szn_runtime.preprocess import normalise_into, plan
from szn_runtime.sei import segment_grid

Cost = Callable[[bytes], float]


def chain(count: int) -> tuple[bytes, Calibration]:
    """Layers "l0", "l1", ... one after the other, and a head."""
    names = [f"l{index}" for index in range(count)]
    tensors = ["frames", *(f"t{index}" for index in range(count))]
    nodes = "\n".join(
        f"[{name}] {after} = Conv ({before}, {name}_weight)"
        for name, (before, after) in zip(names, itertools.pairwise(tensors), strict=True)
    )
    text = (
        '<ir_version: 9, opset_import: ["" : 20]>\n'
        "chain (float[n, 3, h, w] frames) => (float[n, 3, h, w] embedding) {\n"
        f"{nodes}\n[head] embedding = Conv ({tensors[-1]}, head_weight)\n}}"
    )
    model = onnx.parser.parse_model(text)
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(weight, f"{name}_weight") for name in (*names, "head")
    )
    ranges = dict.fromkeys(tensors, (-1.0, 1.0))
    return bytes(model.SerializeToString()), Calibration(ranges=ranges, frames=1)


def quantised(model: bytes) -> set[str]:
    graph = onnx.load_from_string(model).graph
    floating = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return {n.name for n in graph.node if n.op_type == "Conv" and n.input[1] not in floating} - {
        "head"
    }


def adding(costs: Mapping[str, float]) -> Cost:
    """Layers that cost the same alone and together."""
    return lambda model: math.fsum(costs[name] for name in quantised(model))


def pass_over(cost: Cost, count: int = 4, **changes: Any) -> SensitivityPass:
    values: dict[str, Any] = {"target": "cpu", "most": count, "progress": lambda _: None}
    return SensitivityPass(*chain(count), cost, **{**values, **changes})


def find(cost: Cost, count: int = 4, *, budget: float = 1.0, **changes: Any) -> Sensitivity:
    return pass_over(cost, count, **changes).within(budget)


def found_anew(cost: Mapping[frozenset[str], float], budget: float, most: int) -> Sensitivity:
    """For one budget alone, from the costs of everything that may be quantised together."""
    names = sorted(frozenset().union(*cost))
    everything = cost[frozenset(names)]
    if everything <= budget:
        return Sensitivity(
            keep_float=(), table=(), cost_before=everything, cost_after=everything, budget=budget
        )
    worst = sorted(names, key=lambda name: -cost[frozenset([name])])
    left = [cost[frozenset(worst[count:])] for count in range(min(most, len(names) - 1) + 1)]
    # 1, 2, 4, ... until it is enough, then the middle of what is too few and what is enough
    steps = [*(2**n for n in range(len(left)) if 2**n < len(left) - 1), len(left) - 1]
    good = [step for step in steps if left[step] <= budget]
    enough = good[0] if good else len(left) - 1
    if good:
        too_few = max((step for step in steps if step < enough), default=0)
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            too_few, enough = (too_few, middle) if left[middle] <= budget else (middle, enough)
    return Sensitivity(
        keep_float=tuple(worst[:enough]),
        table=tuple(
            LayerCost(layer=name, flips_percent=cost[frozenset([name])], weight=f"{name}_weight")
            for name in worst
        ),
        cost_before=everything,
        cost_after=left[enough],
        budget=budget,
    )


def test_within_the_budget_nothing_is_kept_and_nothing_more_is_measured() -> None:
    calls: list[set[str]] = []
    lines: list[str] = []

    def cost(model: bytes) -> float:
        calls.append(quantised(model))
        return 1.0

    found = find(cost, progress=lines.append)
    assert found == Sensitivity(
        keep_float=(), table=(), cost_before=1.0, cost_after=1.0, budget=1.0
    )
    assert calls == [{"l0", "l1", "l2", "l3"}]
    assert lines == ["INT8 in all 4 layers"]


def test_the_costliest_layers_are_kept_and_no_more() -> None:
    found = find(adding({"l0": 0.5, "l1": 3, "l2": 0.25, "l3": 2}))
    assert found.table == (
        LayerCost(layer="l1", flips_percent=3, weight="l1_weight"),
        LayerCost(layer="l3", flips_percent=2, weight="l3_weight"),
        LayerCost(layer="l0", flips_percent=0.5, weight="l0_weight"),
        LayerCost(layer="l2", flips_percent=0.25, weight="l2_weight"),
    )
    assert found.keep_float == ("l1", "l3")
    assert (found.cost_before, found.cost_after) == (5.75, 0.75)


def test_each_layer_is_measured_alone_and_every_measurement_is_announced() -> None:
    calls: list[set[str]] = []
    lines: list[str] = []
    costs = adding({"l0": 4, "l1": 3, "l2": 2, "l3": 1})

    def cost(model: bytes) -> float:
        assert len(lines) == len(calls) + 1
        calls.append(quantised(model))
        return costs(model)

    find(cost, progress=lines.append, budget=5)
    assert calls[1:5] == [{"l0"}, {"l1"}, {"l2"}, {"l3"}]
    assert calls[5:] == [{"l1", "l2", "l3"}, {"l2", "l3"}]
    assert lines[2] == "INT8 in layer 2 of 4 only"
    assert lines[-1] == "the 2 costliest layers in floating point"


@pytest.mark.parametrize(("most", "kept"), [(0, ()), (1, ("l1",)), (3, ("l1", "l3", "l0"))])
def test_no_more_layers_than_allowed(most: int, kept: tuple[str, ...]) -> None:
    costs = {"l0": 2.0, "l1": 4.0, "l2": 1.5, "l3": 3.0}
    found = find(adding(costs), most=most)
    assert found.keep_float == kept
    assert found.cost_after == sum(costs.values()) - sum(costs[name] for name in kept)
    assert len(found.table) == 4


def test_one_layer_is_always_quantised() -> None:
    found = find(adding({"l0": 2, "l1": 2, "l2": 2, "l3": 2}), most=100)
    assert found.keep_float == ("l0", "l1", "l2")  # those of equal cost in the graph's order
    assert found.cost_after == 2


@given(
    costs=st.lists(st.integers(0, 20), min_size=1, max_size=7),
    budget=st.integers(0, 60),
    most=st.integers(0, 8),
)
def test_as_few_as_possible(costs: list[int], budget: int, most: int) -> None:
    named = {f"l{index}": float(value) for index, value in enumerate(costs)}
    found = find(adding(named), len(costs), budget=budget, most=most)
    # what is left after keeping 0, 1, 2, ... of the costliest
    left = [sum(costs) - sum(sorted(costs)[len(costs) - n :]) for n in range(len(costs))]
    allowed = min(most, len(costs) - 1)
    needed = next((n for n in range(allowed + 1) if left[n] <= budget), allowed)
    assert len(found.keep_float) == needed
    assert found.cost_after == left[needed]
    assert (
        sorted((named[name] for name in found.keep_float), reverse=True)
        == sorted(named.values(), reverse=True)[:needed]
    )


def test_a_cost_that_is_no_number_counts_as_the_worst() -> None:
    def cost(model: bytes) -> float:
        return math.nan if "l2" in quantised(model) else 0.5

    found = find(cost)
    assert found.keep_float == ("l2",)
    assert found.table[0].layer == "l2"
    assert found.cost_before == found.table[0].flips_percent == math.inf
    assert found.cost_after == 0.5


@given(
    data=st.data(),
    count=st.integers(1, 6),
    most=st.integers(0, 7),
    budgets=st.lists(st.integers(0, 20), min_size=1, max_size=5),
)
def test_every_budget_finds_what_it_finds_alone(
    data: st.DataObject, count: int, most: int, budgets: list[int]
) -> None:
    names = [f"l{index}" for index in range(count)]
    together = [frozenset(c) for n in range(count) for c in itertools.combinations(names, n + 1)]
    # more layers may cost less, as they do on few images
    drawn = data.draw(st.lists(st.integers(0, 20), min_size=len(together), max_size=len(together)))
    costs = {chosen: float(cost) for chosen, cost in zip(together, drawn, strict=True)}
    search = pass_over(lambda model: costs[frozenset(quantised(model))], count, most=most)
    for budget in budgets:
        assert search.within(budget) == found_anew(costs, budget, most)


def test_no_variant_is_quantised_or_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[frozenset[str]] = []
    measured: list[set[str]] = []
    lines: list[str] = []
    costs = adding({f"l{index}": float(2**index) for index in range(6)})

    def counted(*arguments: Any, keep_float: frozenset[str], **others: Any) -> bytes:
        made.append(keep_float)
        return to_int8(*arguments, keep_float=keep_float, **others)

    def cost(model: bytes) -> float:
        measured.append(quantised(model))
        return costs(model)

    monkeypatch.setattr(sensitivity, "to_int8", counted)
    search = pass_over(cost, 6, progress=lines.append)
    found = [search.within(budget) for budget in (63, 40, 31, 16, 8, 2, 2, 63)]
    assert [len(each.keep_float) for each in found] == [0, 1, 1, 2, 3, 5, 5, 0]
    # all, each alone, and 1 to 5 kept: with 5 kept the cheapest is alone once more
    assert len(made) == len(set(made)) == len(measured) == len(lines) == 1 + 6 + 4
    assert [chosen for chosen in measured if len(chosen) == 1] == [{f"l{n}"} for n in range(6)]


@pytest.mark.parametrize("budget", [-0.1, math.nan])
def test_a_budget_is_not_negative(budget: float) -> None:
    with pytest.raises(UsageError, match=r"budget of the sensitivity pass: got .*expected >= 0"):
        find(adding({}), budget=budget)


def test_the_most_layers_are_not_negative() -> None:
    with pytest.raises(UsageError, match="most layers in floating point: got -1"):
        pass_over(adding({}), most=-1)


def test_the_report_says_what_was_kept_and_what_every_layer_costs() -> None:
    found = find(adding({"l0": 0.5, "l1": 3, "l2": 0.25, "l3": 2}))
    assert sensitivity_markdown(found) == (
        "INT8 in every layer costs 5.750 %, past the budget of 1 %. With 2 of 4 layers in floating "
        "point it costs 0.750 %, within the budget.\n"
        "\n"
        "| layer | weights | cost when quantised alone | kept in floating point |\n"
        "|---|---|---|---|\n"
        "| l1 | l1_weight | 3.000 % | yes |\n"
        "| l3 | l3_weight | 2.000 % | yes |\n"
        "| l0 | l0_weight | 0.500 % |  |\n"
        "| l2 | l2_weight | 0.250 % |  |\n"
    )
    found = find(adding({"l0": 2, "l1": 2, "l2": 2, "l3": 2}), most=1)
    assert "floating point it costs 6.000 %, past the budget." in sensitivity_markdown(found)
    found = find(lambda _: 0.125)
    assert sensitivity_markdown(found) == (
        "INT8 in every layer costs 0.125 %, within the budget of 1 %: no layer is kept in floating "
        "point.\n"
    )


@pytest.mark.slow
def test_szn_mini_gets_better_with_its_costliest_layers_in_float(data_dir: Path) -> None:
    bundle = Bundle.open(default_bundle_path())
    manifest, model, labels = bundle.manifest, bundle.model_bytes(), bundle.label_set()
    frames, layouts = [], []
    names = (data_dir / "msrc21" / "splits" / "val.txt").read_text().split()[::20]
    for name in names:
        (path,) = (data_dir / "msrc21" / "images").glob(f"{name}.*")
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        preprocess = manifest.preprocess
        layout = plan(image.shape[:2], long_side=preprocess.long_side, multiple=preprocess.multiple)
        tensor = np.empty((1, 3, *layout.padded_hw), np.float32)
        normalise_into(image, layout, preprocess, tensor[0])
        frames.append(tensor)
        layouts.append(layout)

    def maps(content: bytes) -> list[NDArray[Any]]:
        with OnnxRuntimeBackend(content, manifest) as backend:
            found = [backend.infer(tensor) for tensor in frames]
        return [
            segment_grid(
                grids.embedding[0],
                grids.seenmask[0],
                labels,
                geometry=layout.grid_geometry(manifest.grid_geometry),
                size_hw=layout.frame_hw,
            )[0]
            for grids, layout in zip(found, layouts, strict=True)
        ]

    exact = maps(model)

    def cost(content: bytes) -> float:
        return 100 * float(
            np.mean([(a != b).mean() for a, b in zip(maps(content), exact, strict=True)])
        )

    calibration = calibrate(model, frames)
    search = SensitivityPass(
        model, calibration, cost, target="cpu", most=12, progress=lambda _: None
    )
    found = search.within(1.2)
    layers = quantizable_layers(model)
    assert {entry.layer for entry in found.table} == set(layers)
    assert found.cost_before > 1.2 >= found.cost_after
    assert 1 <= len(found.keep_float) <= 12
    # as many of the cheapest layers help less
    cheapest = [entry.layer for entry in found.table[-len(found.keep_float) :]]
    others = to_int8(model, calibration, target="cpu", keep_float=cheapest)
    assert cost(others) > found.cost_after
