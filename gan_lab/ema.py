"""The exponential moving average of the generator, its memory given in images, not steps."""

import torch
from torch import Tensor, nn

LARGEST_DECAY = 0.5 ** (1 / 20)
"""The average takes weights in once no more than this would remain of it: at most twenty times within a half-life. They
move little in between, and to read and write them all after each small batch takes several per cent of a training."""


def ema_decay(images: int, images_seen: int, half_life_images: float, rampup: float | None) -> float:
    """How much of the old average remains after `images` more images: 0.5 ** (images / half-life).

    With `rampup`, the half-life is at most that share of the images seen so far, so that the random start is forgotten
    quickly (Karras et al. 2020, StyleGAN2-ADA, uses 0.05). A half-life of 0 copies the weights.
    """
    half_life = half_life_images if rampup is None else min(half_life_images, rampup * images_seen)
    return 0.5 ** (images / half_life) if half_life > 0 else 0.0


class Average:
    """The averaged copy of a module. Finds its tensors once: to look for them takes longer than to average a few."""

    def __init__(self, average: nn.Module, module: nn.Module):
        self._averages: list[Tensor] = list(average.parameters())
        self._parameters: list[Tensor] = list(module.parameters())
        self._buffers = list(zip(average.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * module for the parameters; buffers (BatchNorm's) are copied."""
        torch._foreach_lerp_(self._averages, self._parameters, 1.0 - decay)
        for old, new in self._buffers:
            old.copy_(new)
