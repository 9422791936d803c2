"""Processes that prepare batches ahead of training: how many, how they start and how they end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from types import TracebackType

from szn_runtime._cv import cv2
from szn_runtime.backends.base import usable_cores
from szn_runtime.errors import TrainingError
from szn_train.config import Workers
from szn_train.progress import Progress

__all__ = [
    "START_METHOD",
    "begin",
    "ended_as_errors",
    "refuse_in_workers",
    "starting",
    "worker_count",
]

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Not "fork", which copies a process with threads and a GPU into one where neither works. Children
of the fork server are none of this process, in which torch would otherwise raise the end of a
worker from a signal handler, at any line."""

_MOST = 4
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there
_AHEAD = 2
"""Batches that each worker has ready in shared memory, torch's default; one more is in use."""
_LEAST_SHARED_BYTES = 1 << 30
"""Where the size of a batch is not known; containers have 64 MB by default."""

_ENDS = ("DataLoader worker (pid", "Pin memory thread exited", "unable to allocate shared memory")
"""What torch says of a worker that is no more or cannot send its batch."""
_FILES = ("Too many open files", "items of ancdata")
"""What torch and multiprocessing say where no file can be opened: each batch in shared memory is
two."""
_GUARD = (
    'call it under `if __name__ == "__main__":` in the script, which these processes import, or '
    "with workers=0"
)


def worker_count(
    wanted: Workers, *, device: str, processes: int, batch_bytes: int | None, progress: Progress
) -> int:
    """How many processes prepare the batches of this one; a line says it if there are any.

    Args:
        wanted: Their number, or "auto": none where the network needs the CPU's cores, up to four
            where it has a GPU, as far as cores and shared memory go.
        device: Type of the device that trains, as torch names it.
        processes: Those that share the run. The cores and the shared memory are divided among
            those of this machine.
        batch_bytes: What a batch takes at most; None where it is not known.
        progress: Where the line goes.
    """
    count, why = 0 if wanted == "auto" else wanted, ""
    if wanted == "auto" and device != "cpu":
        here = _on_this_machine(processes)
        most = min(_MOST, usable_cores() // here)
        count, why = _fitting(most, batch_bytes and batch_bytes * here)
    if count or why:
        each = " for each" if processes > 1 else ""
        what = "1 process prepares" if count == 1 else f"{count or 'no'} processes prepare"
        progress.line(f"{what} batches{each}{why}")
    return count


def _fitting(most: int, batch_bytes: int | None) -> tuple[int, str]:
    """How many workers the free shared memory has room for, and why if those are fewer.

    Args:
        most: Their number if it has enough.
        batch_bytes: Of a batch of every process of this machine.
    """
    free = _free_shared_bytes()
    if free is None:
        return most, ""
    if batch_bytes is None:
        needed = _LEAST_SHARED_BYTES
        count = most if free >= needed else 0
    else:
        needed = batch_bytes * (_AHEAD * most + 1)
        count = min(most, max(free // batch_bytes - 1, 0) // _AHEAD)
    if count == most:
        return most, ""
    return count, (
        f": {_SHARED_MEMORY} has {free / 2**20:.0f} MB free and {most} need "
        f"{needed / 2**20:.0f}; give a container more (docker run --shm-size "
        f"{needed // 2**30 + 1}g), or --workers N"
    )


def _on_this_machine(processes: int) -> int:
    """How many of the processes of a run are on this machine, as torchrun and accelerate tell."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(max(int(told), 1), processes) if told.isdecimal() else processes


def _free_shared_bytes() -> int | None:
    """What is left of the shared memory, or None where it has no limit of its own."""
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None


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
    sys.excepthook = _show_unless_lost
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _show_unless_lost(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Errors of the thread that hands batches over, but not that Ctrl-C ended who asked for one."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with_the_parent() -> None:
    """End when the training process is killed; torch looks at the fork server, which goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def refuse_in_workers() -> None:
    """Keep a script that starts training as it is imported from doing so in the workers.

    Raises:
        TrainingError: In a process that imports the script to become a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise TrainingError("a process that prepares batches started training", fix=_GUARD)


@contextmanager
def ended_as_errors() -> Iterator[None]:
    """A context for the start of workers and the wait for their batches.

    Raises:
        TrainingError: If a worker ended, or there is no shared memory or no file left for it,
            which are errors of torch and of multiprocessing.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if any(text in str(error) for text in _FILES):
            raise TrainingError(
                "too many open files for the processes that prepare batches",
                fix="raise their number (ulimit -n 65536), or give fewer --workers, or 0; "
                "--resume goes on from the last checkpoint",
            ) from error
        lost = isinstance(error, EOFError | ConnectionError)
        if not lost and not any(text in str(error) for text in _ENDS):
            raise
        if _imports_a_script_without_guard():
            raise TrainingError(
                "the processes that prepare batches could not import the script that trains",
                fix=_GUARD,
            ) from error
        raise TrainingError(
            "a process that prepares batches ended unexpectedly, as for want of memory",
            fix="give fewer --workers, or 0, or a container more shared memory (docker run "
            "--shm-size); --resume goes on from the last checkpoint",
        ) from error


def _imports_a_script_without_guard() -> bool:
    """Whether workers import the script of this process, and it never asks if it is imported."""
    prepared = get_preparation_data("worker")
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or not {"init_main_from_name", "init_main_from_path"} & prepared.keys():
        return False
    try:
        return b"__main__" not in Path(path).read_bytes()
    except OSError:
        return False
