"""Coupled domains: the images of two domains as the channels of one sample, of which no two belong together.

The setting of CoGAN (Liu & Tuzel 2016): a digit and its negative are to be drawn from one latent by networks that have
seen digits and negatives, but never a digit with its own negative. The two images of a sample share nothing, so that
whatever is common to the two that a generator draws was learned from each domain alone.
"""

from typing import Literal

import torch
from torch import Tensor

from gan_lab.constraints import ImageSize
from gan_lab.data import Data


def coupled_digits(
    *, image_size: ImageSize | None = None, split: Literal["train", "test", "all"] = "train", seed: int = 0
) -> Data:
    """scikit-learn's digits on the first channel, the negatives of other ones on the second: see ``coupled``.

    samples: uint8 (N, 2, 8, 8), or ``image_size`` squared; N is 1,442 in train, 355 in test, 1,797 in all.
    split: of the digits, see ``gan_lab.data.digits.digits``.
    """
    from gan_lab.data.digits import digits

    return coupled(digits(image_size=image_size, split=split), seed)


def coupled(data: Data, seed: int) -> Data:
    """Every image (C, H, W) once in order, on the first C channels, and every negative 255 - x once, on the last C.

    Which negative stands behind an image depends on ``seed`` alone, which neither reads nor changes torch's global
    generator: all images follow each other in one random cycle, and each has the negative of the next. So none has its
    own. labels and classes: None, for the two images of a sample have nothing in common that a label could name.
    ``parts`` is the data itself.
    """
    assert data.samples.dtype == torch.uint8, "points have no negative"
    assert len(data.samples) > 1, "the only image would stand before its own negative"
    cycle = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(seed))
    partners = torch.empty_like(cycle)
    partners[cycle] = cycle.roll(-1)
    samples = torch.cat([data.samples, 255 - data.samples[partners]], dim=1)
    return Data(samples, labels=None, classes=None, parts=data, coupled=True)


def domains(samples: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (N, 2C, H, W) -> the images of both domains, (N, C, H, W) each, the negatives made positive."""
    images, negatives = samples.chunk(2, dim=1)
    return images, 255 - negatives


# The check knows these before the data are read.
coupled_digits.num_classes = 0  # type: ignore[attr-defined]
coupled_digits.layout = "coupled"  # type: ignore[attr-defined]
