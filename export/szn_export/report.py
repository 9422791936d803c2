"""What the gate measured, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from szn_export.gate import Budget, Comparison

__all__ = ["report_json", "report_markdown"]


def report_json(results: Mapping[str, tuple[Comparison, Budget]]) -> bytes:
    """Artefact name to its comparison and budget, as JSON."""
    values = {
        name: {"comparison": comparison.to_dict(), "budget": vars(budget), "verdict": "ok"}
        for name, (comparison, budget) in results.items()
    }
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def report_markdown(title: str, results: Mapping[str, tuple[Comparison, Budget]]) -> bytes:
    """The same as a table."""
    lines = [
        f"# Export of {title}",
        "",
        "Every artefact ran beside PyTorch on the same real images before it was written.",
        "",
        "| artefact | images | frames | batches | largest difference | mean difference "
        "| label flips | seenmask flips | budget |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (c, budget) in results.items():
        lines.append(
            f"| {name} | {c.images} | {c.frames} | {', '.join(map(str, c.batches))} "
            f"| {c.embedding_max:.2g} of {c.embedding_scale:.2g} | {c.embedding_mean:.2g} "
            f"| {c.label_flips:.4f} % | {c.seenmask_flips:.4f} % | {budget.label_flips:g} % |"
        )
    sizes = sorted({size for c, _ in results.values() for size in c.sizes_hw})
    lines += ["", "Input sizes: " + ", ".join(f"{h} x {w}" for h, w in sizes) + ".", ""]
    return "\n".join(lines).encode()
