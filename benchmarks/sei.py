"""Seenmask embedding inference: ours on the grid against methods per pixel, in one run.

- ours: `segment_grid`, on one core.
- PyTorch: the thesis' own method, on all cores: upsample the embedding to the frame, normalise
  every pixel, multiply with all labels, take the best seen and the best unseen one, and select by
  the upsampled seenmask.
- ONNX: what an exporter would put into the graph, in onnxruntime on all cores: scores of all labels
  at the nodes by a 1 x 1 convolution, resized to the frame, the greatest taken, for seen and unseen
  labels apart, and selected by the resized seenmask. Where its scores fit into memory.

All start from the network's grids, which are what szn-mini says of `--image` (by default
scikit-learn's sample photo) resized to as many nodes as the row needs. Labels are its own, then its
vocabulary's, then random directions. They take turns; times are medians, and a ratio is the median
of the ratios of the turns. Equal pixels are the share whose label is PyTorch's.
"""

from __future__ import annotations

from pathlib import Path

import click
from machine import write_report
from measured_bundle import bundle_facts
from rich.console import Console
from sei_cases import MANY, SEENMASKS, cases
from sei_inputs import Field, labels_of
from sei_memory import peak_growth
from sei_rows import ONNX_BYTES, measure
from sei_table import table, write_plot

from szn_runtime.backends.base import usable_cores
from szn_runtime.bundle import Bundle, default_bundle_path


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: 480 x 640, stride 32, few rows.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--image", type=click.Path(exists=True, path_type=Path), help="Photo.")
@click.option(
    "--dim",
    type=click.IntRange(1),
    help="Keep this many of the joint embedding space's leading dimensions, 20 as the thesis has.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool,
    bundle_path: Path | None,
    image: Path | None,
    dim: int | None,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Measure SEI with 21 to 400,000 labels against methods per pixel."""
    path = bundle_path or default_bundle_path()
    bundle = Bundle.open(path)
    console = Console(width=140)
    if not console.is_terminal:
        console = Console(width=120)  # a file holds lines of any length
    if dim is not None and dim > bundle.manifest.dim:
        raise click.BadParameter(f"{path} has {bundle.manifest.dim}", param_hint="--dim")
    field = Field(bundle, image, dim)
    rows = []
    with console.status("") as status:
        for case in cases(quick=quick):
            h, w = (-(-pixels // case.stride) for pixels in case.size_hw)
            status.update(
                f"{case.labels:,} labels, {case.size_hw[0]} x {case.size_hw[1]}, "
                f"stride {case.stride}, seenmask {case.seenmask}"
            )
            labels = labels_of(bundle, case.labels, case.seenmask, dim)
            rows.append(measure(case, field.grids((h, w), case.seenmask), labels))
        status.update("memory")
        peak = peak_growth(path, MANY, dim)
    dim = dim or bundle.manifest.dim
    console.print(table(rows, dim))
    for name, meaning in SEENMASKS.items():
        console.print(f"seenmask {name}: {meaning}.", highlight=False)
    console.print(
        f"ours: one core; the others: {usable_cores()}. Not run: - (minutes a frame, or scores of "
        f"more than {ONNX_BYTES >> 30} GiB)",
        highlight=False,
    )
    if peak is not None:
        console.print(
            f"peak memory of {MANY:,} labels above that of the process without: "
            f"{peak['label_set']:.0f} MiB to make the label set, {peak['sei']:.0f} MiB with it to "
            "label frames of 480 x 640",
            highlight=False,
        )
    if json_path:
        write_report(
            json_path,
            "sei",
            rows,
            bundle=bundle_facts(bundle),
            dim=dim,
            seenmasks=SEENMASKS,
            peak_growth_mib=peak,
        )
    if plot:
        write_plot(rows, plot)


if __name__ == "__main__":
    main()
