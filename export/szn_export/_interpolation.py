"""Bilinear interpolation from the network's grid to the pixels of its input, in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphBuilder", "Interpolation"]

_FLOAT = 1  # of `onnx.TensorProto.DataType`


class GraphBuilder:
    """A graph that grows at its end.

    Args:
        proto: Nodes and initialisers are appended to it.
        prefix: Of all names that are given.
    """

    def __init__(self, proto: onnx.GraphProto, prefix: str) -> None:
        self._proto, self._prefix = proto, prefix
        self._used: set[str] = set()

    def _name(self, name: str) -> str:
        """A name that no tensor here has: the given one, or with a number."""
        found, number = self._prefix + name, 1
        while found in self._used:
            number += 1
            found = f"{self._prefix}{name}_{number}"
        self._used.add(found)
        return found

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A tensor of fixed numbers."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(value), self._name(name))
        self._proto.initializer.append(tensor)
        return str(tensor.name)

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """One operator; returns its output."""
        return self.split(operator, inputs, [name], **attributes)[0]

    def split(
        self, operator: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any
    ) -> list[str]:
        """An operator with several outputs."""
        from onnx import helper

        outputs = [self._name(name) for name in names]
        node = helper.make_node(operator, list(inputs), outputs, name=outputs[0], **attributes)
        self._proto.node.append(node)
        return outputs


class Interpolation:
    """Interpolates grids to the pixels of the network's input, border nodes repeated.

    Every runtime has `Resize` by a whole factor s, with node 0 at pixel (s - 1) / 2 (half_pixel) or
    at pixel 0 (asymmetric). Offsets that differ from one of these by whole pixels are that `Resize`
    of a grid with its border repeated once, and then a cut. Others are products with matrices.

    Args:
        graph: To write the operators to.
        manifest: Stride, node offset and names of the network.
        covered: Whether the grid has exactly one node per stride of the input.
        size_hw: Height and width of the input if they are fixed.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        manifest: Manifest,
        *,
        covered: bool,
        size_hw: tuple[int, int] | None,
    ) -> None:
        self._graph, self._size_hw = graph, size_hw
        self._frames, self._grids = manifest.input_name, manifest.embedding_name
        self._stride, self._offset = manifest.stride, manifest.node_offset
        middle = (self._stride - 1) / 2
        self._plain = covered and self._offset == middle
        # the alignments by their node 0, and whether the offset is whole pixels away
        self._half = (self._offset - middle).is_integer()
        self._whole = self._half or self._offset.is_integer()
        self._shared: list[str] | None = None

    def __call__(self, grid: str) -> str:
        """(N, C, h, w) to (N, C, H, W)."""
        if self._plain:
            return self._resize(grid, "half_pixel")
        return self._shifted(grid) if self._whole else self._product(grid)

    def _resize(self, grid: str, alignment: str) -> str:
        factors = np.array([1, 1, self._stride, self._stride], np.float32)
        return self._graph.add(
            "Resize", [grid, "", self._graph.constant("factors", factors)], "pixels",
            mode="linear", coordinate_transformation_mode=alignment,
        )  # fmt: skip

    def _shifted(self, grid: str) -> str:
        graph, stride = self._graph, self._stride
        around = graph.constant("around", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        grown = graph.add("Pad", [grid, around], "grown", mode="edge")
        resized = self._resize(grown, "half_pixel" if self._half else "asymmetric")
        if self._shared is None:
            node = stride + ((stride - 1) / 2 if self._half else 0)  # where node 0 lies now
            first = np.full(2, round(node - self._offset), np.int64)
            if self._size_hw is None:
                size = graph.add("Shape", [self._frames], "size", start=2, end=4)
                last = graph.add("Add", [size, graph.constant("first", first)], "last")
            else:
                last = graph.constant("last", first + np.array(self._size_hw, np.int64))
            axes = graph.constant("axes", np.array([2, 3], np.int64))
            self._shared = [graph.constant("first", first), last, axes]
        return graph.add("Slice", [resized, *self._shared], "pixels")

    def _product(self, grid: str) -> str:
        if self._shared is None:
            self._shared = [self._weights(axis) for axis in (2, 3)]
        rows, columns = self._shared
        wide = self._graph.add("MatMul", [grid, columns], "wide")  # (h, w) -> (h, W)
        return self._graph.add("MatMul", [rows, wide], "pixels")  # (h, W) -> (H, W)

    def _weights(self, axis: int) -> str:
        """Shares of the nodes in the pixels of an axis: (H, h) for rows, (w, W) for columns."""
        graph = self._graph

        def number(name: str, value: float) -> str:
            return graph.constant(name, np.array(value, np.float32))

        def count_up(tensor: str, across: int) -> tuple[str, str]:
            """Its size along `axis`, and the numbers below it, along one axis of two."""
            # `Gather`, and integers: onnxruntime's shape inference loses that `Squeeze` made a
            # scalar of a size, and that a cast changed its type
            index = graph.constant("axis", np.array(axis, np.int64))
            size = graph.add("Gather", [graph.add("Shape", [tensor], "shape"), index], "size")
            ends = [graph.constant(f"number_{i}", np.array(i, np.int64)) for i in (0, 1)]
            steps = graph.add("Range", [ends[0], size, ends[1]], "steps")
            other = graph.constant("across", np.array([across], np.int64))
            line = graph.add("Unsqueeze", [steps, other], "line")
            count, positions = (
                graph.add("Cast", [whole], "positions", to=_FLOAT) for whole in (size, line)
            )
            return count, positions

        # pixels are the rows of (H, h) and the columns of (w, W), nodes the other way
        _, pixel = count_up(self._frames, 3 - axis)
        nodes, node = count_up(self._grids, axis - 2)
        shifted = graph.add("Sub", [pixel, number("offset", self._offset)], "shifted")
        at = graph.add("Div", [shifted, number("stride", self._stride)], "at")
        end = graph.add("Sub", [nodes, number("one", 1)], "end")
        inside = graph.add("Min", [graph.add("Relu", [at], "not_before"), end], "inside")
        away = graph.add("Abs", [graph.add("Sub", [inside, node], "towards")], "away")
        return graph.add("Relu", [graph.add("Sub", [number("one", 1), away], "near")], "weights")
