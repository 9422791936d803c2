"""From frames to label maps: preprocessing, network and SEI as one object."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Backend, Grids
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, InputError, LabelError
from szn_runtime.labels import LabelSet, label_set, parse_labels
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import Layout, Normaliser, check_frame, plan
from szn_runtime.segmentation import UNKNOWN, Segmentation
from szn_runtime.vocabulary import Vocabulary

__all__ = ["Prepared", "Segmenter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Frames as the network takes them.

    Args:
        tensor: (N, 3, H, W) float32. It lies in a buffer of the calling thread, which its next call
            of `Segmenter.preprocess` writes again.
        layouts: Of each of the N frames; all are padded to H x W.
    """

    tensor: NDArray[np.float32]
    layouts: tuple[Layout, ...]


class _Buffers(threading.local):
    """What a thread writes network inputs with and into."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.normalise = Normaliser(preprocess)
        self.tensor = np.empty((0, 3, 1, 1), np.float32)


class Segmenter:
    """A loaded model and the labels it chooses among; a context manager.

    Threads may call it at the same time: each has its own buffers, and at most `backend.requests`
    calls of `network` may run at a time.

    Args:
        bundle: The model.
        backend: That runs its network; closed together with the segmenter.
        labels: What to choose among; None for the bundle's own labels.
        vocabulary: Where `with_labels` looks words up; None for the bundle's own, if it has one.
        long_side: Pixels that a frame's longer side is resized to; None for the bundle's.
        seen_bias: Added to the seenmask's difference seen minus unseen: above 0, more pixels are
            taken for seen labels.
        use_seenmask: False: the most similar of all labels, whatever the seenmask says.
        unknown_below: Pixels whose cosine with their label is less become `UNKNOWN`; None: none.

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
        use_seenmask: bool = True,
        unknown_below: float | None = None,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        preprocess = bundle.manifest.preprocess
        self.long_side = preprocess.long_side if long_side is None else long_side
        plan((1, 1), long_side=self.long_side, multiple=preprocess.multiple)  # refuses wrong sizes
        if not np.isfinite(seen_bias):
            raise InputError("seen bias is out of range", got=seen_bias, expected="a finite number")
        if unknown_below is not None and not -1 <= unknown_below <= 1:
            raise InputError(
                "threshold of unknown pixels is out of range",
                got=unknown_below,
                expected="a cosine, -1 to 1",
            )
        self.seen_bias = float(seen_bias)
        self.use_seenmask = use_seenmask
        self.unknown_below = unknown_below
        self._bundle_labels = bundle.label_set()
        if vocabulary is not None:
            self._check_dim("the vocabulary", vocabulary.dim)
        self._vocabulary = vocabulary
        self._choose(self._bundle_labels)
        if labels is not None:
            self.with_labels(labels)
        self._buffers = _Buffers(preprocess)
        self._closed = False

    @property
    def labels(self) -> LabelSet:
        """What pixels are labelled with."""
        return self._chosen[0]

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
        self._choose(chosen)

    def _choose(self, labels: LabelSet) -> None:
        """Take labels into use, with the name of unknown pixels where there can be some."""
        names, seen = labels.names, labels.seen
        if self.unknown_below is not None:
            if UNKNOWN in names:
                raise LabelError(
                    f"label {UNKNOWN!r} is the name of pixels below the threshold",
                    fix="rename the label, or set no threshold",
                )
            names, seen = (*names, UNKNOWN), np.append(seen, False)
        # one object, so that a thread that labels sees all of the change or nothing
        self._chosen = (labels, names, seen)

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
        """Resize, normalise and pad frames into a buffer of the calling thread.

        Args:
            frames: N frames, each (H, W, 3) uint8 BGR; their sizes may differ as long as the padded
                network input (see `layout`) is the same.

        Returns:
            Valid until the thread's next call: the buffer is used again.

        Raises:
            InputError: If there is no frame, one is no colour image, or they do not fit together.
        """
        if not len(frames):
            raise InputError("there is no frame", expected="at least one")
        layouts = tuple(self.layout(check_frame(frame).shape[:2]) for frame in frames)
        if len({layout.padded_hw for layout in layouts}) > 1:
            raise InputError(
                "frames of one batch differ in size",
                got=sorted({layout.frame_hw for layout in layouts}),
                fix="pass frames of each size apart",
            )
        buffers = self._buffers
        shape = (len(frames), 3, *layouts[0].padded_hw)
        if buffers.tensor.shape[1:] != shape[1:] or len(buffers.tensor) < len(frames):
            buffers.tensor = np.empty(shape, np.float32)
        tensor = buffers.tensor[: len(frames)]
        for frame, layout, out in zip(frames, layouts, tensor, strict=True):
            buffers.normalise(frame, layout, out)
        return Prepared(tensor=tensor, layouts=layouts)

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
        self, grids: Grids, layouts: Sequence[Layout], frames: Sequence[NDArray[np.uint8]]
    ) -> list[Segmentation]:
        """Seenmask embedding inference on the grids, at the frames' own pixels.

        Args:
            grids: From `network`.
            layouts: From `preprocess`.
            frames: The same N frames, kept by the results.

        Returns:
            N results, with arrays of their own.

        Raises:
            InputError: If grids and frames do not fit together.
        """
        from szn_runtime.confidence import label_cosines, mark_unknown
        from szn_runtime.sei import segment_grid

        # one set for the whole batch, whatever another thread does
        label_set, names, is_seen = self._chosen
        if not len(frames) == len(layouts) == len(grids.embedding):
            raise InputError(
                "grids and frames differ in number",
                got=f"{len(grids.embedding)} and {len(frames)}",
            )
        results = []
        for frame, layout, embedding, seenmask in zip(
            frames, layouts, grids.embedding, grids.seenmask, strict=True
        ):
            geometry = layout.grid_geometry(self.bundle.manifest.grid_geometry)
            label_map, seen = segment_grid(
                embedding,
                seenmask if self.use_seenmask else None,
                label_set,
                geometry=geometry,
                size_hw=layout.frame_hw,
                seen_bias=self.seen_bias,
            )
            cosines = None
            if self.unknown_below is not None:
                cosines = label_cosines(embedding, label_map, label_set, geometry=geometry)
                label_map = mark_unknown(
                    label_map, cosines, below=self.unknown_below, count=len(label_set)
                )
            results.append(
                Segmentation(
                    labels=label_map,
                    names=names,
                    seen=is_seen,
                    label_set=label_set,
                    seenmask=seen,
                    image_bgr=frame,
                    embedding=embedding,
                    geometry=geometry,
                    cosines=cosines,
                )
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
        return self.label(self.network(prepared), prepared.layouts, images)

    def __call__(self, image_bgr: NDArray[np.uint8]) -> Segmentation:
        """Segment one frame.

        Args:
            image_bgr: (H, W, 3) uint8 BGR, as `cv2.imread` gives it.

        Raises:
            InputError: If it is no colour image.
            BackendError: If the network fails.
        """
        return self.batch([image_bgr])[0]

    def warm_up(self, frame_hw: tuple[int, int] | None = None, *, batch: int = 1) -> None:
        """Do now what would make the first frame slow.

        Args:
            frame_hw: Size of the frames to come, if it is known: the network runs once.
            batch: Frames that will be given together. On a GPU the first call with another number
                takes up to seconds, for which algorithms are chosen.
        """
        # importing the kernels of overlays compiles them
        from szn_runtime import _overlay_kernels, confidence, preprocess, sei  # noqa: F401

        preprocess.warm_up(self.bundle.manifest.preprocess)
        dim = self.bundle.manifest.dim
        sei.warm_up(dim, count=len(self.labels))
        if self.unknown_below is not None:
            confidence.warm_up(dim)
        if frame_hw is not None:
            self.batch([np.zeros((*frame_hw, 3), np.uint8)] * batch)

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
