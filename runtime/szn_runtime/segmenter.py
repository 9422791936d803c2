"""From frames to label maps: preprocessing, network and SEI as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Backend, Grids
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, InputError
from szn_runtime.labels import LabelSet, label_set, parse_labels
from szn_runtime.preprocess import Layout, Normaliser, check_frame, plan
from szn_runtime.segmentation import Segmentation
from szn_runtime.vocabulary import Vocabulary

__all__ = ["Prepared", "Segmenter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Frames as the network takes them.

    Args:
        tensor: (N, 3, H, W) float32. It lies in a buffer of the segmenter, which the next call of
            `Segmenter.preprocess` writes again.
        layout: Of all N frames.
    """

    tensor: NDArray[np.float32]
    layout: Layout


class Segmenter:
    """A loaded model and the labels it chooses among; a context manager.

    Calls of `preprocess` and `network` share buffers and must come from one thread at a time;
    `label` may run in another one meanwhile.

    Args:
        bundle: The model.
        backend: That runs its network; closed together with the segmenter.
        labels: What to choose among; None for the bundle's own labels.
        vocabulary: Where `with_labels` looks words up; None for the bundle's own, if it has one.
        long_side: Pixels that a frame's longer side is resized to; None for the bundle's.
        seen_bias: Added to the seenmask's difference seen minus unseen: above 0, more pixels are
            taken for seen labels.

    Raises:
        BundleError: If the bundle's labels are damaged.
        InputError: If labels or size do not fit the network.

    Example:
        >>> with szn_runtime.load() as segmenter:  # doctest: +SKIP
        ...     result = segmenter(cv2.imread("street.jpg"))
        ...     print(result.shares)
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        labels: LabelSet | None = None,
        vocabulary: Vocabulary | None = None,
        long_side: int | None = None,
        seen_bias: float = 0.0,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        preprocess = bundle.manifest.preprocess
        self.long_side = preprocess.long_side if long_side is None else long_side
        plan((1, 1), long_side=self.long_side, multiple=preprocess.multiple)  # refuses wrong sizes
        if not np.isfinite(seen_bias):
            raise InputError("seen bias is out of range", got=seen_bias, expected="a finite number")
        self.seen_bias = float(seen_bias)
        self._bundle_labels = bundle.label_set()
        if vocabulary is not None:
            self._check_dim("the vocabulary", vocabulary.dim)
        self._vocabulary = vocabulary
        self._labels = self._bundle_labels
        if labels is not None:
            self.with_labels(labels)
        self._normalise = Normaliser(preprocess)
        self._buffer = np.empty((0, 3, 1, 1), np.float32)
        self._closed = False

    @property
    def labels(self) -> LabelSet:
        """What pixels are labelled with."""
        return self._labels

    def with_labels(self, labels: str | Path | Sequence[str] | LabelSet) -> None:
        """Choose among other labels from the next frame on.

        Args:
            labels: `"cow, sheep, grass"`, a text file with one name a line, a list of names, or
                ready embeddings. Names of the bundle keep their embedding and whether they are
                seen; all others come from the vocabulary and are unseen.

        Raises:
            LabelError: If a name is unknown, empty or twice there; the labels stay as they were.
            InputError: If the file cannot be read.
            BundleError: If the bundle's vocabulary is damaged.
        """
        if isinstance(labels, LabelSet):
            chosen = labels
        else:
            names = parse_labels(labels) if isinstance(labels, str | Path) else tuple(labels)
            chosen = label_set(
                names, bundle_labels=self._bundle_labels, vocabulary=self._words_for(names)
            )
        self._check_dim("the label embedding", chosen.dim)
        self._labels = chosen

    def _check_dim(self, what: str, dim: int) -> None:
        if dim != self.bundle.manifest.dim:
            raise InputError(
                f"{what} does not fit the network",
                got=f"{dim} dimensions",
                expected=self.bundle.manifest.dim,
                fix="use the embedding and projection that the network was trained with",
            )

    def _words_for(self, names: Sequence[str]) -> Vocabulary | None:
        """The vocabulary, read when a name first needs it."""
        own = {name.lower() for name in self._bundle_labels.names}
        if self._vocabulary is None and not all(name.lower() in own for name in names):
            self._vocabulary = self.bundle.vocabulary()
        return self._vocabulary

    def layout(self, frame_hw: tuple[int, int]) -> Layout:
        """Sizes on the way of a frame of `frame_hw` pixels through the network."""
        multiple = self.bundle.manifest.preprocess.multiple
        return plan(frame_hw, long_side=self.long_side, multiple=multiple)

    def preprocess(self, frames: Sequence[NDArray[np.uint8]]) -> Prepared:
        """Resize, normalise and pad frames into the segmenter's buffer.

        Args:
            frames: N frames of one size, each (H, W, 3) uint8 BGR.

        Returns:
            Valid until the next call: the buffer is used again.

        Raises:
            InputError: If there is no frame, or one is no colour image or of another size.
        """
        if not len(frames):
            raise InputError("there is no frame", expected="at least one")
        sizes = {check_frame(frame).shape[:2] for frame in frames}
        if len(sizes) > 1:
            raise InputError(
                "frames of one batch differ in size",
                got=sorted(sizes),
                fix="pass frames of each size apart",
            )
        layout = self.layout(sizes.pop())
        shape = (len(frames), 3, *layout.padded_hw)
        if self._buffer.shape[1:] != shape[1:] or len(self._buffer) < len(frames):
            self._buffer = np.empty(shape, np.float32)
        tensor = self._buffer[: len(frames)]
        for frame, out in zip(frames, tensor, strict=True):
            self._normalise(frame, layout, out)
        return Prepared(tensor=tensor, layout=layout)

    def network(self, prepared: Prepared) -> Grids:
        """Run the network.

        Raises:
            BackendError: If it fails, or the segmenter is closed.
        """
        if self._closed:
            raise BackendError("the segmenter is closed", fix="load the bundle again")
        grids = self.backend.infer(prepared.tensor)
        n, dim = grids.embedding.shape[:2]
        if (n, dim) != (len(prepared.tensor), self.bundle.manifest.dim):
            raise BackendError(
                "the backend's embedding has another shape",
                got=grids.embedding.shape,
                expected=f"({len(prepared.tensor)}, {self.bundle.manifest.dim}, h, w)",
            )
        return grids

    def label(
        self, grids: Grids, prepared: Prepared, frames: Sequence[NDArray[np.uint8]]
    ) -> list[Segmentation]:
        """Seenmask embedding inference on the grids, at the frames' own pixels.

        Args:
            grids: From `network`.
            prepared: From `preprocess`; only its layout is used.
            frames: The same N frames, kept by the results.

        Returns:
            N results, with arrays of their own.

        Raises:
            InputError: If grids and frames do not fit together.
        """
        from szn_runtime.sei import segment_grid

        labels = self._labels  # one set for the whole batch, whatever another thread does
        layout = prepared.layout
        geometry = layout.grid_geometry(self.bundle.manifest.grid_geometry)
        if len(frames) != len(grids.embedding):
            raise InputError(
                "grids and frames differ in number",
                got=f"{len(grids.embedding)} and {len(frames)}",
            )
        results = []
        for frame, embedding, seenmask in zip(frames, grids.embedding, grids.seenmask, strict=True):
            label_map, seen = segment_grid(
                embedding,
                seenmask,
                labels,
                geometry=geometry,
                size_hw=layout.frame_hw,
                seen_bias=self.seen_bias,
            )
            results.append(
                Segmentation(labels=label_map, label_set=labels, seenmask=seen, image_bgr=frame)
            )
        return results

    def batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Segmentation]:
        """Segment frames of one size together.

        Args:
            images: N frames, each (H, W, 3) uint8 BGR.

        Raises:
            InputError: If a frame is no colour image, or the sizes differ.
            BackendError: If the network fails.
        """
        prepared = self.preprocess(images)
        return self.label(self.network(prepared), prepared, images)

    def __call__(self, image_bgr: NDArray[np.uint8]) -> Segmentation:
        """Segment one frame.

        Args:
            image_bgr: (H, W, 3) uint8 BGR, as `cv2.imread` gives it.

        Raises:
            InputError: If it is no colour image.
            BackendError: If the network fails.
        """
        return self.batch([image_bgr])[0]

    def warm_up(self, frame_hw: tuple[int, int] | None = None) -> None:
        """Do now what would make the first frame slow.

        Args:
            frame_hw: Size of the frames to come, if it is known: the network runs once.
        """
        from szn_runtime.sei import warm_up

        warm_up(self.bundle.manifest.dim)
        if frame_hw is not None:
            self(np.zeros((*frame_hw, 3), np.uint8))

    def close(self) -> None:
        """Release the backend; closing twice is allowed."""
        self._closed = True
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
