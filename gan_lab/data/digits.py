"""The digits that come inside scikit-learn: the one image dataset that needs no file and no network."""

from typing import Literal

import torch

from gan_lab.constraints import ImageSize
from gan_lab.data import Data
from gan_lab.data.resize import resize_images


def digits(*, image_size: ImageSize | None = None, split: Literal["train", "test", "all"] = "train") -> Data:
    """scikit-learn's ``load_digits``: 1,797 gray pictures of the digits 0 to 9, 8x8 pixels, classes "0" to "9".

    samples: uint8 (N, 1, 8, 8), or ``image_size`` squared; the 17 stored levels 0..16 become round(255 * level / 16).
    split: the set has no official one. "test" is the last fifth of each class in file order, rounded down: 355 images;
        "train" is the rest, 1,442; "all" is everything. The order within a split is that of scikit-learn.
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    levels = torch.from_numpy(stored.images)
    labels = torch.from_numpy(stored.target).long()
    images = (levels * (255 / 16)).round().to(torch.uint8).unsqueeze(1)

    if split != "all":
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(10):
            members = (labels == label).nonzero().squeeze(1)
            held_out[members[len(members) - len(members) // 5 :]] = True
        chosen = held_out if split == "test" else ~held_out
        images, labels = images[chosen], labels[chosen]

    return Data(resize_images(images, image_size), labels, tuple(str(digit) for digit in range(10)))


digits.num_classes = 10  # type: ignore[attr-defined]  # the check knows before the data are read
