"""Convolutional generator and discriminator in the manner of DCGAN (Radford, Metz & Chintala 2016), any size 8 to 128.

Both work at the sides `halved_sizes` lists: 28 -> 14 -> 7. `width` counts the channels at the finest hidden level; they
double with every halving up to `max_width`. The paper's network at 64x64: width=128, norm=batch, init_std=0.02.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import pad

from gan_lab.constraints import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.models.layers import (
    DoublingConv,
    HalvingConv,
    LastLayer,
    LeakyReLU,
    MinibatchStd,
    Norm,
    feature_maps,
    halved_sizes,
    image_norm,
    initialise_normal,
    spectrally_normalise,
    square_image,
)


def _channels(width: int, num_levels: int, max_width: int) -> list[int]:
    """Channels of the hidden levels, finest first."""
    return [min(width * 2**level, max_width) for level in range(num_levels)]


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1]: a dense layer, then 4x4 transposed convolutions."""

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 100,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 1024,
        norm: Norm = "batch",
        slope: NonNegativeFloat = 0.0,
        init_std: PositiveFloat | None = 0.02,
    ):
        """depth: number of doublings (None: from a side of at most 7); slope: LeakyReLU's, 0 is ReLU."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "dcgan")
        self.sizes = halved_sizes(size, depth)[::-1]
        channels = _channels(width, len(self.sizes) - 1, max_width)[::-1]
        self.dense = nn.Linear(latent_dim, channels[0] * self.sizes[0] ** 2)
        self.start = nn.Sequential(image_norm(norm, channels[0]), LeakyReLU(slope))
        self.levels = nn.ModuleList()
        for num_inputs, num_outputs in pairwise(channels):
            self.levels.append(
                nn.Sequential(
                    DoublingConv(num_inputs, num_outputs, bias=norm == "none"),
                    image_norm(norm, num_outputs),
                    LeakyReLU(slope),
                )
            )
        self.levels.append(nn.Sequential(DoublingConv(channels[-1], num_channels), nn.Tanh()))
        if init_std is not None:
            initialise_normal(self, init_std)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.start(feature_maps(self.dense(latent), self.sizes[0]))
        for size, level in zip(self.sizes[1:], self.levels, strict=True):
            x = level(x)[:, :, :size, :size]  # an odd side is one less than the double of its rounded-up half
        return x


class Discriminator(nn.Module):
    """images (N, C, H, W) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    Convolutions 4x4 by 2, then a dense layer. No norm on the first level.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        max_width: PositiveInt = 1024,
        norm: Norm = "none",
        slope: NonNegativeFloat = 0.2,
        init_std: PositiveFloat | None = 0.02,
        spectral_norm: bool = False,
        minibatch_std: NonNegativeInt = 0,
        num_outputs: PositiveInt = 1,
    ):
        """depth: number of halvings (None: until the side is at most 7). spectral_norm: of every weight.

        minibatch_std: samples in the groups of the layer of that name before the last (see MinibatchStd), 0 for none.
        """
        super().__init__()
        num_channels, size = square_image(sample_shape, "dcgan")
        sizes = halved_sizes(size, depth)
        channels = [num_channels, *_channels(width, len(sizes) - 1, max_width)]
        self.levels = nn.ModuleList()
        for level, (num_inputs, num) in enumerate(pairwise(channels)):
            level_norm = "none" if level == 0 else norm
            self.levels.append(
                nn.Sequential(
                    HalvingConv(num_inputs, num, bias=level_norm == "none"),
                    image_norm(level_norm, num),
                    LeakyReLU(slope),
                )
            )
        self.group = MinibatchStd(minibatch_std) if minibatch_std > 0 else nn.Identity()
        self.logit = LastLayer((channels[-1] + (minibatch_std > 0)) * sizes[-1] ** 2, num_outputs)
        if init_std is not None:
            initialise_normal(self, init_std)
        if spectral_norm:
            spectrally_normalise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for level in self.levels:
            odd = x.shape[-1] % 2
            x = level(pad(x, (0, odd, 0, odd)) if odd else x)  # so that an odd side's half is rounded up, as in G
        return self.logit(self.group(x)).squeeze(1)
