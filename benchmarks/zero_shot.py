"""Zero-shot quality over several draws of unseen classes, for several seenmasks.

    python benchmarks/zero_shot.py --dataset msrc21 --data-root DATA --json FILE

Each draw takes 2 + 2 of the 15 object classes of MSRC-21 for train_unseen and U and splits the
images anew (`zero_shot_draws.py`). A network is trained by the recipe of szn-mini, then every
seenmask (`zero_shot_names.py`) is fitted on its frozen features, and all are scored on the draw's
test images by the runtime's SEI. Nothing is chosen by U of the draw. Runs and grids are kept in
`--runs`: a second start goes on where the first one stopped.

`ZERO_SHOT.md` beside this file tells what was expected and what came out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from machine import write_report
from rich.console import Console
from run_lock import locked
from thesis_data import data_folder
from zero_shot_draws import SEEDS, SPLITS, class_presence, draw_of
from zero_shot_methods import Fitting
from zero_shot_names import DEFAULT, parse_method
from zero_shot_refit import Refit, parse_refit, refitted
from zero_shot_results import evaluate_methods, spreads_and_means, table
from zero_shot_runs import DrawRuns

from szn_runtime._command import Command
from szn_runtime.errors import InputError, UsageError
from szn_train.datasets import open_dataset
from szn_train.label_words import read_label_words
from szn_train.progress import Progress

_PATH = click.Path(path_type=Path)


def chosen_seeds(text: str | None) -> tuple[int, ...]:
    """Seeds that `--draws` asks for, all by default.

    Raises:
        UsageError: If it is no list of seeds of this benchmark.
    """
    if text is None:
        return SEEDS
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or not set(seeds) <= set(SEEDS):
        raise UsageError("draws", got=text, expected=f"some of {', '.join(map(str, SEEDS))}")
    return tuple(dict.fromkeys(seeds))


def chosen_refit(text: str | None, words: Path | None) -> Refit | None:
    """What `--refit` and `--label-words` ask for.

    Raises:
        UsageError: If they do not fit, or there are words without a refit.
        InputError: If the file of words cannot be used.
    """
    if text is None:
        if words is not None:
            raise UsageError("label words", got=words, expected="none without --refit")
        return None
    dim, scale = parse_refit(text)
    return Refit(dim=dim, scale=scale, words=None if words is None else read_label_words(words))


@click.command(cls=Command)
@click.option("--dataset", type=click.Choice(["msrc21"]), default="msrc21", show_default=True)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SZN_DATA",
    help="Folder with the data sets.  [default: $SZN_DATA]",
)
@click.option("--draws", help="Seeds of the draws, comma separated.  [default: all]")
@click.option("--methods", help="Comma separated, see zero_shot_names.py.  [default: all]")
@click.option(
    "--recipe",
    default="szn-mini",
    show_default=True,
    help="Presets or TOML files of the network's training, comma separated.",
)
@click.option(
    "--refit",
    "refit_text",
    metavar="JxSCALE",
    help="Train the embedding head once more, such as 50x20: in 50 dimensions, cosines times 20.",
)
@click.option(
    "--label-words",
    "words_path",
    type=_PATH,
    help="With --refit: JSON file of words that labels mean as well.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of training.",
)
@click.option("--quick", is_flag=True, help="Minutes: 96 pixels, one epoch. Numbers mean nothing.")
@click.option(
    "--runs",
    "runs_folder",
    type=_PATH,
    default=Path("runs/zero-shot"),
    show_default=True,
    help="Where runs are kept.",
)
@click.option("--json", "json_path", type=_PATH, help="Write the results.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--train-only", is_flag=True, help="Train the draws' networks and stop.")
@click.option("--quiet", is_flag=True, help="No progress.")
def main(
    dataset: str,
    data_root: Path | None,
    draws: str | None,
    methods: str | None,
    recipe: str,
    refit_text: str | None,
    words_path: Path | None,
    epochs: int,
    precision: str,
    quick: bool,
    runs_folder: Path,
    json_path: Path | None,
    threads: int | None,
    train_only: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Compare seenmasks on classes that were never taught, over several draws of them."""
    chosen = [parse_method(name) for name in (methods.split(",") if methods else DEFAULT)]
    seeds = chosen_seeds(draws)
    refit = chosen_refit(refit_text, words_path)
    epochs = 1 if quick else epochs
    if data_root is None:
        raise InputError("no data is named", fix="give --data-root DIR")
    data = data_folder(dataset, data_root)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    progress, console = Progress(quiet=quiet), Console(width=160)
    runs = DrawRuns(
        data.resolve(),
        runs_folder,
        presence=class_presence(data),
        class_names=open_dataset("folder", data, "train").class_names,
        epochs=epochs,
        precision=precision,
        quick=quick,
        recipe=recipe,
        progress=progress,
    )
    facts = {
        "recipe": Path(recipe).name,
        "refit": refit_text,
        "label_words": None if words_path is None else words_path.name,
        "epochs": epochs,
        "precision": precision,
        "quick": quick,
    }
    results: list[dict[str, Any]] = []
    for seed in seeds:
        draw = draw_of(seed)
        with locked(runs_folder / f"draw-{seed}"):
            run = runs.run(draw)
            cells = {split: runs.cells(run, split) for split in SPLITS}
        if train_only:
            continue
        if refit is not None:
            run, cells = refitted(run, cells, refit)
        fitting = Fitting(
            train=cells["train"],
            hold=cells["hold"],
            split=run.split,
            space=run.space,
            scale=run.config.similarity_scale,
        )
        fitted = {method.name: fitting.fit(method) for method in chosen}
        found = evaluate_methods(run, cells["test"], fitted, progress=progress)
        results.append({
            "seed": seed,
            "train_unseen": list(draw.train_unseen),
            "unseen": list(draw.unseen),
            "images": {split: len(ids) for split, ids in runs.images(draw).items()},
            "methods": found,
        })  # fmt: skip
        console.print(
            table(f"draw {seed}: train_unseen {draw.train_unseen}, U {draw.unseen}", found)
        )
        if json_path is not None:
            save(json_path, results, **facts)
    if results:
        means, spreads = spreads_and_means([result["methods"] for result in results])
        console.print(table(f"mean and deviation of {len(results)} draws", means, spreads))


def save(path: Path, draws: list[dict[str, Any]], **facts: Any) -> None:
    """Write all that is known so far."""
    means, spreads = spreads_and_means([draw["methods"] for draw in draws])
    rows = [
        {"draw": draw["seed"], "method": name, **_finite(numbers)}
        for draw in draws
        for name, numbers in draw["methods"].items()
    ]
    kept = [{k: v for k, v in draw.items() if k != "methods"} for draw in draws]
    write_report(path, "zero_shot", rows, **facts, draws=kept, means=means, spreads=spreads)


def _finite(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """JSON has no NaN: None where a draw has no number."""
    return {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}


if __name__ == "__main__":
    main()
