"""How frames flow through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from szn_runtime.errors import UsageError
from szn_runtime.smoothing import GridSmoother
from szn_runtime.sources.base import Source

__all__ = ["PipelineConfig"]

_DEPTH = 3
# A decoder that fills its queue and then rests until it is nearly empty takes a core from the
# network, and the cache with it, once for some frames instead of once for each. That is worth some
# more frames that wait, of each source in so many bytes. A camera's would be overwritten while it
# rests.
_BURST, _BURST_BYTES, _REFILL_AT = 12, 16 << 20, 2


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How frames flow.

    Args:
        policy: "every": all frames, in order; "latest": the newest frame whenever the network is
            free, the others are dropped and counted; "auto": "latest" for live sources.
        batch: Frames of one network input size that the network takes together: consecutive ones of
            a source, and those of several sources. What a live source has is never kept waiting for
            a full batch.
        limit: Frames of each source after which it ends, None for all.
        alpha: Opacity of the labels' colours, 0 to 1.
        legend: Whether overlays have a legend.
        smooth: Share of the grids that comes from the frames before, 0 to below 1.
        depth: Items that wait between two stages at most. None for 3, and for up to 12 small frames
            of a file ahead of the network, which are decoded in bursts.

    Raises:
        UsageError: If a value is out of its range.
    """

    policy: Literal["auto", "every", "latest"] = "auto"
    batch: int = 1
    limit: int | None = None
    alpha: float = 0.5
    legend: bool = True
    smooth: float = 0.0
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in ("auto", "every", "latest"):
            raise UsageError("unknown policy", got=self.policy, expected="auto, every or latest")
        for name in ("batch", "limit", "depth"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is out of range", got=value, expected=">= 1")
        if not 0 <= self.alpha <= 1:
            raise UsageError("alpha is out of range", got=self.alpha, expected="0 to 1")
        GridSmoother(self.smooth)  # refuses what is out of range

    def policy_of(self, source: Source) -> str:
        """What is used for a source: "every" or "latest"."""
        if self.policy != "auto":
            return self.policy
        return "latest" if source.live else "every"

    @property
    def results_ahead(self) -> int:
        """Results that wait for the outputs at most."""
        return self.depth or _DEPTH

    def frames_ahead(self, source: Source) -> tuple[int, int]:
        """How frames of a source wait for the network.

        Returns:
            The most that wait, at least a batch, and how few are left when the source goes on after
            so many: never less than a batch, which would be waited for in vain.
        """
        if self.policy_of(source) == "latest":
            return 1, 0
        most = max(self.depth or _DEPTH, self.batch)
        if self.depth is not None or source.live or source.frame_hw is None:
            return most, most - 1
        height, width = source.frame_hw
        burst = min(_BURST, _BURST_BYTES // (3 * height * width))
        refill_at = max(_REFILL_AT, self.batch)
        return (burst, refill_at) if burst > max(most, refill_at) else (most, most - 1)
