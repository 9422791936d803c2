"""One tiny run and one export of it for all tests of the exporter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from szn_export.config import ExportConfig
from szn_export.export import ExportResult, export, pytorch_reference
from szn_export.gate_images import gate_data
from szn_export.reference import Reference, reference_of
from szn_runtime.bundle import Bundle
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.run import Run
from tests.train import catalogue


@dataclass(frozen=True, kw_only=True, eq=False)
class Exported:
    """A run, its bundle and what became of the export."""

    run: Run
    folder: Path
    bundle: Bundle
    result: ExportResult


def small_network(
    kind: type[SeenmaskZeroShotNetwork] = SeenmaskZeroShotNetwork, *, dim: int = 4
) -> SeenmaskZeroShotNetwork:
    """A network for the tiny run's labels that exports in a second: heads on the mean colour."""
    info = BackboneInfo(
        name="pool", channels=3, stride=32, node_offset=15.5, multiple=32,
        mean=(127.5,) * 3, std=(127.5,) * 3,
    )  # fmt: skip
    torch.manual_seed(0)
    return kind(Backbone(nn.AvgPool2d(32), info), dim=dim).eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("export")
    run = catalogue.train_tiny(root)
    folder = root / "bundle"
    result = export(
        run, folder, ExportConfig(name="tiny", vocabulary_size=20), progress=Progress(quiet=True)
    )
    return Exported(run=run, folder=folder, bundle=Bundle.open(folder), result=result)


def reference_on(exported: Exported, count: int) -> Reference:
    """PyTorch on so many of the tiny run's validation images."""
    manifest = exported.bundle.manifest
    return reference_of(
        pytorch_reference(exported.run),
        gate_data(exported.run, images=None, count=count),
        labels=exported.bundle.label_set(),
        preprocess=manifest.preprocess,
        geometry=manifest.grid_geometry,
    )
