"""Nearest upsampling and 3x3 convolutions: the "DCGAN" of PyTorch-GAN (eriklindernoren, implementations/dcgan).

That repository uses this pair for most of its image methods (lsgan, dragan, relativistic_gan, ...). It is not the
network of the DCGAN paper, which is model=dcgan. One difference to it: there, BatchNorm's eps is 0.8 (a momentum, given
in eps's place), which leaves small activations almost as small as they were; here it is torch's 1e-5.
"""

from itertools import pairwise

from torch import Tensor, nn

from gan_lab.constraints import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.models.layers import (
    LastLayer,
    LeakyReLU,
    MinibatchStd,
    Norm,
    UpsampledConv,
    feature_maps,
    halved_sizes,
    image_norm,
    initialise_normal,
    most_halvings,
    spectrally_normalise,
    square_image,
)


def doubled(num_inputs: int, num_outputs: int, size: int, norm: Norm, slope: float) -> nn.Sequential:
    """(N, C, H, W) -> (N, C', S, S): twice the side by nearest pixels, 3x3 convolution, norm, LeakyReLU."""
    return nn.Sequential(UpsampledConv(num_inputs, num_outputs, size), image_norm(norm, num_outputs), LeakyReLU(slope))


def halved(num_inputs: int, num_outputs: int, norm: Norm, slope: float, dropout: float) -> nn.Sequential:
    """(N, C, H, W) -> (N, C', H', W'), half the side: 3x3 convolution by 2, LeakyReLU, Dropout2d, norm."""
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, 3, stride=2, padding=1),  # rounds an odd side's half up
        LeakyReLU(slope),
        nn.Dropout2d(dropout),
        image_norm(norm, num_outputs),
    )


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1].

    Dense to 2 width x S/4 x S/4 (rounded up) and a norm; then for each doubling of the side nearest upsampling, a 3x3
    convolution, norm and LeakyReLU, with `width` channels after the last doubling and 2 width before; then a 3x3
    convolution to the image.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 100,
        width: PositiveInt = 64,
        depth: PositiveInt | None = None,
        norm: Norm = "batch",
        slope: NonNegativeFloat = 0.2,
        init_std: PositiveFloat | None = 0.02,
    ):
        """depth: number of doublings (None: 2); init_std: of the convolutions' weights, not of the dense layer's."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "upconv")
        sizes = halved_sizes(size, 2 if depth is None else depth)[::-1]
        channels = [2 * width] * (len(sizes) - 1) + [width]
        self.first_size = sizes[0]
        self.dense = nn.Linear(latent_dim, channels[0] * sizes[0] ** 2)
        self.start = image_norm(norm, channels[0])
        self.levels = nn.Sequential()
        for side, pair in zip(sizes[1:], pairwise(channels), strict=True):
            self.levels.append(doubled(*pair, side, norm, slope))
        self.image = nn.Sequential(nn.Conv2d(width, num_channels, 3, padding=1), nn.Tanh())
        if init_std is not None:
            for part in (self.start, self.levels, self.image):
                initialise_normal(part, init_std)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.start(feature_maps(self.dense(latent), self.first_size))
        return self.image(self.levels(x))


class Discriminator(nn.Module):
    """images (N, C, H, W) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    3x3 convolutions by 2 to width/4, width/2, width and 2 width channels, each with LeakyReLU, then Dropout2d (whole
    channels) and, but for the first, a norm; then a dense layer.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 64,
        depth: PositiveInt | None = None,
        norm: Norm = "none",
        slope: NonNegativeFloat = 0.2,
        dropout: Fraction = 0.25,
        init_std: PositiveFloat | None = 0.02,
        spectral_norm: bool = False,
        minibatch_std: NonNegativeInt = 0,
        num_outputs: PositiveInt = 1,
    ):
        """depth: number of halvings (None: 4, or as many as leave two pixels); init_std: as in the generator.

        spectral_norm, minibatch_std: as in dcgan's.
        """
        super().__init__()
        num_channels, size = square_image(sample_shape, "upconv")
        sizes = halved_sizes(size, min(4, most_halvings(size)) if depth is None else depth)
        channels = [num_channels, *(max(width // 4, 1) * 2**level for level in range(len(sizes) - 1))]
        self.levels = nn.Sequential()
        for level, pair in enumerate(pairwise(channels)):
            self.levels += halved(*pair, "none" if level == 0 else norm, slope, dropout)
        self.group = MinibatchStd(minibatch_std) if minibatch_std > 0 else nn.Identity()
        self.logit = LastLayer((channels[-1] + (minibatch_std > 0)) * sizes[-1] ** 2, num_outputs)
        if init_std is not None:
            initialise_normal(self.levels, init_std)
        if spectral_norm:
            spectrally_normalise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.group(self.levels(images))).squeeze(1)
