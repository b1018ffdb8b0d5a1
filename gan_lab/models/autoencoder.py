"""The autoencoder discriminator of EBGAN (Zhao et al. 2017) and BEGAN (Berthelot et al. 2017, figure 1), and its G.

Such a D returns no logits but a reconstruction; how far it is from the input is the energy that the loss works with:

    reconstruction = discriminator(images)                        # of the images' shape, and not bounded
    energy = (reconstruction - images).abs().flatten(1).mean(1)   # (N,); BEGAN's L1, EBGAN takes the square
    embedding = discriminator.encode(images)                      # (N, embedding_dim), for EBGAN's pull-away term

`returns_reconstruction = True` says so to whatever chooses losses; logits (N,) stay the rule for all other families.
No layer mixes samples.

The networks are BEGAN's: 3x3 convolutions with ELU, `num_convolutions` at each side; the encoder's channels grow
linearly (width, 2 width, 3 width, ...), the decoder's stay at `width`; nothing nonlinear around the embedding. G is a
decoder of its own, here with tanh at its end. Figure 1 stops at a side of 8 (depth=2 at 32x32, 3 at 64x64); the paper's
latents are uniform, of as many values as the embedding.
"""

from torch import Tensor, nn

from gan_lab.constraints import PositiveInt
from gan_lab.models.layers import halved_sizes, square_image, upsample_nearest


def _convolutions(num: int, num_inputs: int, num_outputs: int) -> nn.Sequential:
    """`num` 3x3 convolutions, each followed by ELU."""
    layers: list[nn.Module] = []
    for index in range(num):
        layers += [nn.Conv2d(num_inputs if index == 0 else num_outputs, num_outputs, 3, padding=1), nn.ELU()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """images (N, C, S, S) -> embedding (N, embedding_dim): convolutions at each side, halved by strided ones, dense."""

    def __init__(self, num_channels: int, sizes: list[int], embedding_dim: int, width: int, num_convolutions: int):
        super().__init__()
        self.levels = nn.Sequential(nn.Conv2d(num_channels, width, 3, padding=1), nn.ELU())
        for level in range(1, len(sizes) + 1):
            self.levels += _convolutions(num_convolutions, level * width, level * width)
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
        self.sizes = sizes[::-1]
        self.dense = nn.Linear(embedding_dim, width * self.sizes[0] ** 2)
        self.levels = nn.ModuleList(_convolutions(num_convolutions, width, width) for _ in sizes)
        self.image = nn.Conv2d(width, num_channels, 3, padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        x = self.dense(embedding).unflatten(1, (-1, self.sizes[0], self.sizes[0]))
        for size, level in zip(self.sizes, self.levels, strict=True):
            x = level(x if x.shape[-1] == size else upsample_nearest(x, size))
        return self.image(x)


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
    """images (N, C, H, W) -> reconstruction (N, C, H, W), not bounded."""

    images_only = True
    returns_reconstruction = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        embedding_dim: PositiveInt = 64,
        width: PositiveInt = 32,
        depth: PositiveInt | None = None,
        num_convolutions: PositiveInt = 2,
    ):
        """depth: number of halvings (None: until the side is at most 7); num_convolutions: at each side."""
        super().__init__()
        num_channels, size = square_image(sample_shape, "autoencoder")
        parts = (num_channels, halved_sizes(size, depth), embedding_dim, width, num_convolutions)
        self.encode = Encoder(*parts)
        self.decode = Decoder(*parts)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))
