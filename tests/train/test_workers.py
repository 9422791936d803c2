from __future__ import annotations

import importlib
import inspect
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from szn_runtime.errors import TrainingError
from szn_train import workers
from szn_train.batches import BYTES_PER_PIXEL
from szn_train.checkpoint import load_checkpoint, load_weights, read_json
from szn_train.cli import train_main
from szn_train.config import StepConfig, TrainConfig, Workers
from szn_train.preset_files import load_preset
from szn_train.progress import Progress
from szn_train.trainer import train
from szn_train.workers import ended_as_errors, worker_count
from tests.conftest import REPOSITORY
from tests.train import catalogue
from tests.train.killed import Killed

QUIET = Progress(quiet=True)
CROPPED = StepConfig(epochs=1, batch_size=5, augment=True)


def run_script(script: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status and output of a script in an interpreter of its own."""
    paths = [str(REPOSITORY), *sys.path]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class Lines(Progress):
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


# their number -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "device", "processes", "here", "cores", "free_mb", "batch_mb", "count", "line"),
    [
        ("auto", "cpu", 1, None, 16, None, 1, 0, None),
        ("auto", "cuda", 1, None, 16, None, 1, 4, "4 processes prepare batches"),
        ("auto", "cuda", 1, None, 16, 1024, None, 4, "4 processes prepare batches"),
        ("auto", "cuda", 1, "", 3, None, 1, 3, "3 processes prepare batches"),
        ("auto", "cuda", 8, None, 12, None, 1, 1, "1 process prepares batches for each"),
        ("auto", "cuda", 8, "4", 12, None, 1, 3, "3 processes prepare batches for each"),
        ("auto", "cuda", 1, "4", 12, None, 1, 4, "4 processes prepare batches"),
        ("auto", "cuda", 8, None, 4, 64, 100, 0, None),
        ("auto", "mps", 2, None, 5, None, None, 2, "2 processes prepare batches for each"),
        ("auto", "cuda", 1, None, 16, 64, 7, 4, "4 processes prepare batches"),
        ("auto", "cuda", 1, None, 16, 62, 7, 3, "3 processes prepare batches: 62 of 63"),
        ("auto", "cuda", 1, None, 16, 64, 20, 1, "1 process prepares batches: 64 of 180"),
        ("auto", "cuda", 1, None, 16, 59, 20, 0, "no processes prepare batches: 59 of 180"),
        ("auto", "cuda", 8, "2", 2, 64, 20, 0, "no processes prepare batches for each: 64 of 120"),
        ("auto", "cuda", 1, None, 3, 1023, None, 0, "no processes prepare batches: 1023 of 1024"),
        (0, "cuda", 1, None, 16, None, 1, 0, None),
        (6, "cpu", 1, None, 2, 64, 100, 6, "6 processes prepare batches"),
    ],
)
def test_as_many_as_are_asked_for_or_as_a_gpu_needs(
    monkeypatch: pytest.MonkeyPatch,
    wanted: Workers,
    device: str,
    processes: int,
    here: str | None,
    cores: int,
    free_mb: int | None,
    batch_mb: int | None,
    count: int,
    line: str | None,
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    free, batch_bytes = (None if mb is None else mb << 20 for mb in (free_mb, batch_mb))
    monkeypatch.setattr(workers, "_free_shared_bytes", lambda: free)
    if here is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    said = Lines()
    found = worker_count(
        wanted, device=device, processes=processes, batch_bytes=batch_bytes, progress=said
    )
    assert found == count
    short = re.compile(r"\S+ has (\d+) MB free and \d need (\d+); give a container more .*")
    assert [short.sub(r"\1 of \2", text) for text in said.lines] == ([line] if line else [])


def test_a_container_with_little_shared_memory_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    said = Lines()
    size = 1250 << 20
    assert worker_count("auto", device="cuda", processes=1, batch_bytes=size, progress=said) == 0
    assert said.lines == [
        f"no processes prepare batches: {tmp_path} has 64 MB free and 4 need 11250; give a "
        "container more (docker run --shm-size 11g), or --workers N"
    ]
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path / "none")  # as on macOS
    assert worker_count("auto", device="cuda", processes=1, batch_bytes=size, progress=QUIET) == 4


@pytest.mark.parametrize(
    ("changes", "pixels"),
    [
        ({"crop_hw": (96, 64)}, 4 * 64 * 64),  # of the second step, which is not augmented
        ({"crop_hw": (96, 64), "seenmask_step": CROPPED}, 5 * 96 * 64),
        ({"long_side": 65}, 4 * 96 * 96),
        ({"seenmask": "statistics"}, 3 * 64 * 64),  # has no second step
        ({"resize": False}, None),
        ({"resize": False, "embedding_step": CROPPED}, None),
        ({"resize": False, "embedding_step": CROPPED, "seenmask_step": CROPPED}, 5 * 64 * 64),
    ],
)
def test_shared_memory_is_compared_with_the_largest_batch_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], pixels: int | None
) -> None:
    class Asked(Exception):  # noqa: N818 - it is none
        pass

    def asked(_: Workers, **facts: Any) -> int:
        raise Asked(facts["batch_bytes"])

    monkeypatch.setattr("szn_train.trainer.worker_count", asked)
    config = catalogue.tiny_config(tmp_path, tmp_path, **changes)
    with pytest.raises(Asked) as caught:
        train(config, tmp_path / "run", progress=QUIET)
    assert caught.value.args == (pixels and pixels * BYTES_PER_PIXEL,)


# their start ------------------------------------------------------------------------------------

STARTS = """
import multiprocessing, signal
from szn_train.workers import START_METHOD, starting

def blocked(sent):
    sent.put(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    context = multiprocessing.get_context(START_METHOD)
    with starting():
        sent = context.SimpleQueue()  # like torch's loader: the first thing that needs a tracker
        child = context.Process(target=blocked, args=(sent,))
        child.start()
    print(sent.get(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    child.join()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there are no such masks")
def test_the_first_workers_of_a_process_start_deaf_to_ctrl_c_which_is_not(tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    assert run_script(script) == (0, "True False\n", "")


HANDS_OVER = """
import os, sys
from multiprocessing import connection, current_process, resource_sharer
from szn_train.workers import begin

begin(0)
shared = resource_sharer.DupFd(0)  # like a tensor that is sent: starts a thread that hands it over
address, key = shared._id
if sys.argv[1:] == ["bug"]:
    with connection.Client(address, authkey=current_process().authkey) as client:
        client.send((key + 1, os.getpid()))
else:
    connection.Client(address).close()
os.close(shared.detach())  # after the other, since the thread serves one by one
print("handed over")
"""


@pytest.mark.skipif(os.name == "nt", reason="tensors are shared otherwise")
def test_a_worker_says_nothing_when_who_asked_for_a_batch_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "hands_over.py"
    script.write_text(HANDS_OVER)
    assert run_script(script) == (0, "handed over\n", "")
    status, output, said = run_script(script, "bug")
    assert (status, output) == (0, "handed over\n")
    assert "KeyError: 2" in said  # other errors are not hidden


# their end --------------------------------------------------------------------------------------


def error_of(error: Exception) -> str:
    """What becomes of an error that is met as batches are waited for."""
    with pytest.raises(TrainingError) as caught, ended_as_errors():
        raise error
    text = str(caught.value)
    assert "\n" not in text
    return text


@contextmanager
def limited(kind: str, count: int) -> Iterator[None]:
    """A context in which the system gives this process only so much of something."""
    resource = pytest.importorskip("resource")
    number = getattr(resource, kind)
    before = resource.getrlimit(number)
    resource.setrlimit(number, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(number, before)


@pytest.mark.skipif(sys.platform != "linux", reason="tensors are shared otherwise")
def test_a_batch_that_no_file_is_left_for_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError) as caught, limited("RLIMIT_NOFILE", 0):
        torch.zeros(9).share_memory_()  # type: ignore[no-untyped-call]
    expected = "too many open files for the processes that prepare batches; raise their number (ul"
    assert expected in error_of(caught.value)
    # as torch passes it on from a worker
    assert expected in error_of(RuntimeError(f"Caught RuntimeError in DataLoader:\n{caught.value}"))


@pytest.mark.skipif(sys.platform != "linux", reason="tensors are shared otherwise")
def test_the_text_that_full_shared_memory_is_known_by_is_torchs() -> None:
    said = "unable to allocate shared memory"
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        assert code.find(said.encode()) >= 0
    text = f"Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: {said}(shm) for ..."
    assert "give fewer --workers, or 0, or a container more shared" in error_of(RuntimeError(text))


def test_workers_that_cannot_start_for_want_of_files_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(OSError, match="open files") as caught, limited("RLIMIT_NOFILE", 0):
        os.pipe()
    assert "(ulimit -n 65536), or give fewer --workers" in error_of(caught.value)


@pytest.mark.parametrize(
    ("module", "said", "expected"),
    [
        ("torch.utils.data.dataloader", "DataLoader worker (pid", "as for want of memory"),
        ("torch.utils.data.dataloader", "Pin memory thread exited", "as for want of memory"),
        ("torch.utils.data.dataloader", "Too many open files. Comm", "ulimit -n"),
        ("multiprocessing.reduction", "items of ancdata", "ulimit -n"),
    ],
)
def test_texts_that_errors_are_known_by_are_those_of_the_libraries(
    module: str, said: str, expected: str
) -> None:
    assert said in inspect.getsource(importlib.import_module(module))
    assert expected in error_of(RuntimeError(f"{said} ..."))


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(104, "reset"), BrokenPipeError()]
)
def test_a_lost_connection_to_a_worker_is_its_end(error: Exception) -> None:
    assert "ended unexpectedly, as for want of memory" in error_of(error)


def test_a_script_that_workers_cannot_import_is_told_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    data, words = catalogue.write_dataset(tmp_path / "data"), catalogue.write_words(tmp_path / "w")
    script.write_text(
        "from pathlib import Path\n"
        "from szn_train.progress import Progress\n"
        "from szn_train.trainer import train\n"
        "from tests.train.catalogue import tiny_config\n"
        f"config = tiny_config(Path({str(data)!r}), Path({str(words)!r}), workers=1)\n"
        f"train(config, Path({str(tmp_path / 'run')!r}), progress=Progress(quiet=True))\n"
    )
    status, _, said = run_script(script)
    told = [line for line in said.splitlines() if line.startswith("szn_runtime.errors.")]
    fix = 'call it under `if __name__ == "__main__":` in the script'
    assert status == 1
    assert len(told) == 2, said
    assert f"a process that prepares batches started training; {fix}" in told[0]
    assert f"could not import the script that trains; {fix}" in told[1]


def test_other_errors_of_files_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), ended_as_errors():
        raise FileNotFoundError(2, "No such file or directory")


def test_a_bug_in_a_worker_stays_one() -> None:
    with pytest.raises(RuntimeError, match="Caught RuntimeError"), ended_as_errors():
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal ...")


# runs -------------------------------------------------------------------------------------------


class KilledAfter(Lines):
    """Progress that ends the run after a number of batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def task(self, name: str, total: int):  # type: ignore[no-untyped-def]
        task = super().task(name, total)
        advance = task.advance

        def counted(facts: str = "") -> None:
            advance(facts)
            self._left -= 1
            if not self._left:
                raise Killed

        task.advance = counted  # type: ignore[method-assign]
        return task


def test_a_run_is_the_same_whatever_prepares_its_batches_before_and_after_it_is_killed(
    tmp_path: Path,
) -> None:
    step = StepConfig(
        epochs=2, batch_size=2, learning_rate=1e-3, augment=True, ema=0.5, checkpoint_every=1
    )
    data, words = catalogue.write_dataset(tmp_path / "data"), catalogue.write_words(tmp_path / "w")

    def go(folder: str, count: Workers, progress: Progress, *, resume: bool = False) -> None:
        config = catalogue.tiny_config(data, words, embedding_step=step, workers=count)
        train(config, tmp_path / folder, progress=progress, resume=resume)

    go("whole", "auto" if not torch.accelerator.is_available() else 0, QUIET)
    said = KilledAfter(5)  # the second of three batches of the second epoch
    with pytest.raises(Killed):
        go("broken", 1, said)
    assert "1 process prepares batches" in said.lines
    assert load_checkpoint(tmp_path / "broken" / "checkpoint.pt")["batches"] == 1
    config = read_json(tmp_path / "broken" / "config.json")
    assert config["config"]["workers"] == 1
    go("broken", 0, QUIET, resume=True)
    resumed = read_json(tmp_path / "broken" / "config.json")
    assert resumed == {**config, "config": {**config["config"], "workers": 0}}
    one, other = (load_weights(tmp_path / n / "model.safetensors") for n in ("whole", "broken"))
    for name, value in one.items():
        assert torch.equal(other[name], value), name


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    data, words = catalogue.write_dataset(tmp_path / "data"), catalogue.write_words(tmp_path / "w")
    preset = tmp_path / "tiny.toml"
    preset.write_text(
        f"""
        void = ["rock"]
        train_unseen = ["boat"]
        unseen = ["sheep"]
        backbone = "efficientnet_lite0"
        weights = "none"
        embeddings = "{words}"
        dim = 4
        long_side = 64
        crop_hw = [64, 64]
        seenmask = "linear"
        [embedding_step]
        epochs = 4
        batch_size = 2
        augment = true
        checkpoint_every = 1
        [seenmask_step]
        epochs = 1
        """
    )
    command = ["--data", data, "--preset", preset, "--out", tmp_path / "broken", "--workers", 1]
    paths = [str(REPOSITORY), *sys.path]
    running = subprocess.Popen(
        [sys.executable, "-m", "szn_train.cli", *map(str, command), "--threads", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    while running.poll() is None and not (tmp_path / "broken" / "checkpoint.pt").is_file():
        time.sleep(0.002)
    try:
        # Ctrl-C goes to all processes of a terminal, the killer of a full memory takes one
        (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
        output, _ = running.communicate(timeout=60)  # until all that could write there are gone
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert not (tmp_path / "broken" / "model.safetensors").exists(), output
    assert "1 process prepares batches" in output
    if number == signal.SIGINT:
        assert "Traceback" not in output
    assert running.returncode == (1 if number == signal.SIGINT else -signal.SIGKILL)
    torch.set_num_threads(1)
    resumed = CliRunner().invoke(
        train_main, ["--out", str(tmp_path / "broken"), "--resume", "--workers", "0"]
    )
    assert resumed.exit_code == 0, resumed.output
    assert "prepare" not in resumed.output
    config = TrainConfig.from_dict({**load_preset(str(preset)), "data": str(data), "workers": 0})
    train(config, tmp_path / "whole", progress=QUIET)
    one, other = (load_weights(tmp_path / n / "model.safetensors") for n in ("whole", "broken"))
    for name, value in one.items():
        assert torch.equal(other[name], value), name
