"""The autoencoder discriminator of EBGAN (Zhao et al. 2017) and BEGAN (Berthelot et al. 2017, figure 1), and its G.

How far D's reconstruction is from the input is the input's energy. Its negative is the logit, so that here, too, a
higher logit means more real; it is never above 0. One pass gives it and the embedding, for EBGAN's pull-away term:

    outputs = discriminator(images)         # (N, 1 + embedding_dim)
    logits = outputs[:, 0]                  # minus the mean over a sample's values of |x' - x|, or of (x' - x)^2
    embedding = outputs[:, 1:]

The gradient reaches an image in both roles, as what is put in and as what is to be reconstructed. `gives_energy` tells
this D from those of all other families. No layer mixes samples.

The networks are BEGAN's: 3x3 convolutions with ELU, `num_convolutions` at each side; the encoder's channels grow
linearly (width, 2 width, 3 width, ...), the decoder's stay at `width`; nothing nonlinear around the embedding. G is a
decoder of its own, here with tanh at its end. Figure 1 stops at a side of 8 (depth=2 at 32x32, 3 at 64x64); the paper's
latents are uniform, of as many values as the embedding.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from gan_lab.constraints import PositiveInt
from gan_lab.models.layers import UpsampledConv, feature_maps, halved_sizes, square_image


def _convolutions(num: int, num_channels: int, doubled_to: int | None = None) -> nn.Sequential:
    """`num` 3x3 convolutions, each followed by ELU; doubled_to: the side is doubled before the first, to this one."""
    layers: list[nn.Module] = []
    for index in range(num):
        if index == 0 and doubled_to is not None:
            layers.append(UpsampledConv(num_channels, num_channels, doubled_to))
        else:
            layers.append(nn.Conv2d(num_channels, num_channels, 3, padding=1))
        layers.append(nn.ELU())
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """images (N, C, S, S) -> embedding (N, embedding_dim): convolutions at each side, halved by strided ones, dense."""

    def __init__(self, num_channels: int, sizes: list[int], embedding_dim: int, width: int, num_convolutions: int):
        super().__init__()
        self.levels = nn.Sequential(nn.Conv2d(num_channels, width, 3, padding=1), nn.ELU())
        for level in range(1, len(sizes) + 1):
            self.levels += _convolutions(num_convolutions, level * width)
            if level < len(sizes):
                halve = nn.Conv2d(level * width, (level + 1) * width, 3, stride=2, padding=1)  # rounds up
                self.levels += nn.Sequential(halve, nn.ELU())
        self.dense = nn.Linear(len(sizes) * width * sizes[-1] ** 2, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(self.levels(images).flatten(1))


class Decoder(nn.Module):
    """embedding (N, embedding_dim) -> images (N, C, S, S), not bounded: dense, then convolutions at each side."""

    def __init__(self, num_channels: int, sizes: list[int], embedding_dim: int, width: int, num_convolutions: int):
        super().__init__()
        self.first_size = sizes[-1]
        self.dense = nn.Linear(embedding_dim, width * sizes[-1] ** 2)
        self.levels = nn.Sequential(_convolutions(num_convolutions, width))
        for size in sizes[-2::-1]:
            self.levels.append(_convolutions(num_convolutions, width, size))
        self.image = nn.Conv2d(width, num_channels, 3, padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.image(self.levels(feature_maps(self.dense(embedding), self.first_size)))


class Generator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1]: a decoder and tanh."""

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 64,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        num_convolutions: PositiveInt = 2,
    ):
        """depth: number of doublings (None: from a side of at most 7); num_convolutions: at each side."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "autoencoder")
        self.decoder = Decoder(num_channels, halved_sizes(size, depth), latent_dim, width, num_convolutions)

    def forward(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).tanh()


class Discriminator(nn.Module):
    """images (N, C, H, W) -> outputs (N, 1 + embedding_dim): the logit, which is minus the energy, and the embedding.

    error: the energy is the mean over a sample's values of |x' - x|, "absolute", as in BEGAN, or of (x' - x)^2,
    "squared", as implementations of EBGAN have it (the paper writes a norm), where x' is the reconstruction. It is
    computed in float32 at least.
    """

    images_only = True
    gives_energy = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        embedding_dim: PositiveInt = 64,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        num_convolutions: PositiveInt = 2,
        error: Literal["absolute", "squared"] = "absolute",
    ):
        """depth: number of halvings (None: until the side is at most 7); num_convolutions: at each side."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "autoencoder")
        parts = (num_channels, halved_sizes(size, depth), embedding_dim, width, num_convolutions)
        self.encode = Encoder(*parts)
        self.decode = Decoder(*parts)
        self.error = error

    def reconstruct(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> reconstruction (N, C, H, W), not bounded."""
        return self.decode(self.encode(images))

    def forward(self, images: Tensor) -> Tensor:
        embedding = self.encode(images)
        precise = torch.promote_types(images.dtype, torch.float32)  # small differences, under autocast
        error = self.decode(embedding).to(precise) - images.to(precise)
        energy = (error.abs() if self.error == "absolute" else error.square()).flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([-energy, embedding.to(precise)], dim=1)
