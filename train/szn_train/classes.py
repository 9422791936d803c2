"""The classes of a data set and their split into seen and unseen."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    def role(self, name: str) -> str:
        """The set that a class is in: "void", "train_seen", "train_unseen" or "U"."""
        for role, members in (
            ("void", self.void),
            ("train_unseen", self.train_unseen),
            ("U", self.unseen),
        ):
            if name in members:
                return role
        return "train_seen"

    def with_random_train_unseen(self, count: int, seed: int) -> ClassSplit:
        """The same split with `count` seen classes, drawn at random, as train_unseen.

        With one seed the classes of a smaller draw are among those of a larger one, so that a
        sweep over the size compares like with like. "background" is never drawn: it is in nearly
        every image, and none would be left for the embedding.

        Raises:
            InputError: If not even one class would stay in train_seen.
        """
        candidates = [n for n in self.names if n in self.train_seen + self.train_unseen]
        candidates = [name for name in candidates if name != "background"]
        if not 1 <= count < len(candidates):
            raise InputError(
                "number of classes to draw for train_unseen",
                got=count,
                expected=f"1 to {len(candidates) - 1} of the {len(candidates)} seen classes",
            )
        order = np.random.default_rng(seed).permutation(len(candidates))[:count]
        drawn = tuple(candidates[position] for position in sorted(order.tolist()))
        return replace(self, train_unseen=drawn)

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
