"""The classes of a data set and their split into seen and unseen."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import InputError

__all__ = ["VOID", "ClassSplit"]

VOID = 255
"""Mask value of pixels that have no label: they never count in a loss or a metric."""


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Which classes training sees with labels, which it only calls unseen, which it never sees.

    Args:
        names: Classes of the data set; the position is the value in its masks.
        void: Classes whose pixels are treated as void.
        train_unseen: Classes whose pixels train the seenmask as unseen.
        unseen: The set U: classes that no training image may show.

    Raises:
        InputError: If a name is not among `names`, stands in two sets, or no class stays seen.

    The *labels* of a split are `names` without `void`, in order; masks are translated to label
    indices once, when they are read.
    """

    names: tuple[str, ...]
    void: tuple[str, ...] = ()
    train_unseen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError("class names are not unique", got=", ".join(twice) + " twice")
        if not 1 <= len(self.names) <= VOID:
            raise InputError("number of classes", got=len(self.names), expected=f"1 to {VOID}")
        taken: dict[str, str] = {}
        for role in ("void", "train_unseen", "unseen"):
            for name in getattr(self, role):
                if name not in self.names:
                    near = get_close_matches(name, self.names, n=3, cutoff=0.5) or self.names[:5]
                    raise InputError(
                        f"class {name!r} of {role} is not in the data set",
                        fix=f"use its class names, such as {', '.join(near)}",
                    )
                if name in taken:
                    raise InputError(
                        f"class {name!r} is in {taken[name]} and in {role}",
                        expected="each class in one set",
                        fix="remove it from one of them",
                    )
                taken[name] = role
        if not self.train_seen:
            raise InputError(
                "no class is left for train_seen", fix="shorten void, train_unseen or unseen"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names without the void ones, in the order of the data set."""
        return tuple(name for name in self.names if name not in self.void)

    @property
    def train_seen(self) -> tuple[str, ...]:
        """Labels that are neither in train_unseen nor in U."""
        return tuple(n for n in self.labels if n not in self.train_unseen and n not in self.unseen)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The thesis' tuple of a split: (|train_seen|, |train_unseen|, |U|)."""
        return len(self.train_seen), len(self.train_unseen), len(self.unseen)

    def indices(self, names: tuple[str, ...]) -> NDArray[np.int64]:
        """Label indices of some label names."""
        return np.array([self.labels.index(name) for name in names], dtype=np.int64)

    def is_member(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Of shape (labels,): which labels are among `names`."""
        return np.array([label in names for label in self.labels], dtype=np.bool_)

    def mask_lookup(self) -> NDArray[np.uint8]:
        """Of shape (256,): mask value to label index; void classes and `VOID` go to `VOID`.

        Values outside the data set's classes are not checked here; the data set does.
        """
        lookup = np.full(256, VOID, dtype=np.uint8)
        for value, name in enumerate(self.names):
            if name not in self.void:
                lookup[value] = self.labels.index(name)
        return lookup
