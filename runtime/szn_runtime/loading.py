"""The way in: a bundle, a backend and labels become a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from szn_runtime.backends import open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.labels import LabelSet
from szn_runtime.segmenter import Segmenter
from szn_runtime.vocabulary import Vocabulary

__all__ = ["load"]


def load(
    bundle: str | Path | Bundle | None = None,
    *,
    labels: str | Path | Sequence[str] | LabelSet | None = None,
    vocabulary: str | Path | Vocabulary | None = None,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
    long_side: int | None = None,
    seen_bias: float = 0.0,
) -> Segmenter:
    """Load a model, ready for its first frame.

    Args:
        bundle: Folder or .zip file that szn-export wrote; None for the one in the package.
        labels: As `Segmenter.with_labels` takes them; None for the bundle's own.
        vocabulary: File of word vectors to look words up in (see `Vocabulary.load`), in place of
            the bundle's vocabulary.
        backend: "onnxruntime", or "fake" for tests.
        precision: Of the model file, "fp32".
        threads: CPU threads for the network; None for one per core.
        long_side: Pixels that a frame's longer side is resized to; None for the bundle's.
        seen_bias: Above 0, more pixels are taken for seen labels.

    Raises:
        BundleError: If the bundle is missing or damaged.
        BackendError: If there is no such backend or it cannot run the model.
        MissingDependencyError: If the backend's library is not installed.
        InputError: If labels, vocabulary or size cannot be used.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle_path())
    words = vocabulary
    if isinstance(words, str | Path):
        words = Vocabulary.load(words, opened.projection())
    runner = open_backend(backend, opened, precision=precision, threads=threads)
    try:
        segmenter = Segmenter(
            opened, runner, vocabulary=words, long_side=long_side, seen_bias=seen_bias
        )
        if labels is not None:
            segmenter.with_labels(labels)
        segmenter.warm_up()
    except BaseException:
        runner.close()
        raise
    return segmenter
