from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from szn_runtime.arrays import encode_names, pack_arrays
from szn_runtime.errors import BundleError, InputError, LabelError
from szn_runtime.labels import LabelSet, label_set, parse_labels
from szn_runtime.vocabulary import Vocabulary
from tests.runtime import catalogue


def labels(*names: str, dim: int = 3) -> LabelSet:
    rows = np.arange(1, len(names) * dim + 1).reshape(len(names), dim)
    return LabelSet(names=names, embeddings=rows, seen=np.arange(len(names)) % 2 == 0)


def test_rows_are_normalised_contiguous_and_read_only() -> None:
    raw = np.asfortranarray([[3.0, 4.0], [0.0, -2.0]])
    made = LabelSet(names=("cow", "sky"), embeddings=raw, seen=np.array([True, False]))
    np.testing.assert_allclose(made.embeddings, [[0.6, 0.8], [0, -1]], rtol=1e-7)
    assert made.embeddings.dtype == np.float32
    assert made.embeddings.flags.c_contiguous
    assert not made.embeddings.flags.writeable
    assert not made.seen.flags.writeable
    assert (len(made), made.dim) == (2, 2)
    raw[0] = 0  # a copy was taken
    np.testing.assert_allclose(made.embeddings[0], [0.6, 0.8], rtol=1e-7)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 12)),
        elements=st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
    )
)
def test_normalising_twice_moves_no_bit(rows: np.ndarray) -> None:
    rows[:, 0] += 200  # no row is zero
    names = tuple(map(str, range(len(rows))))
    seen = np.zeros(len(rows), bool)
    once = LabelSet(names=names, embeddings=rows, seen=seen)
    twice = LabelSet(names=names, embeddings=once.embeddings, seen=seen)
    np.testing.assert_array_equal(once.embeddings, twice.embeddings)
    np.testing.assert_allclose(np.linalg.norm(once.embeddings, axis=1), 1, rtol=1e-6)


def test_a_vocabulary_is_normalised_part_by_part() -> None:
    count = 40_000
    rows = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    names, seen = tuple(map(str, range(count))), np.zeros(count, bool)
    made = LabelSet(names=names, embeddings=rows, seen=seen)
    expected = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_array_equal(made.embeddings, expected.astype(np.float32))
    rows[35_000] = 0
    with pytest.raises(LabelError, match="label '35000' is zero or not finite"):
        LabelSet(names=names, embeddings=rows, seen=seen)


@pytest.mark.parametrize(
    ("names", "rows", "seen", "match"),
    [
        ((), np.ones((0, 2)), [], "there is no label"),
        (("a", "a"), np.ones((2, 2)), [1, 1], "'a' comes twice"),
        (("a", ""), np.ones((2, 2)), [1, 1], "label 2 is not a name"),
        (("a\nb",), np.ones((1, 2)), [1], "label 1 is not a name"),
        ((" a",), np.ones((1, 2)), [1], "label 1 is not a name"),
        (("a",), np.ones((2, 2)), [1], r"got shape \(2, 2\), expected \(1, j\)"),
        (("a",), np.ones(2), [1], "do not fit their names"),
        (("a",), np.ones((1, 0)), [1], "do not fit their names"),
        (("a",), np.ones((1, 2)), [1, 0], r"seen flags .* got shape \(2,\)"),
        (("a", "b"), np.array([[1, 0], [0, 0]]), [1, 0], "'b' is zero or not finite"),
        (("a", "b"), np.array([[1, np.nan], [0, 1]]), [1, 0], "'a' is zero or not finite"),
        (("a",), np.array([[1, np.inf]]), [1], "'a' is zero or not finite"),
    ],
)
def test_what_cannot_be_a_label_set(
    names: tuple[str, ...], rows: np.ndarray, seen: list[int], match: str
) -> None:
    with pytest.raises(LabelError, match=match):
        LabelSet(names=names, embeddings=rows, seen=np.array(seen, bool))


def test_npz_round_trip_is_exact_and_repeatable() -> None:
    made = labels("cow", "traffic light", "Bär")
    data = made.to_npz()
    again = LabelSet.from_npz(data)
    assert again.names == made.names
    np.testing.assert_array_equal(again.embeddings, made.embeddings)
    np.testing.assert_array_equal(again.seen, made.seen)
    assert again.to_npz() == data


def test_npz_that_is_not_one() -> None:
    with pytest.raises(BundleError, match=r"labels\.npz is not a readable NPZ file"):
        LabelSet.from_npz(b"PK nonsense")
    blob = {"names": encode_names(["a"]), "seen": np.array([True])}
    with pytest.raises(BundleError, match=r"array embeddings of labels\.npz has another type"):
        LabelSet.from_npz(pack_arrays({**blob, "embeddings": np.ones((1, 2))}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cow", ("cow",)),
        ("cow, sheep ,grass", ("cow", "sheep", "grass")),
        ("  traffic \t light,Road", ("traffic light", "Road")),
        ("st. bernard", ("st. bernard",)),
        ("v1.2,x.txt", ("v1.2", "x.txt")),
    ],
)
def test_names_from_text(text: str, names: tuple[str, ...]) -> None:
    assert parse_labels(text) == names


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "label 1 is empty"),
        ("cow,,grass", "label 2 is empty"),
        ("cow, ", "label 2 is empty"),
        ("cow, grass, Cow", "label 3, 'Cow', comes twice; remove it, number 1 is the same"),
    ],
)
def test_names_that_are_refused(text: str, match: str) -> None:
    with pytest.raises(LabelError, match=match):
        parse_labels(text)


def test_names_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbfcow\r\ntraffic  light\r\nK\xc3\xa4se, mild\r\n\r\n")
    assert parse_labels(file) == ("cow", "traffic light", "Käse, mild")
    assert parse_labels(str(file)) == parse_labels(file)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("cow\n\ngrass\n", "line 2 of .*names.txt is empty"),
        ("cow\ngrass\ncow\n", "line 3 of .*names.txt, 'cow', comes twice"),
        ("", "line 1 of .*names.txt is empty"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, match: str) -> None:
    file = tmp_path / "names.txt"
    file.write_text(content)
    with pytest.raises(LabelError, match=match):
        parse_labels(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.txt cannot be read: got No such file"):
        parse_labels("missing.txt")
    with pytest.raises(InputError, match="cannot be read: got Is a directory"):
        parse_labels(tmp_path)
    binary = tmp_path / "image.png"
    binary.write_bytes(b"\x89PNG\xff\xff")
    with pytest.raises(InputError, match="got not UTF-8 text; give names separated by commas"):
        parse_labels(binary)


def test_bundle_names_keep_embedding_spelling_and_seen() -> None:
    own = catalogue.colour_labels()
    chosen = label_set(
        ["Blue", "cyan", "RED"], bundle_labels=own, vocabulary=catalogue.colour_vocabulary()
    )
    assert chosen.names == ("blue", "cyan", "red")
    assert chosen.seen.tolist() == [False, False, True]
    np.testing.assert_array_equal(chosen.embeddings[0], own.embeddings[own.names.index("blue")])
    cyan = catalogue.colour_embedding((0, 255, 255))
    np.testing.assert_allclose(chosen.embeddings[1], cyan / np.linalg.norm(cyan), atol=1e-6)


def test_unknown_names_say_what_is_close() -> None:
    own, vocabulary = catalogue.colour_labels(), catalogue.colour_vocabulary()
    with pytest.raises(LabelError, match=r"unknown word 'cyann'.*did you mean cyan\?"):
        label_set(["cyann"], bundle_labels=own, vocabulary=vocabulary)
    with pytest.raises(LabelError, match=r"unknown label 'whit'.*did you mean white\?.*no vocab"):
        label_set(["whit"], bundle_labels=own, vocabulary=None)


def test_names_that_meet_in_one_label() -> None:
    with pytest.raises(LabelError, match="'red' comes twice"):
        label_set(["red", "RED"], bundle_labels=catalogue.colour_labels(), vocabulary=None)
    with pytest.raises(LabelError, match="there is no label"):
        label_set([], bundle_labels=catalogue.colour_labels(), vocabulary=None)


def test_vocabulary_of_another_space() -> None:
    other = Vocabulary(["cow"], np.ones((1, 2)))
    with pytest.raises(LabelError, match="got 2 dimensions, expected 6"):
        label_set(["cow"], bundle_labels=catalogue.colour_labels(), vocabulary=other)
