from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from pipeline_rivals import PlainScript, thesis_fps
from pipeline_runs import Looped, decoded_fps, network_fps, pipeline_fps, prepared_tensors
from pipeline_table import table, write_plot

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.bundle import Bundle
from szn_runtime.segmenter import Segmenter
from szn_runtime.sources import VideoSource
from szn_train.model import SeenmaskZeroShotNetwork
from tests.conftest import REPOSITORY
from tests.runtime import catalogue
from tests.runtime.clips import number_of, write_clip

FRAMES = 5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "ramp.mp4"
    write_clip(path, frames=FRAMES)
    return path


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))
    backend = open_backend("onnxruntime", bundle, BackendOptions(hint="throughput"))
    with Segmenter(bundle, backend) as opened:
        yield opened


def test_a_looped_clip_is_one_long_clip(clip: Path) -> None:
    frames = list(Looped(clip, 3))
    assert [frame.index for frame in frames] == list(range(3 * FRAMES))
    assert [number_of(frame.image_bgr) for frame in frames] == 3 * list(range(FRAMES))
    with VideoSource(clip) as source:
        assert Looped(clip, 3).frame_hw == source.frame_hw


@pytest.mark.parametrize("encode", [False, True])
def test_ours_run_every_frame(
    clip: Path, segmenter: Segmenter, tmp_path: Path, encode: bool
) -> None:
    out = tmp_path / "out.mp4" if encode else None
    tensors = prepared_tensors(clip, segmenter)
    assert len(tensors) == FRAMES
    assert not np.array_equal(tensors[0], tensors[-1])
    assert network_fps(segmenter.backend, tensors, 2 * FRAMES) > 0
    for run in (
        lambda: decoded_fps(clip, segmenter, tensors, 2, out),
        lambda: pipeline_fps(clip, segmenter, 2, out),
    ):
        assert run() > 0
        if out is not None:
            with VideoSource(out) as written:
                assert sum(1 for _ in written) == 2 * FRAMES
            out.unlink()


def test_the_plain_script_gives_the_same_labels(segmenter: Segmenter) -> None:
    image = catalogue.frame("red", "blue", "green")
    ours = segmenter(image).labels
    script = PlainScript(segmenter.bundle, segmenter.labels)
    height, width = segmenter.layout((48, 64)).padded_hw
    # between two colours a grid moved by part of a pixel decides some pixels otherwise
    assert (script.frame(image, (width, height)) == ours).mean() > 0.95


def test_the_rivals_read_the_clip(clip: Path, segmenter: Segmenter) -> None:
    height, width = segmenter.layout((48, 64)).padded_hw
    script = PlainScript(segmenter.bundle, segmenter.labels)
    assert script.fps(clip, (width, height), 100) > 0
    calls = []

    class Network(torch.nn.Module):
        def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append(frames.shape)
            grids = segmenter.backend.infer(frames.numpy())
            return torch.from_numpy(grids.embedding), torch.from_numpy(grids.seenmask)

    # all that is asked of a network is this call
    network = cast(SeenmaskZeroShotNetwork, Network())
    assert thesis_fps(clip, network, segmenter, segmenter.labels, 3) > 0
    assert calls == 3 * [(1, 3, height, width)]


def test_the_rows_of_the_results(tmp_path: Path) -> None:
    found = json.loads((REPOSITORY / "benchmarks" / "results" / "pipeline.json").read_text())
    rows = found["rows"]
    assert table(rows, "clip").row_count == len(rows)
    write_plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "szn-run" in drawn
    assert drawn.count("openvino bf16") == sum(row["precision"] == "bf16" for row in rows)
