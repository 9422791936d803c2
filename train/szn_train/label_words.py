"""Further words that mean the same as a label, which the semantic model averages with its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from szn_runtime.errors import InputError
from szn_train.progress import Progress

__all__ = ["LabelWords", "is_label_words", "pairs_of", "read_label_words", "words_of"]

LabelWords: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of a label and its words: a table that is immutable and has a hash."""


def pairs_of(table: object) -> object:
    """A table as TOML and JSON hold it, in pairs; whatever is none stays as it is.

    `is_label_words` tells whether pairs came out.
    """
    if not isinstance(table, Mapping):
        return table
    return tuple(
        (label, tuple(words) if isinstance(words, list) else words)
        for label, words in table.items()
    )


def is_label_words(value: Any) -> TypeGuard[LabelWords]:
    """Whether a value is pairs of a label and its words, each label once."""
    pairs = isinstance(value, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], tuple)
        and all(isinstance(word, str) for word in pair[1])
        for pair in value
    )
    return pairs and len({label for label, _ in value}) == len(value)


def words_of(
    labels: Sequence[str], words: LabelWords, *, progress: Progress
) -> dict[str, tuple[str, ...]]:
    """Label to its words, of a data set's labels alone: a preset may know more than there are.

    Args:
        labels: Of the data set; classes of void are none.
        words: Of these and of other labels.
        progress: Where a line tells what is left out.
    """
    odd = [label for label, _ in words if label not in labels]
    if odd:
        progress.line(f"no labels here, so that their words are left out: {', '.join(odd)}")
    return {label: those for label, those in words if label in labels}


def read_label_words(path: Path) -> dict[str, list[str]]:
    """Label to words that mean the same, from a JSON file.

    Raises:
        InputError: If it is no object of lists of texts.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON file ({error})") from error
    if not (isinstance(table, dict) and is_label_words(pairs_of(table))):
        raise InputError(f"{path} holds no words of labels", expected='{"chair": ["armchair"]}')
    return table
