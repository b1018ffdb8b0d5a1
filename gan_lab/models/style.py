"""StyleGAN2's networks at small scale (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN").

G: a mapping network makes the style of the latent; the style scales the input channels of every convolution, whose
outputs are scaled back to unit variance (section 2.2); each side adds its part to the image (figure 7b, output skips).
D: residual blocks (figure 7c). All weights are N(0, 1) and scaled when used ("equalised learning rate", Karras et al.
2018, section 4.1), so they bear learning rates of ten times the usual: the authors' is 0.002, with betas (0, 0.99).

`width` counts the channels at the image's side; they double with every halving up to `max_width`. Those of the authors
for CIFAR-10 (StyleGAN2-ADA, Karras et al. 2020, cfg=cifar of the code): width=512 max_width=512 latent_dim=512
style_dim=512 mapping_depth=2, in D minibatch_std=32. Left out: style mixing, path length regularisation, truncation.
Differences: tanh at G's end, as in every family; beyond the border, the image's upsampling sees the last pixel, where
theirs sees zeros.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear

from gan_lab.constraints import NonNegativeInt, PositiveInt
from gan_lab.models.layers import Lowpass, MinibatchStd, halved_sizes, leaky_relu, square_image, upsample_bilinear

SLOPE = 0.2


def activate(x: Tensor) -> Tensor:
    """LeakyReLU times sqrt(2), which keeps the mean square of N(0, 1) values near 1 (it becomes 1 + slope^2)."""
    return leaky_relu(x, SLOPE) * 2**0.5


class Dense(nn.Module):
    """(N, D) -> (N, D'): a dense layer of equalised learning rate; with lr_factor, it learns so much slower still."""

    def __init__(self, num_inputs: int, num_outputs: int, bias: float = 0.0, lr_factor: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs) / lr_factor)
        self.bias = nn.Parameter(torch.full((num_outputs,), bias / lr_factor))
        self.weight_scale = lr_factor / num_inputs**0.5
        self.bias_scale = lr_factor

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


class Convolution(nn.Module):
    """(N, C, H, W) -> (N, C', H', W'): a convolution of equalised learning rate, zeros beyond the border."""

    def __init__(
        self, num_inputs: int, num_outputs: int, side: int, *, bias: bool = True, stride: int = 1, padding: int = 0
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(num_outputs)) if bias else None
        self.scale = (num_inputs * side**2) ** -0.5
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, double: bool = False
) -> Tensor:
    """x (N, C, H, W) convolved with weights that differ by sample: (N, C', H, W), zeros beyond the border.

    double: with zeros between the pixels, (N, C', 2 H + 1, 2 W + 1) for a weight of 3x3, whose sides are exchanged.

    Of sample n: w'_oik = style_ni w_oik and w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + 1e-8) (equations 1 and 3). Here
    style (N, C) scales x instead, and the root, which depends on n and o alone, the result: the same values from one
    ordinary convolution. The other form, one convolution of N groups with N weights, takes 1 to 10 times as long on the
    CPU (forward and backward, 64 images).
    """
    x = x * style[:, :, None, None]
    if double:
        result = conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    else:
        result = conv2d(x, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return result
    squares = linear(style.square(), weight.square().sum(dim=(2, 3)))
    return result * (squares + 1e-8).rsqrt().to(result.dtype)[:, :, None, None]


class StyledConvolution(nn.Module):
    """(N, C, H, W), style (N, S) -> (N, C', S, S): modulated 3x3, demodulated, noise if any, bias, activation.

    double: the side is doubled, by zeros between the pixels before and the bilinear kernel after the convolution: away
    from the border the same as bilinear upsampling and then the convolution, for a quarter of the multiplications.

    With noise, one N(0, 1) value a pixel times a learned strength, which starts at 0, is added to all channels: drawn
    for each pass in training (from torch's default generator, as dropout's), the same saved ones in evaluation mode.
    """

    def __init__(self, num_inputs: int, num_outputs: int, style_dim: int, size: int, *, double: bool, noise: bool):
        super().__init__()
        self.size = size
        self.smooth = Lowpass(num_outputs, stride=1, gain=4.0) if double else None
        self.style = Dense(style_dim, num_inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.noise: Tensor | None
        self.register_buffer("noise", torch.randn(size, size) if noise else None)
        self.strength = nn.Parameter(torch.zeros(())) if noise else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = modulated_conv(x, self.weight, self.style(style), double=self.smooth is not None)
        if self.smooth is not None:
            x = self.smooth(x)[:, :, : self.size, : self.size]
        if self.noise is not None and self.strength is not None:
            noise = torch.randn_like(x[:, :1]) if self.training else self.noise.to(x.dtype)
            x = x + self.strength * noise
        return activate(x + self.bias.to(x.dtype)[:, None, None])


class ToImage(nn.Module):
    """(N, C, H, W), style (N, S) -> the part (N, image channels, H, W) of the image: modulated 1x1, not demodulated."""

    def __init__(self, num_inputs: int, num_channels: int, style_dim: int):
        super().__init__()
        self.style = Dense(style_dim, num_inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(num_channels, num_inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.scale = num_inputs**-0.5

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        part = modulated_conv(x, self.weight, self.style(style) * self.scale, demodulate=False)
        return part + self.bias.to(part.dtype)[:, None, None]


class GeneratorLevel(nn.Module):
    """One side: features and image of half the side (none in the first level), style -> features, image of this."""

    def __init__(
        self, num_inputs: int | None, num_outputs: int, num_channels: int, style_dim: int, size: int, noise: bool
    ):
        super().__init__()
        self.size = size
        self.conv1 = None
        if num_inputs is not None:
            self.conv1 = StyledConvolution(num_inputs, num_outputs, style_dim, size, double=True, noise=noise)
        self.conv2 = StyledConvolution(num_outputs, num_outputs, style_dim, size, double=False, noise=noise)
        self.to_image = ToImage(num_outputs, num_channels, style_dim)

    def forward(self, x: Tensor, image: Tensor | None, style: Tensor) -> tuple[Tensor, Tensor]:
        if self.conv1 is not None:
            x = self.conv1(x, style)
        x = self.conv2(x, style)
        part = self.to_image(x, style)
        return x, part if image is None else part + upsample_bilinear(image, self.size)


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1]."""

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 64,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 128,
        style_dim: PositiveInt = 64,
        mapping_depth: PositiveInt = 2,
        noise: bool = False,
    ):
        """depth: number of doublings (None: from a side of at most 7); noise: see StyledConvolution."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "style")
        sizes = halved_sizes(size, depth)
        channels = [min(width * 2**level, max_width) for level in range(len(sizes))]
        widths = [latent_dim, *[style_dim] * mapping_depth]
        self.mapping = nn.ModuleList(Dense(*pair, lr_factor=0.01) for pair in pairwise(widths))
        self.start = nn.Parameter(torch.randn(channels[-1], sizes[-1], sizes[-1]))
        self.levels = nn.ModuleList()
        num_inputs = None
        for side, num in zip(sizes[::-1], channels[::-1], strict=True):
            self.levels.append(GeneratorLevel(num_inputs, num, num_channels, style_dim, side, noise))
            num_inputs = num

    def style(self, latent: Tensor) -> Tensor:
        """The style (N, style_dim) of the latents, which are first scaled to mean square 1."""
        style = latent * (latent.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            style = activate(layer(style))
        return style

    def forward(self, latent: Tensor) -> Tensor:
        style = self.style(latent)
        x = self.start.to(style.dtype).expand(len(latent), -1, -1, -1)
        image = None
        for level in self.levels:
            x, image = level(x, image, style)
        assert image is not None
        return image.tanh()


class DiscriminatorBlock(nn.Module):
    """(N, C, H, W) -> (N, C', H', W'), half the side: 3x3, 3x3 by 2, and a 1x1 shortcut; their sum over sqrt(2)."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.conv1 = Convolution(num_inputs, num_inputs, 3, padding=1)
        self.smooth = Lowpass(num_inputs, stride=1, padding=2)
        self.conv2 = Convolution(num_inputs, num_outputs, 3, stride=2)
        self.halve = Lowpass(num_inputs)
        self.shortcut = Convolution(num_inputs, num_outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = activate(self.conv2(self.smooth(activate(self.conv1(x)))))
        return (residual + self.shortcut(self.halve(x))) * 0.5**0.5


class Discriminator(nn.Module):
    """images (N, C, H, W) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    minibatch_std: samples in the groups of the layer of that name (see MinibatchStd), 0 for no such layer. With it, the
    logit of a sample depends on its group, in gradient penalties too, as in the authors' R1.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 128,
        minibatch_std: NonNegativeInt = 0,
        num_outputs: PositiveInt = 1,
    ):
        """depth: number of halvings (None: until the side is at most 7)."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "style")
        sizes = halved_sizes(size, depth)
        channels = [min(width * 2**level, max_width) for level in range(len(sizes))]
        self.image = Convolution(num_channels, channels[0], 1)
        self.levels = nn.Sequential(*(DiscriminatorBlock(*pair) for pair in pairwise(channels)))
        last = channels[-1]
        self.group = MinibatchStd(minibatch_std) if minibatch_std > 0 else nn.Identity()
        self.conv = Convolution(last + (minibatch_std > 0), last, 3, padding=1)
        self.dense = Dense(last * sizes[-1] ** 2, last)
        self.logit = Dense(last, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.levels(activate(self.image(images)))
        x = activate(self.conv(self.group(x)))
        return self.logit(activate(self.dense(x.flatten(1)))).squeeze(1)
