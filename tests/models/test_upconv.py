import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu

from gan_lab.models.layers import LastLayer, LeakyReLU, UpsampledConv
from gan_lab.models.upconv import Discriminator, Generator


def layers_of(network: nn.Module, *kinds: type[nn.Module]) -> list:
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_pytorch_gans_generator_at_32_pixels():
    """Generator of eriklindernoren/PyTorch-GAN, implementations/dcgan/dcgan.py, but for BatchNorm's eps."""
    generator = Generator(sample_shape=(1, 32, 32))

    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, LeakyReLU, nn.Tanh)
    assert [type(layer) for layer in layers_of(generator, *kinds)] == [
        nn.Linear,
        nn.BatchNorm2d,
        *[UpsampledConv, nn.BatchNorm2d, LeakyReLU] * 2,
        nn.Conv2d,
        nn.Tanh,
    ]
    convolutions = layers_of(generator, nn.Conv2d)
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(128, 128), (128, 64), (64, 1)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3, 3), (1, 1), (1, 1))}
    assert generator.dense.out_features == 128 * 8 * 8
    assert {layer.eps for layer in layers_of(generator, nn.BatchNorm2d)} == {1e-5}  # 0.8 there
    assert {layer.negative_slope for layer in layers_of(generator, LeakyReLU)} == {0.2}
    by_hand = (
        (100 * 8192 + 8192 + 2 * 128) + (128 * 128 * 9 + 128 + 2 * 128) + (128 * 64 * 9 + 64 + 2 * 64) + (64 * 9 + 1)
    )
    assert size_of(generator) == by_hand


def test_pytorch_gans_discriminator_at_32_pixels():
    discriminator = Discriminator(sample_shape=(1, 32, 32), norm="batch")

    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, LeakyReLU, nn.Dropout2d)
    assert [type(layer) for layer in layers_of(discriminator, *kinds)] == [
        *[nn.Conv2d, LeakyReLU, nn.Dropout2d],
        *[nn.Conv2d, LeakyReLU, nn.Dropout2d, nn.BatchNorm2d] * 3,
        LastLayer,
    ]
    convolutions = layers_of(discriminator, nn.Conv2d)
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1, 16), (16, 32), (32, 64), (64, 128)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3, 3), (2, 2), (1, 1))}
    assert {layer.p for layer in layers_of(discriminator, nn.Dropout2d)} == {0.25}
    assert {layer.negative_slope for layer in layers_of(discriminator, LeakyReLU)} == {0.2}
    by_hand = (
        (1 * 16 * 9 + 16)
        + (16 * 32 * 9 + 32 + 2 * 32)
        + (32 * 64 * 9 + 64 + 2 * 64)
        + (64 * 128 * 9 + 128 + 2 * 128)
        + (128 * 2 * 2 + 1)
    )
    assert size_of(discriminator) == by_hand


def test_the_generator_is_the_plain_formula():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 6, 6), latent_dim=3, width=2, depth=1, norm="none").double()
    latents = torch.randn(4, 3, dtype=torch.float64)
    w1, b1, w2, b2, w3, b3 = generator.parameters()
    x = (latents @ w1.T + b1).view(4, 4, 3, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = leaky_relu(conv2d(x, w2, b2, padding=1), 0.2)

    torch.testing.assert_close(generator(latents), conv2d(x, w3, b3, padding=1).tanh(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_initialisation_of_convolutions_and_norms_alone(network):
    torch.manual_seed(0)
    for name, layer in network(sample_shape=(3, 32, 32), norm="batch").named_modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            mean = 0.0 if isinstance(layer, nn.Conv2d) else 1.0
            num = layer.weight.numel()
            assert abs(layer.weight.mean().item() - mean) < 5 * 0.02 / num**0.5, name
            assert abs(layer.weight.std().item() / 0.02 - 1) < 5 / (2 * num) ** 0.5, name
            assert (layer.bias == 0).all(), name
        elif isinstance(layer, nn.Linear):  # torch's own: uniform within 1 / sqrt(inputs)
            limit = layer.in_features**-0.5
            assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1), name
            assert layer.weight.abs().max() <= limit, name


@pytest.mark.parametrize(
    ("size", "in_generator", "in_discriminator"),
    [(8, [4, 8, 8], [8, 4]), (16, [8, 16, 16], [16, 8, 4]), (28, [14, 28, 28], [28, 14, 7, 4])],
)
def test_small_images_have_fewer_halvings_in_the_discriminator(size, in_generator, in_discriminator):
    generator, discriminator = Generator(sample_shape=(1, size, size)), Discriminator(sample_shape=(1, size, size))
    sides: list[int] = []
    for layer in layers_of(generator, nn.Conv2d):
        layer.register_forward_hook(lambda *arguments: sides.append(arguments[-1].shape[-1]))  # the result
    for layer in layers_of(discriminator, nn.Conv2d):
        layer.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    discriminator(generator(torch.randn(2, 100)))

    assert sides == in_generator + in_discriminator
    assert discriminator.logit.in_features == 16 * 2 ** (len(in_discriminator) - 1) * 4  # 2x2 pixels are left


def test_depth_and_width():
    generator = Generator(sample_shape=(3, 32, 32), width=6, depth=3)
    discriminator = Discriminator(sample_shape=(3, 32, 32), width=8, depth=3)

    assert generator.dense.out_features == 12 * 4 * 4
    assert [c.out_channels for c in layers_of(generator, nn.Conv2d)] == [12, 12, 6, 3]
    assert [c.out_channels for c in layers_of(discriminator, nn.Conv2d)] == [2, 4, 8]


def test_dropout_is_of_whole_channels_and_in_training_only():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 32, 32), dropout=0.5)
    images = torch.randn(4, 1, 32, 32)
    first = discriminator.levels[:3](images)  # conv, LeakyReLU, Dropout2d
    dropped = (first == 0).flatten(2)

    assert torch.equal(dropped.any(2), dropped.all(2))
    assert 0 < dropped.all(2).float().mean() < 1
    assert not torch.equal(discriminator(images), discriminator(images))
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))


def test_batch_norm_judges_a_batch_together():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 16, 16), norm="batch", dropout=0.0, init_std=0.2)
    images = torch.randn(4, 1, 16, 16)

    assert (discriminator(images)[:2] - discriminator(images[:2])).abs().max() > 1e-3
