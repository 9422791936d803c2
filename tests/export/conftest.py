"""One tiny run and one export of it for all tests of the exporter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from szn_export.export import ExportConfig, export
from szn_export.gate import Comparison
from szn_runtime.bundle import Bundle
from szn_train.progress import Progress
from szn_train.run import Run
from tests.train import catalogue


@dataclass(frozen=True, kw_only=True, eq=False)
class Exported:
    """A run, its bundle and what the gate measured."""

    run: Run
    folder: Path
    bundle: Bundle
    comparison: Comparison


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("export")
    run = catalogue.train_tiny(root)
    folder = root / "bundle"
    _, comparison = export(
        run, folder, ExportConfig(name="tiny", vocabulary_size=20), progress=Progress(quiet=True)
    )
    return Exported(run=run, folder=folder, bundle=Bundle.open(folder), comparison=comparison)
