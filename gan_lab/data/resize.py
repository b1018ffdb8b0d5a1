"""Resizing of uint8 image batches that are in memory already."""

import torch
from torch import Tensor

CHUNK_IMAGES = 1024


def resize_images(images: Tensor, image_size: int | None) -> Tensor:
    """The images at ``image_size`` x ``image_size`` pixels: centre-cropped to a square, then antialiased bicubic.

    images: uint8 (N, C, H, W) in 0..255. The result has the same type and range (bicubic overshoot is clipped) and is
        that of Pillow but for a difference of 1, so that decoded files and tensors are resized alike.
    image_size: None keeps the native size. Images that have the size already come back as they are, not copied.

    Works in chunks: where torchvision has to go through float32, only a chunk of the images does so at a time.
    """
    count, channels, height, width = images.shape
    if image_size is None or height == width == image_size:
        return images

    # torchvision takes seconds to import, and most datasets are used at their own size.
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    squares = images[:, :, top : top + side, left : left + side]
    resized = torch.empty((count, channels, image_size, image_size), dtype=torch.uint8)
    for start in range(0, count, CHUNK_IMAGES):
        chunk = squares[start : start + CHUNK_IMAGES]
        resized[start : start + CHUNK_IMAGES] = resize(
            chunk, [image_size, image_size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
    return resized
