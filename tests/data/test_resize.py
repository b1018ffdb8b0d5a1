import numpy as np
import pytest
import torch
from PIL import Image

from gan_lab.data import resize
from gan_lab.data.resize import resize_images


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("image_size", [None, 16])
def test_the_same_size_returns_the_same_tensor(image_size):
    images = random_images(3, 1, 16, 16)

    assert resize_images(images, image_size) is images


@pytest.mark.parametrize("image_size", [8, 24])
def test_the_result_is_that_of_pillow_but_for_rounding(image_size):
    images = random_images(5, 3, 16, 16)
    size = (image_size, image_size)
    pillow = [
        np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC))
        for image in images
    ]

    resized = resize_images(images, image_size)

    assert resized.dtype == torch.uint8
    assert resized.shape == (5, 3, image_size, image_size)
    assert np.abs(resized.permute(0, 2, 3, 1).numpy().astype(int) - np.stack(pillow)).max() <= 1


def test_an_image_that_is_not_square_loses_its_margins():
    images = torch.zeros(1, 1, 8, 14, dtype=torch.uint8)
    images[..., 3:11] = 200  # the central square of 8x8

    assert resize_images(images, 8).unique().tolist() == [200]
    assert resize_images(images.transpose(2, 3), 8).unique().tolist() == [200]


def test_chunks_do_not_show_in_the_result(monkeypatch):
    images = random_images(7, 1, 16, 16)
    whole = resize_images(images, 8)

    monkeypatch.setattr(resize, "CHUNK_IMAGES", 3)

    assert torch.equal(resize_images(images, 8), whole)


def test_constant_images_keep_their_value_at_any_size():
    images = torch.tensor([0, 1, 127, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 2, 9, 13)

    resized = resize_images(images, 32)

    assert torch.equal(resized, images[:, :, :1, :1].expand(4, 2, 32, 32))
