"""Models that `network.py` measures: VGG16 beside szn-mini, and what a model has to compute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from network_cases import FRAME_HW

from szn_runtime.bundle import Bundle
from szn_runtime.cache import cache_folder

__all__ = ["giga_multiply_adds", "vgg16_bundle"]


def vgg16_bundle(like: Bundle) -> Bundle:
    """FCN-32s on VGG16 with random weights, exported once and kept in the user's cache (0.5 GB).

    Args:
        like: Whose labels it takes.
    """
    from szn_export.to_onnx import onnx_from_network
    from szn_runtime.bundle_files import LABELS_FILE
    from szn_runtime.bundle_writer import write_bundle
    from szn_runtime.manifest import Artefact

    folder = cache_folder("benchmarks") / "vgg16"
    if folder.exists():
        return Bundle.open(folder)
    import torch

    from szn_train.backbones import create_backbone
    from szn_train.model import SeenmaskZeroShotNetwork
    from szn_train.transforms import preprocess_of

    torch.manual_seed(0)
    backbone = create_backbone("vgg16", weights="none")
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    network = SeenmaskZeroShotNetwork(backbone, like.manifest.dim)
    content, opset = onnx_from_network(network, {"szn.name": "vgg16"})
    manifest = dataclasses.replace(
        like.manifest,
        name="vgg16",
        backbone="vgg16",
        stride=backbone.info.stride,
        node_offset=backbone.info.node_offset,
        preprocess=preprocess_of(backbone.info, max(FRAME_HW)),
        artefacts=(Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=opset),),
        training={},
        metrics={},
    )
    write_bundle(folder, manifest, {LABELS_FILE: like.read(LABELS_FILE), "model.onnx": content})
    return Bundle.open(folder)


def giga_multiply_adds(model: bytes, input_name: str, shape: Sequence[int]) -> float:
    """1e-9 of the multiplications in the convolutions and matrix products of an ONNX graph.

    Args:
        model: The ONNX file.
        input_name: Of its input.
        shape: That the input has.
    """
    import onnx

    proto = onnx.load_from_string(model)
    graph = proto.graph
    frames = next(value for value in graph.input if value.name == input_name)
    for dimension, size in zip(frames.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")  # its names of dimensions would stay
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes[value.name] = [each.dim_value for each in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(sizes[node.output[0]]) * math.prod(sizes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(sizes[node.output[0]]) * sizes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(sizes[node.output[0]]) * sizes[node.input[0]][0 if turned else 1]
    return 1e-9 * total
