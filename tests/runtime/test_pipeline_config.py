from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.errors import UsageError
from szn_runtime.pipeline_config import PipelineConfig
from tests.runtime.stages import Stub


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is out of range: got 0"),
        ({"limit": 0}, "limit is out of range: got 0"),
        ({"alpha": 2.0}, r"alpha is out of range: got 2\.0"),
        ({"policy": "newest"}, "unknown policy: got newest, expected auto, every or latest"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PipelineConfig(**options)


def stub(height: int, width: int, *, live: bool = False) -> Stub:
    return Stub(live=live, size_hw=lambda _: (height, width))


@pytest.mark.parametrize(
    ("size_hw", "batch", "expected"),
    [
        ((360, 480), 1, (12, 2)),
        ((720, 1280), 1, (6, 2)),  # of 2.76 MB each
        ((720, 1280), 4, (6, 4)),
        ((1080, 1920), 1, (3, 2)),
        ((2160, 3840), 1, (3, 2)),
        ((360, 480), 11, (12, 11)),
        ((360, 480), 20, (20, 19)),
    ],
)
def test_small_frames_of_a_file_are_read_in_bursts(
    size_hw: tuple[int, int], batch: int, expected: tuple[int, int]
) -> None:
    assert PipelineConfig(batch=batch).frames_ahead(stub(*size_hw)) == expected


def test_a_camera_is_read_evenly() -> None:
    camera = stub(360, 480, live=True)
    assert PipelineConfig().frames_ahead(camera) == (1, 0)
    assert PipelineConfig(policy="every").frames_ahead(camera) == (3, 2)
    assert PipelineConfig(policy="latest").frames_ahead(stub(360, 480)) == (1, 0)


def test_frames_of_unknown_size_are_few() -> None:
    source = stub(360, 480)
    source.frame_hw = None
    assert PipelineConfig().frames_ahead(source) == (3, 2)


def test_a_depth_is_kept_to() -> None:
    config = PipelineConfig(depth=5)
    assert config.frames_ahead(stub(360, 480)) == (5, 4)
    assert config.results_ahead == 5
    assert PipelineConfig().results_ahead == 3


@given(
    size_hw=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    batch=st.integers(1, 40),
    depth=st.none() | st.integers(1, 40),
    policy=st.sampled_from(["auto", "every"]),
)
def test_a_batch_is_never_waited_for_in_vain(
    size_hw: tuple[int, int], batch: int, depth: int | None, policy: Any
) -> None:
    config = PipelineConfig(batch=batch, depth=depth, policy=policy)
    most, refill_at = config.frames_ahead(stub(*size_hw))
    # a source that rests has more than `refill_at` frames there, and a batch takes so many at once
    assert most > refill_at >= batch - 1
    assert most * size_hw[0] * size_hw[1] * 3 <= 16 << 20 or most == max(depth or 3, batch)
