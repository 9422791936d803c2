from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

from szn_runtime.errors import TrainingError
from szn_train.checkpoint import load_checkpoint, load_weights
from szn_train.config import StepConfig, TrainConfig
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.trainer import train
from tests.conftest import REPOSITORY
from tests.train import catalogue


def start(
    *arguments: object,
    processes: int = 1,
    module: str = "tests.train.worker",
    place: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """A module's command line, one process or several of gloo."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= place or {}
    paths = [str(REPOSITORY), *sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def start_ranks(*arguments: object, processes: int) -> list[subprocess.Popen[str]]:
    """Processes as torchrun starts them, without it: it would not be killed with them."""
    if processes == 1:
        return [start(*arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return [
        start(*arguments, place={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def write_config(path: Path, root: Path, **changes: Any) -> Path:
    words = catalogue.write_words(root / "words.txt")
    path.write_text(json.dumps(catalogue.tiny_config(root / "data", words, **changes).to_dict()))
    return path


# several processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images for the embedding and seven for the seenmask: no batch size divides them."""
    root = tmp_path_factory.mktemp("data")
    catalogue.write_dataset(root / "data")
    split = root / "data" / "splits" / "train.txt"
    split.write_text(split.read_text().replace("t5\n", ""))
    return root


def steps(batch_size: int, **changes: Any) -> dict[str, Any]:
    first = StepConfig(
        epochs=2, batch_size=batch_size, learning_rate=1e-2, optimizer="sgd", momentum=0.9,
        weight_decay=1e-3, ema=0.5, schedule="cosine", **changes,
    )  # fmt: skip
    second = StepConfig(epochs=2, batch_size=batch_size, learning_rate=1e-2, **changes)
    return {"embedding_step": first, "seenmask_step": second}


@pytest.mark.slow
@pytest.mark.parametrize(("balance", "accumulation", "early_stop"), [(False, 1, 0), (True, 2, 2)])
def test_two_processes_train_like_one_with_the_doubled_batch(
    data: Path, tmp_path: Path, balance: bool, accumulation: int, early_stop: int
) -> None:
    shared = {"backbone": "plain", "balance_seenmask": balance, "val_split": "train"}
    changes = {"accumulation": accumulation, "early_stop": early_stop}
    both = write_config(tmp_path / "two.json", data, **shared, **steps(2, **changes))
    alone = write_config(tmp_path / "one.json", data, **shared, **steps(4, **changes))
    running = [
        start(both, tmp_path / "two", processes=2),
        start(alone, tmp_path / "one"),
    ]
    outputs = [finish(process) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    two, one = (load_weights(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)
    rows = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("two", "one")]
    assert [state["processes"] for state in rows] == [2, 1]
    for ours, theirs in zip(rows[0]["history"], rows[1]["history"], strict=True):
        assert ours["epoch"] == theirs["epoch"]
        assert ours["loss"] > 0
        assert ours["images_per_s"] > 0
        if early_stop:
            assert ours["score"] == pytest.approx(theirs["score"], abs=0.5)
    # the second process drew from generators of its own
    assert len(rows[0]["random"]) == 2
    assert not torch.equal(rows[0]["random"][0]["cpu"], rows[0]["random"][1]["cpu"])


@pytest.mark.slow
def test_the_first_of_two_processes_fits_a_seenmask_of_statistics(tmp_path: Path) -> None:
    config = catalogue.statistical_config(tmp_path, backbone="plain", weights="none", **steps(2))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    process = start(path, tmp_path / "run", processes=2)
    output = finish(process)
    assert process.returncode == 0, output
    found = load_weights(tmp_path / "run" / "model.safetensors")
    assert found["seenmask_head.statistics.directions"].shape[:2] == (7, 6)
    assert found["seenmask_head.statistic_weight"].abs().sum() > 0


@pytest.mark.slow
def test_a_module_is_the_first_ones_in_every_process() -> None:
    process = start(processes=2, module="tests.train.broadcaster")
    output = finish(process)
    assert process.returncode == 0, output
    assert "rank 0: [2.0, 2.0, 2.0], was 2.0" in output
    assert "rank 1: [2.0, 2.0, 2.0], was 3.0" in output


@pytest.mark.slow
def test_two_processes_refit_the_embedding_like_one(data: Path, tmp_path: Path) -> None:
    frozen = StepConfig(epochs=1, batch_size=2, learning_rate=1e-30, optimizer="sgd")
    second = StepConfig(epochs=2, batch_size=2, learning_rate=1e-2)
    shared = {"backbone": "plain", "refit_embedding": True}
    changes = {"embedding_step": frozen, "seenmask_step": second}
    both = write_config(tmp_path / "two.json", data, **shared, **changes)
    changes["seenmask_step"] = dataclasses.replace(second, batch_size=4)
    alone = write_config(tmp_path / "one.json", data, **shared, **changes)
    running = [start(both, tmp_path / "two", processes=2), start(alone, tmp_path / "one")]
    outputs = [finish(process) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    two, one = (load_weights(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_not_resumed_by_one(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "two.json", data, backbone="plain", **steps(2))
    process = start(config, tmp_path / "run", processes=2)
    output = finish(process)
    assert process.returncode == 0, output
    values = TrainConfig.from_dict(json.loads(config.read_text()))
    expected = "was written by another number of processes: got 1, expected 2; resume with as many"
    with pytest.raises(TrainingError, match=expected):
        train(values, tmp_path / "run", progress=Progress(quiet=True), resume=True)


@pytest.mark.slow
def test_torchrun_starts_the_command_line(data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text(
        f"""
        void = ["rock"]
        train_unseen = ["boat"]
        unseen = ["sheep"]
        backbone = "efficientnet_lite0"
        weights = "none"
        embeddings = "{catalogue.write_words(tmp_path / "words.txt")}"
        dim = 4
        long_side = 64
        seenmask = "linear"
        [embedding_step]
        epochs = 1
        batch_size = 2
        [seenmask_step]
        epochs = 1
        """
    )
    process = start(
        "--data", data / "data", "--preset", preset, "--out", tmp_path / "run", "--threads", 1,
        processes=2, module="szn_train.cli",
    )  # fmt: skip
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("run written to") == 1  # one process speaks
    assert output.count("2 processes, this one on cpu") == 1
    assert re.search(r"embedding 1/1: loss \d\.\d+, \d+\.\d images/s", output)
    assert (tmp_path / "run" / "eval-val.json").is_file()


# killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "backbone", "epochs"), [(1, "efficientnet_lite0", 2), (2, "plain", 6)]
)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, processes: int, backbone: str, epochs: int
) -> None:
    catalogue.write_dataset(tmp_path / "data")
    step = StepConfig(
        epochs=epochs, batch_size=2 // processes, learning_rate=1e-3, augment=True, ema=0.5,
        checkpoint_every=1,
    )  # fmt: skip
    changes: dict[str, Any] = {"backbone": backbone, "embedding_step": step}
    changes["seenmask_step"] = dataclasses.replace(step, augment=False)
    config = write_config(tmp_path / "config.json", tmp_path, **changes)
    checkpoint = tmp_path / "broken" / "checkpoint.pt"
    # checkpoints that the processes may be seen to write before they are killed
    for writes, options in ((2, []), (3, ["resume"]), (4, ["resume"])):
        running = start_ranks(config, tmp_path / "broken", *options, processes=processes)
        seen: set[int] = set()
        while running[0].poll() is None and len(seen) < writes:
            if checkpoint.is_file():
                seen.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.002)
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            finish(process)
        assert running[0].returncode == -signal.SIGKILL
        assert not (tmp_path / "broken" / "model.safetensors").exists()
    last = start_ranks(config, tmp_path / "broken", "resume", processes=processes)
    unbroken = start_ranks(config, tmp_path / "whole", processes=processes)
    for process in (*last, *unbroken):
        output = finish(process)
        assert process.returncode == 0, output
    one, other = (load_weights(tmp_path / n / "model.safetensors") for n in ("whole", "broken"))
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    assert [path.name for path in checkpoint.parent.glob(".*.tmp")] == []


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    run = catalogue.train_tiny(tmp_path)
    expected = load_weights(run.folder / "model.safetensors")
    for name in ("checkpoint.pt", "model.safetensors", "history.csv"):
        (run.folder / name).unlink()
    (run.folder / ".checkpoint.pt.12.tmp").write_bytes(b"half a checkpoint")
    again = train(run.config, run.folder, progress=Progress(quiet=True), resume=True)
    for name, value in expected.items():
        assert torch.equal(again.network.state_dict()[name], value), name
    assert not (run.folder / ".checkpoint.pt.12.tmp").exists()


# one process ----------------------------------------------------------------------------------


def test_one_process_is_the_main_one() -> None:
    processes = Processes()
    assert (processes.count, processes.rank, processes.is_main) == (1, 0, True)
    assert processes.total(1.5, 2.0) == [1.5, 2.0]
    assert processes.gathered({"a": 1}) == [{"a": 1}]
    assert processes.scale_state() == {}
    module = nn.Linear(2, 2)
    assert processes.shared(module) is module
    processes.wait()


def test_processes_wait_as_long_as_a_fit_to_a_large_data_set_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: dict[str, Any] = {}

    def recorded(**options: Any) -> accelerate.Accelerator:
        handed.update(options)
        return accelerator(**options)

    accelerator = accelerate.Accelerator
    monkeypatch.setattr(accelerate, "Accelerator", recorded)
    assert Processes().count == 1
    (group,) = handed["kwargs_handlers"]
    assert group.to_kwargs() == {"timeout": timedelta(hours=24)}


def test_precisions_follow_each_other_in_one_process() -> None:
    layer = nn.Linear(8, 8)
    types = []
    for precision in ("bf16", "fp32", "bf16"):
        processes = Processes(precision)
        with processes.autocast():
            types.append(
                layer.to(processes.device)(torch.ones(1, 8, device=processes.device)).dtype
            )
    assert types == [torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on GPUs")
def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(TrainingError, match="fp16 needs a GPU; train with --precision bf16 or fp3"):
        Processes("fp16")


def test_random_states_come_back() -> None:
    processes = Processes()
    saved = processes.random_state()
    drawn = torch.rand(3)
    processes.load_random_state(saved)
    assert torch.equal(torch.rand(3), drawn)
    expected = "another number of processes: got 1, expected 2; resume with as many"
    with pytest.raises(TrainingError, match=expected):
        processes.load_random_state(saved * 2)


def test_batch_norm_of_several_gpus_computes_the_same() -> None:
    from timm.layers import convert_sync_batchnorm

    from szn_train.backbones import create_backbone

    torch.manual_seed(0)
    backbone = create_backbone("efficientnet_lite0", weights="none").eval()
    frames = torch.randn(1, 3, 64, 64)
    names = list(backbone.state_dict())
    with torch.inference_mode():
        expected: Tensor = backbone(frames)
        converted = convert_sync_batchnorm(backbone)
        assert converted is backbone  # parameters and names stay
        assert list(backbone.state_dict()) == names
        torch.testing.assert_close(backbone(frames), expected)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in backbone.modules())
