import pytest
import torch
from torch import nn

from gan_lab.models.dcgan import Discriminator, Generator
from gan_lab.models.layers import DoublingConv, HalvingConv, LastLayer, LeakyReLU

SIZES = (8, 9, 16, 28, 30, 32, 37, 64, 100, 128)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_number_of_channels(size, channels):
    shape = (channels, size, size)
    images = Generator(sample_shape=shape, latent_dim=5, width=4, max_width=16)(torch.randn(2, 5))

    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert Discriminator(sample_shape=shape, width=4, max_width=16)(images).shape == (2,)


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_is_drawn_and_judged(size):
    """An odd side is cropped or halved unevenly; no row or column may be constant because of it."""
    shape = (1, size, size)
    torch.manual_seed(0)
    images = Generator(sample_shape=shape, latent_dim=5, width=4, max_width=8, init_std=0.3)(torch.randn(8, 5))
    assert (images.std(dim=0) > 0).all()

    discriminator = Discriminator(sample_shape=shape, width=4, max_width=8)
    inputs = torch.randn(2, *shape, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(inputs).sum(), inputs)
    assert (gradient.abs().sum(dim=(0, 1)) > 0).all()


def test_generated_images_can_reach_both_ends():
    torch.manual_seed(0)
    images = Generator(sample_shape=(3, 16, 16), width=8, init_std=1.0)(torch.randn(8, 100)).detach()

    assert images.min() == pytest.approx(-1, abs=1e-3)
    assert images.max() == pytest.approx(1, abs=1e-3)


def test_the_papers_generator_at_64_pixels():
    generator = Generator(sample_shape=(3, 64, 64), latent_dim=100, width=128, norm="batch")
    kinds = (nn.Linear, nn.ConvTranspose2d, nn.BatchNorm2d, LeakyReLU, nn.Tanh)
    layers = [layer for layer in generator.modules() if isinstance(layer, kinds)]

    assert [type(layer) for layer in layers] == [
        nn.Linear,
        *[nn.BatchNorm2d, LeakyReLU, DoublingConv] * 4,
        nn.Tanh,
    ]
    assert layers[0].out_features == 1024 * 4 * 4
    convolutions = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1024, 512), (512, 256), (256, 128), (128, 3)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((4, 4), (2, 2), (1, 1))}
    assert [layer.negative_slope for layer in layers if isinstance(layer, LeakyReLU)] == [0.0] * 4  # ReLU
    by_hand = (
        (100 * 16384 + 16384 + 2 * 1024)
        + (1024 * 512 * 16 + 2 * 512)
        + (512 * 256 * 16 + 2 * 256)
        + (256 * 128 * 16 + 2 * 128)
        + (128 * 3 * 16 + 3)
    )
    assert sum(parameter.numel() for parameter in generator.parameters()) == by_hand


def test_the_papers_discriminator_at_64_pixels():
    discriminator = Discriminator(sample_shape=(3, 64, 64), width=128, norm="batch")
    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, LeakyReLU)
    layers = [layer for layer in discriminator.modules() if isinstance(layer, kinds)]

    assert [type(layer) for layer in layers] == [
        *[HalvingConv, LeakyReLU],
        *[HalvingConv, nn.BatchNorm2d, LeakyReLU] * 3,
        LastLayer,
    ]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 128), (128, 256), (256, 512), (512, 1024)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((4, 4), (2, 2), (1, 1))}
    assert [layer.negative_slope for layer in layers if isinstance(layer, LeakyReLU)] == [0.2] * 4
    assert layers[-1].in_features == 1024 * 4 * 4
    by_hand = (
        (3 * 128 * 16 + 128)
        + (128 * 256 * 16 + 2 * 256)
        + (256 * 512 * 16 + 2 * 512)
        + (512 * 1024 * 16 + 2 * 1024)
        + (16384 + 1)
    )
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == by_hand


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_the_papers_initialisation(network):
    torch.manual_seed(0)
    for name, parameter in network(sample_shape=(3, 32, 32), width=64, norm="batch").named_parameters():
        if parameter.ndim > 1:
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * parameter.numel()) ** 0.5, name
            assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5, name
        elif name.endswith("weight"):  # of a norm
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * parameter.numel()) ** 0.5, name
            assert abs(parameter.mean().item() - 1) < 5 * 0.02 / parameter.numel() ** 0.5, name
        else:
            assert (parameter == 0).all(), name


def test_channels_stop_doubling_at_max_width():
    generator = Generator(sample_shape=(1, 128, 128), width=4, max_width=10)
    discriminator = Discriminator(sample_shape=(1, 128, 128), width=4, max_width=10)

    convolutions = [layer for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.in_channels for layer in convolutions] == [10, 10, 10, 8, 4]
    convolutions = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 8, 10, 10, 10]


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_depth_that_leaves_less_than_two_pixels_is_refused(network):
    network(sample_shape=(1, 32, 32), width=4, depth=4)
    with pytest.raises(ValueError, match="depth=5 halves 32 pixels"):
        network(sample_shape=(1, 32, 32), width=4, depth=5)


@pytest.mark.parametrize("network", [Generator, Discriminator])
@pytest.mark.parametrize("shape", [(2,), (1, 28, 32)])
def test_what_is_not_a_square_image_is_refused(network, shape):
    with pytest.raises(ValueError, match="model=dcgan draws square images"):
        network(sample_shape=shape)


@pytest.mark.parametrize("norm", ["none", "layer", "instance"])
def test_without_batch_norm_each_sample_is_judged_by_itself(norm):
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 16, 16), width=4, norm=norm, init_std=0.1)
    images = torch.randn(4, 1, 16, 16)
    alone = torch.cat([discriminator(image[None]) for image in images])

    torch.testing.assert_close(discriminator(images), alone, rtol=1e-5, atol=1e-6)


def test_batch_norm_judges_a_batch_together():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 16, 16), width=4, norm="batch", init_std=0.1)
    images = torch.randn(4, 1, 16, 16)

    assert (discriminator(images)[:2] - discriminator(images[:2])).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["batch", "layer", "instance"])
@pytest.mark.parametrize(("size", "depth"), [(8, 1), (8, 2), (9, 2), (9, 3), (33, 5), (64, 5)])
def test_every_depth_that_is_accepted_trains_with_every_norm(size, depth, norm):
    shape = (1, size, size)
    images = Generator(sample_shape=shape, latent_dim=3, width=2, depth=depth, max_width=4, norm=norm)(
        torch.randn(2, 3)
    )

    assert images.shape == (2, *shape)
    assert Discriminator(sample_shape=shape, width=2, depth=depth, max_width=4, norm=norm)(images).shape == (2,)
