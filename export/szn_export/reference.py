"""What artefacts are compared with: PyTorch's grids of the gate's images at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_export.quality import GateData, Quality, QualityMeter
from szn_runtime.backends import Grids
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import Layout, normalise_into, plan

__all__ = ["Batch", "Reference", "reference_of"]

Infer = Callable[[NDArray[np.float32]], Grids]

# every image at the nominal size, and a third of them at each of these factors of it
_OTHER_SCALES = (0.75, 1.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Frames of one layout, and what the reference says of them.

    Attributes:
        numbers: Of their images.
        layout: How these become the network's input.
        geometry: Where the grids' nodes lie among the images' pixels.
        nominal: Whether they have the nominal size.
        grids: The reference's.
    """

    numbers: list[int]
    layout: Layout
    geometry: GridGeometry
    nominal: bool
    grids: Grids


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What PyTorch says of the gate's images at several sizes.

    Attributes:
        data: The images.
        labels: Labels that are decided among.
        preprocess: Of the bundle.
        batches: Frames and grids.
        quality: Scores at the nominal size, None without masks.
    """

    data: GateData
    labels: LabelSet
    preprocess: Preprocess
    batches: tuple[Batch, ...]
    quality: Quality | None

    def tensor(self, batch: Batch) -> NDArray[np.float32]:
        """The network's input (N, 3, H, W) of a batch."""
        return _tensor([self.data.images[i] for i in batch.numbers], batch.layout, self.preprocess)


def reference_of(
    infer: Infer,
    data: GateData,
    *,
    labels: LabelSet,
    preprocess: Preprocess,
    geometry: GridGeometry,
    batch_size: int = 3,
    scales: Sequence[float] = _OTHER_SCALES,
    advance: Callable[[], None] = lambda: None,
) -> Reference:
    """Run the reference once on all frames.

    Args:
        infer: The reference, frames (N, 3, H, W) to grids.
        data: The images, and their masks if they have some.
        labels: Labels that are decided among.
        preprocess: Of the bundle.
        geometry: Where the nodes lie among the pixels of the network's input.
        batch_size: Frames of one size are run in batches of this many; the rest of each group in
            smaller ones.
        scales: Factors on the nominal long side, for every so manieth image each.
        advance: Called after each batch.
    """
    multiple = preprocess.multiple
    plans: list[tuple[Layout, list[int], bool]] = []
    for turn, scale in enumerate((1.0, *scales)):
        long_side = max(round(preprocess.long_side * scale), multiple)
        numbers = range(len(data.images))
        chosen = [i for i in numbers if turn == 0 or i % (len(scales) + 1) == turn % len(numbers)]
        groups: dict[Layout, list[int]] = {}
        for i in chosen:
            layout = plan(data.images[i].shape[:2], long_side=long_side, multiple=multiple)
            groups.setdefault(layout, []).append(i)
        for layout, group in groups.items():
            plans += [
                (layout, group[start : start + batch_size], turn == 0)
                for start in range(0, len(group), batch_size)
            ]
    batches = []
    meter = QualityMeter(data)
    for layout, numbers_of, nominal in plans:
        tensor = _tensor([data.images[i] for i in numbers_of], layout, preprocess)
        grids = infer(tensor)
        placed = layout.grid_geometry(geometry)
        if nominal:
            meter.add(numbers_of, grids, placed)
        batches.append(
            Batch(numbers=numbers_of, layout=layout, geometry=placed, nominal=nominal, grids=grids)
        )
        advance()
    return Reference(
        data=data,
        labels=labels,
        preprocess=preprocess,
        batches=tuple(batches),
        quality=meter.result(),
    )


def _tensor(
    images: Sequence[NDArray[np.uint8]], layout: Layout, preprocess: Preprocess
) -> NDArray[np.float32]:
    tensor = np.empty((len(images), 3, *layout.padded_hw), dtype=np.float32)
    for row, image in enumerate(images):
        normalise_into(image, layout, preprocess, tensor[row])
    return tensor
