"""The thesis' tables and figures from runs of our own, next to the published numbers.

    python benchmarks/thesis_tables.py --data-root DATA --table 4 --figure 14
    python benchmarks/thesis_tables.py --dataset msrc21 --data-root DATA --markdown msrc21.md
    python benchmarks/thesis_tables.py --dataset msrc21 --data-root DATA --full

The first needs PASCAL VOC with SBD and PASCAL-Context; the second asks the same questions of
MSRC-21 in a size that two cores train: explained variance over j, FCN-S against FCN-JE, reduced
and standard class densities, the same unseen classes at several densities, losses, optimisers, j,
and one-hot label embeddings as a control. `--full` trains both baselines by the recipe of szn-mini.

All variants start from one recipe and from ImageNet weights, and differ in what
`thesis_msrc21_runs.py` says. Every run is kept in `--runs` and evaluated once: a second start goes
on where the first one stopped, at the last finished epoch. Results are written after each run. A
variant that cannot be trained is listed with its reason, and the exit code is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from thesis_data import data_folder
from thesis_drawing import draw_comparison, draw_numbered
from thesis_msrc21 import MSRC21
from thesis_outcome import SEEDS, Outcome
from thesis_plan import Comparison, Plan
from thesis_runs import Runs
from thesis_voc import thesis_plan

from szn_runtime._command import Command
from szn_runtime.errors import InputError, SznError, TrainingError, UsageError
from szn_train.evaluate import Evaluation
from szn_train.metrics import Mode
from szn_train.progress import Progress

_QUICK = {
    "long_side": 96,
    "resize": True,
    "crop_hw": [64, 96],
    "embedding_step": {"epochs": 1},
    "seenmask_step": {"epochs": 1},
}
_FULL = "full"
_PATH = click.Path(path_type=Path)


def chosen_comparisons(
    plan: Plan, names: Sequence[str], tables: Sequence[int], *, full: bool, otherwise_all: bool
) -> list[Comparison]:
    """Comparisons that the options ask for, in the plan's order.

    Raises:
        UsageError: If a name is unknown.
        InputError: If the plan has no such table.
    """
    wanted = {plan.comparison(name).name for name in names}
    wanted |= {_FULL} if full else set()
    for number in tables:
        of_table = {c.name for c in plan.comparisons if c.table == number}
        if not of_table:
            raise InputError(f"no comparison asks what table {number} does")
        wanted |= of_table
    if full:
        plan.comparison(_FULL)  # there may be none
    if not wanted and otherwise_all:
        wanted = {c.name for c in plan.comparisons if c.name != _FULL}
    return [c for c in plan.comparisons if c.name in wanted]


@click.command(cls=Command)
@click.option(
    "--dataset",
    type=click.Choice(["thesis", "msrc21"]),
    default="thesis",
    show_default=True,
    help="VOC and Context, or MSRC-21.",
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SZN_DATA",
    help="Folder with the data sets.  [default: $SZN_DATA]",
)
@click.option("--table", "tables", multiple=True, type=click.IntRange(1, 6), help="Only these.")
@click.option(
    "--figure",
    "numbers",
    multiple=True,
    type=click.IntRange(8, 18),
    help="Draw these into --figures.",
)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only these comparisons.")
@click.option("--full", is_flag=True, help="The baselines by the recipe of szn-mini.")
@click.option("--quick", is_flag=True, help="Minutes: 96 pixels, one epoch. Numbers mean nothing.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the embedding step.")
@click.option("--seenmask-epochs", type=click.IntRange(min=1), help="Of the seenmask step.")
@click.option("--long-side", type=click.IntRange(min=32), help="Of frames; crops in proportion.")
@click.option("--embeddings", help="Word vectors in place of the recipe's; see docs/data.md.")
@click.option(
    "--mode",
    type=click.Choice(["standard", "thesis"]),
    help="Metrics to print.  [default: standard for msrc21, else thesis]",
)
@click.option(
    "--runs",
    "runs_folder",
    type=_PATH,
    default=Path("runs/thesis"),
    show_default=True,
    help="Where runs are kept.",
)
@click.option("--json", "json_path", type=_PATH, help="Write the results.")
@click.option("--markdown", "markdown_path", type=_PATH, help="Write tables and claims.")
@click.option("--figures", type=_PATH, help="Folder to draw into.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--list", "list_only", is_flag=True, help="List comparisons and variants, and stop.")
@click.pass_context
def main(
    context: click.Context,
    dataset: str,
    data_root: Path | None,
    tables: tuple[int, ...],
    numbers: tuple[int, ...],
    names: tuple[str, ...],
    full: bool,
    quick: bool,
    epochs: int | None,
    seenmask_epochs: int | None,
    long_side: int | None,
    embeddings: str | None,
    mode: Mode | None,
    runs_folder: Path,
    json_path: Path | None,
    markdown_path: Path | None,
    figures: Path | None,
    threads: int | None,
    quiet: bool,
    list_only: bool,
) -> None:  # fmt: skip
    """Train or load what the thesis' tables need, and print ours next to the published numbers."""
    console = Console(width=160)
    if list_only:
        _list(MSRC21 if dataset == "msrc21" else thesis_plan(), console)
        return
    if data_root is None:
        raise InputError("no data is named", fix="give --data-root DIR")
    folder = data_folder(dataset, data_root)
    plan = MSRC21 if dataset == "msrc21" else thesis_plan()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    comparisons = chosen_comparisons(plan, names, tables, full=full, otherwise_all=not numbers)
    if numbers and figures is None:
        figures = Path("figures")
    runs = Runs(
        plan, folder, runs_folder, words=embeddings,
        sizes=sizes(plan, quick=quick, epochs=epochs, seenmask_epochs=seenmask_epochs,
                    long_side=long_side),
        progress=Progress(quiet=quiet),
    )  # fmt: skip
    outcome = Outcome(
        comparisons,
        plan,
        mode or ("standard" if dataset == "msrc21" else "thesis"),
        embeddings or str(plan.recipe.get("embeddings", "glove")),
        {k: p for k, p in (("json", json_path), ("markdown", markdown_path)) if p is not None},
        _command(context),
    )
    with runs.locked():
        _go(plan, comparisons, numbers, runs, outcome, figures, console)
    if outcome.not_run:
        raise TrainingError(
            f"{len(outcome.not_run)} of the variants could not be trained",
            got=", ".join(outcome.not_run),
            fix="see above; start again to try them again",
        )


def _go(
    plan: Plan,
    comparisons: Sequence[Comparison],
    numbers: Sequence[int],
    runs: Runs,
    outcome: Outcome,
    figures: Path | None,
    console: Console,
) -> None:
    """Train, print, write and draw, comparison by comparison."""
    seeds = next((c for c in plan.comparisons if c.name == SEEDS), None)
    # results of an earlier start are shown from the first file on
    for comparison in [*comparisons, *([seeds] if seeds else [])]:
        for variant in comparison.variants.values():
            with suppress(UsageError):  # of the variant alone; it is told where its turn comes
                found = runs.finished(variant)
                if found is not None:
                    outcome.evaluations[variant] = found
    for comparison in comparisons:
        for variant in comparison.variants.values():
            _evaluate(variant, runs, outcome, console)
        if not comparison.variants:
            outcome.variance()
        outcome.save()
        outcome.show(comparison, console)
        if figures is not None:
            rows, _ = outcome.of(comparison)
            draw_comparison(comparison, rows, outcome.variance, figures)
    for number in numbers:
        figure = plan.figures[number]
        if _evaluate(figure.variant, runs, outcome, console) is not None:
            draw_numbered(number, figure, runs, figures or Path("figures"))


def _evaluate(variant: str, runs: Runs, outcome: Outcome, console: Console) -> Evaluation | None:
    """The evaluation of a variant, kept in the outcome; None if it could not be trained."""
    if variant not in outcome.evaluations:
        try:
            outcome.evaluations[variant] = runs.evaluation(variant)
        except SznError as error:
            outcome.evaluations[variant] = None
            outcome.not_run[variant] = str(error)
            console.print(f"{variant}: not run: {error}", markup=False)
        outcome.save()
    return outcome.evaluations[variant]


def sizes(
    plan: Plan,
    *,
    quick: bool,
    epochs: int | None,
    seenmask_epochs: int | None,
    long_side: int | None,
) -> dict[str, Any]:
    """Values that all variants get, from the options."""
    values: dict[str, Any] = dict(_QUICK) if quick else {}
    if long_side is not None:
        values |= {"long_side": long_side, "resize": True}  # the thesis' protocol does not
        if "crop_hw" in plan.recipe:
            old, stride = plan.recipe["long_side"], plan.recipe["stride"]
            values["crop_hw"] = [
                max(1, round(side * long_side / old / stride)) * stride
                for side in plan.recipe["crop_hw"]
            ]
    for step, number in (("embedding_step", epochs), ("seenmask_step", seenmask_epochs)):
        if number is not None:
            values[step] = {"epochs": number}
    return values


def _command(context: click.Context) -> str:
    """What was called, without the paths and what does not change the results."""
    parts = ["python benchmarks/thesis_tables.py"]
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if not given or isinstance(option.type, click.Path) or name in {"threads", "quiet"}:
            continue
        value = context.params[name]
        values = value if isinstance(value, tuple) else (value,)
        if name == "embeddings":
            values = tuple(Path(each).name for each in values)
        flag = isinstance(option, click.Option) and option.is_flag
        parts += [option.opts[0] if flag else f"{option.opts[0]} {each}" for each in values]
    return " ".join([*parts, "--data-root DATA"])


def _list(plan: Plan, console: Console) -> None:
    for comparison in plan.comparisons:
        table = "" if comparison.table is None else f" (table {comparison.table})"
        console.print(f"{comparison.name}{table}: {comparison.title}", markup=False)
        for text, variant in comparison.variants.items():
            changes = dict(plan.variants[variant].changes)
            told = f", changes {changes}" if changes and comparison.name != _FULL else ""
            split = plan.variants[variant].split
            console.print(f"    {text}: {variant}, split {split}{told}", markup=False)
    for number, figure in plan.figures.items():
        console.print(f"figure {number}: {figure.kind} of {figure.model}, {figure.variant}")


if __name__ == "__main__":
    main()
