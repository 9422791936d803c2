from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from szn_runtime.errors import InputError
from szn_runtime.vocabulary import Projection, Vocabulary
from tests.runtime import catalogue


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_word_vector_text_is_projected(tmp_path: Path, header: bool, zipped: bool) -> None:
    text = catalogue.word_vectors_text(header=header).encode()
    file = tmp_path / "vectors.txt"
    file.write_bytes(gzip.compress(text) if zipped else text)
    loaded = Vocabulary.load(file, catalogue.colour_projection())
    expected = catalogue.colour_vocabulary()
    assert loaded.words == expected.words
    np.testing.assert_allclose(
        loaded.embeddings.astype(float), expected.embeddings.astype(float), atol=2e-3
    )


def test_text_without_projection_and_words_with_spaces(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    # trailing blanks as word2vec writes them, a word with a space as GloVe 840B has them, and a
    # word that holds a separator of Unicode
    file.write_bytes("cow 1 2 \n. . 3 4\nx\u2028y -1e-1 5\n".encode())
    loaded = Vocabulary.load(file, None)
    assert loaded.words == ("cow", ". .", "x\u2028y")
    np.testing.assert_allclose(loaded.embeddings.astype(float), [[1, 2], [3, 4], [-0.1, 5]], 1e-3)


def test_more_lines_than_one_chunk(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("".join(f"w{i} {i % 7} 1\n" for i in range(20_000)))
    loaded = Vocabulary.load(file, Projection(mean=np.zeros(2), basis=np.array([[1.0, 0.0]])))
    assert len(loaded) == 20_000
    assert loaded.embed("w19999").tolist() == [19999 % 7]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no word vectors"),
        (b"\n", "line 1 of .* is not a word vector"),
        (b"2 3\n", "holds no word vectors"),
        (b"cow 1 2\nsheep 1\n", "line 2 of .* is not a word vector: expected a word and 2 numbers"),
        (b"2 2\ncow 1 2\n\n", "line 3 of .* is not a word vector"),
        (b"cow 1 2\nsheep 1 x\n", "a line that is no word vector after line 0"),
        (b"cow 1 nan\n", "float16 cannot"),
        (b"hello\n", "line 1 of .* is not a word vector: expected a word and 1 numbers"),
        (b"3 2\ncow \x80\x81\xff", "bytes that are no UTF-8 text.*convert binary Word2Vec"),
        (b"\x1f\x8b nonsense", "cannot be read"),
    ],
)
def test_text_that_is_no_vocabulary(tmp_path: Path, content: bytes, match: str) -> None:
    file = tmp_path / "vectors.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=match):
        Vocabulary.load(file, None)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.txt cannot be read: got No such file"):
        Vocabulary.load(tmp_path / "none.txt", None)


def test_a_gzip_file_that_ends_early(tmp_path: Path) -> None:
    file = tmp_path / "vectors.gz"
    file.write_bytes(gzip.compress(catalogue.word_vectors_text().encode())[:-20])
    with pytest.raises(InputError, match="cannot be read: got Compressed file ended"):
        Vocabulary.load(file, catalogue.colour_projection())


def test_vectors_of_another_length(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("cow 1 2 3\n")
    with pytest.raises(InputError, match="got 3 numbers, expected 8; use the word vectors that"):
        Vocabulary.load(file, catalogue.colour_projection())
