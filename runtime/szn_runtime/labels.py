"""The labels that a segmentation chooses among: names, embeddings, and which were trained on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.arrays import decode_names, encode_names, pack_arrays, unpack_arrays
from szn_runtime.errors import InputError, LabelError

if TYPE_CHECKING:
    from szn_runtime.vocabulary import Vocabulary

__all__ = ["LabelSet", "label_set", "parse_labels"]

_MAX_FILE_BYTES = 64 << 20
_MAX_ARRAY_BYTES = 128 << 20
# float32 rows of unit norm are off by less than this; dividing them again would move their bits
_NORM_ROUNDING = 2e-7
_ROWS_AT_A_TIME = 1 << 14  # in float64: of a whole vocabulary they would be twice the set itself
_FILE_NAME = re.compile(r"[/\\]|\.[A-Za-z0-9]{1,5}$")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSet:
    """K labels; a label's index in a label map is its row here.

    Args:
        names: K unique names, each one line of text.
        embeddings: (K, j) numbers, one row a label; normalised here to unit length and kept as a
            C-contiguous, read-only float32 array.
        seen: (K,) True where the network was trained on the label (train_seen); read-only.

    Raises:
        LabelError: If there is no label, a name is empty or comes twice, a shape does not fit, or a
            row is zero or not finite (it has no direction to compare with).
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    seen: NDArray[np.bool_]

    def __post_init__(self) -> None:
        names = tuple(self.names)
        _check_names(names)
        rows = np.asarray(self.embeddings)  # (K, j)
        seen = np.array(self.seen, dtype=np.bool_)  # (K,)
        if rows.ndim != 2 or rows.shape[0] != len(names) or rows.shape[1] == 0:
            raise LabelError(
                "label embeddings do not fit their names",
                got=f"shape {rows.shape}",
                expected=f"({len(names)}, j) with j >= 1",
            )
        if seen.shape != (len(names),):
            raise LabelError(
                "seen flags do not fit the label names",
                got=f"shape {seen.shape}",
                expected=f"({len(names)},)",
            )
        unit = np.empty(rows.shape, np.float32)
        for first in range(0, len(names), _ROWS_AT_A_TIME):
            part = slice(first, first + _ROWS_AT_A_TIME)
            unit[part] = _unit_rows(rows[part], names[part])
        unit.setflags(write=False)
        seen.setflags(write=False)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "embeddings", unit)
        object.__setattr__(self, "seen", seen)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """Length j of an embedding."""
        return int(self.embeddings.shape[1])

    def to_npz(self) -> bytes:
        """The file `labels.npz` of a bundle; equal sets give equal bytes."""
        return pack_arrays(
            {
                "names": encode_names(self.names),
                "embeddings": self.embeddings,
                "seen": self.seen,
            }
        )

    @classmethod
    def from_npz(cls, data: bytes, *, source: str = "labels.npz") -> LabelSet:
        """Read what `to_npz` wrote.

        Raises:
            BundleError: If the file is not one that `to_npz` wrote.
            LabelError: If its labels cannot be used.
        """
        arrays = unpack_arrays(
            data,
            source=source,
            members={"names": ("uint8", 1), "embeddings": ("float32", 2), "seen": ("bool", 1)},
            limit_bytes=_MAX_ARRAY_BYTES,
        )
        return cls(
            names=decode_names(arrays["names"], source=source),
            embeddings=arrays["embeddings"],
            seen=arrays["seen"],
        )


def _unit_rows(rows: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Rows (k, j) of unit length; refuses those without a direction, by name."""
    rows = np.array(rows, dtype=np.float64, order="C")
    norms = np.linalg.norm(rows, axis=1)  # (k,)
    usable = np.isfinite(rows).all(axis=1) & (norms > 0)
    if not usable.all():
        raise LabelError(
            f"the embedding of label {names[int(np.argmin(usable))]!r} is zero or not finite"
        )
    rows /= np.where(np.abs(norms - 1) < _NORM_ROUNDING, 1.0, norms)[:, None]
    return rows


def _check_names(names: tuple[str, ...]) -> None:
    """Refuse no names, names that are no single line of text, and names that come twice."""
    if not names:
        raise LabelError("there is no label", expected="at least one name")
    known: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or name != name.strip() or len(name.splitlines()) != 1:
            raise LabelError(f"label {number} is not a name", got=repr(name))
        if name in known:
            raise LabelError(f"label {name!r} comes twice", fix="name each label once")
        known.add(name)


def parse_labels(text_or_file: str | Path) -> tuple[str, ...]:
    """Read label names from a comma-separated text or from a file with one name a line.

    A text without a comma names a file if it holds a path separator or ends in a file suffix.

    Args:
        text_or_file: `"cow, sheep, traffic light"`, `"labels.txt"` or a path.

    Returns:
        The names in their order, with inner white space reduced to one space.

    Raises:
        LabelError: If a name is empty or comes twice (upper and lower case are the same).
        InputError: If the file cannot be read or is no UTF-8 text.
    """
    text = str(text_or_file)
    if isinstance(text_or_file, Path) or ("," not in text and _FILE_NAME.search(text.strip())):
        origin, parts = f"line {{}} of {text.strip()}", _lines(Path(text.strip()))
    else:
        origin, parts = "label {}", text.split(",")
    names = tuple(" ".join(part.split()) for part in parts)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise LabelError(f"{origin.format(number)} is empty", expected="a name")
        if name.lower() in first:
            raise LabelError(
                f"{origin.format(number)}, {name!r}, comes twice",
                fix=f"remove it, number {first[name.lower()]} is the same",
            )
        first[name.lower()] = number
    return names


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without empty ones at its end."""
    fix = "give names separated by commas, or a text file with one name a line"
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(
                f"label file {path} is too large",
                got=f"{path.stat().st_size} bytes",
                expected=f"<= {_MAX_FILE_BYTES}",
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"label file {path} cannot be read", got=reason, fix=fix) from error
    return text.rstrip().splitlines() or [""]


def label_set(
    names: Sequence[str], *, bundle_labels: LabelSet, vocabulary: Vocabulary | None
) -> LabelSet:
    """Look up names: those of the bundle first, all others in the vocabulary.

    Args:
        names: What to choose among, such as `parse_labels` gives.
        bundle_labels: The labels the network came with; a name of theirs (upper and lower case are
            the same) keeps its spelling, its embedding and whether it is seen.
        vocabulary: Where all other names come from; they are unseen. None if there is none.

    Returns:
        The labels in the order of `names`.

    Raises:
        LabelError: If a name is in neither (close matches are named), comes twice, or the
            vocabulary has another number of dimensions.
    """
    if vocabulary is not None and vocabulary.dim != bundle_labels.dim:
        raise LabelError(
            "the vocabulary does not fit the network",
            got=f"{vocabulary.dim} dimensions",
            expected=bundle_labels.dim,
            fix="use a vocabulary of the same embedding and projection",
        )
    own = {name.lower(): row for row, name in enumerate(bundle_labels.names)}
    found: list[str] = []
    rows: list[NDArray[np.float32]] = []
    seen: list[bool] = []
    for name in names:
        row = own.get(name.lower())
        if row is not None:
            found.append(bundle_labels.names[row])
            rows.append(bundle_labels.embeddings[row])
            seen.append(bool(bundle_labels.seen[row]))
        elif vocabulary is not None:
            found.append(name)
            rows.append(vocabulary.embed(name))
            seen.append(False)
        else:
            close = difflib.get_close_matches(name.lower(), own, n=3)
            hint = f"did you mean {', '.join(close)}? " if close else ""
            raise LabelError(
                f"unknown label {name!r}",
                expected=f"one of {', '.join(bundle_labels.names)}",
                fix=f"{hint}The bundle has no vocabulary to look other words up in",
            )
    if not found:
        raise LabelError("there is no label", expected="at least one name")
    return LabelSet(names=tuple(found), embeddings=np.stack(rows), seen=np.array(seen))
