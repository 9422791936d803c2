"""Peak memory of many labels, for `sei.py`; run as a script it is the process that is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from sei_inputs import Field, labels_of

from szn_runtime.bundle import Bundle
from szn_runtime.geometry import GridGeometry
from szn_runtime.sei import segment_grid, warm_up

__all__ = ["peak_growth"]


def peak_growth(bundle_path: Path, count: int, dim: int | None = None) -> dict[str, float] | None:
    """Peak memory of `count` labels in a process of its own, None where the system hides it.

    Returns:
        MiB above what the process had with the kernels loaded: `label_set`, while the label set was
        made, names and embeddings included; `sei`, while frames were labelled, label set included.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, str(count), str(bundle_path)]
    if dim is not None:
        command += ["--dim", str(dim)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    growth: dict[str, float] = json.loads(run.stdout)
    return growth


def _probe(bundle: Bundle, count: int, dim: int | None) -> dict[str, float]:
    def kib(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def forget_peak() -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    warm_up(bundle.manifest.dim, count=count)
    grids = Field(bundle, None, dim).grids((15, 20), "half")
    bundle.vocabulary()
    forget_peak()
    start = kib("VmRSS")
    labels = labels_of(bundle, count, "half", dim)
    made = kib("VmHWM")
    forget_peak()
    for _ in range(3):
        geometry = GridGeometry.square(32, 15.5)
        segment_grid(
            grids.embedding[0], grids.seenmask[0], labels, geometry=geometry, size_hw=(480, 640)
        )
    return {"label_set": (made - start) / 1024, "sei": (kib("VmHWM") - start) / 1024}


@click.command()
@click.argument("count", type=click.IntRange(1))
@click.argument("bundle_path", type=click.Path(path_type=Path))
@click.option("--dim", type=click.IntRange(1), help="Leading dimensions to keep.")
def main(count: int, bundle_path: Path, dim: int | None) -> None:
    """Print what `peak_growth` returns as JSON, from this process."""
    click.echo(json.dumps(_probe(Bundle.open(bundle_path), count, dim)))


if __name__ == "__main__":
    main()
