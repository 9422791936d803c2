from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.backends import Grids, open_backend
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BackendError, BundleError, LabelError
from szn_runtime.loading import load
from szn_runtime.segmenter import Segmenter
from tests.runtime import catalogue


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalogue.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_facts(path: Path) -> None:
    with load(Bundle.open(path), backend="onnxruntime", threads=1) as segmenter:
        assert segmenter.backend.name == "onnxruntime"
        assert segmenter.backend.threads == 1
        assert segmenter.long_side == 64
        assert segmenter.labels.names == tuple(catalogue.COLOURS_RGB)
        assert segmenter.bundle.path == path


def test_a_zip_file(path: Path, tmp_path: Path) -> None:
    import shutil

    archive = shutil.make_archive(str(tmp_path / "tiny"), "zip", path)
    with load(archive, labels="blue, red") as segmenter:
        assert segmenter(catalogue.frame("blue")).shares == {"blue": 1.0}


def test_the_bundle_of_the_package() -> None:
    if default_bundle_path().exists():
        with load() as segmenter:
            assert segmenter.bundle.path == default_bundle_path()
    else:
        with pytest.raises(BundleError, match=r"no bundle at .*szn-mini"):
            load()


def test_what_cannot_be_loaded(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle at"):
        load(tmp_path / "nowhere")
    with pytest.raises(BackendError, match="no backend 'tpu'"):
        load(path, backend="tpu")
    for options in ({"backend": "onnxruntime"}, {}):
        with pytest.raises(BundleError, match="no onnx model in int8: got onnx fp32"):
            load(path, precision="int8", **options)
    with pytest.raises(LabelError, match="unknown word 'zebra'"):
        load(path, backend="fake", labels="zebra")


def test_warming_up(path: Path) -> None:
    backend = catalogue.fake_backend()
    with Segmenter(Bundle.open(path), backend) as segmenter:
        segmenter.warm_up()
        assert backend.calls == 0
        segmenter.warm_up((30, 40))
        assert backend.calls == 1


def test_warming_up_runs_the_batch_that_will_be_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    infer = FakeBackend.infer

    def told(self: FakeBackend, frames: NDArray[np.float32]) -> Grids:
        shapes.append(frames.shape)
        return infer(self, frames)

    monkeypatch.setattr(FakeBackend, "infer", told)
    with load(path, backend="fake", batch=3, frame_hw=(30, 40)) as segmenter:
        segmenter.warm_up((30, 40))
    assert [shape[0] for shape in shapes] == [3, 1]
    assert shapes[0][1:] == shapes[1][1:]


def test_a_backend_is_closed_when_loading_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def remember(*args: object, **kwargs: object) -> object:
        opened.append(open_backend("fake", Bundle.open(path)))
        return opened[0]

    monkeypatch.setattr("szn_runtime.loading.open_backend", remember)
    with pytest.raises(LabelError, match="unknown word 'zebra'"):
        load(path, labels="zebra")
    with pytest.raises(BackendError, match="the fake backend is closed"):
        opened[0].infer(np.zeros((1, 3, 8, 8), np.float32))
