"""Words and their embeddings in the space of the network's embedding head."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.arrays import decode_names, encode_names, pack_arrays, unpack_arrays
from szn_runtime.errors import InputError, LabelError
from szn_runtime.word_vectors import read_word_vectors

__all__ = ["Projection", "Vocabulary"]

_MAX_ARRAY_BYTES = 512 << 20
# close matches are searched for among this many words, the most frequent ones in usual files
_SUGGESTION_WORDS = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Principal components of a word-vector space: `x -> basis @ (x - mean)`.

    Args:
        mean: (d,) mean of the word vectors; kept as read-only float32.
        basis: (j, d) principal axes, one a row; kept as read-only float32.

    Raises:
        InputError: If shapes do not fit or a number is not finite.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=np.float32)
        basis = np.array(self.basis, dtype=np.float32, order="C")
        if mean.ndim != 1 or basis.ndim != 2 or basis.shape[1] != mean.size or not basis.size:
            raise InputError(
                "projection does not fit together",
                got=f"mean {mean.shape}, basis {basis.shape}",
                expected="(d,) and (j, d)",
            )
        if not (np.isfinite(mean).all() and np.isfinite(basis).all()):
            raise InputError("projection holds numbers that are not finite")
        mean.setflags(write=False)
        basis.setflags(write=False)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "basis", basis)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Project word vectors (V, d) to embeddings (V, j).

        Raises:
            InputError: If the vectors have another length than d.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.mean.size:
            raise InputError(
                "word vectors do not fit the projection",
                got=f"shape {vectors.shape}",
                expected=f"(V, {self.mean.size})",
            )
        centred: NDArray[np.float32] = np.subtract(vectors, self.mean, dtype=np.float32)
        projected: NDArray[np.float32] = np.matmul(centred, self.basis.T)  # (V, d) @ (d, j)
        return projected

    def to_npz(self) -> bytes:
        """The file `projection.npz` of a bundle."""
        return pack_arrays({"mean": self.mean, "basis": self.basis})

    @classmethod
    def from_npz(cls, data: bytes, *, source: str = "projection.npz") -> Projection:
        """Read what `to_npz` wrote.

        Raises:
            BundleError: If the file is not one that `to_npz` wrote.
            InputError: If its numbers cannot be used.
        """
        arrays = unpack_arrays(
            data,
            source=source,
            members={"mean": ("float32", 1), "basis": ("float32", 2)},
            limit_bytes=_MAX_ARRAY_BYTES,
        )
        return cls(mean=arrays["mean"], basis=arrays["basis"])


class Vocabulary:
    """V words and their embeddings, most frequent word first where the source has that order.

    Args:
        words: V words; of a word that comes twice the first counts.
        embeddings: (V, j) numbers, kept as read-only float16.

    Raises:
        InputError: If there is no word, the shapes do not fit, or a number is not finite.
    """

    def __init__(self, words: Sequence[str], embeddings: NDArray[np.floating]) -> None:
        self.words = tuple(words)
        with np.errstate(over="ignore"):  # what overflows is reported below
            self.embeddings: NDArray[np.float16] = np.asarray(embeddings, np.float16)
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != len(self.words):
            raise InputError(
                "embeddings do not fit the vocabulary",
                got=f"shape {self.embeddings.shape}",
                expected=f"({len(self.words)}, j)",
            )
        if not self.embeddings.size:
            raise InputError("the vocabulary is empty", expected="at least one word")
        if not np.isfinite(self.embeddings).all():
            raise InputError("the vocabulary holds numbers that float16 cannot")
        self.embeddings = self.embeddings.view()
        self.embeddings.setflags(write=False)
        self._rows: dict[str, int] = {}
        for row, word in enumerate(self.words):
            self._rows.setdefault(word, row)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return self._row(word) is not None

    @property
    def dim(self) -> int:
        """Length j of an embedding."""
        return int(self.embeddings.shape[1])

    def embed(self, name: str) -> NDArray[np.float32]:
        """Embed a label name: its word's vector, or the mean of its words' vectors.

        Words are looked up in lower case first. A name of several words that the vocabulary holds
        as one (`traffic_light`) has that entry's vector. The mean of projected vectors is the
        projection of the mean, so averaging here equals averaging before the projection.

        Args:
            name: Words separated by spaces, underscores or hyphens.

        Returns:
            (j,) float32, not normalised.

        Raises:
            LabelError: If a word is unknown; close matches are named.
        """
        rows = self._rows_of(name)
        if len(rows) == 1:
            vector: NDArray[np.float32] = self.embeddings[rows[0]].astype(np.float32)
            return vector
        mean: NDArray[np.float32] = self.embeddings[rows].astype(np.float32).mean(axis=0)
        return mean

    def _rows_of(self, name: str) -> list[int]:
        """The entry of a whole name, or those of its words."""
        words = name.split()
        for whole in (name, "_".join(words), "-".join(words)):
            if (row := self._row(whole)) is not None:
                return [row]
        rows = []
        for word in re.split(r"[\s_-]+", name.strip(" \t_-")):
            row = self._row(word)
            if row is None:
                raise self._unknown(word, name)
            rows.append(row)
        return rows

    def _row(self, word: str) -> int | None:
        row = self._rows.get(word.lower())
        return self._rows.get(word) if row is None else row

    def _unknown(self, word: str, name: str) -> LabelError:
        """What to say about a word that is not there."""
        candidates = [
            w
            for w in itertools.islice(self.words, _SUGGESTION_WORDS)
            if abs(len(w) - len(word)) <= 2
        ]
        close = difflib.get_close_matches(word.lower(), candidates, n=3)
        of = "" if word == name else f" in label {name!r}"
        return LabelError(
            f"unknown word {word!r}{of}",
            expected=f"one of the {len(self):,} words of the vocabulary",
            fix=f"did you mean {', '.join(close)}?"
            if close
            else "check its spelling, or load a larger vocabulary",
        )

    def to_npz(self) -> bytes:
        """The file `vocabulary.npz` of a bundle."""
        return pack_arrays({"words": encode_names(self.words), "embeddings": self.embeddings})

    @classmethod
    def from_npz(cls, data: bytes, *, source: str = "vocabulary.npz") -> Vocabulary:
        """Read what `to_npz` wrote.

        Raises:
            BundleError: If the file is not one that `to_npz` wrote.
            InputError: If its words cannot be used.
        """
        arrays = unpack_arrays(
            data,
            source=source,
            members={"words": ("uint8", 1), "embeddings": ("float16", 2)},
            limit_bytes=_MAX_ARRAY_BYTES,
        )
        return cls(decode_names(arrays["words"], source=source), arrays["embeddings"])

    @classmethod
    def load(cls, path: str | Path, projection: Projection | None) -> Vocabulary:
        """Read a vocabulary of a bundle (`.npz`) or a text file of word vectors.

        Text files are those of GloVe and of Word2Vec in text form: a word and its numbers a line,
        separated by spaces, with or without a first line `V d`, plain or gzipped.

        Args:
            path: The file.
            projection: The bundle's, applied to the vectors of a text file; None if the vectors are
                embeddings already.

        Returns:
            The words in the file's order.

        Raises:
            InputError: If the file cannot be read, is no such text, or does not fit the projection.
            BundleError: If it is a damaged `.npz` file.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                zipped = file.read(4) == b"PK\x03\x04"
            data = path.read_bytes() if zipped else b""
        except OSError as error:
            raise InputError(f"vocabulary {path} cannot be read", got=error.strerror) from error
        if zipped:
            return cls.from_npz(data, source=str(path))
        words: list[str] = []
        embeddings: list[NDArray[np.float16]] = []
        length = None if projection is None else projection.mean.size
        for names, vectors in read_word_vectors(path, length):
            words.extend(names)
            projected = vectors if projection is None else projection(vectors)
            with np.errstate(over="ignore"):  # what overflows is reported by the constructor
                embeddings.append(projected.astype(np.float16))  # (chunk, j)
        return cls(words, np.concatenate(embeddings))
