"""The random network for images without labels."""

import pytest
import torch
from torch import Tensor, nn

from gan_lab.data.digits import digits
from gan_lab.features.random_conv import NUM_CALIBRATION_IMAGES, random_conv
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.kernel import kernel_distance


def made(num: int, num_channels: int = 1, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, num_channels, side, side), dtype=torch.uint8, generator=generator)


def test_the_seed_and_the_images_decide_the_weights():
    images = made(300)
    assert random_conv(images, seed=0).hash == random_conv(images, seed=0).hash
    assert random_conv(images, seed=0).hash != random_conv(images, seed=1).hash
    assert random_conv(images, seed=0).hash != random_conv(255 - images, seed=0).hash


def test_torchs_generator_is_neither_read_nor_changed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = random_conv(made(100))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert random_conv(made(100)).hash == one.hash


@pytest.mark.parametrize(("num_channels", "side"), [(1, 8), (3, 28), (4, 40), (1, 9)])
def test_vectors_and_channels_are_standard_on_the_calibration_images(num_channels, side):
    images = made(200, num_channels, side)  # all of them calibrate
    extractor = random_conv(images, seed=3)
    values = []
    for layer in extractor.network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: values.append(output))
    found = extractor(images)

    assert found.probabilities is None
    assert found.vectors.shape == (200, 128)
    torch.testing.assert_close(found.vectors.mean(dim=0), torch.zeros(128), rtol=0, atol=2e-4)
    torch.testing.assert_close(found.vectors.var(dim=0), torch.ones(128), rtol=0, atol=2e-3)
    assert len(values) == 3
    for value in values:
        num = value.shape[1]
        torch.testing.assert_close(value.mean(dim=(0, 2, 3)), torch.zeros(num), rtol=0, atol=2e-4)
        torch.testing.assert_close(value.var(dim=(0, 2, 3)), torch.ones(num), rtol=0, atol=2e-3)


def test_of_a_large_set_a_random_part_calibrates():
    """Here 2,048 images of two kinds, one after the other: about half of those that are drawn are of each."""
    images = torch.cat([made(NUM_CALIBRATION_IMAGES), made(NUM_CALIBRATION_IMAGES) // 8])
    vectors = random_conv(images)(images).vectors
    # the drawn share's standard deviation is sqrt(1/4 / 1024 * 1/2) = 0.011, and the kinds are at most 2 std apart
    assert vectors.mean(dim=0).abs().max() < 5 * 0.011 * 2
    first, second = vectors.chunk(2)
    assert (first.mean(dim=0) - second.mean(dim=0)).abs().max() > 1  # else this would prove nothing


def test_a_change_of_one_calibration_image_is_seen_only_if_it_is_drawn():
    images = made(NUM_CALIBRATION_IMAGES + 1)
    one = random_conv(images).hash
    same = 0
    left_out = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[-1]
    for index in (int(left_out), int(left_out - 1)):
        changed = images.clone()
        changed[index] = 255 - changed[index]
        same += random_conv(changed).hash == one
    assert same == 1


def test_constant_images_have_finite_vectors():
    images = made(60)
    images[:20] = 0
    images[20] = 255
    extractor = random_conv(images)
    assert all(value.isfinite().all() for value in extractor.network.state_dict().values())
    assert extractor(images).vectors.isfinite().all()
    assert extractor(torch.full((3, 1, 8, 8), 77, dtype=torch.uint8)).vectors.isfinite().all()


@pytest.mark.parametrize("image", [torch.zeros(1, 1, 8, 8, dtype=torch.uint8), made(1)], ids=["black", "noise"])
def test_a_set_of_equal_images_has_finite_vectors(image):
    images = image.repeat(30, 1, 1, 1)
    extractor = random_conv(images)
    vectors = extractor(images).vectors
    assert vectors.isfinite().all()
    assert (vectors - vectors[0]).abs().max() < 2  # rounding alone, in the units of the smallest deviation
    assert extractor(made(30)).vectors.isfinite().all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranks_levels_of_noise(seed):
    data = digits(split="all")
    order = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))
    real, others = data.samples[order[:898]], data.samples[order[898:1796]]
    extractor = random_conv(real, seed=seed)
    vectors = extractor(real).vectors
    frechet, kernel = [], []
    for level in (0, 10, 20, 40, 80):
        noise = level * torch.randn(others.shape, generator=torch.Generator().manual_seed(1))
        fakes = extractor((others + noise).round().clamp(0, 255).byte()).vectors
        frechet.append(frechet_distance(moments(vectors), moments(fakes)))
        kernel.append(kernel_distance(vectors, fakes))
    assert frechet == sorted(set(frechet))
    assert kernel == sorted(set(kernel))
    assert frechet[-1] > 5 * frechet[0]


def test_the_result_is_frozen_and_says_what_it_is():
    extractor = random_conv(made(50, 3, 40), seed=4)
    assert (extractor.name, extractor.published) == ("random", False)
    assert extractor.facts["seed"] == 4
    assert extractor.facts["input"] == [3, 40, 40]
    assert extractor.facts["num_features"] == 128
    assert extractor.facts["resize"] == "40 to 32 pixels, bilinear, antialiased"
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())
