"""The parts that the families share: normalisation by name, initialisation, sizes of a strided stack, resampling."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, linear, pad
from torch.nn.utils import parametrizations

from gan_lab.conversions import kept
from gan_lab.models import few_pixels
from gan_lab.models.winograd import doubling_conv2d, halving_conv2d

Norm = Literal["none", "batch", "layer", "instance"]
VectorNorm = Literal["none", "batch", "layer"]
Layer = TypeVar("Layer", bound=nn.Module)


def image_norm(name: Norm, channels: int) -> nn.Module:
    """A normalisation layer for (N, C, H, W); `layer` is one group over C, H and W with a scale per channel."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


def vector_norm(name: VectorNorm, features: int) -> nn.Module:
    """A normalisation layer for (N, features)."""
    if name == "batch":
        return nn.BatchNorm1d(features)
    if name == "layer":
        return nn.LayerNorm(features)
    return nn.Identity()


class LastLayer(nn.Linear):
    """features (N, F) or (N, C, H, W), F = C H W -> outputs (N, num_outputs) of a discriminator: a dense layer.

    It computes in float32 under autocast too: so small a product takes longer in bfloat16. And it reads features in the
    order in which they lie in memory, where gradients then go back to: to turn both takes longer than the product.
    Weights are in the order of (C, H, W), as nn.Linear's after a flattening.
    """

    def forward(self, features: Tensor) -> Tensor:
        weight = own = self.weight  # once: spectral_norm computes it anew each time
        if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
            shape = features.shape[1:]
            weight = kept(own, shape, lambda _: own.unflatten(1, shape).permute(0, 2, 3, 1).flatten(1))
            features = features.permute(0, 2, 3, 1)
        kind = features.device.type
        has_autocast = torch.amp.is_autocast_available(kind)  # "meta" has none
        with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
            return linear(features.flatten(1).to(weight.dtype), weight, self.bias)


class _OnlySlopes(threading.local):
    asked = False


_only_slopes = _OnlySlopes()


@contextmanager
def only_slopes() -> Iterator[None]:
    """Within are passes of which only the derivatives by their inputs are used, and in turn derived: a penalty's.

    Torch's second derivative of a LeakyReLU with respect to its inputs is a tensor of zeros, which then takes its way
    back through all layers before, weights' gradients included: a seventh of WGAN-GP's work. A product with the slopes
    has no such derivative. It takes one operator more, so passes with other uses are torch's.
    """
    before, _only_slopes.asked = _only_slopes.asked, True
    try:
        yield
    finally:
        _only_slopes.asked = before


def _times_slopes(inputs: Tensor, slope: float, factors: Tensor) -> Tensor:
    """leaky_relu(inputs) * factors, the factors with no graph."""
    return inputs * torch.ops.aten.leaky_relu_backward(factors, inputs.detach(), slope, False)


def leaky_relu(inputs: Tensor, slope: float) -> Tensor:
    """torch's; see `only_slopes`."""
    if _only_slopes.asked and inputs.requires_grad:
        return _times_slopes(inputs, slope, inputs.new_ones(()).expand_as(inputs))
    # relu keeps its result for the derivative, as the next layer does, leaky_relu its inputs.
    return functional.leaky_relu(inputs, slope) if slope > 0 else functional.relu(inputs)


def relu(inputs: Tensor) -> Tensor:
    return leaky_relu(inputs, 0.0)


class LeakyReLU(nn.LeakyReLU):
    """In place, but for `only_slopes` and for views of other tensors, of which autograd would make copies both ways.

    Compiled code, which cannot ask whether it is a view, finds its own way.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if _only_slopes.asked or torch.compiler.is_compiling() or inputs._is_view():
            return leaky_relu(inputs, self.negative_slope)
        return functional.leaky_relu(inputs, self.negative_slope, inplace=True)


class FourierFeatures(nn.Module):
    """points (N, D) -> (N, D + 2 num): the points, and sine and cosine of `num` random projections of them.

    The projections' weights are N(0, std), drawn once and not trained: networks of low-dimensional inputs learn details
    of size 1 / std only with such features (Tancik et al. 2020, section 6.1, with the points kept beside them).
    """

    def __init__(self, num_inputs: int, num: int, std: float):
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", std * torch.randn(num_inputs, num))

    def forward(self, points: Tensor) -> Tensor:
        angles = points @ self.frequencies
        return torch.cat([points, angles.sin(), angles.cos()], dim=1)


def _bits(shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Memory for 16 bits a value: as int64 (num,), of four values each, and as int16 of this shape."""
    draws = torch.empty((shape.numel() + 3) // 4, dtype=torch.int64)
    return draws, draws.view(torch.int16)[: shape.numel()].view(shape)


class _Draws(NamedTuple):
    """Where dropout's factors for inputs of one shape and type are drawn: each is 0 or `factor`."""

    draws: Tensor
    bits: Tensor
    factors: Tensor  # of the inputs' shape and type; of 16 bits, they lie where `bits` do
    factor: Tensor  # (), of the inputs' type; of 16 bits, what these are as an int16

    @classmethod
    def of(cls, shape: torch.Size, dtype: torch.dtype, factor: float) -> "_Draws":
        draws, bits = _bits(shape)
        number = torch.tensor(factor, dtype=dtype)
        if number.element_size() == bits.element_size():
            return cls(draws, bits, bits.view(dtype), number.view(bits.dtype))
        return cls(draws, bits, torch.empty(shape, dtype=dtype), number)


class LeakyReLUDropout(nn.Dropout):
    """LeakyReLU, then dropout: one product with the slopes of what is kept, which is cheaper to derive, too.

    On a CPU each value is kept or not by 16 random bits, four values a draw: twice as fast as torch's dropout. What is
    kept is multiplied by the inverse of its probability, a multiple of 2^-16. No pass needs its factors once it has the
    slopes: all passes with inputs of one shape draw them in one memory, but for compiled ones.
    """

    def __init__(self, slope: float, p: float):
        super().__init__(p)
        self.negative_slope = slope
        self._memories: dict[tuple[torch.Size, torch.dtype, int], _Draws] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        factors = self.factors(inputs)
        if factors is None:
            return super().forward(leaky_relu(inputs, self.negative_slope))
        return _times_slopes(inputs, self.negative_slope, factors)

    def factors(self, inputs: Tensor) -> Tensor | None:
        """What to multiply inputs by, of their shape and type, overwritten by the next call. None: take torch's."""
        num_kept = round((1 - self.p) * 2**16)  # of the 2^16 equally likely values
        if not self.training or inputs.device.type != "cpu" or num_kept in (0, 2**16):
            return None
        if torch.compiler.is_compiling():  # its derivatives may need the factors, not the slopes
            draws, bits = _bits(inputs.shape)
            draws.random_(-(2**63), None)
            return bits.lt(num_kept - 2**15).to(inputs.dtype) * (2**16 / num_kept)
        key = inputs.shape, inputs.dtype, num_kept
        if key not in self._memories:
            self._memories[key] = _Draws.of(inputs.shape, inputs.dtype, 2**16 / num_kept)
        draws, bits, factors, factor = self._memories[key]
        draws.random_(-(2**63), None)
        bits.lt_(num_kept - 2**15)  # 1 or 0
        if factor.dtype == bits.dtype:
            bits.mul_(factor)  # all of the factor's bits, or none
        else:
            factors.copy_(bits).mul_(factor)
        return factors


class MinibatchStd(nn.Module):
    """features (N, C, H, W) -> (N, C + 1, H, W): one more channel, which says how much the samples of a group differ.

    Its value is the standard deviation over the group, averaged over channels and pixels (Karras et al. 2018, section
    3). A group is `group_size` samples in a row; where N is no multiple of it, some groups have more, of fewer samples
    there is one group.
    """

    def __init__(self, group_size: int):
        super().__init__()
        self.group_size = group_size

    def forward(self, features: Tensor) -> Tensor:
        num_groups = max(len(features) // self.group_size, 1)
        if len(features) % num_groups > 0:
            return torch.cat([self(group) for group in features.tensor_split(num_groups)])
        size = len(features) // num_groups
        precise = torch.promote_types(features.dtype, torch.float32)  # squares of small differences, under autocast
        groups = features.to(precise).unflatten(0, (-1, size))
        variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)
        std = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))  # 1e-8: the root's gradient is infinite at 0
        channel = std.repeat_interleave(size).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
        return torch.cat([features, channel.to(features.dtype)], dim=1)


def mixes_samples(module: nn.Module) -> bool:
    """Whether any layer lets the samples of a batch see each other."""
    kinds = (nn.modules.batchnorm._BatchNorm, MinibatchStd)
    return any(isinstance(layer, kinds) for layer in module.modules())


def initialise_normal(module: nn.Module, std: float) -> None:
    """DCGAN's initialisation (Radford et al. 2016, section 4): weights N(0, std), norm scales N(1, std), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
            nn.init.normal_(layer.weight, 1.0, std)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def halved_sizes(size: int, num_halvings: int | None = None) -> list[int]:
    """Side lengths from `size` down by rounded-up halves: `num_halvings` times, or while the side is above 7.

    28 -> [28, 14, 7]; 64 -> [64, 32, 16, 8, 4]; 37 -> [37, 19, 10, 5].
    """
    sizes = [size]
    while len(sizes) <= num_halvings if num_halvings is not None else sizes[-1] > 7:
        sizes.append((sizes[-1] + 1) // 2)
    if sizes[-1] < 2:
        raise ValueError(f"depth={num_halvings} halves {size} pixels to less than 2: use a smaller depth")
    return sizes


def most_halvings(size: int) -> int:
    """How often `size` can be halved, rounded up, before less than 2 pixels are left: 8 -> 2, 28 -> 4, 32 -> 4."""
    return max((size - 1).bit_length() - 1, 0)


def square_image(sample_shape: tuple[int, ...], family: str) -> tuple[int, int]:
    """(channels, side) of square images; ValueError for samples of another kind."""
    if len(sample_shape) != 3 or sample_shape[1] != sample_shape[2]:
        raise ValueError(
            f"model={family} draws square images (C, H, W), the data set has samples of shape {tuple(sample_shape)}: "
            "use model=mlp"
        )
    return sample_shape[0], sample_shape[1]


def feature_maps(features: Tensor, height: int, width: int | None = None) -> Tensor:
    """(N, C height width) -> (N, C, height, width), square without `width`; in memory, channels come last.

    Convolutions keep that order (and all norms but `instance`), in which a CPU's are fastest: of mixed ones, each
    gradient is turned.
    """
    maps = features.unflatten(1, (-1, height, height if width is None else width))
    return maps.contiguous(memory_format=torch.channels_last)


def upsample_nearest(images: Tensor, size: int) -> Tensor:
    """Every pixel twice in each direction, then the first `size` rows and columns: an odd side drops the last."""
    return interpolate(images, scale_factor=2.0, mode="nearest")[:, :, :size, :size]


def upsampled_conv(conv: nn.Conv2d, images: Tensor, size: int) -> Tensor:
    """conv(upsample_nearest(images, size)) for a 3x3 convolution of stride 1 with padding 1, in fewer products.

    Of the nine pixels under the kernel, those that are copies of one pixel are multiplied by the sum of their weights:
    four products an output instead of nine. The four sums of a row with weights a, b, c, as a transposed convolution by
    2 has them, are c, b + c, a + b, a. An odd side takes the plain way: its last row is beside zeros, not its copy.
    """
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    if size % 2 != 0:
        return conv2d(upsample_nearest(images, size), conv.weight, conv.bias, padding=1)
    sums = 4 * avg_pool2d(conv.weight.flip(2, 3), 2, stride=1, padding=1)  # of 2x2 neighbours, zeros beyond the border
    return doubling_conv2d(images, sums.transpose(0, 1), conv.bias)


def pooled_conv(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """avg_pool2d(conv(images), 2, ceil_mode=True) for a 3x3 convolution of stride 1 with padding 1, in fewer products.

    The mean of four neighbours' nine products each is sixteen, with the means of the weights that meet a pixel. At an
    odd side's end the mean is of what is there, so that it takes the plain way.
    """
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    if images.shape[-1] % 2 != 0 or images.shape[-2] % 2 != 0:
        return avg_pool2d(conv2d(images, conv.weight, conv.bias, padding=1), 2, ceil_mode=True)
    means = avg_pool2d(conv.weight, 2, stride=1, padding=1)
    return halving_conv2d(images, means, conv.bias)


class UpsampledConv(nn.Conv2d):
    """(N, C, H, W) -> (N, C', S, S): twice the side by nearest pixels, cropped to S, and a 3x3 convolution."""

    def __init__(self, num_inputs: int, num_outputs: int, size: int):
        super().__init__(num_inputs, num_outputs, 3, padding=1)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return upsampled_conv(self, images, self.size)


class HalvingConv(nn.Conv2d):
    """(N, C, H, W) -> (N, C', H // 2, W // 2): a 4x4 convolution by 2 with padding 1, on a CPU a faster one."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool = True):
        super().__init__(num_inputs, num_outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        even = height % 2 == 0 and width % 2 == 0
        if even and few_pixels.pays(images, self.in_channels, height // 2, width // 2):
            return few_pixels.halving(images, self.weight, self.bias)
        return halving_conv2d(images, self.weight, self.bias)


class DoublingConv(nn.ConvTranspose2d):
    """(N, C, H, W) -> (N, C', 2 H, 2 W): a transposed 4x4 convolution by 2 with padding 1, likewise."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool = True):
        super().__init__(num_inputs, num_outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        if few_pixels.pays(images, self.out_channels, *images.shape[-2:]):
            return few_pixels.doubling(images, self.weight, self.bias)
        return doubling_conv2d(images, self.weight, self.bias)


def upsample_bilinear(images: Tensor, size: int) -> Tensor:
    """Twice the side by linear interpolation (kernel [1, 3, 3, 1] / 4), then the first `size` rows and columns."""
    return interpolate(images, scale_factor=2.0, mode="bilinear")[:, :, :size, :size]


class Lowpass(nn.Module):
    """images (N, C, H, W) -> smoothed by [1, 3, 3, 1] / 8 in both directions, every `stride`-th pixel kept, times gain.

    The kernel of bilinear interpolation; beyond the border there are zeros. stride 2, padding 1: half the side, rounded
    up. stride 1, padding 2: the side that a 3x3 convolution by 2 without padding halves so.
    """

    def __init__(self, num_channels: int, *, stride: int = 2, padding: int = 1, gain: float = 1.0):
        super().__init__()
        self.stride, self.padding = stride, padding
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.kernel: Tensor
        kernel = gain * torch.outer(taps, taps)
        # Not saved: it is no state. A depthwise convolution is the fastest form on the CPU, and bears bfloat16.
        self.register_buffer("kernel", kernel.repeat(num_channels, 1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        odd = images.shape[-1] % 2
        images = pad(images, (0, odd, 0, odd)) if odd else images
        if torch.compiler.is_compiling():
            return conv2d(images, self.kernel, stride=self.stride, padding=self.padding, groups=len(self.kernel))
        return _Depthwise.apply(images, self.kernel, self.stride, self.padding)


class _Depthwise(Function):
    """images, a fixed kernel (C, 1, K, K) -> outputs: conv2d in C groups, with derivatives of any order that are fast.

    It is linear: its derivative is its adjoint, and that one's is itself. torch's own derivative of the second order
    takes, on a CPU, ten to fifty times as long, and in bfloat16 so does the first.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
        ctx.kernel, ctx.stride, ctx.padding = kernel, stride, padding
        return conv2d(images, kernel.to(images.dtype), stride=stride, padding=padding, groups=len(kernel))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _DepthwiseAdjoint.apply(gradient, ctx.kernel, ctx.stride, ctx.padding), None, None, None


class _DepthwiseAdjoint(Function):
    """outputs -> images, of the sides that the kernel goes through without remainder."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
        ctx.kernel, ctx.stride, ctx.padding = kernel, stride, padding
        with torch.autocast(outputs.device.type, enabled=False):  # in bfloat16, a CPU takes thirty times as long
            images = conv_transpose2d(
                outputs.to(kernel.dtype), kernel, stride=stride, padding=padding, groups=len(kernel)
            )
        return images.to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Depthwise.apply(gradient, ctx.kernel, ctx.stride, ctx.padding), None, None, None


def spectrally_normalised(layer: Layer, enabled: bool) -> Layer:
    """The layer with its weight divided by the weight's largest singular value (Miyato et al. 2018, equation 8).

    The singular value comes from one step of power iteration in each pass in training mode (algorithm 1); its vectors
    are buffers. To be called after the initialisation, from which the vectors are started.
    """
    if enabled:
        parametrizations.spectral_norm(layer)
    return layer


def spectrally_normalise(module: nn.Module) -> None:
    """Every dense and convolutional layer of a network, likewise."""
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            spectrally_normalised(layer, True)


def initialise_xavier(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Weights U(-a, a) with a = gain sqrt(6 / (fan in + fan out)) (Glorot & Bengio 2010, equation 16), bias 0."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
