from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from szn_runtime.errors import TrainingError
from szn_train.backbones import create_backbone
from szn_train.checkpoint import save_weights
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.pretrained import load_pretrained

WIDTHS = {"conv1": (3, 64), "conv2": (64, 128), "conv3": (128, 256), "conv4": (256, 512)}
WIDTHS |= {"conv5": (512, 512)}
DEPTHS = {"conv1": 2, "conv2": 2, "conv3": 3, "conv4": 3, "conv5": 3}
LABELS = 5


def random_tensor(*shape: int, seed: int) -> Tensor:
    """A tensor whose rows overlap in memory: its file is small, and no two rows are equal."""
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return 0.1 * torch.randn(shape, generator=generator)
    columns = int(torch.tensor(shape[1:]).prod())
    numbers = torch.randn(shape[0] + columns, generator=generator) * (2 / columns) ** 0.5
    strides = [1]
    for side in reversed(shape[2:]):
        strides.insert(0, strides[0] * side)
    return numbers.as_strided(shape, (1, *strides))


def shapes_of_fcn() -> dict[str, tuple[int, ...]]:
    """Names and shapes of pytorch-fcn's FCN-32s, but for the upsampling."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block, (before, after) in WIDTHS.items():
        for number in range(DEPTHS[block]):
            shapes[f"{block}_{number + 1}"] = (after, before if number == 0 else after, 3, 3)
    shapes |= {"fc6": (4096, 512, 7, 7), "fc7": (4096, 4096, 1, 1)}
    return shapes | {"score_fr": (LABELS, 4096, 1, 1)}


def fcn_state() -> dict[str, Tensor]:
    state = {}
    for number, (name, shape) in enumerate(shapes_of_fcn().items()):
        state[f"{name}.weight"] = random_tensor(*shape, seed=number)
        state[f"{name}.bias"] = random_tensor(shape[0], seed=100 + number)
    return state


def torchvision_state() -> dict[str, Tensor]:
    """The same numbers under torchvision's names, fully connected layers flat."""
    state, features = fcn_state(), [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    layers = [name for name in shapes_of_fcn() if name.startswith("conv")]
    named = {
        f"features.{position}.{kind}": state[f"{layer}.{kind}"]
        for layer, position in zip(layers, features, strict=True)
        for kind in ("weight", "bias")
    }
    for layer, number in (("fc6", 0), ("fc7", 3)):
        columns = int(state[f"{layer}.weight"][0].numel())
        flat = state[f"{layer}.weight"].as_strided((4096, columns), (1, 1))
        named[f"classifier.{number}.weight"] = flat
        named[f"classifier.{number}.bias"] = state[f"{layer}.bias"]
    named["classifier.6.weight"] = random_tensor(1000, 4096, seed=7)
    named["classifier.6.bias"] = random_tensor(1000, seed=8)
    return named


def reference(state: dict[str, Tensor], frames: Tensor) -> Tensor:
    """FCN-32s' score layer (N, labels, h, w), layer by layer as Long et al. write it."""
    grid, padding = frames, 100
    for block, depth in DEPTHS.items():
        for number in range(depth):
            name = f"{block}_{number + 1}"
            grid = F.conv2d(grid, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)
            grid, padding = F.relu(grid), 1
        grid = F.max_pool2d(grid, 2, stride=2, ceil_mode=True)
    for name in ("fc6", "fc7"):
        grid = F.relu(F.conv2d(grid, state[f"{name}.weight"], state[f"{name}.bias"]))
    return F.conv2d(grid, state["score_fr.weight"], state["score_fr.bias"])


@pytest.fixture(scope="module")
def network() -> SeenmaskZeroShotNetwork:
    backbone = create_backbone("vgg16", weights="none", padding="caffe", pixels="caffe")
    return SeenmaskZeroShotNetwork(backbone, LABELS).eval()


@pytest.fixture
def forgotten(network: SeenmaskZeroShotNetwork) -> SeenmaskZeroShotNetwork:
    """The network without what an earlier test loaded."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.25)
    return network


def bilinear(channels: int = LABELS) -> Tensor:
    ramp = 1 - (torch.arange(64) - 31.5).abs() / 32
    kernel = torch.zeros(channels, channels, 64, 64)
    kernel[range(channels), range(channels)] = ramp[:, None] * ramp[None]
    return kernel


def test_fcn_32s_gives_the_grid_that_it_was_trained_for(
    forgotten: SeenmaskZeroShotNetwork, tmp_path: Path
) -> None:
    state = fcn_state()
    whole = {"epoch": 3, "model_state_dict": {**state, "upscore.weight": bilinear()}}
    torch.save(whole, tmp_path / "fcn32s.pth.tar")
    line = load_pretrained(forgotten, tmp_path / "fcn32s.pth.tar")
    assert line == "fcn32s.pth.tar: FCN-32s; its score layer is the embedding head"
    frames = 50 * torch.randn(1, 3, 20, 60, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        grid, expected = forgotten(frames).embedding, reference(state, frames)
    assert grid.shape == (1, LABELS, 1, 3)
    torch.testing.assert_close(grid, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert expected.std() > 0
    assert (forgotten.seenmask_head.weight == 0.25).all()


def test_torchvisions_vgg16_is_the_same_network_under_other_names(
    forgotten: SeenmaskZeroShotNetwork, tmp_path: Path
) -> None:
    torch.save(torchvision_state(), tmp_path / "vgg16.pth")
    line = load_pretrained(forgotten, tmp_path / "vgg16.pth")
    assert line == "vgg16.pth: VGG16 as torchvision names it; heads start anew"
    state = fcn_state()
    body = forgotten.backbone.body
    layers = [layer for layer in body.children() if isinstance(layer, torch.nn.Conv2d)]
    names = [name for name in shapes_of_fcn() if name != "score_fr"]
    for layer, name in zip(layers, names, strict=True):
        assert layer.bias is not None
        assert torch.equal(layer.weight, state[f"{name}.weight"]), name
        assert torch.equal(layer.bias, state[f"{name}.bias"]), name
    assert (forgotten.embedding_head.weight == 0.25).all()


def test_a_score_layer_of_other_labels_is_left_out(
    forgotten: SeenmaskZeroShotNetwork, tmp_path: Path
) -> None:
    state = fcn_state()
    state["score_fr.weight"] = random_tensor(21, 4096, 1, 1, seed=5)
    torch.save(state, tmp_path / "fcn.pth")
    assert load_pretrained(forgotten, tmp_path / "fcn.pth") == "fcn.pth: FCN-32s; heads start anew"
    assert (forgotten.embedding_head.weight == 0.25).all()


def test_an_upsampling_that_was_trained_is_refused(
    network: SeenmaskZeroShotNetwork, tmp_path: Path
) -> None:
    kernel = bilinear()
    kernel[1, 1, 30, 30] += 0.02
    torch.save({**fcn_state(), "upscore.weight": kernel}, tmp_path / "fcn.pth")
    expected = r"fcn\.pth: the upsampling upscore\.weight was trained: got weights up to 0\.02 from"
    with pytest.raises(TrainingError, match=expected):
        load_pretrained(network, tmp_path / "fcn.pth")


def test_fcn_32s_takes_caffes_pixels(tmp_path: Path) -> None:
    torch.save({"conv1_1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "fcn.pth")
    with torch.device("meta"):
        network = SeenmaskZeroShotNetwork(create_backbone("vgg16", weights="none"), 5)
    expected = "takes caffe's pixels: got pixels 'imagenet'; give --pixels caffe, or --protocol th"
    with pytest.raises(TrainingError, match=expected):
        load_pretrained(network, tmp_path / "fcn.pth")


@pytest.fixture(scope="module")
def small() -> SeenmaskZeroShotNetwork:
    torch.manual_seed(2)
    return SeenmaskZeroShotNetwork(create_backbone("efficientnet_lite0", weights="none"), 4)


@pytest.mark.parametrize(("dim", "kept"), [(4, "embedding_head and seenmask_head"), (3, "seenm")])
def test_weights_of_another_run_are_taken_with_the_heads_that_fit(
    small: SeenmaskZeroShotNetwork, tmp_path: Path, dim: int, kept: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, small.state_dict())
    other = SeenmaskZeroShotNetwork(create_backbone("efficientnet_lite0", weights="none"), dim)
    own = other.embedding_head.weight.detach().clone()
    line = load_pretrained(other, path)
    assert line.startswith(f"model.safetensors: weights of another run, backbone and {kept}")
    for name, value in other.state_dict().items():
        if not name.startswith("embedding_head"):
            assert torch.equal(value, small.state_dict()[name]), name
    expected = small.embedding_head.weight if dim == 4 else own
    assert torch.equal(other.embedding_head.weight, expected)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"layer1.weight": torch.zeros(2)}, r"holds another network: got layer1\.weight, expected"),
        ({}, "holds another network: got no tensor, expected"),
        ([torch.zeros(2)], "is no state dict: got list"),
        ({"features.0.weight": torch.zeros(2)}, "is of VGG16: got backbone efficientnet_lite0, ex"),
        ({"backbone.x": torch.zeros(2)}, r"another backbone: got no backbone\.body\.network\.conv"),
    ],
)
def test_other_files_are_refused(
    small: SeenmaskZeroShotNetwork, tmp_path: Path, state: object, message: str
) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match=message):
        load_pretrained(small, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv2_1.bias": None}, r"fcn\.pth has no conv2_1\.bias"),
        ({"fc6.weight": torch.zeros(4096, 9)}, r"fc6\.weight: got \(4096, 9\), expected \(4096, 5"),
        (
            {"conv1_1.weight": torch.zeros(64, 3, 5, 5)},
            r"conv1_1\.weight: got \(64, 3, 5, 5\), exp",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    network: SeenmaskZeroShotNetwork, tmp_path: Path, change: dict[str, Tensor], message: str
) -> None:
    state = {name: value for name, value in (fcn_state() | change).items() if value is not None}
    torch.save(state, tmp_path / "fcn.pth")
    with pytest.raises(TrainingError, match=message):
        load_pretrained(network, tmp_path / "fcn.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_files_that_hold_no_weights_are_refused(
    small: SeenmaskZeroShotNetwork, tmp_path: Path, name: str
) -> None:
    with pytest.raises(TrainingError, match=rf"no weights at .*{name}: expected imagenet, none or"):
        load_pretrained(small, tmp_path / name)
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=rf"{name} is no file of weights \(\w+\): expected"):
        load_pretrained(small, tmp_path / name)
