"""`szn-export`."""

from __future__ import annotations

from pathlib import Path

import click

from szn_runtime._command import Command, require_extra

__all__ = ["main"]


@click.command("szn-export", cls=Command, context_settings={"max_content_width": 100})
@click.argument("run_folder", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    "output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Bundle folder to write; an older bundle there is replaced.",
)
@click.option("--name", help="Name of the model.  [default: the run folder's]")
@click.option(
    "--vocabulary-size",
    type=click.IntRange(min=0),
    default=20_000,
    show_default=True,
    help="Most frequent words to include, so that labels can be named at run time.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Photos for the gate.  [default: the run's validation split]",
)
@click.option(
    "--gate-images",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Number of images that the gate compares.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 100),
    default=0.01,
    show_default=True,
    help="Percent of pixels whose label or seenmask may differ from PyTorch.",
)
@click.option(
    "--model-card",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file to include.",
)
@click.option("--quiet", is_flag=True, help="Print the result only.")
def main(
    run_folder: Path,
    output: Path,
    name: str | None,
    vocabulary_size: int,
    images: Path | None,
    gate_images: int,
    budget: float,
    model_card: Path | None,
    quiet: bool,
) -> None:
    """Export a finished run as a bundle for szn-run.

    The ONNX graph is compared with PyTorch on real images at several sizes and batches. Past the
    budget nothing is written and the exit code is 3.
    """
    for module in ("torch", "onnx", "onnxruntime"):
        require_extra(module, "export")
    from szn_export.export import ExportConfig, export
    from szn_export.gate import Budget
    from szn_train.progress import Progress
    from szn_train.run import open_run

    config = ExportConfig(
        name=name,
        vocabulary_size=vocabulary_size,
        images=images,
        gate_images=gate_images,
        budgets={"fp32": Budget(label_flips=budget, seenmask_flips=budget)},
        model_card=model_card,
    )
    manifest, comparison = export(
        open_run(run_folder), output, config, progress=Progress(quiet=quiet)
    )
    size = sum(facts["bytes"] for facts in manifest.files.values())
    click.echo(
        f"{output}: {len(manifest.files)} files, {size / 1e6:.1f} MB; largest difference "
        f"{comparison.embedding_max:.2g} of {comparison.embedding_scale:.2g}, labels differ in "
        f"{comparison.label_flips:.4f} % of the pixels, seenmask in "
        f"{comparison.seenmask_flips:.4f} %"
    )
