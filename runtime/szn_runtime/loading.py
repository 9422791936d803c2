"""The way in: a bundle, a backend and labels become a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import plan
from szn_runtime.segmenter import Segmenter
from szn_runtime.selection import choose_backend
from szn_runtime.vocabulary import Vocabulary

__all__ = ["load"]


def load(
    bundle: str | Path | Bundle | None = None,
    *,
    labels: str | Path | Sequence[str] | LabelSet | None = None,
    vocabulary: str | Path | Vocabulary | None = None,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    hint: Literal["latency", "throughput"] = "latency",
    allow_fallback: bool = False,
    batch: int = 1,
    frame_hw: tuple[int, int] | None = None,
    long_side: int | None = None,
    seen_bias: float = 0.0,
    use_seenmask: bool = True,
    unknown_below: float | None = None,
    announce: Callable[[str], None] | None = None,
) -> Segmenter:
    """Load a model, ready for its first frame.

    Args:
        bundle: Folder or .zip file that szn-export wrote; None for the one in the package.
        labels: As `Segmenter.with_labels` takes them; None for the bundle's own.
        vocabulary: File of word vectors to look words up in (see `Vocabulary.load`), in place of
            the bundle's vocabulary.
        backend: "auto" for the fastest one that is installed (measured once, then remembered, see
            `choose_backend`), "onnxruntime", "openvino", "tensorrt", or "fake" for tests.
        precision: "fp32", "fp16", "bf16", "int8" or "int8-bf16"; "auto" is fp32, or the fastest
            floating-point one where the backend is "auto" too.
        device: See `BackendOptions`.
        threads: CPU threads for the network; None for one per core.
        hint: "latency", or "throughput" for many frames from several threads.
        allow_fallback: Whether another device than the one asked for is good enough.
        batch: Frames that will be given together.
        frame_hw: Size of the frames to come, if it is known: the network runs on a batch.
        long_side: Pixels that a frame's longer side is resized to; None for the bundle's.
        seen_bias: Above 0, more pixels are taken for seen labels.
        use_seenmask: False: the most similar of all labels.
        unknown_below: Pixels of a lesser cosine become "unknown"; None for none.
        announce: Called with a line that says what "auto" chose and why.

    Raises:
        BundleError: If the bundle is missing or damaged.
        BackendError: If there is no such backend or it cannot run the model.
        MissingDependencyError: If the backend's library is not installed.
        InputError: If labels, vocabulary or size cannot be used.
        UsageError: If a backend option is out of its range.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle_path())
    words = vocabulary
    if isinstance(words, str | Path):
        words = Vocabulary.load(words, opened.projection())
    options = BackendOptions(
        precision=precision,
        device=device,
        threads=threads,
        hint=hint,
        allow_fallback=allow_fallback,
    )
    if backend == "auto":
        choice = choose_backend(
            opened, options, input_shape=_input_shape(opened, frame_hw, long_side, batch)
        )
        backend, options = choice.backend, replace(options, precision=choice.precision)
        if announce is not None:
            announce(choice.summary())
    runner = open_backend(backend, opened, options)
    try:
        segmenter = Segmenter(
            opened,
            runner,
            vocabulary=words,
            long_side=long_side,
            seen_bias=seen_bias,
            use_seenmask=use_seenmask,
            unknown_below=unknown_below,
        )
        if labels is not None:
            segmenter.with_labels(labels)
        segmenter.warm_up(frame_hw, batch=batch)
    except BaseException:
        runner.close()
        raise
    return segmenter


def _input_shape(
    bundle: Bundle, frame_hw: tuple[int, int] | None, long_side: int | None, batch: int
) -> tuple[int, int, int, int]:
    """What the network will get, (N, 3, H, W); frames of 4 to 3 where nothing is known."""
    preprocess = bundle.manifest.preprocess
    side = preprocess.long_side if long_side is None else long_side
    layout = plan(frame_hw or (480, 640), long_side=side, multiple=preprocess.multiple)
    return (batch, 3, *layout.padded_hw)
