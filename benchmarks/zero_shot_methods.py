"""Ways to tell unseen from seen on the grid of a frozen network, and their operating points.

`zero_shot_names.py` lists them. Everything is fitted on `train` and `hold`, where no image shows a
class of U. Statistics of images that the network was trained on look too well known, so that seen
cells for `stats` and all operating points come from `hold` alone; logits there are those of models
that were fitted without the image. `szn_train.seenmask_fit` does in training what `stats@1.5` does,
with as many cells of each label in the statistics and without folds of the training images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zero_shot_names import Method
from zero_shot_runs import Cells

from szn_train.calibration import class_balance, lost_share, recall_at, roc_auc, seen_bias
from szn_train.classes import VOID, ClassSplit
from szn_train.logistic import Logistic
from szn_train.seen_statistics import SeenStatistics, fit_statistics
from szn_train.seenmask_regression import SeenCells, fit_sides
from szn_train.semantic import LabelSpace

__all__ = ["Fitted", "Fitting"]

_FOLDS = 3
_MOST_SEEN_CELLS = 20_000

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A method fitted on a draw.

    Attributes:
        logits: Cells to seen logits (P,), smoothed and with the bias.
        facts: Bias, and what was measured on `hold`: nothing of U.
    """

    logits: Callable[[Cells], NDArray[np.float32]]
    facts: dict[str, float | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitting:
    """What methods are fitted on.

    Args:
        train: Cells of the training images.
        hold: Cells of images that the network was not trained on.
        split: Classes of the draw.
        space: Their embeddings.
        scale: Factor on cosines in the network's loss.
        components: Of the principal subspace of seen features.
        l2: Penalty of `linear`, on standardised features.
    """

    train: Cells
    hold: Cells
    split: ClassSplit
    space: LabelSpace
    scale: float
    components: int = 64
    l2: float = 0.1
    _tables: dict[tuple[Cells, str, int], Array] = field(default_factory=dict)
    _models: dict[tuple[Any, ...], Logistic] = field(default_factory=dict)

    def fit(self, method: Method) -> Fitted:
        """Fit a method and choose its operating point."""
        unseen = self.split.train_unseen
        held = self._held_out(method, unseen)
        seen = self._is(self.hold.labels, self.split.train_seen)
        bias = 0.0
        if method.lost is not None:
            bias = seen_bias(held[seen], method.lost)
        elif method.drop is not None:
            bias = self._seen_cells.bias(held[seen], method.drop)
        model = self._model(method, unseen, None)

        def logits(cells: Cells) -> NDArray[np.float32]:
            return model(self._inputs(cells, method, unseen, None)) + np.float32(bias)

        return Fitted(
            logits=logits,
            facts={
                "bias": bias,
                "hold_lost": lost_share(held[seen], bias),
                "hold_miou": self._seen_cells.miou(held[seen] + bias),
                "hold_fcn_je_miou": self._seen_cells.perfect,
                **self._left_out(method),
            },
        )

    def _left_out(self, method: Method) -> dict[str, float | None]:
        """How well each class of train_unseen is found by a model fitted without it.

        The only estimate for classes that nobody has seen; methods are chosen by it.
        """
        if method.base == "thesis":  # the trainer has fitted it on all of them
            return {"left_out_auc": None, "left_out_recall": None}
        aucs, recalls = [], []
        for name in self.split.train_unseen:
            others = tuple(n for n in self.split.train_unseen if n != name)
            held = self._held_out(method, others)
            seen = self._is(self.hold.labels, self.split.train_seen)
            found = np.concatenate([
                self._model(method, others, None)(self._inputs(cells, method, others, None))[
                    self._is(cells.labels, (name,))
                ]
                for cells in (self.train, self.hold)
            ])  # fmt: skip
            balance = class_balance(self.hold.labels[seen])
            aucs.append(roc_auc(held[seen], found, balance))
            recalls.append(recall_at(held[seen], found, 0.05))
        return {
            "left_out_auc": float(np.mean(aucs)),
            "left_out_recall": float(np.mean(recalls)),
        }

    def _held_out(self, method: Method, unseen: tuple[str, ...]) -> NDArray[np.float32]:
        """Logits (P,) of `hold`, each from a model that was fitted without its image."""
        result = np.empty(len(self.hold.labels), np.float32)
        for fold in range(_FOLDS):
            rows = self.hold.folds(_FOLDS) == fold
            model = self._model(method, unseen, fold)
            result[rows] = model(self._inputs(self.hold, method, unseen, fold))[rows]
        return result

    def _model(self, method: Method, unseen: tuple[str, ...], fold: int | None) -> Logistic:
        """Regression of a method, fitted without the images of a fold."""
        if method.base in {"thesis", "gap", "linear"}:  # their input is the logit
            return Logistic(weight=np.ones(1), bias=0.0)
        key = (method.base, method.window, unseen, fold)
        if key not in self._models:
            inputs, labels = [], []
            for cells in (self.train, self.hold):
                chosen = self._is(cells.labels, unseen)
                if cells is self.hold:
                    chosen |= self._is(cells.labels, self.split.train_seen)
                if fold is not None:
                    chosen &= cells.folds(_FOLDS) != fold
                # the features' logit at a cell must be from a model without its image too
                inputs.append(self._inputs(cells, method, unseen, "out")[chosen])
                labels.append(cells.labels[chosen])
            self._models[key] = self._regression(inputs, labels, l2=1e-3)
        return self._models[key]

    def _inputs(
        self, cells: Cells, method: Method, unseen: tuple[str, ...], fold: int | str | None
    ) -> NDArray[np.float32]:
        """(P, inputs) of a method's regression, smoothed.

        Args:
            cells: Where.
            method: Which.
            unseen: Classes that the features' model learns as unseen.
            fold: Without which fold that model is fitted, None: with all; "out": for each cell the
                one without its own.
        """
        columns = []
        if method.base == "thesis":
            columns.append(cells.seenmask[:, 1] - cells.seenmask[:, 0])
        if method.base == "gap":
            columns.append(self._gap(cells))
        if method.base in {"linear", "both"}:
            columns.append(self._linear(cells, unseen, fold))
        table = [cells.smoothed(column, method.window) for column in columns]
        if method.base in {"stats", "both"}:
            table.append(self._statistics(cells, method.window))
        return np.concatenate([t.reshape(len(cells.labels), -1) for t in table], axis=1)

    def _statistics(self, cells: Cells, window: int) -> NDArray[np.float32]:
        """(P, 8), smoothed."""
        key = (cells, "statistics", window)
        if key not in self._tables:
            if window == 1:
                found = self._seen_statistics.of_cells(cells.features, cells.embedding)
            else:
                found = cells.smoothed(self._statistics(cells, 1), window)
            self._tables[key] = found
        return self._tables[key]

    @cached_property
    def _seen_statistics(self) -> SeenStatistics:
        """Fitted on cells of the training images, so that those of `hold` are new to it."""
        rows = np.flatnonzero(self._is(self.train.labels, self.split.train_seen))
        rows = _some(rows, 2 * _MOST_SEEN_CELLS)
        indices = self.split.indices(self.split.train_seen)
        return fit_statistics(
            self.train.features[rows],
            self.train.labels[rows],
            self.space.unit[indices],
            scale=self.scale,
            components=self.components,
        )

    def _linear(
        self, cells: Cells, unseen: tuple[str, ...], fold: int | str | None
    ) -> NDArray[np.float32]:
        """Logits (P,) of a regression on the features."""
        if fold == "out":
            result = np.empty(len(cells.labels), np.float32)
            for each in range(_FOLDS):
                rows = cells.folds(_FOLDS) == each
                result[rows] = self._linear(cells, unseen, each)[rows]
            return result
        key = (cells, f"linear {unseen} {fold}", 1)
        if key not in self._tables:
            model = self._feature_model(unseen, fold)
            self._tables[key] = np.concatenate([
                model(cells.features[start : start + 8192])
                for start in range(0, len(cells.labels), 8192)
            ])  # fmt: skip
        return self._tables[key]

    def _feature_model(self, unseen: tuple[str, ...], fold: int | str | None) -> Logistic:
        key = ("features", unseen, fold)
        if key not in self._models:
            inputs, labels = [], []
            for cells in (self.train, self.hold):
                kept = np.ones(len(cells.labels), np.bool_)
                if fold is not None:
                    kept = cells.folds(_FOLDS) != fold
                taught = np.flatnonzero(kept & self._is(cells.labels, unseen))
                seen = np.flatnonzero(kept & self._is(cells.labels, self.split.train_seen))
                rows = np.sort(np.concatenate([taught, _some(seen, _MOST_SEEN_CELLS)]))
                inputs.append(cells.features[rows])
                labels.append(cells.labels[rows])
            self._models[key] = self._regression(inputs, labels, l2=self.l2)
        return self._models[key]

    def _regression(self, inputs: list[Array], labels: list[Array], *, l2: float) -> Logistic:
        """Seen against unseen."""
        found = np.concatenate(labels)
        seen = self._is(found, self.split.train_seen)
        return fit_sides(np.concatenate(inputs), found, seen, l2=l2)

    @cached_property
    def _seen_cells(self) -> SeenCells:
        """Of `hold`."""
        seen = self._is(self.hold.labels, self.split.train_seen)
        indices = self.split.indices(self.split.train_seen)  # in increasing order
        position = np.searchsorted(indices, self.hold.labels[seen])
        nearest = (self.hold.embedding[seen] @ self.space.unit[indices].T).argmax(axis=1)
        return SeenCells(labels=position, nearest=nearest, count=len(indices))

    def _gap(self, cells: Cells) -> NDArray[np.float32]:
        """Largest cosine with a seen label minus that with another one."""
        norms = np.linalg.norm(cells.embedding, axis=1, keepdims=True)
        cosine = cells.embedding / np.maximum(norms, 1e-12) @ self.space.unit.T  # (P, K)
        seen = self.split.is_member(self.split.train_seen)
        gap: NDArray[np.float32] = cosine[:, seen].max(axis=1) - cosine[:, ~seen].max(axis=1)
        return gap

    def _is(self, labels: NDArray[np.uint8], names: tuple[str, ...]) -> NDArray[np.bool_]:
        """(P,) which cells have one of some labels."""
        lookup = np.zeros(VOID + 1, np.bool_)
        lookup[self.split.indices(names)] = True
        return lookup[labels]


def _some(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Some of the rows, always the same."""
    return np.sort(np.random.default_rng(0).choice(rows, min(most, len(rows)), replace=False))
