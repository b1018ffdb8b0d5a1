"""4x4 convolutions by 2 with padding 1, and transposed ones, whose weights' gradients are matrix products of patches.

In bfloat16 torch takes, on a CPU, for these gradients two to three times as long as for the products themselves where
outputs are small. The rest is torch's own.

Three functions, each linear in both of its inputs beside the bias, are each other's derivatives, of any order:
`Convolution` of images and weight, `Transposed` of outputs and weight, `WeightGradient` of images and outputs.
torch.func and forward-mode derivatives are not supported; torch.compile takes torch's own convolutions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d, conv_transpose2d, pad

CHUNK_BYTES = 2**22
"""At most so many of patches at once, where they are not of a single image: they stay in the cache."""

LARGEST_OUTPUTS = 0
"""Pixels of an image of outputs, up to which patches are taken. Up to 16 they pay (measured with 32 to 1,024 channels
and 16 to 128 images), but with 16 the FD of experiment=quickstart ends at 4.1, 4.8 and 4.2 instead of 3.4, 3.8 and 3.8
(seeds 0 to 2), and why is not known: until it is, 0, nowhere."""

FEWEST_CHANNEL_PAIRS = 2**9
"""C K from which they do."""


def halving_conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv2d(images, weight, bias, stride=2, padding=1) with a weight (K, C, 4, 4)."""
    height, width = images.shape[-2:]
    if height % 2 == 0 and width % 2 == 0 and _pays(images, weight, height * width // 4):
        return Convolution.apply(*_cast(images, weight, bias))
    return conv2d(images, weight, bias, stride=2, padding=1)


def doubling_conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv_transpose2d(images, weight, bias, stride=2, padding=1) with a weight (C, K, 4, 4)."""
    if _pays(images, weight, images.shape[-2] * images.shape[-1]):
        return Transposed.apply(*_cast(images, weight, bias))
    return conv_transpose2d(images, weight, bias, stride=2, padding=1)


def _pays(images: Tensor, weight: Tensor, num_outputs: int) -> bool:
    """Whether to take patches; num_outputs: pixels of the smaller images."""
    if images.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.bfloat16):
        return False
    return num_outputs <= LARGEST_OUTPUTS and weight.shape[0] * weight.shape[1] >= FEWEST_CHANNEL_PAIRS


def _cast(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(torch.bfloat16) for tensor in tensors]


def asked(ctx: Any) -> list[bool]:
    """For which inputs the running backward pass wants gradients: backward(inputs=...) leaves some out.

    `needs_input_grad` says for which there could be some. torch has no public question for the rest.
    """

    def wanted(node: Any) -> bool:
        try:
            return torch._C._will_engine_execute_node(node)
        except RuntimeError:  # torch's answer for a leaf that autograd.grad was asked for
            return True

    nodes = [node for node, _ in ctx.next_functions]
    nodes += [None] * (len(ctx.needs_input_grad) - len(nodes))  # a last input that is None has no node
    return [needed and wanted(node) for needed, node in zip(ctx.needs_input_grad, nodes, strict=True)]


class Convolution(Function):
    """images (N, C, 2 h, 2 w), weight (K, C, 4, 4), bias (K,) or None -> outputs (N, K, h, w)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return conv2d(images, weight, bias, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        first, second, third = asked(ctx)
        return (
            Transposed.apply(gradient, weight, None) if first else None,
            WeightGradient.apply(images, gradient) if second else None,
            gradient.sum((0, 2, 3)) if third else None,
        )


class Transposed(Function):
    """outputs (N, K, h, w), weight (K, C, 4, 4), bias (C,) or None -> images (N, C, 2 h, 2 w)."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(outputs, weight)
        return conv_transpose2d(outputs, weight, bias, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        outputs, weight = ctx.saved_tensors
        first, second, third = asked(ctx)
        return (
            Convolution.apply(gradient, weight, None) if first else None,
            WeightGradient.apply(gradient, outputs) if second else None,
            gradient.sum((0, 2, 3)) if third else None,
        )


class WeightGradient(Function):
    """images (N, C, 2 h, 2 w), outputs (N, K, h, w) -> weight (K, C, 4, 4): each output times the patch it is of."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, outputs: Tensor) -> Tensor:
        ctx.save_for_backward(images, outputs)
        num_outputs, num_inputs, (height, width) = outputs.shape[1], images.shape[1], outputs.shape[2:]
        size = max(1, CHUNK_BYTES // (16 * num_inputs * height * width * images.element_size()))
        total = images.new_zeros(num_outputs, 16 * num_inputs, dtype=torch.promote_types(images.dtype, torch.float32))
        for some_images, some_outputs in zip(images.split(size), outputs.split(size), strict=True):
            padded = pad(some_images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
            patches = padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3).reshape(-1, 16 * num_inputs)
            total += some_outputs.permute(1, 0, 2, 3).reshape(num_outputs, -1) @ patches
        return total.to(images.dtype).view(num_outputs, 4, 4, num_inputs).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, outputs = ctx.saved_tensors
        first, second = asked(ctx)
        return (
            Transposed.apply(outputs, gradient, None) if first else None,
            Convolution.apply(images, gradient, None) if second else None,
        )
