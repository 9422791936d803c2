"""Text files of word vectors, as GloVe and Word2Vec write them."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError

__all__ = ["read_word_vectors"]

_CHUNK_LINES = 8192


def read_word_vectors(
    path: Path, length: int | None
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Read a file chunk by chunk, so that not all of its numbers are in memory at once.

    Args:
        path: A text file, plain or gzipped: a word and d numbers a line, separated by spaces, with
            or without a first line `V d`.
        length: The d that is expected, None for any.

    Yields:
        n words and their vectors (n, d).

    Raises:
        InputError: If the file cannot be read, is no such text, or holds vectors of another length.
    """
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        with _open_text(path, gzipped=gzipped) as lines:
            yield from _chunks(lines, path, length)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file of word vectors",
            got="bytes that are no UTF-8 text",
            fix="convert binary Word2Vec files to text first",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"vocabulary {path} cannot be read", got=reason) from error


def _open_text(path: Path, *, gzipped: bool) -> TextIO:
    # only \n ends a line: some words hold other separators of Unicode
    if gzipped:
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def _chunks(
    lines: TextIO, path: Path, length: int | None
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Parse lines, a few thousand at a time."""
    first = lines.readline()
    header = re.fullmatch(r"\d+ (\d+)\s*", first)
    found = int(header[1]) if header else len(first.split()) - 1
    if length is not None and found > 0 and found != length:
        raise InputError(
            f"the vectors of {path} do not fit the projection of the bundle",
            got=f"{found} numbers",
            expected=length,
            fix="use the word vectors that the network was trained with",
        )
    number = 2 if header else 1
    rest: Iterator[str] = lines if header else itertools.chain([first] if first else [], lines)
    empty = True
    while chunk := list(itertools.islice(rest, _CHUNK_LINES)):
        pairs = [_word_and_numbers(line.rstrip(), found) for line in chunk]
        bad = next((i for i, (word, numbers) in enumerate(pairs) if not (word and numbers)), None)
        if bad is not None:
            raise InputError(
                f"line {number + bad} of {path} is not a word vector",
                expected=f"a word and {max(found, 1)} numbers separated by spaces",
            )
        try:
            vectors = np.loadtxt([n for _, n in pairs], np.float32, comments=None, ndmin=2)
        except ValueError as error:
            raise InputError(
                f"{path} holds a line that is no word vector after line {number - 1}", got=error
            ) from error
        yield [word for word, _ in pairs], vectors  # (chunk, d)
        number += len(chunk)
        empty = False
    if empty:
        raise InputError(f"{path} holds no word vectors")


def _word_and_numbers(line: str, length: int) -> tuple[str, str]:
    """Split a line before its last `length` parts; both empty where there are fewer."""
    if length and line.count(" ") == length:
        word, _, numbers = line.partition(" ")
        return word, numbers
    # the words of some files hold spaces
    parts = line.rsplit(" ", length)
    return (parts[0], " ".join(parts[1:])) if len(parts) == length + 1 > 1 else ("", "")
