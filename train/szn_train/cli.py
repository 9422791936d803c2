"""`szn-train` and `szn-eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from szn_runtime._command import Command, require_extra
from szn_runtime.errors import UsageError

if TYPE_CHECKING:
    from szn_train.config import TrainConfig, Workers
    from szn_train.evaluate import Evaluation

__all__ = ["eval_main", "train_main"]


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """`"sheep, bicycle"` to names; an empty text is no names."""
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _workers(_: click.Context, __: click.Parameter, value: str | None) -> Workers | None:
    """A number, or "auto"; the configuration refuses negative ones."""
    if value is None or value == "auto":
        return value  # type: ignore[return-value]  # a narrowed text is no Literal for mypy
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither auto nor a whole number") from None


_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("szn-train", cls=Command, context_settings={"max_content_width": 100})
@click.option("--data", type=_FOLDER, help="Data set folder.")
@click.option(
    "--dataset",
    type=click.Choice(["folder", "voc", "context"]),
    help="What --data holds: images, masks, classes.txt and splits; PASCAL VOC with SBD; "
    "PASCAL-Context.  [default: folder]",
)
@click.option("--out", type=_FOLDER, help="Run folder to write.")
@click.option("--preset", help="Preset names or TOML files, comma separated; options override.")
@click.option(
    "--protocol",
    type=click.Choice(["modern", "thesis"]),
    help="Recipe that lies under the options, without a preset's.  [default: modern]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its configuration.")
@click.option("--unseen", callback=_names, help="The set U, comma separated: no image shows them.")
@click.option("--train-unseen", callback=_names, help="Classes that teach the seenmask.")
@click.option(
    "--random-train-unseen",
    type=click.IntRange(min=1),
    metavar="N",
    help="Draw train_unseen from the seen classes, with --seed.",
)
@click.option("--void", callback=_names, help="Classes treated as void.")
@click.option(
    "--drop-void", is_flag=True, default=None, help="Leave out every image with a void pixel."
)
@click.option("--check-data", is_flag=True, help="Only check --data, and print what is in it.")
@click.option(
    "--contact-sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --check-data: images beside their masks, as a PNG.",
)
@click.option("--train-split", help="Split to train on.  [default: train]")
@click.option("--val-split", help="Split to evaluate.  [default: val]")
@click.option("--backbone", help="efficientnet_lite0 or vgg16.")
@click.option("--weights", help="Start of the backbone: imagenet, none or a file of weights.")
@click.option("--stride", type=int, help="Pixels between grid nodes: 32, 16 or 8.")
@click.option("--padding", type=click.Choice(["same", "caffe"]), help="Of vgg16.")
@click.option("--pixels", type=click.Choice(["imagenet", "caffe"]), help="Scale of vgg16's input.")
@click.option(
    "--embeddings", help="glove, glove+minilm, one-hot, an .npz of labels, or a word-vector file."
)
@click.option(
    "--label-words",
    metavar="FILE.json",
    help="Label to a list of further words that mean the same; instead of a preset's.",
)
@click.option("--dim", type=int, help="Dimensions of the joint embedding space.")
@click.option(
    "--loss",
    type=click.Choice(["cosine", "mse", "cosine_ce", "cross_entropy"]),
    help="Of the embedding; cross_entropy is FCN-S.",
)
@click.option(
    "--refit-embedding/--no-refit-embedding",
    default=None,
    help="Fit the embedding head anew on frozen features and balanced cells.",
)
@click.option("--long-side", type=int, help="Longer side of a frame, in pixels.")
@click.option("--epochs", type=int, help="Of the embedding step.")
@click.option("--batch-size", type=int, help="Of the embedding step.")
@click.option("--accumulation", type=int, help="Batches a step of the optimiser, in both steps.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="bf16, or fp16 on GPUs, is mixed precision.  [default: fp32]",
)
@click.option(
    "--workers",
    callback=_workers,
    metavar="N",
    help="Processes that prepare batches, with --resume too.  [default: auto, some on GPUs]",
)
@click.option("--early-stop", type=int, help="Epochs without a better score; 0 trains all.")
@click.option("--learning-rate", type=float, help="Of the embedding step.")
@click.option(
    "--optimizer", type=click.Choice(["adam", "adamw", "sgd"]), help="Of the embedding step."
)
@click.option("--momentum", type=float, help="Of sgd in the embedding step.")
@click.option(
    "--seenmask",
    type=click.Choice(["statistics", "linear"]),
    help="A regression on how well a place looks known, or the thesis'.  [default: statistics]",
)
@click.option("--seenmask-epochs", type=int, help="Of a linear seenmask.")
@click.option("--seenmask-learning-rate", type=float, help="Of a linear seenmask.")
@click.option("--seed", type=int, help="Of every random choice.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--quiet", is_flag=True, help="No progress.")
def train_main(
    data: Path | None,
    out: Path | None,
    preset: str | None,
    resume: bool,
    random_train_unseen: int | None,
    check_data: bool,
    contact_sheet: Path | None,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a Seenmask Zero-shot Network and evaluate it.

    Without a preset the recipe is the thesis' but for the seenmask, which `--seenmask linear`
    makes the thesis' too; `--preset szn-mini` is the one of the bundled model.
    """
    require_extra("torch", "train")
    from szn_train.progress import Progress

    _set_threads(threads)
    given = {key: value for key, value in options.items() if value is not None}
    if contact_sheet is not None and not check_data:
        raise UsageError("--contact-sheet is drawn by --check-data", fix="give both")
    if check_data and resume:
        raise UsageError("--check-data and --resume exclude each other")
    if check_data:
        config = _config(data, preset, given)
        config = _with_random_train_unseen(config, random_train_unseen, given, quiet)
        _check_data(config, contact_sheet, quiet)
        return
    if out is None:
        raise UsageError("no run folder is named", fix="give --out DIR")
    if resume:
        if random_train_unseen is not None:
            given["random_train_unseen"] = random_train_unseen
        machine = {key: given.pop(key) for key in ("workers",) if key in given}
        if given or preset or data:
            raise UsageError(
                "--resume goes on with the run's own configuration",
                got=", ".join(["--" + key.replace("_", "-") for key in given])
                or ("--preset" if preset else "--data"),
                fix="give --resume and --out only, or --workers",
            )
        from dataclasses import replace

        from szn_train.run import saved_config

        config, _ = saved_config(out)
        config = replace(config, **machine)
    else:
        config = _config(data, preset, given)
        config = _with_random_train_unseen(config, random_train_unseen, given, quiet)
    from szn_train.evaluate import evaluate
    from szn_train.processes import Processes
    from szn_train.trainer import train

    run = train(config, out, progress=Progress(quiet=quiet), resume=resume)
    processes = Processes(config.precision)
    processes.end()
    if not processes.is_main:
        return
    _report(evaluate(run, progress=Progress(quiet=quiet)), out, config.val_split)
    click.echo(f"run written to {out}; next: szn-export {out} -o BUNDLE")


@click.command("szn-eval", cls=Command, context_settings={"max_content_width": 100})
@click.argument("run_folder", metavar="RUN", type=_FOLDER)
@click.option("--split", help="Split to evaluate.  [default: the run's --val-split]")
@click.option("--data", type=_FOLDER, help="Data set folder.  [default: the run's]")
@click.option("--errors", multiple=True, metavar="CLASS", help="Print where its pixels went.")
@click.option("--figures", type=_FOLDER, help="Folder to draw into, as PNG and PDF, with the data.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--quiet", is_flag=True, help="No progress.")
def eval_main(
    run_folder: Path,
    split: str | None,
    data: Path | None,
    errors: tuple[str, ...],
    figures: Path | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Evaluate FCN-S or FCN-JE, SZN and SZN-PS of a finished run.

    Prints pixel accuracy, class accuracy, mIoU and frequency-weighted IoU, in the standard and
    in the thesis' reading, and writes them with the scores of each class, the confusion matrices
    and where the pixels of each class went to the run, as eval-SPLIT.json and eval-SPLIT*.csv.
    """
    require_extra("torch", "train")
    from rich.console import Console

    from szn_train.evaluate import evaluate, open_split
    from szn_train.mistakes import check_labels
    from szn_train.progress import Progress
    from szn_train.report import print_mistakes
    from szn_train.run import open_run

    if figures is not None:
        require_extra("matplotlib", "train")
    _set_threads(threads)
    run = open_run(run_folder)
    check_labels(run.split.labels, errors)  # before minutes are spent
    result = evaluate(run, split_name=split, data=data, progress=Progress(quiet=quiet))
    _report(result, run_folder, split or run.config.val_split)
    for label in errors:
        print_mistakes(result, label, Console())
    if figures is not None:
        from szn_train.figures import draw_evaluation

        dataset = open_split(run, split_name=split, data=data)
        paths = draw_evaluation(run, result, dataset, figures)
        click.echo(f"{len(paths)} files of figures written to {figures}")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _config(data: Path | None, preset: str | None, given: dict[str, Any]) -> TrainConfig:
    """Defaults, then the preset, then the options."""
    from szn_train.config import TrainConfig
    from szn_train.label_words import read_label_words
    from szn_train.preset_files import load_presets
    from szn_train.protocol import under_protocol

    values: dict[str, Any] = load_presets(preset) if preset else {}
    if "protocol" in given:
        values = under_protocol(values, given["protocol"])
    linear_only = [name for name in ("seenmask_epochs", "seenmask_learning_rate") if name in given]
    both = {name: given.pop(name, None) for name in ("accumulation", "early_stop")}
    step_options = {
        "embedding_step": {
            "epochs": given.pop("epochs", None),
            "batch_size": given.pop("batch_size", None),
            "learning_rate": given.pop("learning_rate", None),
            "optimizer": given.pop("optimizer", None),
            "momentum": given.pop("momentum", None),
        },
        "seenmask_step": {
            "epochs": given.pop("seenmask_epochs", None),
            "learning_rate": given.pop("seenmask_learning_rate", None),
        },
    }
    for step, changes in step_options.items():
        named = {key: value for key, value in (changes | both).items() if value is not None}
        values[step] = {**values.get(step, {}), **named}
    values |= given
    if data is not None:
        values["data"] = str(data)
    if "label_words" in given:
        words = given["label_words"]  # an empty text is no words
        values["label_words"] = read_label_words(Path(words)) if words else {}
    config = TrainConfig.from_dict(values)
    if linear_only and config.seenmask != "linear":
        raise UsageError(
            f"--{linear_only[0].replace('_', '-')} is about a linear seenmask",
            got=f"seenmask {config.seenmask!r}",
            fix="give --seenmask linear, or leave it out",
        )
    return config


def _with_random_train_unseen(
    config: TrainConfig, count: int | None, given: dict[str, Any], quiet: bool
) -> TrainConfig:
    """The configuration with `count` seen classes of its data set as train_unseen."""
    if count is None:
        return config
    if "train_unseen" in given:
        raise UsageError("--train-unseen and --random-train-unseen exclude each other")
    from dataclasses import replace

    from szn_train.datasets import open_dataset
    from szn_train.progress import Progress
    from szn_train.run import class_split

    names = open_dataset(config, Path(config.data), config.train_split).class_names
    drawn = class_split(config, names).with_random_train_unseen(count, config.seed).train_unseen
    Progress(quiet=quiet).line(f"train_unseen, drawn with seed {config.seed}: {', '.join(drawn)}")
    return replace(config, train_unseen=drawn)


def _check_data(config: TrainConfig, contact_sheet: Path | None, quiet: bool) -> None:
    """Print what a configuration's data holds; the first fatal problem ends the command."""
    from rich.console import Console

    from szn_train.datasets.check import check_data
    from szn_train.datasets.contact_sheet import write_contact_sheet
    from szn_train.progress import Progress

    report = check_data(config, progress=Progress(quiet=quiet))
    console = Console()
    for table in report.tables():
        console.print(table)
    for line in (*report.chosen, *map(str, report.fatal[1:]), *report.notes):
        click.echo(line)
    if contact_sheet is not None and report.contents:
        content = report.contents[0]
        write_contact_sheet(contact_sheet, content.dataset, tuple(content.counts))
        click.echo(f"contact sheet written to {contact_sheet}")
    if report.fatal:
        raise report.fatal[0]
    click.echo("no problem that would end a training run")


def _report(result: Evaluation, folder: Path, split: str) -> None:
    """Print the tables and write them to the run folder."""
    from rich.console import Console

    from szn_train.report import print_scores, write_report

    write_report(result, folder, split)
    print_scores(result, split, Console())


if __name__ == "__main__":  # torchrun and accelerate launch start it as a module
    train_main()
