from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.arrays import encode_names, pack_arrays
from szn_runtime.errors import BundleError, InputError, LabelError
from szn_runtime.vocabulary import Projection, Vocabulary


@pytest.fixture
def words() -> Vocabulary:
    return Vocabulary(
        ["traffic", "light", "Paris", "traffic_light", "paris", "x-ray", "light"],
        np.array([[1, 0], [0, 1], [2, 2], [5, 6], [3, 3], [7, 8], [9, 9]]),
    )


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("light", [0, 1]),  # the first of two entries
        ("LIGHT", [0, 1]),
        ("Paris", [3, 3]),  # lower case first
        ("traffic light", [5, 6]),  # one entry for both words
        ("light traffic", [0.5, 0.5]),  # no such entry: the mean
        ("light-traffic", [0.5, 0.5]),
        ("x ray", [7, 8]),
        ("light light", [0, 1]),
    ],
)
def test_embedding_of_a_name(words: Vocabulary, name: str, vector: list[float]) -> None:
    found = words.embed(name)
    assert found.dtype == np.float32
    assert found.tolist() == vector


def test_a_word_that_only_exists_in_upper_case() -> None:
    assert Vocabulary(["NASA"], np.array([[4.0]])).embed("NASA").tolist() == [4]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("trafic", "unknown word 'trafic': expected one of the 7 words.*did you mean traffic"),
        ("traffic lihgt", "unknown word 'lihgt' in label 'traffic lihgt'.*did you mean light"),
        ("qqqqqqqqq", "unknown word 'qqqqqqqqq'.*check its spelling"),
        ("", "unknown word ''"),
        ("-", "unknown word ''"),
    ],
)
def test_unknown_words(words: Vocabulary, name: str, match: str) -> None:
    with pytest.raises(LabelError, match=match):
        words.embed(name)


def test_facts_of_a_vocabulary(words: Vocabulary) -> None:
    assert (len(words), words.dim, words.embeddings.dtype) == (7, 2, np.float16)
    assert not words.embeddings.flags.writeable
    assert "paris" in words
    assert "cow" not in words


@pytest.mark.parametrize(
    ("names", "rows", "match"),
    [
        ([], np.ones((0, 2)), "the vocabulary is empty"),
        (["a"], np.ones((1, 0)), "the vocabulary is empty"),
        (["a"], np.ones((2, 2)), r"got shape \(2, 2\), expected \(1, j\)"),
        (["a"], np.ones(1), "do not fit the vocabulary"),
        (["a"], np.array([[np.nan]]), "float16 cannot"),
        (["a"], np.array([[1e5]]), "float16 cannot"),
    ],
)
def test_what_cannot_be_a_vocabulary(names: list[str], rows: np.ndarray, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Vocabulary(names, rows)


def test_npz_round_trip(words: Vocabulary, tmp_path: Path) -> None:
    data = words.to_npz()
    again = Vocabulary.from_npz(data)
    assert again.words == words.words
    np.testing.assert_array_equal(again.embeddings, words.embeddings)
    assert again.to_npz() == data
    (tmp_path / "own.npz").write_bytes(data)
    assert Vocabulary.load(tmp_path / "own.npz", None).words == words.words


def test_npz_whose_parts_do_not_fit() -> None:
    arrays = {"words": encode_names(["a", "b"]), "embeddings": np.ones((3, 2), np.float16)}
    with pytest.raises(InputError, match=r"got shape \(3, 2\), expected \(2, j\)"):
        Vocabulary.from_npz(pack_arrays(arrays))
    with pytest.raises(BundleError, match=r"array embeddings of vocabulary\.npz is missing"):
        Vocabulary.from_npz(pack_arrays({"words": arrays["words"]}))


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_projection_is_the_formula(j: int, d: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, basis, x = rng.normal(size=d), rng.normal(size=(j, d)), rng.normal(size=(count, d))
    projection = Projection(mean=mean, basis=basis)
    expected = np.array([basis @ (v - mean) for v in x]).reshape(count, j)
    np.testing.assert_allclose(projection(x), expected, atol=1e-4)
    again = Projection.from_npz(projection.to_npz())
    np.testing.assert_array_equal(again.basis, projection.basis)
    np.testing.assert_array_equal(again.mean, projection.mean)


def test_what_cannot_be_a_projection() -> None:
    with pytest.raises(InputError, match=r"got mean \(3,\), basis \(2, 4\)"):
        Projection(mean=np.ones(3), basis=np.ones((2, 4)))
    with pytest.raises(InputError, match="not finite"):
        Projection(mean=np.ones(2), basis=np.array([[1, np.nan]]))
    with pytest.raises(InputError, match=r"got shape \(1, 3\), expected \(V, 2\)"):
        Projection(mean=np.ones(2), basis=np.ones((1, 2)))(np.ones((1, 3)))
