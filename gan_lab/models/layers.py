"""The parts that the families share: normalisation by name, initialisation, sizes of a strided stack."""

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "instance"]
VectorNorm = Literal["none", "batch", "layer"]


def image_norm(name: Norm, channels: int) -> nn.Module:
    """A normalisation layer for (N, C, H, W); `layer` is one group over C, H and W with a scale per channel."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


def vector_norm(name: VectorNorm, features: int) -> nn.Module:
    """A normalisation layer for (N, features)."""
    if name == "batch":
        return nn.BatchNorm1d(features)
    if name == "layer":
        return nn.LayerNorm(features)
    return nn.Identity()


class FourierFeatures(nn.Module):
    """points (N, D) -> (N, D + 2 num): the points, and sine and cosine of `num` random projections of them.

    The projections' weights are N(0, std), drawn once and not trained: networks of low-dimensional inputs learn details
    of size 1 / std only with such features (Tancik et al. 2020, section 6.1, with the points kept beside them).
    """

    def __init__(self, num_inputs: int, num: int, std: float):
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", std * torch.randn(num_inputs, num))

    def forward(self, points: Tensor) -> Tensor:
        angles = points @ self.frequencies
        return torch.cat([points, angles.sin(), angles.cos()], dim=1)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether any layer mixes the samples of a batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def initialise_normal(module: nn.Module, std: float) -> None:
    """DCGAN's initialisation (Radford et al. 2016, section 4): weights N(0, std), norm scales N(1, std), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
            nn.init.normal_(layer.weight, 1.0, std)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def halved_sizes(size: int, num_halvings: int | None = None) -> list[int]:
    """Side lengths from `size` down by rounded-up halves: `num_halvings` times, or while the side is above 7.

    28 -> [28, 14, 7]; 64 -> [64, 32, 16, 8, 4]; 37 -> [37, 19, 10, 5].
    """
    sizes = [size]
    while len(sizes) <= num_halvings if num_halvings is not None else sizes[-1] > 7:
        sizes.append((sizes[-1] + 1) // 2)
    if sizes[-1] < 2:
        raise ValueError(f"depth={num_halvings} halves {size} pixels to less than 2: use a smaller depth")
    return sizes
