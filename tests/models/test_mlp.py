from itertools import pairwise

import pytest
import torch
from torch import nn

from gan_lab.models.mlp import Discriminator, Generator

SIZES = (8, 9, 16, 28, 30, 32, 37, 64, 100, 128)


def linear_sizes(network: nn.Module) -> list[int]:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    for one, following in pairwise(layers):
        assert one.out_features == following.in_features
    return [layers[0].in_features, *[layer.out_features for layer in layers]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_size(size, channels):
    shape = (channels, size, size)
    torch.manual_seed(0)
    images = Generator(sample_shape=shape, latent_dim=5, width=4, depth=1)(torch.randn(3, 5) * 100)

    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert images.abs().max() > 0.9  # tanh is reached
    assert Discriminator(sample_shape=shape, width=4, depth=1)(images).shape == (3,)


def test_points_are_not_squashed():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(2,), latent_dim=5, width=16, depth=2)
    points = generator(torch.randn(64, 5) * 1000)

    assert points.shape == (64, 2)
    assert points.abs().max() > 10
    assert Discriminator(sample_shape=(2,), width=16, depth=2)(points).shape == (64,)


def test_the_layer_sizes_of_the_article():
    generator = Generator(sample_shape=(1, 28, 28), width=256, depth=3, growth=2.0)
    discriminator = Discriminator(sample_shape=(1, 28, 28), width=256, depth=3, growth=2.0)

    assert linear_sizes(generator) == [100, 256, 512, 1024, 784]
    assert linear_sizes(discriminator) == [784, 1024, 512, 256, 1]
    # 100*256+256 + 256*512+512 + 512*1024+1024 + 1024*784+784, and 784*1024+1024 + ... + 256+1
    assert sum(parameter.numel() for parameter in generator.parameters()) == 1_486_352
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 1_460_225


@pytest.mark.parametrize(
    ("width", "depth", "growth", "hidden"),
    [(7, 1, 3.0, [7]), (8, 3, 1.0, [8, 8, 8]), (10, 3, 1.5, [10, 15, 22]), (16, 3, 0.5, [16, 8, 4])],
)
def test_hidden_sizes(width, depth, growth, hidden):
    settings = {"sample_shape": (2,), "width": width, "depth": depth, "growth": growth}

    assert linear_sizes(Generator(latent_dim=3, **settings)) == [3, *hidden, 2]
    assert linear_sizes(Discriminator(**settings)) == [2, *hidden[::-1], 1]


@pytest.mark.parametrize(("norm", "kind"), [("none", None), ("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_one_norm_and_one_leaky_relu_per_hidden_layer_and_none_at_the_ends(norm, kind):
    for network in (
        Generator(sample_shape=(2,), width=4, depth=3, norm=norm, slope=0.3),
        Discriminator(sample_shape=(2,), width=4, depth=3, norm=norm, slope=0.3),
    ):
        layers = list(network.modules())
        assert sum(isinstance(layer, nn.BatchNorm1d | nn.LayerNorm) for layer in layers) == (3 if kind else 0)
        if kind is not None:
            assert sum(isinstance(layer, kind) for layer in layers) == 3
        assert [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)] == [0.3] * 3
        assert isinstance(layers[-1], nn.Linear)


def test_the_networks_are_the_plain_formula():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 2, 2), latent_dim=3, width=4, depth=1, slope=0.2).double()
    discriminator = Discriminator(sample_shape=(1, 2, 2), width=4, depth=1, slope=0.2).double()
    latents = torch.randn(5, 3, dtype=torch.float64)

    def two_layers(x, network):
        w1, b1, w2, b2 = network.parameters()
        hidden = x @ w1.T + b1
        return torch.maximum(hidden, 0.2 * hidden) @ w2.T + b2

    images = two_layers(latents, generator).tanh().view(5, 1, 2, 2)
    torch.testing.assert_close(generator(latents), images, rtol=1e-12, atol=1e-12)
    expected = two_layers(images.view(5, 4), discriminator)[:, 0]
    torch.testing.assert_close(discriminator(images), expected, rtol=1e-12, atol=1e-12)


def test_dropout_works_in_training_only():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(2,), width=64, depth=2, dropout=0.5)
    points = torch.randn(8, 2)

    assert not torch.equal(discriminator(points), discriminator(points))
    discriminator.eval()
    assert torch.equal(discriminator(points), discriminator(points))
    assert [layer.p for layer in discriminator.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def test_logits_are_unbounded():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(2,), width=16, depth=1)
    logits = discriminator(torch.randn(100, 2) * 1000).detach()

    assert logits.abs().max() > 10
    assert logits.min() < 0 < logits.max()


def test_a_discriminator_with_fourier_features_has_them_beside_the_points():
    network = Discriminator(sample_shape=(2,), width=8, depth=2, num_fourier=5, fourier_std=2.0)

    assert network.layers[2].in_features == 2 + 2 * 5
    assert network(torch.randn(7, 2)).shape == (7,)
    assert Discriminator(sample_shape=(2,), width=8, depth=2).layers[1].in_features == 2


@pytest.mark.parametrize("latent_dim", [2, 7])
def test_a_generator_with_a_skip_starts_as_wide_as_asked_in_every_direction(latent_dim):
    torch.manual_seed(0)
    latents = torch.randn(4000, latent_dim)
    settings = {"sample_shape": (2,), "latent_dim": latent_dim, "width": 32, "depth": 5, "slope": 0.02}
    with torch.no_grad():
        alone = Generator(**settings)(latents)
        wide = Generator(**settings, skip_std=3.0)(latents)

    assert torch.cov(alone.T).diagonal().max().sqrt() < 0.1  # the layers alone start in a spot
    assert wide.mean(0).norm() < 0.3
    torch.testing.assert_close(torch.cov(wide.T), 9 * torch.eye(2), rtol=0, atol=0.6)


def test_the_values_of_a_skip_to_more_values_than_latents_have_the_std_on_average():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 4, 4), latent_dim=3, width=4, skip_std=0.5)
    values = torch.randn(50_000, 3) @ generator.skip.weight.detach().T

    assert values.shape == (50_000, 16)
    assert values.square().mean().sqrt() == pytest.approx(0.5, rel=0.01)


def test_the_skip_is_trained_and_added_before_tanh():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 2, 2), latent_dim=3, width=4, depth=1, skip_std=2.0)
    latents = torch.randn(5, 3)
    generator(latents).sum().backward()
    weight = generator.skip.weight

    expected = (generator.layers(latents) + latents @ weight.T).tanh().view(5, 1, 2, 2)
    torch.testing.assert_close(generator(latents), expected)
    assert weight.grad.abs().min() > 0


def test_without_a_skip_nothing_is_added_and_no_random_number_drawn_for_it():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(2,), latent_dim=3, width=4, depth=1)
    following = torch.rand(1)
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2))

    assert [tuple(parameter.shape) for parameter in generator.parameters()] == [(4, 3), (4,), (2, 4), (2,)]
    assert torch.equal(generator(torch.ones(1, 3)), layers(torch.ones(1, 3)))
    assert torch.equal(following, torch.rand(1))


@pytest.mark.parametrize("depth", [1, 3])
def test_more_outputs_are_rows_of_the_last_layer(depth):
    torch.manual_seed(0)
    network = Discriminator(sample_shape=(2,), width=8, depth=depth, num_outputs=4)
    points = torch.randn(5, 2)
    features = network.layers[:-1](points)

    assert linear_sizes(network) == [2, *[8] * depth, 4]
    torch.testing.assert_close(network(points), features @ network.layers[-1].weight.T + network.layers[-1].bias)
    assert network(points[:1]).shape == (1, 4)
    assert Discriminator(sample_shape=(2,), width=8, depth=depth)(points[:1]).shape == (1,)
