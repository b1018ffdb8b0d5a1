"""CoGAN's coupled pair (Liu & Tuzel 2016): two domains of images, drawn from one latent, their two discriminators.

A sample holds both domains' images, one behind the other on channels: (N, 2C, H, W). The generators share their first
layers, which decide on what is common, and the discriminators their last ones (section 3); at the side of the pixels
each domain has `num_own` levels of its own. D sees each image alone, and no layer mixes the two of one sample: it says
that images look like those of their domain, never that two belong together. That a latent's two images do is left to
the shared layers.

The layers are those of model=upconv, as in PyTorch-GAN's cogan (implementations/cogan), whose generator has these with
num_own=1. Its discriminator shares the first layers and has the last one apart, the reverse of the paper's and of this.
"""

import torch
from torch import Tensor, nn

from gan_lab.constraints import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from gan_lab.models.layers import (
    LastLayer,
    Norm,
    feature_maps,
    halved_sizes,
    image_norm,
    initialise_normal,
    most_halvings,
    square_image,
)
from gan_lab.models.upconv import doubled, halved

NUM_DOMAINS = 2


def _domain_image(sample_shape: tuple[int, ...]) -> tuple[int, int]:
    """(channels of one domain, side) of samples that hold two domains' images; ValueError for others."""
    num_channels, size = square_image(sample_shape, "coupled")
    if num_channels % NUM_DOMAINS != 0:
        raise ValueError(
            f"model=coupled draws images of {NUM_DOMAINS} domains, one behind the other on channels, the data set has "
            f"samples of shape {tuple(sample_shape)}: use dataset=coupled_digits, or another model"
        )
    return num_channels // NUM_DOMAINS, size


def _check_own(num_own: int, num_levels: int) -> None:
    if num_own > num_levels:
        raise ValueError(f"num_own={num_own} of {num_levels} levels: use at most {num_levels}, or a larger depth")


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, 2C, H, W) in [-1, 1]: the first domain's C channels, then the second's.

    As upconv's: dense, a norm, then levels that double the side. The last `num_own` of them and the 3x3 convolution to
    the image exist once for each domain.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 100,
        width: PositiveInt = 64,
        depth: PositiveInt | None = None,
        num_own: PositiveInt = 1,
        norm: Norm = "batch",
        slope: NonNegativeFloat = 0.2,
        init_std: PositiveFloat | None = 0.02,
    ):
        """depth: number of doublings (None: 2); init_std: of the convolutions' weights, not of the dense layer's."""
        super().__init__()
        num_channels, size = _domain_image(sample_shape)
        sizes = halved_sizes(size, 2 if depth is None else depth)[::-1]
        num_levels = len(sizes) - 1
        _check_own(num_own, num_levels)
        channels = [2 * width] * num_levels + [width]
        self.first_size = sizes[0]
        self.dense = nn.Linear(latent_dim, channels[0] * sizes[0] ** 2)

        def levels(start: int, stop: int) -> list[nn.Sequential]:
            return [doubled(channels[i], channels[i + 1], sizes[i + 1], norm, slope) for i in range(start, stop)]

        self.shared = nn.Sequential(image_norm(norm, channels[0]), *levels(0, num_levels - num_own))
        self.domains = nn.ModuleList()
        for _ in range(NUM_DOMAINS):
            image = nn.Conv2d(width, num_channels, 3, padding=1)
            self.domains.append(nn.Sequential(*levels(num_levels - num_own, num_levels), image, nn.Tanh()))
        if init_std is not None:
            for part in (self.shared, self.domains):
                initialise_normal(part, init_std)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.shared(feature_maps(self.dense(latent), self.first_size))
        return torch.cat([domain(x) for domain in self.domains], dim=1)


class Discriminator(nn.Module):
    """images (N, 2C, H, W) -> logits (2N,): two for each row, the first domain's image's and then the second's.

    As upconv's: levels that halve the side, then a dense layer. The first `num_own` levels exist once for each domain,
    all else is shared. The domains pass through it one after the other, so that with every norm (BatchNorm takes its
    statistics over one domain) a domain's logits depend on that domain's images alone.
    """

    images_only = True
    couples_domains = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 64,
        depth: PositiveInt | None = None,
        num_own: PositiveInt = 1,
        norm: Norm = "none",
        slope: NonNegativeFloat = 0.2,
        dropout: Fraction = 0.25,
        init_std: PositiveFloat | None = 0.02,
    ):
        """depth: number of halvings (None: 4, or as many as leave two pixels); init_std: as in the generator."""
        super().__init__()
        num_channels, size = _domain_image(sample_shape)
        sizes = halved_sizes(size, min(4, most_halvings(size)) if depth is None else depth)
        num_levels = len(sizes) - 1
        _check_own(num_own, num_levels)
        channels = [num_channels, *(max(width // 4, 1) * 2**level for level in range(num_levels))]

        def levels(start: int, stop: int) -> list[nn.Sequential]:
            norms: list[Norm] = ["none", *[norm] * (num_levels - 1)]
            return [halved(channels[i], channels[i + 1], norms[i], slope, dropout) for i in range(start, stop)]

        self.domains = nn.ModuleList(nn.Sequential(*levels(0, num_own)) for _ in range(NUM_DOMAINS))
        self.shared = nn.Sequential(*levels(num_own, num_levels))
        self.logit = LastLayer(channels[-1] * sizes[-1] ** 2, 1)
        if init_std is not None:
            for part in (self.domains, self.shared):
                initialise_normal(part, init_std)

    def forward(self, images: Tensor) -> Tensor:
        parts = zip(self.domains, images.chunk(NUM_DOMAINS, dim=1), strict=True)
        logits = [self.logit(self.shared(domain(part))) for domain, part in parts]
        return torch.cat(logits, dim=1).flatten()
