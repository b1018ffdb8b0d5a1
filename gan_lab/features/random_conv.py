"""A convolutional network with random weights: the feature extractor for images without labels.

Random networks see texture and layout, not classes. They rank sample sets sensibly and need no training set of another
domain (Naeem et al. 2020, section 3.2, find random embeddings the safer choice away from ImageNet).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from gan_lab.features import Extractor
from gan_lab.features.images import as_network_input, network_side, resize_rule

NUM_CHANNELS = (32, 64, 64)
NUM_CALIBRATION_IMAGES = 1024


class RandomConv(nn.Module):
    """uint8 images (N, C, H, W) -> (vectors (N, 128), None).

    Three 3x3 convolutions with orthogonal random weights and LeakyReLU, each but the last followed by 2x2 averaging;
    the vectors are the mean and the standard deviation of each of the 64 last channels over the positions. Buffers
    shift and scale every channel, and every value of the vectors, to mean 0 and variance 1 on the calibration images.
    """

    def __init__(self, num_channels: int, side: int):
        super().__init__()
        self.side = network_side(side)
        self.layers = nn.ModuleList()
        for num_inputs, num_outputs in zip((num_channels, *NUM_CHANNELS[:-1]), NUM_CHANNELS, strict=True):
            layer = nn.Conv2d(num_inputs, num_outputs, 3, padding=1, padding_mode="reflect")
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.layers.append(layer)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(2 * NUM_CHANNELS[-1]))
        self.register_buffer("std", torch.ones(2 * NUM_CHANNELS[-1]))

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = as_network_input(images, self.side)
        for layer in self.layers:
            if layer is not self.layers[0]:
                x = avg_pool2d(x, 2)
            x = leaky_relu(layer(x), 0.2)
        vectors = torch.cat([x.mean(dim=(2, 3)), x.flatten(2).std(dim=2)], dim=1)
        return (vectors - self.mean) / self.std, None

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Makes each channel's values, before its nonlinearity, and the vectors standard on these images."""
        x = as_network_input(images, self.side)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            if layer is not self.layers[0]:
                x = avg_pool2d(x, 2)
            y = layer(x)
            std, mean = torch.std_mean(y, dim=(0, 2, 3))
            std = std.clamp(min=1e-6)
            layer.weight /= std[:, None, None, None]
            layer.bias.copy_(-mean / std)
            x = leaky_relu(layer(x), 0.2)
        vectors, _ = self(images)
        self.mean.copy_(vectors.mean(dim=0))
        self.std.copy_(vectors.std(dim=0).clamp(min=1e-6))


def random_conv(images: Tensor, *, seed: int = 0) -> Extractor:
    """The random network for uint8 images (N, C, H, W), calibrated on at most 1,024 of them; torch's global generator
    is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RandomConv(images.shape[1], images.shape[-1])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:NUM_CALIBRATION_IMAGES]
    network.to(memory_format=torch.channels_last).calibrate(images[chosen])
    network.requires_grad_(False)
    facts = {
        "extractor": "random convolutions, no training",
        "input": list(images.shape[1:]),
        "num_features": 2 * NUM_CHANNELS[-1],
        "resize": resize_rule(images.shape[-1], network.side),
        "seed": seed,
    }
    return Extractor("random", network, facts)
