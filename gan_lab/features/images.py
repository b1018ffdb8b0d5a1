"""What the small extractors do to images before their first layer."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

LARGEST_SIDE = 32
"""The small extractors look at no more pixels than this along a side."""


def network_side(side: int) -> int:
    return min(side, LARGEST_SIDE)


def as_network_input(images: Tensor, side: int) -> Tensor:
    """uint8 images (N, C, H, W) as float32 in [-1, 1] at `side` pixels: bilinear with antialiasing where it differs."""
    scaled = images.float().div_(127.5).sub_(1.0).contiguous(memory_format=torch.channels_last)
    if images.shape[-2:] == (side, side):
        return scaled
    return interpolate(scaled, (side, side), mode="bilinear", antialias=True)


def resize_rule(native: int, side: int) -> str:
    return "none" if native == side else f"{native} to {side} pixels, bilinear, antialiased"
