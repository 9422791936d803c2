from __future__ import annotations

from typing import Any

import pytest

from szn_runtime.backends.tensors import Expected, TensorFacts, check_tensors
from szn_runtime.errors import BackendError
from tests.runtime import catalogue


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorFacts:
    return TensorFacts(name=name, dtype=dtype, shape=shape)


GOOD: dict[str, list[TensorFacts]] = {
    "inputs": [tensor("image", None, 3, None, None)],
    "outputs": [tensor("embedding", None, 6, None, None), tensor("seenmask", 1, 2, 5, 5)],
}


def test_tensors_that_fit() -> None:
    expected = Expected.of(catalogue.manifest())
    check_tensors(**GOOD, expected=expected)
    more = [*GOOD["outputs"], tensor("attention", 4, dtype="int8")]
    check_tensors(GOOD["inputs"], more, expected)
    half = [tensor("image", None, None, None, None, dtype="float16")]
    check_tensors(half, GOOD["outputs"], expected, dtypes=("float32", "float16"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": []}, "no input 'image', which the manifest names: got ; export"),
        ({"inputs": [*GOOD["inputs"], tensor("x")]}, "more than one input: got image, x"),
        ({"inputs": [tensor("image", 1, 1, 8, 8)]}, r"got float32 \(1, 1, 8, 8\), expected .*3"),
        (
            {"inputs": [tensor("image", None, 3, None, None, dtype="float16")]},
            r"input 'image' of the model does not fit.*got float16 \(\?, 3, \?, \?\)",
        ),
        ({"outputs": GOOD["outputs"][:1]}, "no output 'seenmask'.*got embedding"),
        ({"outputs": [tensor("embedding", 6), GOOD["outputs"][1]]}, r"got float32 \(6\)"),
    ],
)
def test_tensors_that_do_not_fit(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BackendError, match=match):
        check_tensors(**{**GOOD, **changes}, expected=Expected.of(catalogue.manifest()))


def test_a_part_may_read_two_grids() -> None:
    head = Expected(inputs={"features": 8, "embedding": 6}, outputs={"seenmask": 2})
    both = [tensor("features", None, 8, None, None), tensor("embedding", None, 6, None, None)]
    check_tensors(both, GOOD["outputs"], head)
    with pytest.raises(BackendError, match="no input 'embedding'"):
        check_tensors(both[:1], GOOD["outputs"], head)
    with pytest.raises(BackendError, match="more than 2 inputs: got features, embedding, x"):
        check_tensors([*both, tensor("x", 1)], GOOD["outputs"], head)
