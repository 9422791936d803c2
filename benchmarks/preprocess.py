"""Which side of the graph's boundary is cheaper for normalising frames, in one run.

From a uint8 BGR frame to the network's grids, on all cores:

- ours: `Normaliser` writes tables' values into a float buffer; the graph takes floats.
- in graph: OpenCV resizes; Transpose, Gather, Cast, Sub and Mul before the graph do the rest.
- OpenVINO: the same by its PrePostProcessor.
- folded: mean and deviation in the first convolution's weights and bias; Transpose and Cast before
  it. Exact inside only: the convolution pads with 0, which is the mean in normalised frames and
  black in these.
- numpy: OpenCV resizes, numpy does the rest, as most examples have it.
- blobFromImage: OpenCV resizes, its `dnn` module does the rest.

The network runs through the same few lines for all of them. Variants take turns; times are medians
of the rounds, the ratio to ours is the median of the rounds' ratios. The difference is that of the
grids to ours in the same backend and precision, |x - y| / |y|, of the grid where it is greater.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from machine import write_report
from measured_bundle import bundle_facts
from preprocess_networks import candidates
from preprocess_rows import measure
from preprocess_table import table, write_plot
from rich.console import Console

from szn_runtime.bundle import Bundle, default_bundle_path

_SIZES = (((360, 480), 320), ((480, 640), 640))  # of the frame; of the input's long side


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool, bundle_path: Path | None, json_path: Path | None, plot: Path | None
) -> None:  # fmt: skip
    """Compare ways from a uint8 frame to the network's grids."""
    console = Console(width=140)
    bundle = Bundle.open(bundle_path or default_bundle_path())
    rows: list[dict[str, Any]] = []
    for frame_hw, long_side in _SIZES:
        for backend, precision in candidates():
            with console.status(f"{frame_hw[1]} x {frame_hw[0]}, {backend} {precision}"):
                try:
                    rows += measure(
                        bundle,
                        frame_hw,
                        long_side,
                        backend=backend,
                        precision=precision,
                        seconds=4 if quick else 30,
                    )
                except LookupError as error:
                    console.print(f"{backend} {precision}: not run: {error}", markup=False)
    console.print(table(rows))
    if json_path:
        write_report(json_path, "preprocess", rows, bundle=bundle_facts(bundle))
    if plot:
        write_plot(rows, plot)


if __name__ == "__main__":
    main()
