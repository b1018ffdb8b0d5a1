"""Data sources: plain functions with keyword arguments that return a whole dataset as tensors, a ``Data``.

The signature of a source is the schema of its config node. This module imports torch alone, and the sources import
scikit-learn and torchvision only when called, so that a config is checked without waiting for them.

What the check has to know before the data are read, a source declares as attributes of its own: ``layout``, images
where it says nothing (``gaussian_ring.layout = "points"``), and ``num_classes``, how many its labels name, 0 without
labels; where it says nothing, only the data tell.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gan_lab.errors import ConfigError

Layout = Literal["images", "points", "stacked", "coupled"]
"""What a sample holds: an image, a point in the plane, gray images on its channels, or the images of two domains."""


class Data(NamedTuple):
    """A whole dataset on the CPU. Samples may be a file that is mapped into memory and larger than it: read what is
    needed, by index, and never write to them, which would end the process.

    samples: images as uint8 (N, C, H, W) in 0..255 with C = 1 (gray), 3 (RGB) or 4 (RGB and opacity), never normalised;
        or points as float32 (N, 2) in the units of the mixture.
    labels: int64 (N,), each in 0..len(classes) - 1; None where the data has no labels.
    classes: the names of the labels in order; None where there are no labels.
    modes: float32 (M, 2), the true centres of a 2-D mixture, so that a label is an index into it; else None.
    mode_std: the standard deviation of each mode along each axis; None without ``modes``.
    parts: of stacked images, the base set whose pictures are the channels; a label's decimal digits are the channels'
        labels. Of coupled ones, the base set of both domains. Else None.
    coupled: samples hold the images of two domains, see ``gan_lab.data.coupled``.
    samples_key: a name for the content of ``samples`` (``content_key`` of them) that was known without reading them;
        None where it was not.
    """

    samples: Tensor
    labels: Tensor | None
    classes: tuple[str, ...] | None
    modes: Tensor | None = None
    mode_std: float | None = None
    parts: "Data | None" = None
    coupled: bool = False
    samples_key: str | None = None

    @property
    def layout(self) -> Layout:
        if self.samples.ndim == 2:
            return "points"
        if self.parts is None:
            return "images"
        return "coupled" if self.coupled else "stacked"


def as_training_input(samples: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) as float32 in [-1, 1]; points as they are."""
    return samples.float().div_(127.5).sub_(1.0) if samples.dtype == torch.uint8 else samples


def label_shares(data: Data) -> Tensor | None:
    """How often each class occurs, float32 (num_classes,), summing to 1; None where there are no labels."""
    if data.labels is None or data.classes is None:
        return None
    return torch.bincount(data.labels, minlength=len(data.classes)).double().div(len(data.labels)).float()


def some_of(data: Data, num: int | None) -> Data:
    """`num` samples of the data set with their labels, chosen by chance, the same for every run; None: the data set."""
    if num is None:
        return data
    if num > len(data.samples):
        raise ConfigError(
            f"num_training_images={num}: the data set has {len(data.samples)}; use at most so many, or null"
        )
    chosen = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))[:num]
    labels = None if data.labels is None else data.labels[chosen]
    return data._replace(samples=data.samples[chosen], labels=labels, samples_key=None)
