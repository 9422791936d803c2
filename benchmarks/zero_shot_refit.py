"""A draw's network with its embedding head trained once more, in another space of words.

The features stay as they are, so that the head of any number of dimensions is fitted to the cached
cells in seconds, as training does (`szn_train.embedding_refit`): what the choice of words,
dimensions and loss is worth can be measured without training networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from zero_shot_runs import Cells

from szn_runtime.errors import UsageError
from szn_train.embedding_refit import EmbeddingHead, refit_embedding
from szn_train.run import Run
from szn_train.semantic import label_space

__all__ = ["Refit", "parse_refit", "refitted"]

_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Refit:
    """How the head is trained.

    Args:
        dim: Dimensions j of the space.
        scale: Factor on cosines in its loss.
        words: Label to words that mean the same, or None: the label's name alone.
        embeddings: Source of the word vectors.
    """

    dim: int
    scale: float
    words: Mapping[str, Sequence[str]] | None = None
    embeddings: str = "glove"


def parse_refit(text: str) -> tuple[int, float]:
    """Dimensions and scale of `50x20`.

    Raises:
        UsageError: If it is something else.
    """
    found = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)", text)
    if found is None or int(found[1]) < 2 or float(found[2]) <= 0:
        raise UsageError("refit", got=text, expected="dimensions and scale, such as 50x20")
    return int(found[1]), float(found[2])


def refitted(run: Run, cells: Mapping[str, Cells], refit: Refit) -> tuple[Run, dict[str, Cells]]:
    """A run in another space, and its cells with the new head's embeddings.

    The head is fitted on cells of train_seen of the training images, as the network was.

    Args:
        run: A draw's run; its network keeps the old head.
        cells: Of the splits; `train` must be among them.
        refit: How the head is trained.
    """
    split = run.split
    names = set(split.labels)
    words = None if refit.words is None else {k: v for k, v in refit.words.items() if k in names}
    space = label_space(split.labels, source=refit.embeddings, dim=refit.dim, words=words)
    seen = split.indices(split.train_seen)
    train = cells["train"]
    rows = np.flatnonzero(np.isin(train.labels, seen))
    head = refit_embedding(
        train.features[rows],
        np.searchsorted(seen, train.labels[rows]),
        space.unit[seen],
        scale=refit.scale,
        seed=run.config.seed,
    )
    config = replace(run.config, dim=refit.dim, similarity_scale=refit.scale)
    moved = replace(run, config=config, space=space)
    return moved, {name: _embedded(part, head) for name, part in cells.items()}


def _embedded(cells: Cells, head: EmbeddingHead) -> Cells:
    """Cells with the embeddings (P, j) of a head."""
    parts = [
        head(cells.features[start : start + _ROWS]) for start in range(0, len(cells.labels), _ROWS)
    ]
    return replace(cells, embedding=np.concatenate(parts))
