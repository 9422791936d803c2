"""Parts of Triton's `config.pbtxt`, in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

__all__ = ["Tensor", "batching", "model", "parameters", "runs_on", "step"]

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, Triton's type, and sizes without the batch."""

_QUEUE_MICROSECONDS = 1000


def model(name: str, batch: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """What every model's configuration begins with; batch 0: the batch is one of the sizes."""
    text = f"name: {_quoted(name)}\nmax_batch_size: {batch}\n"
    for field, tensors in (("input", inputs), ("output", outputs)):
        for tensor, kind, sizes in tensors:
            dims = ", ".join(map(str, sizes if batch else (-1, *sizes)))
            text += f"{field} {{\n  name: {_quoted(tensor)}\n  data_type: {kind}\n"
            text += f"  dims: [ {dims} ]\n}}\n"
    return text


def runs_on(backend: str, kind: str) -> str:
    """Backend of a model with one instance, on "CPU", "GPU" or what Triton has ("AUTO")."""
    return f'backend: "{backend}"\ninstance_group {{ count: 1 kind: KIND_{kind} }}\n'


def batching(batch: int) -> str:
    """Join requests: powers of two are preferred, and the most there may be."""
    if batch < 2:
        return ""
    sizes = sorted({2**power for power in range(1, batch.bit_length())} | {batch})
    return (
        f"dynamic_batching {{\n  preferred_batch_size: [ {', '.join(map(str, sizes))} ]\n"
        f"  max_queue_delay_microseconds: {_QUEUE_MICROSECONDS}\n}}\n"
    )


def parameters(values: Mapping[str, str]) -> str:
    """Settings that the backend reads."""
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in values.items()
    )


def step(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """A model of an ensemble, whose tensors are called as the model calls them."""
    maps = [("input_map", tensor) for tensor in inputs]
    maps += [("output_map", tensor) for tensor in outputs]
    lines = "".join(
        f"    {kind} {{ key: {_quoted(tensor)} value: {_quoted(tensor)} }}\n"
        for kind, (tensor, _, _) in maps
    )
    return f"  step {{\n    model_name: {_quoted(name)}\n    model_version: -1\n{lines}  }}\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)
