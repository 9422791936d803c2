from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from szn_runtime.errors import InputError
from szn_train.semantic import LabelSpace, label_space
from szn_train.word_vectors import load_word_vectors
from tests.train import catalogue
from tests.train.catalogue import WORD_LENGTH, WORDS, word_vectors

VOC_NAMES = ("background", "aeroplane", "cow", "horse", "sheep", "tvmonitor")


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    return catalogue.write_words(tmp_path / "words.txt")


def row(word: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector: np.ndarray[tuple[int], np.dtype[np.float32]] = word_vectors()[WORDS.index(word)]
    return vector


# PCA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 5, WORD_LENGTH])
def test_the_basis_is_pca_of_the_whole_vocabulary(words_file: Path, dim: int) -> None:
    space = label_space(catalogue.CLASSES, source=str(words_file), dim=dim)
    vectors = word_vectors().astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    axes = axes[:, ::-1][:, :dim].T  # (d, d) ascending -> (j, d) descending
    assert space.mean is not None
    assert space.basis is not None
    np.testing.assert_allclose(space.mean, vectors.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.abs(space.basis @ axes.T), np.eye(dim), atol=1e-5)
    assert space.explained_variance == pytest.approx(values[::-1][:dim].sum() / values.sum())
    assert space.basis.shape == (dim, WORD_LENGTH)


def test_the_labels_are_projected_like_any_other_word(words_file: Path) -> None:
    names = ("cow", "traffic light")
    space = label_space(names, source=str(words_file), dim=4)
    pca = PCA(n_components=4, svd_solver="full").fit(word_vectors())
    rows = np.stack([row("cow"), (row("traffic") + row("light")) / 2])
    expected = pca.transform(rows)
    signs = np.sign((space.embeddings * expected).sum(axis=0))  # an axis has no direction
    np.testing.assert_allclose(space.embeddings * signs, expected, atol=1e-5)
    assert space.mean is not None
    assert space.basis is not None
    again = (rows - space.mean) @ space.basis.T
    np.testing.assert_allclose(again, space.embeddings, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(space.unit, axis=1), 1, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(names=st.sets(st.sampled_from(WORDS), min_size=1), dim=st.integers(2, WORD_LENGTH))
def test_the_space_does_not_depend_on_the_labels(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], dim: int
) -> None:
    path = catalogue.write_words(tmp_path_factory.mktemp("words") / "words.txt")
    one = label_space(tuple(sorted(names)), source=str(path), dim=dim)
    other = label_space(("cow",), source=str(path), dim=dim)
    assert one.basis is not None
    assert other.basis is not None
    np.testing.assert_array_equal(one.basis, other.basis)
    assert one.explained_variance is not None
    assert 0 < one.explained_variance <= 1 + 1e-9


@pytest.mark.parametrize("dim", [1, WORD_LENGTH + 1])
def test_a_dimension_that_the_words_do_not_have_is_refused(words_file: Path, dim: int) -> None:
    with pytest.raises(InputError, match=rf"embedding dimension: got {dim}, expected 2 to 8 for"):
        label_space(("cow",), source=str(words_file), dim=dim)


def test_more_dimensions_than_words_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("cow 1 2 3 4\nsheep 4 3 2 2\ngrass 0 0 1 5\n")
    expected = r"got 4, expected 2 to 3 for few\.txt, which has only 3 words; lower --dim or give"
    with pytest.raises(InputError, match=expected):
        label_space(("cow",), source=str(path), dim=4)


@pytest.mark.parametrize("dim", [2, 50])
def test_glove_has_up_to_fifty_dimensions(dim: int) -> None:
    space = label_space(("cow", "sheep", "car"), source="glove", dim=dim)
    assert space.embeddings.shape == (3, dim)
    assert space.basis is not None
    np.testing.assert_allclose(space.basis @ space.basis.T, np.eye(dim), atol=1e-4)
    assert space.explained_variance is not None
    assert space.explained_variance == pytest.approx(1.0 if dim == 50 else 0.12, abs=0.07)


def test_glove_has_no_more_than_fifty_dimensions() -> None:
    expected = "got 51, expected 2 to 50 for glove-6b-50d, which has 50 dimensions; lower --dim or"
    with pytest.raises(InputError, match=expected):
        label_space(("cow",), source="glove", dim=51)


def test_an_unknown_label_is_named(words_file: Path) -> None:
    with pytest.raises(InputError, match=r"label 'shep': 'shep' is not in words\.txt; did you me"):
        label_space(("cow", "shep"), source=str(words_file), dim=4)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_label_without_a_direction_is_refused(bad: float) -> None:
    embeddings = np.ones((3, 2), np.float32)
    embeddings[1] = bad
    with pytest.raises(InputError, match="label 'b' has no direction"):
        LabelSpace(source="tiny", names=("a", "b", "c"), embeddings=embeddings)


def test_the_largest_embedding_of_the_mse_loss_has_norm_one() -> None:
    embeddings = np.array([[3, 4], [0, 2.5], [-1, 0]], np.float32)
    space = LabelSpace(source="tiny", names=("a", "b", "c"), embeddings=embeddings)
    expected = [[0.6, 0.8], [0, 0.5], [-0.2, 0]]
    np.testing.assert_allclose(space.scaled, expected, rtol=1e-6)
    assert space.scaled.dtype == np.float32


def test_words_of_a_label_are_averaged_with_its_own(words_file: Path) -> None:
    alone = label_space(("cow", "sheep"), source=str(words_file), dim=WORD_LENGTH)
    named = {"cow": ("sheep", "traffic light")}
    meant = label_space(("cow", "sheep"), source=str(words_file), dim=WORD_LENGTH, words=named)
    assert alone.mean is not None
    assert alone.basis is not None
    mean = (row("cow") + row("sheep") + (row("traffic") + row("light")) / 2) / 3
    np.testing.assert_allclose(meant.embeddings[0], (mean - alone.mean) @ alone.basis.T, atol=1e-5)
    np.testing.assert_array_equal(meant.embeddings[1], alone.embeddings[1])


def test_a_word_of_a_label_that_is_unknown(words_file: Path) -> None:
    with pytest.raises(InputError, match=r"label 'shep': 'shep' is not in .*did you mean sheep"):
        label_space(("cow",), source=str(words_file), dim=4, words={"cow": ("shep",)})


@pytest.mark.parametrize(("odd", "near"), [("coww", "cow"), ("rock", "cow, sheep")])
def test_words_of_what_is_no_label(words_file: Path, odd: str, near: str) -> None:
    expected = f"words are given for '{odd}', which is no label: expected labels such as {near}; "
    with pytest.raises(InputError, match=expected + "classes of void are none; remove it"):
        label_space(("cow", "sheep"), source=str(words_file), dim=4, words={odd: ("goat",)})


def test_one_hot_labels_have_no_words() -> None:
    with pytest.raises(InputError, match="one-hot has no words to look up; leave the labels'"):
        label_space(("a", "b"), source="one-hot", dim=2, words={"a": ("b",)})


# one-hot --------------------------------------------------------------------------------------


def test_one_hot_labels_are_axes_whatever_they_are_called() -> None:
    space = label_space(("qqqqqq", "cow"), source="one-hot", dim=2)
    np.testing.assert_array_equal(space.embeddings, np.eye(2))
    np.testing.assert_array_equal(space.unit, np.eye(2))
    np.testing.assert_array_equal(space.scaled, np.eye(2))
    assert space.source == "one-hot"
    assert (space.mean, space.basis, space.explained_variance) == (None, None, None)


@pytest.mark.parametrize("dim", [2, 4, 20])
def test_one_hot_labels_have_a_dimension_each(dim: int) -> None:
    with pytest.raises(InputError, match=f"embedding dimension: got {dim}, expected 3 for one-hot"):
        label_space(("a", "b", "c"), source="one-hot", dim=dim)


# GloVe ----------------------------------------------------------------------------------------


def test_glove_puts_related_words_close() -> None:
    words = load_word_vectors("glove")
    assert len(words.words) == 400_000
    assert words.vectors.shape == (400_000, 50)
    assert words.words[0] == "the"
    space = label_space(("cow", "sheep", "car", "traffic light"), source="glove", dim=20)
    assert space.source == words.source
    assert space.embeddings.shape == (4, 20)
    assert space.explained_variance is not None
    assert 0.5 < space.explained_variance < 0.65
    cosine = space.unit @ space.unit.T
    assert cosine[0, 1] > 0.7 > cosine[0, 2]
    assert cosine[2, 3] > cosine[0, 3]


# finished embeddings --------------------------------------------------------------------------


def test_finished_embeddings_come_without_a_basis(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    np.savez(tmp_path / "labels.npz", names=np.array(["a", "b", "c"]), j4=table, j2=table[:, :2])
    space = label_space(("c", "a"), source=str(tmp_path / "labels.npz"), dim=4)
    np.testing.assert_array_equal(space.embeddings, table[[2, 0]])
    assert space.source == "labels.npz"
    assert (space.mean, space.basis, space.explained_variance) == (None, None, None)
    space = label_space(("b",), source=str(tmp_path / "labels.npz"), dim=2)
    np.testing.assert_array_equal(space.embeddings, table[[1], :2])


def test_finished_embeddings_may_be_called_embeddings(tmp_path: Path) -> None:
    table = np.eye(3, dtype=np.float64)
    np.savez(tmp_path / "labels.npz", names=np.array(["a", "b", "c"]), embeddings=table)
    space = label_space(("b",), source=str(tmp_path / "labels.npz"), dim=3)
    assert space.embeddings.dtype == np.float32
    np.testing.assert_array_equal(space.embeddings, [[0, 1, 0]])
    with pytest.raises(InputError, match=r"labels\.npz: got \(3, 3\), expected \(3, 5\)"):
        label_space(("b",), source=str(tmp_path / "labels.npz"), dim=5)


@pytest.mark.parametrize("dim", [2, 5, 10, 20, 21, 50, 100, 200, 300])
@pytest.mark.parametrize("name", ["voc21", "context33"])
def test_the_thesis_embeddings_have_up_to_three_hundred_dimensions(
    data_dir: Path, name: str, dim: int
) -> None:
    path = data_dir / "word2vec" / f"{name}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        names = tuple(map(str, arrays["names"]))
    space = label_space(names, source=str(path), dim=dim)
    assert space.embeddings.shape == (len(names), dim)
    assert np.linalg.norm(space.scaled, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_the_thesis_embeddings_are_read(data_dir: Path) -> None:
    path = data_dir / "word2vec" / "voc21.npz"
    space = label_space(VOC_NAMES, source=str(path), dim=20)
    with np.load(path, allow_pickle=False) as arrays:
        rows = [arrays["names"].tolist().index(name) for name in VOC_NAMES]
        np.testing.assert_array_equal(space.embeddings, arrays["j20"][rows])
    assert rows == [0, 1, 10, 13, 17, 20]


@pytest.mark.parametrize(
    ("names", "dim", "message"),
    [
        (("cow", "shep"), 2, r"label 'shep' is not in labels\.npz; it has sheep"),
        (("zzz",), 2, r"label 'zzz' is not in labels\.npz; it has cow, sheep"),
        (("cow",), 3, r"has no embeddings of 3 dimensions: got names, j2, expected .*'j3'; give"),
    ],
)
def test_finished_embeddings_that_do_not_fit_are_refused(
    tmp_path: Path, names: tuple[str, ...], dim: int, message: str
) -> None:
    np.savez(tmp_path / "labels.npz", names=np.array(["cow", "sheep"]), j2=np.eye(2))
    with pytest.raises(InputError, match=message):
        label_space(names, source=str(tmp_path / "labels.npz"), dim=dim)


def test_a_missing_npz_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no embeddings at .*nowhere\.npz"):
        label_space(("cow",), source=str(tmp_path / "nowhere.npz"), dim=2)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "flipped", "pickle"])
def test_a_damaged_npz_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "labels.npz"
    names = np.array(["cow", "sheep"], dtype=object if damage == "pickle" else None)
    np.savez(path, names=names, j2=np.eye(2))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(b"s\0\0\0h")] ^= 1  # a letter of "sheep", in UTF-32
    changed = {"text": b"no arrays", "empty": b"", "cut": bytes(content[:-40])}
    path.write_bytes(changed.get(damage, bytes(content)))
    with pytest.raises(InputError, match=r"labels\.npz is not an npz file of arrays"):
        label_space(("cow",), source=str(path), dim=2)
