"""R3GAN's networks (Huang et al. 2024, "The GAN is dead; long live the GAN!", section 4, Config E): no normalisation.

Each side has `num_blocks` residual blocks: 1x1 to `expansion` times the channels, 3x3 in groups of `group_width`
channels, 1x1 back. Sides change by bilinear resampling. What keeps a network without norms trainable is its start
(Fix-up, Zhang et al. 2019): every block is the identity, for its last convolution is 0, and the weights before that are
N(0, gain^2 / fan in) with gain = sqrt(2 / (1 + slope^2)) L^(-1/4), where L is the number of blocks.

`width` counts the channels at the image's side; they double with every halving up to `max_width`. The authors' presets,
all with num_blocks=2, expansion=2, group_width=16 and latents of 64 values: CIFAR-10 width=768 max_width=768; FFHQ-64
width=384 max_width=768; FFHQ-256 width=96 max_width=768. Differences here: tanh at G's end, as in every family; beyond
the border, upsampling sees the last pixel, where theirs sees zeros. Made for loss=relativistic with penalty=r1_r2.
"""

import torch
from torch import Tensor, nn

from gan_lab.constraints import NonNegativeFloat, PositiveInt
from gan_lab.models.layers import LeakyReLU, Lowpass, halved_sizes, square_image, upsample_bilinear


def _initialised(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    """Weights N(0, gain^2 / fan in): with gain 1, outputs have the inputs' mean square. Biases 0."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / fan_in**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _mix(num_inputs: int, num_outputs: int) -> nn.Module:
    """A 1x1 convolution without bias; the identity where the channels stay."""
    if num_inputs == num_outputs:
        return nn.Identity()
    return _initialised(nn.Conv2d(num_inputs, num_outputs, 1, bias=False))


class ResidualBlock(nn.Module):
    """(N, C, H, W) -> (N, C, H, W): x + W3 a(b2 + W2 a(b1 + W1 x)), a LeakyReLU, W2 grouped; W3 starts at 0."""

    def __init__(self, num_channels: int, expansion: int, group_width: int, slope: float, num_all_blocks: int):
        super().__init__()
        inner = num_channels * expansion
        groups = max(inner // group_width, 1)
        if inner % groups != 0:
            raise ValueError(
                f"{num_channels} channels times expansion={expansion} are no multiple of group_width={group_width}: "
                "use a width and a max_width that are"
            )
        gain = (2 / (1 + slope**2)) ** 0.5 * num_all_blocks ** (-1 / 4)  # L^(-1 / (2m - 2)) for the m = 3 layers
        self.layers = nn.Sequential(
            _initialised(nn.Conv2d(num_channels, inner, 1), gain),
            LeakyReLU(slope),
            _initialised(nn.Conv2d(inner, inner, 3, padding=1, groups=groups), gain),
            LeakyReLU(slope),
            _initialised(nn.Conv2d(inner, num_channels, 1, bias=False), 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Upsample(nn.Module):
    """(N, C, H, W) -> (N, C', S, S): 1x1, then bilinear to twice the side, cropped to S."""

    def __init__(self, num_inputs: int, num_outputs: int, size: int):
        super().__init__()
        self.mix = _mix(num_inputs, num_outputs)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return upsample_bilinear(self.mix(x), self.size)


def _plan(
    sample_shape: tuple[int, ...], width: int, depth: int | None, max_width: int
) -> tuple[int, list[int], list[int]]:
    """(image channels, sides, channels of each side), the image's side first."""
    num_channels, size = square_image(sample_shape, "r3gan")
    sizes = halved_sizes(size, depth)
    return num_channels, sizes, [min(width * 2**level, max_width) for level in range(len(sizes))]


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1]: the latent scales a basis, one learned map a channel.

    For latents N(0, 1), the first side's values start with mean square 1, which only resampling changes at the start.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 64,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 128,
        num_blocks: PositiveInt = 1,
        expansion: PositiveInt = 2,
        group_width: PositiveInt = 16,
        slope: NonNegativeFloat = 0.2,
    ):
        """depth: number of doublings (None: from a side of at most 7); num_blocks: residual blocks of each side."""
        super().__init__()
        num_channels, sizes, channels = _plan(sample_shape, width, depth, max_width)
        sizes, channels = sizes[::-1], channels[::-1]
        self.scales = _initialised(nn.Linear(latent_dim, channels[0], bias=False))
        self.basis = nn.Parameter(torch.randn(channels[0], sizes[0], sizes[0]))
        self.levels = nn.Sequential()
        for level, (size, num) in enumerate(zip(sizes, channels, strict=True)):
            if level > 0:
                self.levels.append(Upsample(channels[level - 1], num, size))
            for _ in range(num_blocks):
                self.levels.append(ResidualBlock(num, expansion, group_width, slope, num_blocks * len(sizes)))
        self.image = _initialised(nn.Conv2d(channels[-1], num_channels, 1, bias=False))

    def forward(self, latent: Tensor) -> Tensor:
        scales = self.scales(latent)[:, :, None, None]
        maps = (scales * self.basis.to(scales.dtype)).contiguous(memory_format=torch.channels_last)
        return self.image(self.levels(maps)).tanh()


class Discriminator(nn.Module):
    """images (N, C, H, W) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    1x1, residual blocks, one product with a learned map a channel, dense.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 128,
        num_blocks: PositiveInt = 1,
        expansion: PositiveInt = 2,
        group_width: PositiveInt = 16,
        slope: NonNegativeFloat = 0.2,
        num_outputs: PositiveInt = 1,
    ):
        """depth: number of halvings (None: until the side is at most 7); num_blocks: residual blocks of each side."""
        super().__init__()
        num_channels, sizes, channels = _plan(sample_shape, width, depth, max_width)
        self.image = _initialised(nn.Conv2d(num_channels, channels[0], 1, bias=False))
        self.levels = nn.Sequential()
        for level, num in enumerate(channels):
            if level > 0:
                self.levels += nn.Sequential(Lowpass(channels[level - 1]), _mix(channels[level - 1], num))
            for _ in range(num_blocks):
                self.levels.append(ResidualBlock(num, expansion, group_width, slope, num_blocks * len(sizes)))
        last = channels[-1]
        self.basis = nn.Parameter(torch.randn(last, sizes[-1], sizes[-1]) / sizes[-1])
        self.logit = _initialised(nn.Linear(last, num_outputs, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.levels(self.image(images))
        # As a depthwise convolution in bfloat16, its derivatives take a quarter of the training's time on a CPU.
        return self.logit((maps * self.basis).sum(dim=(2, 3))).squeeze(1)
