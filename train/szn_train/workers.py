"""Processes that prepare batches ahead of training: how many, how they start and how they end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from szn_runtime._cv import cv2
from szn_runtime.backends.base import usable_cores
from szn_runtime.errors import TrainingError
from szn_train.config import Workers
from szn_train.progress import Progress

__all__ = ["START_METHOD", "begin", "ended_as_errors", "starting", "worker_count"]

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Not "fork", which copies a process with threads and a GPU into one where neither works. Children
of the fork server are none of this process, in which torch would otherwise raise the end of a
worker from a signal handler, at any line."""

_MOST = 4
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there
_LEAST_SHARED_BYTES = 1 << 30
"""Batches reach the training process through shared memory. Of the 64 MB that containers have by
default eight ready batches fill all."""

_ENDS = ("DataLoader worker (pid", "Pin memory thread exited", "unable to allocate shared memory")
"""What torch says of a worker that is no more or cannot send its batch."""


def worker_count(wanted: Workers, *, device: str, processes: int, progress: Progress) -> int:
    """How many processes prepare the batches of this one; a line says it if there are any.

    Args:
        wanted: Their number, or "auto": none where the network needs the CPU's cores, up to four
            where it has a GPU.
        device: Type of the device that trains, as torch names it.
        processes: Those that share the run and the cores.
        progress: Where the line goes.
    """
    count = 0 if wanted == "auto" else wanted
    if wanted == "auto" and device != "cpu":
        count = min(_MOST, usable_cores() // processes)
        shared = _shared_bytes()
        if count and shared is not None and shared < _LEAST_SHARED_BYTES:
            progress.line(
                f"no processes prepare batches: {_SHARED_MEMORY} has {shared / 2**20:.0f} MB of "
                "1024; give a container more (docker run --shm-size 2g), or --workers N"
            )
            return 0
    if count:
        each = " for each" if processes > 1 else ""
        what = "1 process prepares" if count == 1 else f"{count} processes prepare"
        progress.line(f"{what} batches{each}")
    return count


def _shared_bytes() -> int | None:
    """Size of the shared memory, or None where it has no limit of its own."""
    return shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None


@contextmanager
def starting() -> Iterator[None]:
    """A context in which workers start, deaf to Ctrl-C: as they import they would print of it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    resource_tracker.ensure_running()  # its start, which the first queue causes, would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(_: int) -> None:
    """What a worker does first: bind its life to the training process, and take one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `starting` could not block it
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_the_parent() -> None:
    """End when the training process is killed; torch looks at the fork server, which goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def ended_as_errors() -> Iterator[None]:
    """A context for the wait for a worker's batch.

    Raises:
        TrainingError: If a worker ended or has no shared memory, which are RuntimeErrors of torch.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in _ENDS):
            raise
        raise TrainingError(
            "a process that prepares batches ended unexpectedly, as for want of memory",
            fix="give fewer --workers, or 0, or a container more shared memory (docker run "
            "--shm-size); --resume goes on from the last checkpoint",
        ) from error
