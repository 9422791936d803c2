"""Figures of runs and comparisons: each as PNG and PDF, with its data as CSV or JSON beside it.

Drawing needs matplotlib, which the extra `train` brings; importing this package does not.
"""

from __future__ import annotations

from szn_train.figures.bars import bars_figure
from szn_train.figures.canvas import new_figure, save_figure
from szn_train.figures.confusion import confusion_figure
from szn_train.figures.curves import history_figure, line_figure
from szn_train.figures.evaluation import draw_evaluation, draw_predictions
from szn_train.figures.predictions import Picture, predictions_figure

__all__ = [
    "Picture",
    "bars_figure",
    "confusion_figure",
    "draw_evaluation",
    "draw_predictions",
    "history_figure",
    "line_figure",
    "new_figure",
    "predictions_figure",
    "save_figure",
]
