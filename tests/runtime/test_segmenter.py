from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from szn_runtime.backends import Grids
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, InputError, LabelError
from szn_runtime.labels import LabelSet
from szn_runtime.loading import load
from szn_runtime.segmentation import Segmentation
from szn_runtime.segmenter import Segmenter
from szn_runtime.vocabulary import Vocabulary
from tests.runtime import catalogue


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalogue.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def segmenter(path: Path) -> Iterator[Segmenter]:
    with load(path, backend="fake") as loaded:
        yield loaded


def names_at(result: Segmentation, *pixels: tuple[int, int]) -> list[str]:
    return [result.names[result.labels[pixel]] for pixel in pixels]


@pytest.mark.parametrize("backend", ["fake", "onnxruntime"])
def test_a_painted_frame(path: Path, backend: str) -> None:
    image = catalogue.frame("red", "blue", "white", "black")
    with load(path, backend=backend) as segmenter:
        result = segmenter(image)
    assert result.labels.shape == (48, 64)
    assert result.labels.dtype == np.uint8
    assert names_at(result, (0, 0), (47, 20), (24, 40), (47, 63)) == [
        "red",
        "blue",
        "white",
        "black",
    ]
    # the middle of each bar, where no other colour is within reach
    for left, name in ((0, "red"), (20, "blue"), (36, "white"), (52, "black")):
        assert (result.labels[:, left : left + 8] == result.names.index(name)).all()
    assert result.seenmask[:, :8].all()
    assert not result.seenmask[:, 20:28].any()
    assert result.image_bgr is image


def test_shares_and_overlay(segmenter: Segmenter) -> None:
    result = segmenter(catalogue.frame("green", height=30, width=40))
    assert result.shares == {"green": 1.0}
    image = catalogue.frame("red", "red", "red", "blue")
    result = segmenter(image)
    shares = result.shares
    assert list(shares)[:2] == ["red", "blue"]
    assert sum(shares.values()) == pytest.approx(1)
    for name, share in shares.items():
        assert share == (result.labels == result.names.index(name)).mean()
    plain, with_legend = result.overlay(legend=False), result.overlay()
    assert plain.shape == with_legend.shape == image.shape
    assert plain.dtype == np.uint8
    assert (plain != with_legend).any()
    np.testing.assert_array_equal(result.overlay(0.0, legend=False)[:, :8], image[:, :8])


def test_more_labels_than_a_byte_holds(segmenter: Segmenter) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 6))
    rows[299] = catalogue.colour_embedding((0, 255, 0))
    many = LabelSet(names=tuple(map(str, range(300))), embeddings=rows, seen=np.zeros(300, bool))
    segmenter.with_labels(many)
    result = segmenter(catalogue.frame("green"))
    assert result.labels.dtype == np.uint16
    assert result.shares == {"299": 1.0}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 400), st.integers(2, 400))
def test_any_size_comes_back(segmenter: Segmenter, height: int, width: int) -> None:
    result = segmenter(catalogue.frame("yellow", height=height, width=width))
    assert result.labels.shape == (height, width)
    # the zeros of the padding are grey, which shifts a colour's length and not its direction
    assert set(result.shares) == {"yellow"}


def test_a_resized_frame_is_labelled_at_its_own_pixels(segmenter: Segmenter) -> None:
    # a quarter of the size; the border between the colours has to come out in the middle
    result = segmenter(catalogue.frame("red", "green", height=200, width=256))
    red = result.names.index("red")
    assert (result.labels[:, :112] == red).all()
    assert not (result.labels[:, 144:] == red).any()


def test_long_side_overrides_the_bundle(path: Path) -> None:
    with load(path, backend="fake", long_side=32) as segmenter:
        assert segmenter.layout((200, 256)).resized_hw == (25, 32)
        assert segmenter.preprocess([catalogue.frame("red")]).tensor.shape == (1, 3, 24, 32)
        assert segmenter(catalogue.frame("red")).shares == {"red": 1.0}
    for wrong in (0, -5, 1 << 20):
        with pytest.raises(InputError, match=f"out of range: got long side {wrong}"):
            load(path, backend="fake", long_side=wrong)


def test_a_batch_is_its_frames_one_by_one(segmenter: Segmenter) -> None:
    images = [catalogue.frame("red", name) for name in ("green", "blue", "black")]
    for image, together in zip(images, segmenter.batch(images), strict=True):
        alone = segmenter(image)
        np.testing.assert_array_equal(alone.labels, together.labels)
        np.testing.assert_array_equal(alone.seenmask, together.seenmask)
        assert together.image_bgr is image


def test_results_outlive_the_buffers(segmenter: Segmenter) -> None:
    first = segmenter(catalogue.frame("red", "green"))
    labels, seenmask = first.labels.copy(), first.seenmask.copy()
    segmenter(catalogue.frame("blue", "white"))
    np.testing.assert_array_equal(first.labels, labels)
    np.testing.assert_array_equal(first.seenmask, seenmask)


def test_buffers_are_used_again(segmenter: Segmenter) -> None:
    image = catalogue.frame("red")
    two = segmenter.preprocess([image, image]).tensor
    one = segmenter.preprocess([image]).tensor
    assert np.shares_memory(two, one)
    other = segmenter.preprocess([catalogue.frame("red", height=64)]).tensor
    assert other.shape == (1, 3, 64, 64)


def test_the_stages_apart_equal_the_call(segmenter: Segmenter) -> None:
    images = [catalogue.frame("red", "green", height=50, width=70)] * 2
    prepared = segmenter.preprocess(images)
    grids = segmenter.network(prepared)
    results = segmenter.label(grids, prepared.layouts, images)
    assert len(results) == 2
    np.testing.assert_array_equal(results[1].labels, segmenter(images[0]).labels)
    with pytest.raises(InputError, match="grids and frames differ in number: got 2 and 1"):
        segmenter.label(grids, prepared.layouts, images[:1])


def test_seen_bias_moves_pixels_to_the_seen_labels(path: Path) -> None:
    image = catalogue.frame("blue", "red")
    for bias, share in ((-10.0, 0.0), (10.0, 1.0)):
        with load(path, backend="fake", seen_bias=bias) as segmenter:
            result = segmenter(image)
            assert result.seenmask.mean() == share
            chosen = [segmenter.labels.names.index(name) for name in result.shares]
            assert (segmenter.labels.seen[chosen] == bool(share)).all()
    with pytest.raises(InputError, match="seen bias is out of range: got nan"):
        load(path, backend="fake", seen_bias=float("nan"))


class TestLabels:
    def test_only_the_chosen_labels_appear(self, segmenter: Segmenter) -> None:
        image = catalogue.frame("cyan", "red", "green")
        segmenter.with_labels("cyan, red")
        result = segmenter(image)
        assert set(result.shares) == {"cyan", "red"}
        assert result.names == ("cyan", "red")
        assert names_at(result, (5, 5), (5, 30)) == ["cyan", "red"]

    def test_all_ways_to_name_them(self, segmenter: Segmenter, tmp_path: Path) -> None:
        file = tmp_path / "labels.txt"
        file.write_text("cyan\nRed\n")
        for labels in ("cyan, Red", ["cyan", "Red"], file, str(file)):
            segmenter.with_labels("black")
            segmenter.with_labels(labels)
            assert segmenter.labels.names == ("cyan", "red")
            assert segmenter.labels.seen.tolist() == [False, True]

    def test_earlier_results_keep_their_labels(self, segmenter: Segmenter) -> None:
        result = segmenter(catalogue.frame("green"))
        segmenter.with_labels("orange, navy")
        assert result.shares == {"green": 1.0}

    def test_what_is_refused_changes_nothing(self, segmenter: Segmenter) -> None:
        before = segmenter.labels
        with pytest.raises(LabelError, match=r"unknown word 'magneta'.*did you mean magenta"):
            segmenter.with_labels("red, magneta")
        with pytest.raises(LabelError, match="label 2 is empty"):
            segmenter.with_labels("red,,blue")
        with pytest.raises(LabelError, match="there is no label"):
            segmenter.with_labels([])
        other = LabelSet(names=("cow",), embeddings=np.ones((1, 5)), seen=np.array([True]))
        with pytest.raises(InputError, match=r"does not fit the network: got 5 dim.*expected 6"):
            segmenter.with_labels(other)
        assert segmenter.labels is before

    def test_without_a_vocabulary(self, tmp_path: Path) -> None:
        path = catalogue.tiny_bundle(tmp_path / "tiny", files={"vocabulary.npz": None})
        with load(path, backend="fake", labels="red, blue") as segmenter:
            assert segmenter.labels.names == ("red", "blue")
            with pytest.raises(LabelError, match=r"unknown label 'cyan'.*has no vocabulary"):
                segmenter.with_labels("cyan")

    def test_a_vocabulary_from_a_file(self, path: Path, tmp_path: Path) -> None:
        file = tmp_path / "vectors.txt"
        lines = catalogue.word_vectors_text().splitlines()
        file.write_text("\n".join(line.replace("cyan", "petrol") for line in lines))
        with load(path, backend="fake", vocabulary=file, labels="petrol, red") as segmenter:
            assert segmenter(catalogue.frame("cyan")).shares == {"petrol": 1.0}
            with pytest.raises(LabelError, match="unknown word 'cyan'"):
                segmenter.with_labels("cyan")

    def test_a_vocabulary_of_another_space(self, path: Path) -> None:
        other = Vocabulary(["cow"], np.ones((1, 5)))
        with pytest.raises(InputError, match="the vocabulary does not fit the network: got 5 dim"):
            load(path, backend="fake", vocabulary=other)

    def test_swapping_while_another_thread_labels(self, segmenter: Segmenter) -> None:
        images = [catalogue.frame("red", "green", "blue")] * 8
        prepared = segmenter.preprocess(images)
        grids = segmenter.network(prepared)
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                segmenter.with_labels("red, green")
                segmenter.with_labels("blue")

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(30):
                results = segmenter.label(grids, prepared.layouts, images)
                assert len({id(result.label_set) for result in results}) == 1
                assert all(result.labels.max() < len(result.names) for result in results)
        finally:
            stop.set()
            thread.join()


class TestErrors:
    def test_frames_that_are_refused(self, segmenter: Segmenter) -> None:
        with pytest.raises(InputError, match="COLOR_GRAY2BGR"):
            segmenter(np.zeros((8, 8), np.uint8))
        with pytest.raises(InputError, match=r"got float64 \(8, 8, 3\)"):
            segmenter(np.zeros((8, 8, 3)))
        with pytest.raises(InputError, match="there is no frame"):
            segmenter.batch([])
        with pytest.raises(InputError, match=r"differ in size: got \[\(8, 8\), \(8, 16\)\]"):
            segmenter.batch([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)])
        assert segmenter(catalogue.frame("red")).shares == {"red": 1.0}  # it goes on working

    def test_a_failing_network(self, path: Path) -> None:
        backend = catalogue.fake_backend(fail_at=1)
        with Segmenter(Bundle.open(path), backend) as segmenter:
            segmenter(catalogue.frame("red"))
            with pytest.raises(BackendError, match="the fake backend failed"):
                segmenter(catalogue.frame("red"))

    def test_a_backend_of_another_model(self, path: Path) -> None:
        segmenter = Segmenter(Bundle.open(path), catalogue.fake_backend(dim=5))
        with pytest.raises(BackendError, match=r"got \(1, 5, 6, 8\), expected \(1, 6, h, w\)"):
            segmenter(catalogue.frame("red"))

    def test_closing(self, path: Path) -> None:
        backend = catalogue.fake_backend()
        with Segmenter(Bundle.open(path), backend) as segmenter:
            assert not backend.closed
        assert backend.closed
        segmenter.close()
        with pytest.raises(BackendError, match="the segmenter is closed"):
            segmenter(catalogue.frame("red"))


def test_grids_of_a_foreign_runner_can_be_labelled(segmenter: Segmenter) -> None:
    """`label` needs no network: any grids of the right shape will do."""
    image = catalogue.frame("black")
    prepared = segmenter.preprocess([image])
    green = catalogue.colour_embedding((0, 255, 0))
    embedding = np.broadcast_to(green[:, None, None], (6, 6, 8))[None].copy()
    seenmask = np.zeros((1, 2, 6, 8), np.float32)
    seenmask[:, 0] = 1
    result = segmenter.label(
        Grids(embedding=embedding, seenmask=seenmask), prepared.layouts, [image]
    )[0]
    assert result.shares == {"green": 1.0}
    assert not result.seenmask.any()
