from __future__ import annotations

import numpy as np
import pytest

from szn_runtime.errors import InputError
from szn_train.cells import cell_labels, node_labels
from szn_train.classes import VOID


def test_a_cell_has_the_label_that_covers_enough_of_it() -> None:
    target = np.zeros((4, 8), np.uint8)
    target[:, 4:] = 2
    target[0, 4:7] = 1  # 3 of 16 pixels
    target[:2, :4] = 5  # half of the first cell
    assert cell_labels(target, 4, purity=0.75).tolist() == [[VOID, 2]]
    assert cell_labels(target, 4, purity=0.5).tolist() == [[0, 2]]
    assert cell_labels(target, 4, purity=1.0).tolist() == [[VOID, VOID]]


def test_rows_and_columns_of_cells_keep_their_places() -> None:
    expected = np.array([[3, 1, 255], [0, 2, 7]], np.uint8)
    target = expected.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(cell_labels(target, 2, purity=1.0), expected)


def test_what_cells_cannot_be_made_of() -> None:
    with pytest.raises(InputError, match="size of the target: got 6 x 8, expected multiples of 4"):
        cell_labels(np.zeros((6, 8), np.uint8), 4)
    with pytest.raises(InputError, match="purity of a cell: got 0"):
        cell_labels(np.zeros((8, 8), np.uint8), 4, purity=0)


def test_nodes_may_begin_outside_the_target() -> None:
    target = np.arange(24, dtype=np.uint8).reshape(4, 6).repeat(4, axis=0).repeat(4, axis=1)
    # same-padded: a node in the centre of each cell
    assert np.array_equal(node_labels(target, (4, 6), 4, 1.5), cell_labels(target, 4))
    # caffe's pad: the first node stands 4 pixels earlier, past the border
    early = node_labels(target, (5, 7), 4, -2.5)
    assert np.array_equal(early[1:, 1:], cell_labels(target, 4))
    assert (early[0] == VOID).all()
    assert (early[:, 0] == VOID).all()
    # and two pixels later: half of each cell is the next one's
    assert (node_labels(target, (4, 6), 4, 3.5) == VOID).all()
    assert node_labels(target, (3, 5), 4, 5.5).tolist() == cell_labels(target, 4)[1:, 1:].tolist()
