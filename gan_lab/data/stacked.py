"""Stacked digits: three gray pictures as the channels of one, so that 1,000 modes are known and can be counted.

The test of mode collapse of Metz et al. 2017 (Unrolled GANs), VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al.
2018): a classifier of single digits names the mode of each generated picture; reported are the number of modes that
appear among 26,000 of them, and the KL divergence of their frequencies from equal ones.
"""

from typing import Literal

import torch

from gan_lab.constraints import ImageSize, PositiveInt
from gan_lab.data import Data

NUM_CHANNELS = 3
NUM_DIGITS = 10


def stacked_digits(
    *,
    num_samples: PositiveInt = 128_000,
    seed: int = 0,
    image_size: ImageSize | None = None,
    split: Literal["train", "test", "all"] = "all",
) -> Data:
    """scikit-learn's digits, stacked: three pictures drawn independently and uniformly, with replacement, for a sample.

    samples: uint8 (num_samples, 3, 8, 8), or ``image_size`` squared; 128,000 is PacGAN's number.
    labels: 100 * first + 10 * second + third digit, classes "000" to "999". ``parts`` is the base set: the digits of
        the split at the same size.
    seed: of the draws alone; neither reads nor changes torch's global generator.
    split: of the base set, see ``gan_lab.data.digits.digits``; PacGAN draws from train and test together.
    """
    from gan_lab.data.digits import digits

    return _stacked(digits(image_size=image_size, split=split), num_samples, seed)


def stacked_mnist(
    *,
    root: str,
    num_samples: PositiveInt = 128_000,
    seed: int = 0,
    image_size: ImageSize | None = None,
    split: Literal["train", "test", "all"] = "all",
    download: bool = True,
) -> Data:
    """MNIST, stacked: three pictures drawn independently and uniformly, with replacement, for a sample.

    samples: uint8 (num_samples, 3, 28, 28), or ``image_size`` squared; 128,000, PacGAN's number, are 301 MB at 28x28.
    labels: 100 * first + 10 * second + third digit, classes "000" to "999". ``parts`` is the base set: MNIST's split at
        the same size.
    root: where MNIST's files are, see ``gan_lab.data.torchvision_sets.mnist``.
    seed: of the draws alone; neither reads nor changes torch's global generator.
    split: of the base set; PacGAN draws from train and test together.

    Raises RunError as ``mnist`` does: files missing and not, or not successfully, downloaded, or damaged.
    """
    from gan_lab.data.torchvision_sets import mnist

    return _stacked(mnist(root=root, image_size=image_size, split=split, download=download), num_samples, seed)


def _stacked(base: Data, num_samples: int, seed: int) -> Data:
    """``num_samples`` stacks of gray pictures of ``base``, whose labels are 0 to 9."""
    assert base.labels is not None, "the label of a stack is made of those of its pictures"
    assert base.samples.shape[1] == 1, "a gray picture for each channel"
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(base.samples), (NUM_CHANNELS, num_samples), generator=generator)
    images = torch.empty((num_samples, NUM_CHANNELS, *base.samples.shape[2:]), dtype=torch.uint8)
    labels = torch.zeros(num_samples, dtype=torch.int64)
    for channel, indices in enumerate(drawn):
        images[:, channel] = base.samples[indices, 0]
        labels = NUM_DIGITS * labels + base.labels[indices]
    classes = tuple(f"{label:0{NUM_CHANNELS}}" for label in range(NUM_DIGITS**NUM_CHANNELS))
    return Data(images, labels, classes, parts=base)


# The check knows these before the data are read.
stacked_digits.layout = stacked_mnist.layout = "stacked"  # type: ignore[attr-defined]
stacked_digits.num_classes = stacked_mnist.num_classes = NUM_DIGITS**NUM_CHANNELS  # type: ignore[attr-defined]
