"""Residual networks with spectral normalisation (SNGAN, Miyato et al. 2018, appendix B.4) and self-attention (SAGAN).

The paper's tables are settings of one plan: `width` counts the channels at the finest hidden level, they double with
every halving of the side up to `max_width`, and D ends in `num_flat` blocks that keep the side.

    table 4, CIFAR-10, 32x32:  G width=256 max_width=256;  D width=128 max_width=128 depth=2 num_flat=2
    table 5, STL-10, 48x48:    G width=64 max_width=512;   D width=64 max_width=1024 depth=4 num_flat=1
    the authors' code, 64x64:  G width=64 max_width=1024;  D width=64 max_width=1024 depth=5 num_flat=0

The authors train them with loss=hinge, 5 D steps and Adam 2e-4 (0, 0.9), the rate falling to 0. With
spectral_norm=false in D they are in the manner of WGAN-GP's (Gulrajani et al. 2017, appendix F).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softmax

from gan_lab.constraints import NonNegativeInt, PositiveInt
from gan_lab.models.layers import (
    Norm,
    UpsampledConv,
    feature_maps,
    halved_sizes,
    image_norm,
    initialise_xavier,
    pooled_conv,
    relu,
    spectrally_normalised,
    square_image,
    upsample_nearest,
)


def _convolution(num_inputs: int, num_outputs: int, side: int, gain: float, spectral_norm: bool) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, num_outputs, side, padding=side // 2)
    initialise_xavier(layer, gain)
    return spectrally_normalised(layer, spectral_norm)


def _channels(width: int, num_levels: int, max_width: int) -> list[int]:
    """Channels of the levels, finest first."""
    return [min(width * 2**level, max_width) for level in range(num_levels)]


def _check_attention(attention: int | None, sizes: list[int], player: str) -> None:
    if attention is not None and attention not in sizes:
        raise ValueError(
            f"attention={attention}: {player} has no features of that side; use one of "
            f"{', '.join(map(str, sizes))}, or null for none"
        )


class SelfAttention(nn.Module):
    """features (N, C, H, W) -> x + gamma o: every pixel also sees all others (SAGAN, Zhang et al. 2019, section 3).

    s_ij = f(x_i) . g(x_j), b_ji = softmax of s_ij over i, o_j = v(sum_i b_ji h(x_i)); f, g, h map to C/8 channels and v
    back to C, all of them 1x1 convolutions without bias. gamma is learned and starts at 0, where the layer is the
    identity. (The authors' code has C/2 channels in h, and halves the side of f and h by max-pooling.)
    """

    def __init__(self, num_channels: int, spectral_norm: bool):
        super().__init__()
        inner = max(num_channels // 8, 1)

        def mix(num_inputs: int, num_outputs: int) -> nn.Module:
            layer = nn.Conv2d(num_inputs, num_outputs, 1, bias=False)
            initialise_xavier(layer)
            return spectrally_normalised(layer, spectral_norm)

        self.f, self.g, self.h = (mix(num_channels, inner) for _ in range(3))
        self.v = mix(inner, num_channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        f, g, h = (layer(features).flatten(2) for layer in (self.f, self.g, self.h))
        # Written out: torch's scaled_dot_product_attention has no second derivative, which gradient penalties need.
        shares = softmax(f.transpose(1, 2) @ g, dim=1)
        return features + self.gamma * self.v(feature_maps((h @ shares).flatten(1), *features.shape[2:]))


class GeneratorBlock(nn.Module):
    """(N, C, H, W) -> (N, C', S, S): norm, ReLU, twice the side, 3x3, norm, ReLU, 3x3, added to a 1x1 shortcut."""

    def __init__(self, num_inputs: int, num_outputs: int, size: int, norm: Norm, spectral_norm: bool):
        super().__init__()
        self.size = size
        self.norm1 = image_norm(norm, num_inputs)
        self.norm2 = image_norm(norm, num_outputs)
        conv1 = UpsampledConv(num_inputs, num_outputs, size)
        initialise_xavier(conv1, 2**0.5)
        self.conv1 = spectrally_normalised(conv1, spectral_norm)
        self.conv2 = _convolution(num_outputs, num_outputs, 3, 2**0.5, spectral_norm)
        self.shortcut = _convolution(num_inputs, num_outputs, 1, 1.0, spectral_norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(relu(self.norm1(x)))
        residual = self.conv2(relu(self.norm2(residual)))
        # 1x1 before the doubling: the same values as after it, for a quarter of the work.
        return residual + upsample_nearest(self.shortcut(x), self.size)


class DiscriminatorBlock(nn.Module):
    """(N, C, H, W) -> (N, C', H', W'): ReLU, 3x3, ReLU, 3x3, mean of 2x2 pixels, added to a shortcut.

    first: the image is not put through ReLU. Without halve, the side stays. The shortcut is a 1x1 convolution, or the
    identity where neither side nor channels change.
    """

    def __init__(self, num_inputs: int, num_outputs: int, first: bool, halve: bool, spectral_norm: bool):
        super().__init__()
        self.first, self.halve = first, halve
        # In the authors' first block, the hidden channels are the outputs', in all others the inputs'.
        hidden = num_outputs if first else num_inputs
        self.conv1 = _convolution(num_inputs, hidden, 3, 2**0.5, spectral_norm)
        self.conv2 = _convolution(hidden, num_outputs, 3, 2**0.5, spectral_norm)
        learned = halve or num_inputs != num_outputs
        self.shortcut = _convolution(num_inputs, num_outputs, 1, 1.0, spectral_norm) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.conv1(x if self.first else relu(x)))
        if not self.halve:
            return self.conv2(residual) + self.shortcut(x)
        # Means before 1x1: the same values as after it, for a quarter of the work.
        return pooled_conv(self.conv2, residual) + self.shortcut(avg_pool2d(x, 2, ceil_mode=True))


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1]: dense, residual blocks, norm, ReLU, 3x3, tanh."""

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 128,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 256,
        norm: Norm = "batch",
        spectral_norm: bool = False,
        attention: PositiveInt | None = None,
    ):
        """depth: number of doublings (None: from a side of at most 7); attention: side of the self-attention."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "resnet")
        sizes = halved_sizes(size, depth)[::-1]
        _check_attention(attention, sizes, "G")
        channels = _channels(width, len(sizes), max_width)[::-1]
        dense = nn.Linear(latent_dim, channels[0] * sizes[0] ** 2)
        initialise_xavier(dense)
        self.dense = spectrally_normalised(dense, spectral_norm)
        self.first_size = sizes[0]
        self.levels = nn.Sequential()
        for level, (side, num) in enumerate(zip(sizes, channels, strict=True)):
            if level > 0:
                self.levels.append(GeneratorBlock(channels[level - 1], num, side, norm, spectral_norm))
            if side == attention:
                self.levels.append(SelfAttention(num, spectral_norm))
        self.norm = image_norm(norm, width)
        self.image = _convolution(width, num_channels, 3, 1.0, spectral_norm)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.levels(feature_maps(self.dense(latent), self.first_size))
        return self.image(relu(self.norm(x))).tanh()


class Discriminator(nn.Module):
    """images (N, C, H, W) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    Residual blocks, ReLU, sum over all pixels, a dense layer. No norm but the spectral one.

    The dense layer makes the projection discriminator (Miyato & Koyama 2018, section 3) of num_outputs = 1 + classes:
    the logit of a sample of class y is outputs[:, 0] + outputs[:, 1 + y], that is psi(phi) + v_y . phi for its features
    phi, where row 0 of the layer is psi and row 1 + y is v_y. Here v_y has a bias too, and spectral normalisation is of
    the whole layer; in the authors' code, it is of psi and of the embedding v apart.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 256,
        num_flat: NonNegativeInt = 1,
        spectral_norm: bool = True,
        attention: PositiveInt | None = None,
        num_outputs: PositiveInt = 1,
    ):
        """depth: number of halvings (None: until the side is at most 7); attention: side of the self-attention."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "resnet")
        sizes = halved_sizes(size, depth)[1:]
        _check_attention(attention, sizes, "D")
        channels = _channels(width, len(sizes) + 1, max_width)  # the last are those of the flat blocks
        self.levels = nn.Sequential()
        num_inputs = num_channels
        for level, side in enumerate(sizes):
            self.levels.append(DiscriminatorBlock(num_inputs, channels[level], level == 0, True, spectral_norm))
            num_inputs = channels[level]
            if side == attention:
                self.levels.append(SelfAttention(num_inputs, spectral_norm))
        for _ in range(num_flat):
            self.levels.append(DiscriminatorBlock(num_inputs, channels[-1], False, False, spectral_norm))
            num_inputs = channels[-1]
        logit = nn.Linear(num_inputs, num_outputs)
        initialise_xavier(logit)
        self.logit = spectrally_normalised(logit, spectral_norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(relu(self.levels(images)).sum(dim=(2, 3))).squeeze(1)
