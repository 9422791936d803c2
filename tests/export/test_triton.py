from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray

from szn_export.to_openvino import ir_from_onnx
from szn_export.triton import triton_repository
from szn_runtime.backends import open_backend
from szn_runtime.backends._engine import EngineFacts, Profile
from szn_runtime.backends.tensors import TensorFacts
from szn_runtime.bundle import LABELS_FILE, Artefact, Bundle, default_bundle_path, write_bundle
from szn_runtime.errors import BundleError, ExportError, UsageError
from szn_runtime.labels import LabelSet
from szn_runtime.segmenter import Segmenter

Array = NDArray[Any]


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


@pytest.fixture(scope="module")
def repository(mini: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    triton_repository(folder, mini, backends=("onnxruntime", "openvino"))
    return folder


def variant(
    mini: Bundle, folder: Path, *, artefacts: tuple[Artefact, ...] = (), **changes: Any
) -> Bundle:
    """szn-mini with more artefacts, whose files hold their own names, or with other facts."""
    manifest = dataclasses.replace(
        mini.manifest, files={}, artefacts=(*mini.manifest.artefacts, *artefacts), **changes
    )
    files = {name: mini.read(name) for name in mini.manifest.files}
    for artefact in artefacts:
        names = [
            artefact.file,
            *([artefact.facts["weights"]] if "weights" in artefact.facts else []),
        ]
        files |= {name: name.encode() for name in names}
    write_bundle(folder, manifest, files)
    return Bundle.open(folder)


def engine(
    mini: Bundle, *, flavour: str = "tensorrt", batches: tuple[int, int] = (1, 8),
    precision: str = "fp32", dtype: str = "float32", fixed: bool = False,
) -> Artefact:  # fmt: skip
    """A TensorRT engine; `fixed`: for frames of 64 x 96 only."""
    manifest = mini.manifest
    sizes = {manifest.input_name: (3, 64, 96), manifest.embedding_name: (manifest.dim, 4, 6)}
    sizes[manifest.seenmask_name] = (2, 4, 6)
    tensors = [
        TensorFacts(
            name=name, dtype=dtype, shape=(None, *(shape if fixed else (shape[0], None, None)))
        )
        for name, shape in sizes.items()
    ]
    facts = EngineFacts(
        flavour=flavour, version="10.3.0", compute_capabilities=("8.7",),
        profile=Profile(
            min=(batches[0], 3, 64, 96), opt=(batches[0], 3, 64, 96), max=(batches[1], 3, 64, 96)
        ),
        inputs=(tensors[0],), outputs=tuple(tensors[1:]), onnx_sha256="0" * 64,
    )  # fmt: skip
    file = f"model.{precision}.engine"
    return Artefact(kind="tensorrt", precision=precision, file=file, facts=facts.to_json())


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


class TestConfigurations:
    """`config.pbtxt`, read with Triton's own protobuf definitions."""

    @pytest.fixture(scope="class")
    def read(self) -> Callable[[Path], Any]:
        definitions = pytest.importorskip("tritonclient.grpc.model_config_pb2")

        def read(path: Path) -> Any:
            return text_format.Parse(path.read_text("utf-8"), definitions.ModelConfig())

        return read

    @staticmethod
    def tensors(values: Any) -> list[tuple[str, int, list[int]]]:
        return [(value.name, value.data_type, list(value.dims)) for value in values]

    def test_onnxruntime(self, read: Callable[[Path], Any], mini: Bundle, repository: Path) -> None:
        config = read(repository / "szn_onnxruntime" / "config.pbtxt")
        fp32 = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name["TYPE_FP32"]
        assert (config.name, config.backend) == ("szn_onnxruntime", "onnxruntime")
        assert config.max_batch_size == 8
        assert self.tensors(config.input) == [("frames", fp32.number, [3, -1, -1])]
        assert self.tensors(config.output) == [
            ("embedding", fp32.number, [mini.manifest.dim, -1, -1]),
            ("seenmask", fp32.number, [2, -1, -1]),
        ]
        assert list(config.dynamic_batching.preferred_batch_size) == [2, 4, 8]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1000
        (group,) = config.instance_group
        assert (group.count, group.kind) == (1, group.KIND_AUTO)

    def test_openvino_is_not_told_of_batches(
        self, read: Callable[[Path], Any], mini: Bundle, repository: Path
    ) -> None:
        config = read(repository / "szn_openvino" / "config.pbtxt")
        assert (config.backend, config.max_batch_size) == ("openvino", 0)
        assert list(config.input[0].dims) == [-1, 3, -1, -1]
        assert [list(output.dims) for output in config.output] == [
            [-1, mini.manifest.dim, -1, -1],
            [-1, 2, -1, -1],
        ]
        assert not config.HasField("dynamic_batching")
        assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
        assert config.parameters["PERFORMANCE_HINT"].string_value == "LATENCY"

    def test_sei(self, read: Callable[[Path], Any], repository: Path) -> None:
        config = read(repository / "szn_sei" / "config.pbtxt")
        types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
        assert (config.name, config.backend, config.max_batch_size) == ("szn_sei", "python", 8)
        assert self.tensors(config.input)[2] == ("frame_hw", types["TYPE_INT32"].number, [2])
        assert self.tensors(config.output) == [("labels", types["TYPE_UINT8"].number, [-1, -1])]
        settings = {key: value.string_value for key, value in config.parameters.items()}
        assert settings == {
            "long_side": "320",
            "multiple": "16",
            "stride": "16",
            "node_offset": "7.5",
            "seen_bias": "0.0",
            "use_seenmask": "true",
        }

    @pytest.mark.parametrize("first", ["onnxruntime", "openvino"])
    def test_the_ensemble_joins_what_fits(
        self, read: Callable[[Path], Any], mini: Bundle, tmp_path: Path, first: str
    ) -> None:
        triton_repository(tmp_path / "models", mini, backends=(first,))
        config = read(tmp_path / "models" / "szn" / "config.pbtxt")
        assert config.platform == "ensemble"
        assert config.max_batch_size == (0 if first == "openvino" else 8)
        steps = config.ensemble_scheduling.step
        assert [step.model_name for step in steps] == [f"szn_{first}", "szn_sei"]
        known = {tensor.name: tensor for tensor in config.input}
        for step in steps:
            model = read(tmp_path / "models" / step.model_name / "config.pbtxt")
            assert model.max_batch_size == config.max_batch_size
            assert step.model_version == -1
            assert set(step.input_map) == {tensor.name for tensor in model.input}
            assert set(step.output_map) == {tensor.name for tensor in model.output}
            for tensor in model.input:
                source = known[step.input_map[tensor.name]]
                assert (source.data_type, source.dims) == (tensor.data_type, tensor.dims)
            known |= {step.output_map[tensor.name]: tensor for tensor in model.output}
        for output in config.output:
            made = known[output.name]
            assert (made.data_type, made.dims) == (output.data_type, output.dims)

    @pytest.mark.parametrize(
        ("count", "kind"), [(255, "TYPE_UINT8"), (256, "TYPE_UINT16"), (70_000, "TYPE_INT32")]
    )
    def test_the_type_of_a_label_map(
        self,
        read: Callable[[Path], Any],
        mini: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        kind: str,
    ) -> None:
        labels = LabelSet(
            names=tuple(f"label {i}" for i in range(count)),
            embeddings=np.ones((count, mini.manifest.dim), np.float32),
            seen=np.ones(count, bool),
        )
        monkeypatch.setattr(Bundle, "label_set", lambda self: labels)
        triton_repository(tmp_path / "models", mini)
        for model in ("szn", "szn_sei"):
            config = read(tmp_path / "models" / model / "config.pbtxt")
            types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
            assert config.output[0].data_type == types[kind].number

    @pytest.mark.parametrize(
        ("max_batch", "dynamic", "sizes"),
        [(1, True, None), (2, True, [2]), (6, True, [2, 4, 6]), (6, False, None)],
    )
    def test_batching(
        self,
        read: Callable[[Path], Any],
        mini: Bundle,
        tmp_path: Path,
        max_batch: int,
        dynamic: bool,
        sizes: list[int] | None,
    ) -> None:
        triton_repository(tmp_path / "models", mini, max_batch=max_batch, dynamic_batching=dynamic)
        config = read(tmp_path / "models" / "szn_onnxruntime" / "config.pbtxt")
        assert config.max_batch_size == max_batch
        assert config.HasField("dynamic_batching") == (sizes is not None)
        assert list(config.dynamic_batching.preferred_batch_size) == (sizes or [])

    @pytest.mark.parametrize("fixed", [False, True])
    def test_tensorrt(
        self, read: Callable[[Path], Any], mini: Bundle, tmp_path: Path, fixed: bool
    ) -> None:
        found = engine(mini, fixed=fixed)
        bundle = variant(mini, tmp_path / "bundle", artefacts=(found,))
        triton_repository(tmp_path / "models", bundle, backends=("tensorrt",))
        config = read(tmp_path / "models" / "szn_tensorrt" / "config.pbtxt")
        assert (config.backend, config.max_batch_size) == ("tensorrt", 8)
        assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
        dim = mini.manifest.dim
        sizes = [[3, 64, 96], [dim, 4, 6], [2, 4, 6]] if fixed else None
        assert [list(each.dims) for each in (*config.input, *config.output)] == (
            sizes or [[3, -1, -1], [dim, -1, -1], [2, -1, -1]]
        )

    def test_a_tensor_may_have_any_name(
        self, read: Callable[[Path], Any], mini: Bundle, tmp_path: Path
    ) -> None:
        name = 'frames "\u00e4"\\n'
        bundle = variant(mini, tmp_path / "bundle", input_name=name)
        triton_repository(tmp_path / "models", bundle)
        config = read(tmp_path / "models" / "szn" / "config.pbtxt")
        assert config.input[0].name == name
        assert dict(config.ensemble_scheduling.step[0].input_map) == {name: name}


class TestFiles:
    def test_what_is_there(self, mini: Bundle, repository: Path) -> None:
        present = files_of(repository)
        assert present == {
            "labels.txt", "szn_triton.json", "szn/config.pbtxt", "szn/1/.keep",
            "szn_onnxruntime/config.pbtxt", "szn_onnxruntime/1/model.onnx",
            "szn_openvino/config.pbtxt", "szn_openvino/1/model.xml", "szn_openvino/1/model.bin",
            "szn_sei/config.pbtxt", "szn_sei/1/model.py", "szn_sei/1/labels.npz",
        }  # fmt: skip
        facts = json.loads((repository / "szn_triton.json").read_text())
        assert set(facts["files"]) == present
        assert facts["checksum"] == mini.manifest.checksum
        names = (repository / "labels.txt").read_text("utf-8").splitlines()
        assert tuple(names) == mini.label_set().names
        assert (repository / "szn_onnxruntime/1/model.onnx").read_bytes() == mini.model_bytes()
        xml, weights = ir_from_onnx(mini.model_bytes())
        assert (repository / "szn_openvino/1/model.xml").read_bytes() == xml
        assert (repository / "szn_openvino/1/model.bin").read_bytes() == weights

    def test_the_most_exact_of_the_bundle_is_taken(self, mini: Bundle, tmp_path: Path) -> None:
        irs = [
            Artefact(
                kind="openvino",
                precision=precision,
                file=f"model.{precision}.xml",
                facts={"weights": f"model.{precision}.bin"},
            )
            for precision in ("int8", "fp32")
        ]
        engines = [engine(mini, precision=precision) for precision in ("int8", "fp16")]
        bundle = variant(mini, tmp_path / "bundle", artefacts=(*irs, *engines))
        triton_repository(tmp_path / "models", bundle, backends=("tensorrt", "openvino"))
        contents = {
            name: (tmp_path / "models" / name).read_text()
            for name in (
                "szn_openvino/1/model.xml",
                "szn_openvino/1/model.bin",
                "szn_tensorrt/1/model.plan",
            )
        }
        assert list(contents.values()) == ["model.fp32.xml", "model.fp32.bin", "model.fp16.engine"]

    def test_an_older_repository_is_replaced(self, mini: Bundle, tmp_path: Path) -> None:
        triton_repository(tmp_path / "models", mini, backends=("openvino",))
        triton_repository(tmp_path / "models", mini)
        assert (tmp_path / "models" / "szn_onnxruntime").is_dir()
        assert not (tmp_path / "models" / "szn_openvino").exists()
        assert [entry.name for entry in tmp_path.iterdir()] == ["models"]

    def test_an_empty_folder_and_a_missing_parent_are_fine(
        self, mini: Bundle, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        triton_repository(tmp_path / "empty", mini)
        triton_repository(tmp_path / "a" / "b", mini)
        assert files_of(tmp_path / "empty") == files_of(tmp_path / "a" / "b")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("config.pbtxt", "name: 'mine'"),
            ("szn_triton.json", "[1, 2]"),
            ("szn_triton.json", '{"szn_triton": 1}'),
        ],
    )
    def test_other_folders_are_left_alone(
        self, mini: Bundle, tmp_path: Path, name: str, content: str
    ) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / name).write_text(content)
        with pytest.raises(ExportError, match="exists and is no Triton repository of szn"):
            triton_repository(tmp_path / "models", mini)
        assert (tmp_path / "models" / name).read_text() == content

    def test_files_of_its_owner_are_kept(self, mini: Bundle, tmp_path: Path) -> None:
        triton_repository(tmp_path / "models", mini)
        own = tmp_path / "models" / "other_model" / "config.pbtxt"
        own.parent.mkdir()
        own.write_text("mine")
        with pytest.raises(ExportError, match=r"did not write: got other_model/config.pbtxt"):
            triton_repository(tmp_path / "models", mini)
        assert own.read_text() == "mine"

    def test_a_file_is_not_a_repository(self, mini: Bundle, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("mine")
        with pytest.raises(ExportError, match="is not a folder"):
            triton_repository(tmp_path / "models", mini)

    @pytest.mark.parametrize("fail_at", [1, 2])
    def test_a_failure_leaves_the_older_one(
        self, mini: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
    ) -> None:
        triton_repository(tmp_path / "models", mini, max_batch=3)
        before = (tmp_path / "models/szn/config.pbtxt").read_text()
        calls = []
        rename = Path.rename

        def failing(self: Path, target: Path) -> Path:
            calls.append(target)
            if len(calls) == fail_at:
                raise OSError(28, os.strerror(28))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(ExportError, match="cannot be written: got No space left on device"):
            triton_repository(tmp_path / "models", mini, max_batch=4)
        assert (tmp_path / "models/szn/config.pbtxt").read_text() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["models"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("backends", "got"),
        [((), "none"), (("torch",), "torch"), (("openvino", "openvino"), "openvino, openvino")],
    )
    def test_backends(
        self, mini: Bundle, tmp_path: Path, backends: tuple[str, ...], got: str
    ) -> None:
        with pytest.raises(UsageError, match=f"got {got}, expected some of onnxruntime, openvino"):
            triton_repository(tmp_path / "models", mini, backends=backends)

    def test_a_batch_of_nothing(self, mini: Bundle, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="got 0, expected >= 1"):
            triton_repository(tmp_path / "models", mini, max_batch=0)

    def test_no_engine(self, mini: Bundle, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="the bundle has no TensorRT engine"):
            triton_repository(tmp_path / "models", mini, backends=("onnxruntime", "tensorrt"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"flavour": "rtx"}, "cannot run an engine of TensorRT-RTX"),
            (
                {"batches": (1, 4)},
                "got 1 to 4 frames, expected 1 to 8; choose a greatest batch of 4",
            ),
            ({"batches": (2, 8)}, "got 2 to 8 frames, expected 1 to 8"),
            ({"dtype": "float16"}, "other inputs and outputs than float32: got float16"),
        ],
    )
    def test_an_engine_that_does_not_fit(
        self, mini: Bundle, tmp_path: Path, changes: dict[str, Any], match: str
    ) -> None:
        bundle = variant(mini, tmp_path / "bundle", artefacts=(engine(mini, **changes),))
        with pytest.raises(ExportError, match=match):
            triton_repository(tmp_path / "models", bundle, backends=("tensorrt",))

    @pytest.mark.parametrize("name", ["labels", "frame_hw"])
    def test_a_name_that_sei_needs(self, mini: Bundle, tmp_path: Path, name: str) -> None:
        bundle = variant(mini, tmp_path / "bundle", embedding_name=name)
        with pytest.raises(ExportError, match=f"a name that SEI needs: got {name}"):
            triton_repository(tmp_path / "models", bundle)

    def test_a_damaged_bundle(self, mini: Bundle, tmp_path: Path) -> None:
        bundle = variant(mini, tmp_path / "bundle")
        (tmp_path / "bundle" / LABELS_FILE).write_bytes(b"?" * len(mini.read(LABELS_FILE)))
        with pytest.raises(BundleError, match=f"{LABELS_FILE} of .* is damaged"):
            triton_repository(tmp_path / "models", bundle)
        assert not (tmp_path / "models").exists()


class Tensor:
    """Triton's tensor: an array under a name."""

    def __init__(self, name: str, array: Array, *, broken: bool = False) -> None:
        self.name, self.array, self.broken = name, array, broken

    def as_numpy(self) -> Array:
        # the first number everywhere, as with NumPy 2 and Triton 24.10
        return np.full_like(self.array, self.array.flat[0]) if self.broken else self.array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


@dataclasses.dataclass(kw_only=True)
class Response:
    output_tensors: list[Tensor] = dataclasses.field(default_factory=list)
    error: str | None = None


class TestPythonModel:
    """`model.py` from a repository, with a stand-in for the module that Triton gives it."""

    @pytest.fixture
    def load(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        utils = ModuleType("triton_python_backend_utils")
        utils.Tensor = Tensor  # type: ignore[attr-defined]
        utils.InferenceResponse = Response  # type: ignore[attr-defined]
        utils.TritonError = str  # type: ignore[attr-defined]
        utils.get_input_tensor_by_name = (  # type: ignore[attr-defined]
            lambda request, name: next(tensor for tensor in request if tensor.name == name)
        )
        monkeypatch.setitem(sys.modules, utils.__name__, utils)
        path = repository / "szn_sei" / "1" / "model.py"
        spec = importlib.util.spec_from_file_location("szn_sei_model", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def load(**settings: str) -> Any:
            definitions = pytest.importorskip("tritonclient.grpc.model_config_pb2")
            from google.protobuf.json_format import MessageToJson

            text = (repository / "szn_sei" / "config.pbtxt").read_text("utf-8")
            config = text_format.Parse(text, definitions.ModelConfig())
            for key, value in settings.items():
                config.parameters[key].string_value = value
            model = module.TritonPythonModel()
            model.initialize(
                {"model_config": MessageToJson(config, preserving_proto_field_name=True)}
            )
            return model

        return load

    @pytest.fixture(scope="class")
    def photos(self) -> list[Array]:
        images = pytest.importorskip("sklearn.datasets").load_sample_images().images
        wide = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        tall = [np.ascontiguousarray(image.transpose(1, 0, 2)[:500]) for image in wide]
        return wide + tall

    @pytest.fixture(scope="class")
    def network(self, repository: Path) -> Callable[[Array], list[Array]]:
        """The network as it lies in the repository."""
        path = repository / "szn_onnxruntime" / "1" / "model.onnx"
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda frames: session.run(["embedding", "seenmask"], {"frames": frames})

    @staticmethod
    def request(grids: list[Array], sizes: list[tuple[int, int]], **changes: bool) -> list[Tensor]:
        arrays = [*grids, np.array(sizes, np.int32)]
        return [
            Tensor(name, array, **changes)
            for name, array in zip(("embedding", "seenmask", "frame_hw"), arrays, strict=True)
        ]

    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            ({}, {}),
            ({"seen_bias": "-2.5"}, {"seen_bias": -2.5}),
            ({"use_seenmask": "false"}, {"use_seenmask": False}),
            ({"long_side": "256"}, {"long_side": 256}),
        ],
    )
    def test_the_labels_are_the_segmenters(
        self,
        mini: Bundle,
        load: Callable[..., Any],
        photos: list[Array],
        network: Callable[[Array], list[Array]],
        settings: dict[str, str],
        options: dict[str, Any],
    ) -> None:
        model = load(**settings)
        requests, expected = [], []
        with Segmenter(mini, open_backend("onnxruntime", mini), **options) as segmenter:
            for batch in (photos[:1], photos[:2], photos[2:]):
                grids = network(segmenter.preprocess(batch).tensor)
                requests.append(self.request(grids, [image.shape[:2] for image in batch]))
                expected.append(np.stack([result.labels for result in segmenter.batch(batch)]))
        responses = model.execute(requests)
        for response, maps in zip(responses, expected, strict=True):
            assert response.error is None
            (output,) = response.output_tensors
            assert output.name == "labels"
            assert output.array.dtype == np.uint8
            np.testing.assert_array_equal(output.array, maps)
            assert len(np.unique(maps)) > 1

    def test_a_request_that_does_not_fit_fails_alone(
        self,
        load: Callable[..., Any],
        photos: list[Array],
        network: Callable[[Array], list[Array]],
    ) -> None:
        model = load()
        grids = network(np.zeros((2, 3, 224, 320), np.float32))
        size = photos[0].shape[:2]
        responses = model.execute(
            [
                self.request(grids, [size, (100, 600)]),
                self.request(grids, [size, size]),
                self.request(grids, [(100, 600)] * 2),
                self.request(grids, [(0, 5)] * 2),
                self.request([grids[0][:, :7], grids[1]], [size, size]),
                self.request(grids, [size, size], broken=True),
            ]
        )
        errors = [response.error or "" for response in responses]
        assert "frames of one request differ in size" in errors[0]
        assert errors[1] == ""
        assert responses[1].output_tensors[0].array.shape == (2, *size)
        assert "expected those of 64 x 320 pixels; resize the long side to 320" in errors[2]
        assert "frame is empty" in errors[3]
        assert "embedding has another shape" in errors[4]
        assert "cannot handle NumPy 2" in errors[5]

    def test_it_needs_the_runtime_alone(self, repository: Path) -> None:
        tree = ast.parse((repository / "szn_sei" / "1" / "model.py").read_text("utf-8"))
        roots = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
            )
        }
        others = roots - set(sys.stdlib_module_names)
        assert others == {"numpy", "szn_runtime", "triton_python_backend_utils"}
