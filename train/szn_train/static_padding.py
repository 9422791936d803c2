"""TensorFlow's SAME padding as numbers instead of arithmetic on shapes.

timm's `tf_` models compute the padding of strided convolutions from the size of each frame. In an
exported graph that becomes hundreds of shape nodes, which break FP16 and INT8 converters. For
sizes that are a multiple of the network's stride the result is always the same few numbers.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["StaticSameConv2d", "make_padding_static"]


class StaticSameConv2d(nn.Conv2d):
    """A strided convolution with SAME padding for input sizes that its stride divides.

    Of the total padding `d (k - 1) - (s - 1)` TensorFlow puts the smaller half before. For other
    input sizes the output has the right shape only after padding the frame.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own name
        """Features (N, C, H, W) to (N, C', H / s, W / s)."""
        before, after = zip(
            *(
                _split(d * (k - 1) - (s - 1))
                for k, s, d in zip(self.kernel_size, self.stride, self.dilation, strict=True)
            ),
            strict=True,
        )
        padded = F.pad(input, (before[1], after[1], before[0], after[0]))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _split(total: int) -> tuple[int, int]:
    """Padding before and after."""
    total = max(total, 0)
    return total // 2, total - total // 2


def make_padding_static(network: nn.Module) -> int:
    """Replace timm's `Conv2dSame` in place; returns how many were replaced."""
    from timm.layers import Conv2dSame

    replaced = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, Conv2dSame):
                continue
            fixed = StaticSameConv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,
                stride=child.stride,
                dilation=child.dilation,
                groups=child.groups,
                bias=child.bias is not None,
                device=child.weight.device,
                dtype=child.weight.dtype,
            )
            fixed.load_state_dict(child.state_dict())
            setattr(parent, name, fixed)
            replaced += 1
    return replaced
