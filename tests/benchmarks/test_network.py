from __future__ import annotations

from pathlib import Path
from typing import Any

import network
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from network_cases import Case, Hint
from network_vendors import bare_onnxruntime

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError
from tests.runtime import catalogue


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What sessions are opened with, on a CPU that takes itself for a GPU."""
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    session, asked = ort.InferenceSession, []

    def recorded(model: bytes, options: Any, providers: list[Any]) -> Any:
        try:
            fallback = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        except RuntimeError:
            fallback = None
        names = (
            "graph_optimization_level",
            "execution_mode",
            "intra_op_num_threads",
            "inter_op_num_threads",
        )
        asked.append({
            "model": model,
            "providers": providers,
            "fallback": fallback,
            **{name: getattr(options, name) for name in names},
        })  # fmt: skip
        return session(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", recorded)
    return asked


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_the_bare_session_has_the_options_of_the_backend(
    tmp_path: Path, asked: list[dict[str, Any]], device: str, hint: Hint
) -> None:
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))
    case = Case(
        model="tiny", bundle=bundle, backend="onnxruntime", precision="fp32", batch=1, hint=hint,
        input_hw=(16, 24), threads=2, device=device,
    )  # fmt: skip
    options = BackendOptions(precision="fp32", threads=2, hint=hint, device=device)
    if device == "gpu":
        with pytest.raises(BackendError, match="fell back"):
            open_backend("onnxruntime", bundle, options)
    else:
        open_backend("onnxruntime", bundle, options).close()
    run = bare_onnxruntime(case, np.zeros(case.shape, np.float32))
    assert run(0.01) > 0
    ours, theirs = asked
    assert ours == theirs
    if device == "gpu":
        ((name, settings),) = theirs["providers"]
        assert name == "CUDAExecutionProvider"
        assert settings["cudnn_conv_algo_search"] == "HEURISTIC"


@pytest.mark.parametrize("option", ["--batches", "--size"])
@pytest.mark.parametrize("value", ["0", "1,-4", "1,many", ""])
def test_sizes_that_are_no_numbers_above_0_are_refused(option: str, value: str) -> None:
    result = CliRunner().invoke(network.main, ["--quick", "--backend", "none", option, value])
    assert result.exit_code == 2
    assert "expected numbers above 0 with commas between, such as 1,4" in result.output
