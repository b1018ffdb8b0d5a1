import pytest
import torch
from torch import nn

from gan_lab.models.article import ConvGenerator
from gan_lab.models.mlp import Discriminator


@pytest.mark.parametrize("size", [8, 9, 28, 30, 32, 37, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_number_of_channels(size, channels):
    shape = (channels, size, size)
    torch.manual_seed(0)
    images = ConvGenerator(sample_shape=shape, latent_dim=5, width=4)(torch.randn(8, 5) * 10)

    assert images.shape == (8, *shape)
    assert images.abs().max() <= 1
    assert (images.std(dim=0) > 0).all()
    assert Discriminator(sample_shape=shape, width=8, depth=1)(images).shape == (8,)


def test_images_need_not_be_square():
    assert ConvGenerator(sample_shape=(1, 28, 35), latent_dim=5, width=4)(torch.randn(2, 5)).shape == (2, 1, 28, 35)


def test_the_layers_of_the_listing():
    generator = ConvGenerator(sample_shape=(1, 28, 28))
    layers = [layer for layer in generator.modules() if not list(layer.children())]

    assert [type(layer) for layer in layers] == [
        *[nn.Linear, nn.LeakyReLU],
        *[nn.ConvTranspose2d, nn.LeakyReLU] * 2,
        *[nn.ConvTranspose2d, nn.Tanh],
    ]
    assert (layers[0].in_features, layers[0].out_features) == (100, 128 * 7 * 7)
    convolutions = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels, c.stride) for c in convolutions] == [
        (128, 64, (1, 1)),
        (64, 64, (2, 2)),
        (64, 1, (2, 2)),
    ]
    assert {c.kernel_size for c in convolutions} == {(5, 5)}
    by_hand = (100 * 6272 + 6272) + (128 * 64 * 25 + 64) + (64 * 64 * 25 + 64) + (64 * 25 + 1)
    assert sum(parameter.numel() for parameter in generator.parameters()) == by_hand


def test_points_are_refused():
    with pytest.raises(ValueError, match=r"draws images, the data set has samples of shape \(2,\)"):
        ConvGenerator(sample_shape=(2,))
