from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from szn_runtime.errors import InputError
from szn_train.word_vectors import WordVectors, load_word_vectors
from tests.train import catalogue
from tests.train.catalogue import WORD_LENGTH, WORDS, word_vectors


@pytest.fixture
def words() -> WordVectors:
    return WordVectors(source="tiny", words=WORDS, vectors=word_vectors())


def row(word: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector: np.ndarray[tuple[int], np.dtype[np.float32]] = word_vectors()[WORDS.index(word)]
    return vector


# words ----------------------------------------------------------------------------------------


def test_a_word_has_its_own_vector(words: WordVectors) -> None:
    np.testing.assert_array_equal(words.vector("sheep"), row("sheep"))
    np.testing.assert_array_equal(words.vector("Sheep"), row("sheep"))


@pytest.mark.parametrize(
    "name", ["traffic light", "Traffic Light", "traffic-light", "traffic_light"]
)
def test_a_name_of_several_words_is_their_mean(words: WordVectors, name: str) -> None:
    expected = (row("traffic") + row("light")) / 2
    np.testing.assert_allclose(words.vector(name), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "spelt"),
    [("diningtable", "dining table"), ("tvmonitor", "tv monitor"), ("PottedPlant", "potted plant")],
)
def test_vocs_compounds_are_the_mean_of_their_words(name: str, spelt: str) -> None:
    words = ("dining", "table", "tv", "monitor", "potted", "plant")
    vocabulary = WordVectors(source="tiny", words=words, vectors=np.eye(6, dtype=np.float32))
    np.testing.assert_array_equal(vocabulary.vector(name), vocabulary.vector(spelt))
    assert vocabulary.vector(name).sum() == 1
    # a vocabulary that has the compound is right
    whole = WordVectors(
        source="tiny", words=(*words, name.lower()), vectors=np.eye(7, dtype=np.float32)
    )
    assert whole.vector(name)[6] == 1


def test_a_name_that_the_vocabulary_holds_whole_is_taken_whole() -> None:
    vectors = np.eye(4, dtype=np.float32)
    words = WordVectors(
        source="tiny", words=("traffic", "light", "traffic_light", "New"), vectors=vectors
    )
    np.testing.assert_array_equal(words.vector("traffic light"), vectors[2])
    np.testing.assert_array_equal(words.vector("new"), vectors[3])


def test_of_a_word_that_comes_twice_the_first_counts() -> None:
    words = WordVectors(source="tiny", words=("a", "b", "a"), vectors=np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(words.vector("a"), [1, 0, 0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sheeep", r"label 'sheeep': 'sheeep' is not in tiny; did you mean sheep"),
        ("traffic ligth", r"label 'traffic ligth': 'ligth' is not in tiny; did you mean light\?"),
        ("qqqqqq", r"label 'qqqqqq': 'qqqqqq' is not in tiny; use another word"),
        ("-", r"label '-': '-' is not in tiny"),
    ],
)
def test_an_unknown_word_is_an_error_with_close_matches(
    words: WordVectors, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        words.vector(name)


# files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_text_files_are_read_with_and_without_a_header(
    tmp_path: Path, header: bool, zipped: bool
) -> None:
    path = catalogue.write_words(tmp_path / "words.txt", header=header)
    if zipped:
        path = tmp_path / "words.txt.gz"
        path.write_bytes(gzip.compress((tmp_path / "words.txt").read_bytes()))
    words = load_word_vectors(str(path))
    assert words.words == WORDS
    assert words.source == path.name
    np.testing.assert_array_equal(words.vectors, word_vectors())


@pytest.mark.parametrize("name", ["words.bin", "words.bin.gz", "words.kv"])
def test_files_of_gensim_and_word2vec_are_read(tmp_path: Path, name: str) -> None:
    vectors = KeyedVectors(WORD_LENGTH)
    vectors.add_vectors(list(WORDS), word_vectors())
    path = tmp_path / name
    if name.endswith(".kv"):
        vectors.save(str(path))
    else:
        vectors.save_word2vec_format(str(path), binary=True)
    words = load_word_vectors(str(path))
    assert words.words == WORDS
    np.testing.assert_array_equal(words.vectors, word_vectors())


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"no embeddings at nowhere\.bin: expected 'glove', 'glove\+minilm', an"
    ):
        load_word_vectors("nowhere.bin")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.bin", b"these are no vectors\n"),
        ("words.bin", b"3 4\nthe \x00\x00"),
        ("words.bin.gz", b"no gzip"),
        ("words.bin.gz", gzip.compress(b"3 4\nthe 1234567890123456")[:-9]),
        ("words.kv", b"no pickle"),
        ("words.kv", b""),
        ("words.kv", pickle.dumps({"words": 3})),
    ],
)
def test_a_binary_file_that_holds_no_word_vectors_is_an_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is not a word-vector file .*expected word2vec"):
        load_word_vectors(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the one two three\n", "holds a line that is no word vector"),
        (b"the 1 2 3\nof 1 2\n", "line 2 of .* is not a word vector"),
        (b"\xff\xfe\x00\x01 1 2\n", "is not a text file of word vectors"),
        (b"", "holds no word vectors"),
        (b"the 1 2\nof nan 2\n", "holds no word vectors, or numbers that are not finite"),
    ],
)
def test_a_text_that_holds_no_word_vectors_is_an_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_word_vectors(str(path))
