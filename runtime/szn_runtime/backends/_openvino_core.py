"""OpenVINO's entry, one for the whole process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from szn_runtime.errors import MissingDependencyError

__all__ = ["openvino_core"]


def openvino_core() -> Any:
    """The `openvino.Core` that everything here shares.

    It is never let go. With the first of its networks OpenVINO gives the thread a stack of its own
    for signal handlers, and takes it back when the core and its networks are gone: from whatever
    thread that happens in, which may be another one, and in whatever order, which with several
    cores may be another order than they came in. The first thread then has a stack that is no
    more, and the next signal, such as Ctrl-C, is the end of the process.

    Raises:
        MissingDependencyError: If OpenVINO is not installed.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingDependencyError(
            "OpenVINO is not installed", got=error, fix='pip install "szn[openvino]"'
        ) from error
    return _kept(ov.Core)


@cache
def _kept(make: Callable[[], Any]) -> Any:
    return make()
