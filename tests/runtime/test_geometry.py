from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry


def test_scaling_a_halved_frame_doubles_the_stride() -> None:
    scaled = GridGeometry.square(32, 15.5).scaled((0.5, 0.5))
    assert scaled.stride_yx == (64, 64)
    assert scaled.offset_yx == (31.5, 31.5)  # half-pixel alignment stays: (64 - 1) / 2


@given(
    scale=st.floats(0.1, 8), stride=st.floats(1, 64), offset=st.floats(-10, 40),
    node=st.integers(0, 50),
)  # fmt: skip
def test_a_node_stays_where_it_is_in_the_picture(
    scale: float, stride: float, offset: float, node: int
) -> None:
    network_pixel = stride * node + offset
    scaled = GridGeometry.square(stride, offset).scaled((scale, scale))
    frame_pixel = scaled.stride_yx[0] * node + scaled.offset_yx[0]
    assert np.isclose((frame_pixel + 0.5) * scale - 0.5, network_pixel, atol=1e-6)


@pytest.mark.parametrize(("stride", "message"), [(0, "not positive"), (float("nan"), "not finite")])
def test_refused(stride: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GridGeometry.square(stride, 0)
