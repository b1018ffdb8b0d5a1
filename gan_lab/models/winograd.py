"""4x4 convolutions by 2 with padding 1, and transposed ones, in 9 products for 16 (Winograd 1980; Lavin & Gray 2016).

Two neighbouring outputs of two weights each take three products instead of four, F(2, 2):

    y0 = w0 x0 + w1 x1 = w0 (x0 - x1) + (w0 + w1) x1
    y1 = w0 x1 + w1 x2 = w1 (x2 - x1) + (w0 + w1) x1

A 4x4 convolution by 2 is one of 2x2 weights on four times as many channels, the even and odd rows and columns. Along
both sides of an image that makes tiles of 2x2 outputs, and 3x3 matrix products over the channels of all tiles.

Three functions, each linear in both of its inputs, are each other's derivatives, of any order: `Convolution` of images
and weights, `Transposed` of outputs and weights, `WeightGradient` of images and outputs. They go through a batch in
chunks that stay in the cache. It is for CPUs, whose convolutions torch computes with all products in training.
torch.func and forward-mode derivatives are not supported; torch.compile takes torch's own convolutions.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d, conv_transpose2d

CHUNK_BYTES = 3 * 2**23
"""At most so many of a chunk's tiles and products, where they are not of a single image."""

FEWEST_CHANNEL_PAIRS = 2**15
"""C K from which the additions cost less than the products they save; measured with 64 images of 8 to 32 pixels."""

FEWEST_TILES = 128
"""Of a batch, from which the sums of the weights, one set for all, cost less than the products they save."""

MOST_PRODUCTS = 0.75
"""Of torch's own. It is 9 / 16 of even sides; odd ones are filled up: 0.73 of 7 pixels, 0.81 of 5."""


def halving_conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv2d(images, weight, bias, stride=2, padding=1) with a weight (K, C, 4, 4)."""
    height, width = images.shape[-2:]
    if height % 2 == 0 and width % 2 == 0 and _pays(images, weight, height // 2, width // 2):
        outputs = Convolution.apply(images, Sums.apply(weight))
        return outputs if bias is None else outputs + bias[:, None, None]
    return conv2d(images, weight, bias, stride=2, padding=1)


def doubling_conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv_transpose2d(images, weight, bias, stride=2, padding=1) with a weight (C, K, 4, 4)."""
    if _pays(images, weight, *images.shape[-2:]):
        outputs = Transposed.apply(images, Sums.apply(weight))
        return outputs if bias is None else outputs + bias[:, None, None]
    return conv_transpose2d(images, weight, bias, stride=2, padding=1)


def _pays(images: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """Whether to take the fewer products; height, width: of the smaller images."""
    if images.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64) or weight.dtype != images.dtype:
        return False
    tiles = ((height + 1) // 2) * ((width + 1) // 2)
    saves = weight.shape[0] * weight.shape[1] >= FEWEST_CHANNEL_PAIRS and len(images) * tiles >= FEWEST_TILES
    return saves and 9 * 4 * tiles <= MOST_PRODUCTS * 16 * height * width


def _asked(ctx: Any) -> list[bool]:
    """For which inputs the running backward pass wants gradients: backward(inputs=...) leaves some out.

    `needs_input_grad` says for which there could be some. torch has no public question for the rest.
    """

    def wanted(node: Any) -> bool:
        try:
            return torch._C._will_engine_execute_node(node)
        except RuntimeError:  # torch's answer for a leaf that autograd.grad was asked for
            return True

    pairs = zip(ctx.needs_input_grad, ctx.next_functions, strict=True)
    return [needed and wanted(node) for needed, (node, _) in pairs]


class Workspace:
    """Buffers for a chunk of `num` images, and four linear maps: from and to tiles, from and to products.

    height, width: of the outputs. Odd ones are filled up with zeros, to whole tiles.
    """

    def __init__(self, like: Tensor, num: int, num_inputs: int, num_outputs: int, height: int, width: int):
        down, across = (height + 1) // 2, (width + 1) // 2
        self.padded = like.new_zeros(num, 4 * down + 2, 4 * across + 2, num_inputs)
        self.pixels = self.padded.view(num, 2 * down + 1, 2, 2 * across + 1, 2, num_inputs).permute(0, 1, 3, 2, 4, 5)
        self.rows = like.new_empty(3, num, down, *self.pixels.shape[2:])
        self.tiles = like.new_empty(3, 3, num, down, across, 2, 2, num_inputs)
        self.products = like.new_empty(3, 3, num, down, across, num_outputs)
        self.halves = like.new_empty(2, 3, num, down, across, num_outputs)
        self.outputs = like.new_zeros(num, 2 * down, 2 * across, num_outputs)
        self.pairs = self.outputs.view(num, down, 2, across, 2, num_outputs).permute(2, 4, 0, 1, 3, 5)
        # What is multiplied, as nine matrices:
        self.tile_rows = self.tiles.view(9, num * down * across, 4 * num_inputs)
        self.product_rows = self.products.view(9, num * down * across, num_outputs)

    def to_tiles(self, images: Tensor) -> Tensor:
        """images (num, C, 2 height, 2 width) -> differences (9, tiles, 4 C): x0 - x1, x1, x2 - x1 down and across."""
        self.padded[:, 1 : images.shape[2] + 1, 1 : images.shape[3] + 1] = images.permute(0, 2, 3, 1)
        middle = self.pixels[:, 1::2]
        torch.sub(self.pixels[:, 0:-1:2], middle, out=self.rows[0])
        torch.sub(self.pixels[:, 2::2], middle, out=self.rows[2])
        for tiles, row in zip(self.tiles, (self.rows[0], middle, self.rows[2]), strict=True):
            centre = row[:, :, 1::2]
            torch.sub(row[:, :, 0:-1:2], centre, out=tiles[0])
            tiles[1] = centre
            torch.sub(row[:, :, 2::2], centre, out=tiles[2])
        return self.tile_rows

    def from_tiles(self, images: Tensor) -> None:
        """The adjoint of `to_tiles`: what `tiles` holds into `images`, whose tiles overlap by a row and a column."""
        for row, tiles in zip(self.rows, self.tiles, strict=True):
            _overlapped(tiles, row, dim=2)
        _overlapped(self.rows, self.pixels, dim=1)
        images.copy_(self.padded[:, 1 : images.shape[2] + 1, 1 : images.shape[3] + 1].permute(0, 3, 1, 2))

    def from_products(self, outputs: Tensor) -> None:
        """What `products` holds into outputs (num, K, height, width): m0 + m1, m1 + m2 down and across."""
        _in_twos(self.products, self.pairs, self.halves)
        outputs.copy_(self.outputs[:, : outputs.shape[2], : outputs.shape[3]].permute(0, 3, 1, 2))

    def to_products(self, outputs: Tensor) -> Tensor:
        """The adjoint of `from_products`: outputs (num, K, height, width) -> sums (9, tiles, K)."""
        self.outputs[:, : outputs.shape[2], : outputs.shape[3]] = outputs.permute(0, 2, 3, 1)
        _in_threes(self.pairs, self.products)
        return self.product_rows


def _in_threes(pairs: Tensor, out: Tensor) -> None:
    """Of pairs (2, 2, ...) into out (3, 3, ...): w0, w0 + w1, w1 along both dimensions."""
    for row, pair in ((out[0], pairs[0]), (out[2], pairs[1])):
        row[0], row[2] = pair
        torch.add(row[0], row[2], out=row[1])
    torch.add(out[0], out[2], out=out[1])


def _in_twos(parts: Tensor, out: Tensor, halves: Tensor | None = None) -> None:
    """The adjoint of `_in_threes`: of parts (3, 3, ...) into out (2, 2, ...): m0 + m1, m1 + m2. halves: a buffer."""
    halves = torch.add(parts[:2], parts[1:], out=halves)
    torch.add(halves[:, :2], halves[:, 1:], out=out)


def _overlapped(parts: Tensor, out: Tensor, dim: int) -> None:
    """Of parts (3, ...) of n tiles in a row, into out of 2 n + 1 along `dim`: p1 - p0 - p2, and p0 + the last's p2."""
    before, middle, after = parts
    num = middle.shape[dim]
    odd = out.narrow(dim, 1, 2 * num - 1).unfold(dim, 1, 2).squeeze(-1)
    torch.sub(middle, before, out=odd)
    odd.sub_(after)
    out.select(dim, 0).copy_(before.select(dim, 0))
    out.select(dim, 2 * num).copy_(after.select(dim, num - 1))
    if num > 1:
        between = out.narrow(dim, 2, 2 * num - 3).unfold(dim, 1, 2).squeeze(-1)
        torch.add(before.narrow(dim, 1, num - 1), after.narrow(dim, 0, num - 1), out=between)


def _chunks(images: Tensor, outputs: Tensor) -> Iterator[tuple[Workspace, Tensor, Tensor]]:
    """(workspace, images, outputs) of each chunk; all chunks but the last are of one size."""
    num, num_outputs, height, width = outputs.shape
    tiles = ((height + 1) // 2) * ((width + 1) // 2)
    most = max(1, CHUNK_BYTES // (9 * tiles * (4 * images.shape[1] + num_outputs) * images.element_size()))
    num_chunks = max(1, math.ceil(num / most))
    size = max(1, math.ceil(num / num_chunks))  # 1 where there are no images
    workspace = None
    for some_images, some_outputs in zip(images.split(size), outputs.split(size), strict=True):
        if workspace is None or len(some_images) != len(workspace.padded):
            workspace = Workspace(images, len(some_images), images.shape[1], num_outputs, height, width)
        yield workspace, some_images, some_outputs


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class Convolution(Function):
    """images (N, C, 2 h, 2 w), weights (9, K, 4 C) -> outputs (N, K, h, w)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(images, weights)
        outputs = _empty(images, len(images), weights.shape[1], images.shape[2] // 2, images.shape[3] // 2)
        for workspace, some_images, some_outputs in _chunks(images, outputs):
            torch.bmm(workspace.to_tiles(some_images), weights.transpose(1, 2), out=workspace.product_rows)
            workspace.from_products(some_outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weights = ctx.saved_tensors
        first, second = _asked(ctx)
        return (
            Transposed.apply(gradient, weights) if first else None,
            WeightGradient.apply(images, gradient) if second else None,
        )


class Transposed(Function):
    """outputs (N, K, h, w), weights (9, K, 4 C) -> images (N, C, 2 h, 2 w)."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(outputs, weights)
        images = _empty(outputs, len(outputs), weights.shape[2] // 4, 2 * outputs.shape[2], 2 * outputs.shape[3])
        for workspace, some_images, some_outputs in _chunks(images, outputs):
            torch.bmm(workspace.to_products(some_outputs), weights, out=workspace.tile_rows)
            workspace.from_tiles(some_images)
        return images

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        outputs, weights = ctx.saved_tensors
        first, second = _asked(ctx)
        return (
            Convolution.apply(gradient, weights) if first else None,
            WeightGradient.apply(gradient, outputs) if second else None,
        )


class WeightGradient(Function):
    """images (N, C, 2 h, 2 w), outputs (N, K, h, w) -> weights (9, K, 4 C)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, outputs: Tensor) -> Tensor:
        ctx.save_for_backward(images, outputs)
        total = images.new_empty(9, outputs.shape[1], 4 * images.shape[1])
        for index, (workspace, some_images, some_outputs) in enumerate(_chunks(images, outputs)):
            products = workspace.to_products(some_outputs).transpose(1, 2)
            torch.baddbmm(total, products, workspace.to_tiles(some_images), beta=min(index, 1), out=total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, outputs = ctx.saved_tensors
        first, second = _asked(ctx)
        return (
            Transposed.apply(outputs, gradient) if first else None,
            Convolution.apply(images, gradient) if second else None,
        )


def _taps(weight: Tensor) -> Tensor:
    """A view of weight (K, C, 4, 4): (2, 2, K, 2, 2, C), the two weights down and across, of even and odd ones."""
    return weight.permute(2, 3, 0, 1).unflatten(1, (2, 2)).unflatten(0, (2, 2)).permute(0, 2, 4, 1, 3, 5)


class Sums(Function):
    """weight (K, C, 4, 4) -> weights (9, K, 4 C): w0, w0 + w1, w1 down and across, of even and odd rows and columns."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        num_outputs, num_inputs = weight.shape[:2]
        sums = weight.new_empty(3, 3, num_outputs, 2, 2, num_inputs)
        _in_threes(_taps(weight), sums)
        return sums.view(9, num_outputs, 4 * num_inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Kernel.apply(gradient)


class Kernel(Function):
    """The adjoint of `Sums`: (9, K, 4 C) -> (K, C, 4, 4)."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        num_outputs, num_inputs = sums.shape[1], sums.shape[2] // 4
        kernel = _empty(sums, num_outputs, num_inputs, 4, 4)
        _in_twos(sums.view(3, 3, num_outputs, 2, 2, num_inputs), _taps(kernel))
        return kernel

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Sums.apply(gradient)
