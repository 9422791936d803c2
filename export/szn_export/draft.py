"""A bundle that is being made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from szn_export.report import Row
from szn_runtime.manifest import Artefact, Manifest

__all__ = ["Draft"]


@dataclass(kw_only=True, eq=False)
class Draft:
    """The bundle so far.

    Args:
        manifest: Without checksums, which come when it is written.
        files: Name to content.
        rows: What the gate measured.
        notes: Markdown blocks for the report.
        refused: Artefacts that were past their budget.
    """

    manifest: Manifest
    files: dict[str, bytes]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def opset(self) -> int | None:
        """Of the FP32 graph, and of all that is made of it."""
        return self.manifest.artefacts[0].opset

    def add(self, artefact: Artefact, files: Mapping[str, bytes]) -> None:
        """Take an artefact into the bundle; one of the same file gives way."""
        kept = tuple(a for a in self.manifest.artefacts if a.file != artefact.file)
        self.manifest = dataclasses.replace(self.manifest, artefacts=(*kept, artefact))
        self.files |= files
