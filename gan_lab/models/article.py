"""The convolutional generator of the listing behind experiment=article_conv (its discriminator is mlp's, one layer)."""

from torch import Tensor, nn

from gan_lab.constraints import PositiveInt
from gan_lab.models.layers import feature_maps, halved_sizes


class ConvGenerator(nn.Module):
    """latent (N, latent_dim) -> images (N, C, H, W) in [-1, 1].

    Dense to 2 width x H/4 x W/4 (rounded up), then 5x5 transposed convolutions: one of stride 1 to `width` channels,
    two of stride 2 up to the image. LeakyReLU between, tanh at the end.
    """

    images_only = True

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 100,
        width: PositiveInt = 64,
        slope: float = 0.2,
    ):
        super().__init__()
        if len(sample_shape) != 3:
            raise ValueError(f"model=article_conv draws images, the data set has samples of shape {sample_shape}")
        num_channels, height, width_pixels = sample_shape
        self.heights = halved_sizes(height, 2)[::-1]
        self.widths = halved_sizes(width_pixels, 2)[::-1]
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, 2 * width * self.heights[0] * self.widths[0]), nn.LeakyReLU(slope)
        )
        self.mix = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 5, padding=2), nn.LeakyReLU(slope))
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(width, width, 5, stride=2, padding=2, output_padding=1), nn.LeakyReLU(slope)
        )
        self.image = nn.Sequential(
            nn.ConvTranspose2d(width, num_channels, 5, stride=2, padding=2, output_padding=1), nn.Tanh()
        )

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mix(feature_maps(self.dense(latent), self.heights[0], self.widths[0]))
        x = self.enlarge(x)[:, :, : self.heights[1], : self.widths[1]]
        return self.image(x)[:, :, : self.heights[2], : self.widths[2]]
