"""4x4 convolutions by 2 with padding 1, and transposed ones, of images of few pixels: dense layers in bfloat16.

A convolution is a linear map of all pixels and channels. Its matrix M, a row for each output and a column for each
input, has

    M[(y, x, k), (i, j, c)] = weight[k, c, i - 2 y + 1, j - 2 x + 1]

where there is such a weight, elsewhere 0; the transposed convolution's is its transpose. With h x w outputs an image
takes 4 (h w)^2 products for each pair of channels, the convolution 16 h w: as many with 2x2 outputs, for there most of
the 4x4 weights lie beyond the border. A CPU's bfloat16 units compute one product of matrices in a third of the time
that torch's convolutions and their derivatives take.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from gan_lab.conversions import kept

MOST_OUTPUTS = 4
"""Pixels h w up to which the matrix is no larger than the products it saves."""

MOST_OUTPUTS_OF_AN_IMAGE = 16
"""Where one side has so few channels that products take no time: an image's."""

MOST_CHANNELS_OF_AN_IMAGE = 4

FEWEST_IMAGES = 32
"""Of a batch, from which the matrix, one for all, costs less than it saves."""


def pays(images: Tensor, num_channels: int, height: int, width: int) -> bool:
    """Whether to take the matrix; num_channels: of the larger images; height, width: of the smaller ones."""
    if images.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_autocast_enabled("cpu"):
        return False
    autocast_leaves_alone = images.dtype == torch.float64
    if torch.get_autocast_dtype("cpu") != torch.bfloat16 or autocast_leaves_alone:
        return False
    if images.ndim != 4 or len(images) < FEWEST_IMAGES:
        return False
    return 0 < height * width <= (MOST_OUTPUTS_OF_AN_IMAGE if _of_image(num_channels) else MOST_OUTPUTS)


def halving(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d(images, weight, bias, stride=2, padding=1), weight (K, C, 4, 4): (N, C, 2 h, 2 w) -> (N, K, h, w)."""
    height, width = images.shape[2] // 2, images.shape[3] // 2
    rows = (images if _of_image(weight.shape[1]) else images.permute(0, 2, 3, 1)).flatten(1)
    outputs = linear(rows, _matrix(weight, height, width), _biases(bias, height * width, channels_last=True))
    return outputs.view(-1, height, width, len(weight)).permute(0, 3, 1, 2)


def doubling(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv_transpose2d(images, weight, bias, stride=2, padding=1), weight (K, C, 4, 4), the other way."""
    (height, width), num_channels = images.shape[2:], weight.shape[1]
    of_image = _of_image(num_channels)
    biases = _biases(bias, 4 * height * width, channels_last=not of_image)
    outputs = linear(images.permute(0, 2, 3, 1).flatten(1), _matrix(weight, height, width).t(), biases)
    if of_image:
        return outputs.view(-1, num_channels, 2 * height, 2 * width)
    return outputs.view(-1, 2 * height, 2 * width, num_channels).permute(0, 3, 1, 2)


def _matrix(weight: Tensor, height: int, width: int) -> Tensor:
    dtype = _dtype(weight)

    def make(before: Tensor | None) -> Tensor:
        return Matrix.apply(weight, height, width, dtype, None if before is None else before.detach())

    return kept(weight, (height, width, dtype), make)


def _biases(bias: Tensor | None, num_pixels: int, channels_last: bool) -> Tensor | None:
    """Of each pixel of the outputs."""
    if bias is None:
        return None
    dtype = _dtype(bias)
    return kept(bias, (num_pixels, dtype), lambda _: _repeated(bias, num_pixels, channels_last, dtype))


def _repeated(bias: Tensor, num_pixels: int, channels_last: bool, dtype: torch.dtype) -> Tensor:
    each = bias.expand(num_pixels, -1) if channels_last else bias.unsqueeze(1).expand(-1, num_pixels)
    return each.to(dtype).flatten()


def _of_image(num_channels: int) -> bool:
    """Whether the larger images are the program's, in memory (C, H, W); features have their channels last."""
    return num_channels <= MOST_CHANNELS_OF_AN_IMAGE


def _dtype(weight: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


class Matrix(Function):
    """weight (K, C, 4, 4) -> M (h w K, 4 h w C): rows (h, w, K), columns (2 h, 2 w, C), an image's (C, 2 h, 2 w).

    Of many channels the weights' blocks are copied, of few they are multiplied by zeros and ones: each is the faster.
    before: a matrix of other weights of many channels, which is overwritten and returned: zeros are where they were.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, height: int, width: int, dtype: torch.dtype, before: Tensor | None = None
    ) -> Tensor:
        ctx.size = height, width
        (num_outputs, num_inputs), num_pixels = weight.shape[:2], height * width
        if _of_image(num_inputs):
            weights = weight.to(dtype).reshape(-1, 16).expand(num_pixels, -1, -1)
            return torch.bmm(weights, _places(height, width, dtype)).view(num_pixels * num_outputs, -1)
        if before is None:
            matrix = torch.zeros(num_pixels * num_outputs, 4 * num_pixels * num_inputs, dtype=dtype)
        else:
            matrix = before
            ctx.mark_dirty(before)
        torch._foreach_copy_(*_overlaid(matrix, weight, height, width))
        return matrix

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight_of = Weight.apply if torch.is_grad_enabled() else _weight
        return weight_of(gradient, *ctx.size), None, None, None, None


class Weight(Function):
    """The adjoint of `Matrix`, (h w K, 4 h w C) -> (K, C, 4, 4), summed in float32 (of float64 in that)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, height: int, width: int) -> Tensor:
        ctx.size, ctx.dtype = (height, width), matrix.dtype
        return _weight(matrix, height, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return Matrix.apply(gradient, *ctx.size, ctx.dtype), None, None


def _weight(matrix: Tensor, height: int, width: int) -> Tensor:
    num_pixels, precise = height * width, torch.promote_types(matrix.dtype, torch.float32)
    num_outputs, num_inputs = len(matrix) // num_pixels, matrix.shape[1] // (4 * num_pixels)
    if _of_image(num_inputs):
        places = _places(height, width, matrix.dtype).transpose(1, 2)
        of_each_pixel = torch.bmm(matrix.reshape(num_pixels, num_outputs * num_inputs, -1), places)
        return of_each_pixel.sum(dim=0, dtype=precise).view(num_outputs, num_inputs, 4, 4)
    weight = torch.zeros(num_outputs, 4, 4, num_inputs, dtype=precise).permute(0, 3, 1, 2)
    blocks, weights = _overlaid(matrix.contiguous(), weight, height, width)
    torch._foreach_add_(weights, blocks)
    return weight


@cache
def _spans(height: int, width: int) -> list[tuple[int, int, int, int, int, int, int]]:
    """Of each output pixel: its number, the first input pixel and the first weight on it, and how many, both ways."""

    def span(index: int, size: int) -> tuple[int, int, int]:
        first, last = max(2 * index - 1, 0), min(2 * index + 2, 2 * size - 1)
        return first, first - 2 * index + 1, last - first + 1

    spans = []
    for y in range(height):
        for x in range(width):
            (down, row, num_rows), (across, column, num_columns) = span(y, height), span(x, width)
            spans.append((y * width + x, down, across, row, column, num_rows, num_columns))
    return spans


def _overlaid(matrix: Tensor, weight: Tensor, height: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Views of M, channels last, and of weights (K, C, 4, 4) that lie on each other: of each output pixel a pair."""
    (num_outputs, num_inputs), num_columns = weight.shape[:2], matrix.shape[1]
    by_output, by_input, by_row, by_column = weight.stride()
    strides = num_columns, 2 * width * num_inputs, num_inputs, 1
    blocks, weights = [], []
    for pixel, down, across, row, column, *num in _spans(height, width):
        shape = num_outputs, *num, num_inputs
        place = pixel * num_outputs * num_columns + (2 * width * down + across) * num_inputs
        start = weight.storage_offset() + row * by_row + column * by_column
        # By hand: to slice each in all dimensions takes longer than to copy it.
        blocks.append(matrix.as_strided(shape, strides, matrix.storage_offset() + place))
        weights.append(weight.as_strided(shape, (by_output, by_row, by_column, by_input), start))
    return blocks, weights


@cache
def _places(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """(h w, 16, 4 h w) of zeros and ones: on which input pixel each weight lies, for each output pixel."""
    each_weight = torch.eye(16, dtype=dtype).view(1, 16, 4, 4)  # in a channel of its own
    matrix = torch.zeros(height * width, 4 * height * width * 16, dtype=dtype)
    torch._foreach_copy_(*_overlaid(matrix, each_weight, height, width))
    return matrix.view(height * width, -1, 16).transpose(1, 2).contiguous()
