import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu

from gan_lab.models.layers import upsample_bilinear
from gan_lab.models.r3gan import Discriminator, Generator, ResidualBlock


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def blocks_of(network: nn.Module) -> list[ResidualBlock]:
    return [layer for layer in network.modules() if isinstance(layer, ResidualBlock)]


def block(num: int) -> int:
    """Parameters of a block of the authors' presets: expansion 2, groups of 16 channels, biases on both activations."""
    return num * 2 * num + 2 * num * 16 * 9 + 2 * num * num + 2 * (2 * num)


def test_the_networks_for_cifar10():
    """Preset CIFAR10 of the authors' code (brownvc/R3GAN, train.py), unconditional: 4 stages of 768, 96 groups."""
    with torch.device("meta"):
        settings = {"sample_shape": (3, 32, 32), "width": 768, "max_width": 768, "num_blocks": 2}
        generator, discriminator = Generator(latent_dim=64, **settings), Discriminator(**settings)

    assert {one.layers[2].groups for one in blocks_of(generator) + blocks_of(discriminator)} == {96}
    assert size_of(generator) == 64 * 768 + 768 * 16 + 8 * block(768) + 768 * 3 == 20_732_160
    assert size_of(discriminator) == 3 * 768 + 8 * block(768) + 768 * 16 + 768 == 20_683_776


def test_the_networks_for_ffhq64():
    """Preset FFHQ-64: 768, 768, 768, 768 and 384 channels; 96, 96, 96, 96 and 48 groups."""
    with torch.device("meta"):
        settings = {"sample_shape": (3, 64, 64), "width": 384, "max_width": 768, "num_blocks": 2}
        generator, discriminator = Generator(latent_dim=64, **settings), Discriminator(**settings)

    groups = [96] * 8 + [48] * 2
    assert [one.layers[2].groups for one in blocks_of(generator)] == groups
    assert [one.layers[2].groups for one in blocks_of(discriminator)] == groups[::-1]
    stages = 8 * block(768) + 2 * block(384) + 768 * 384
    assert size_of(generator) == 64 * 768 + 768 * 16 + stages + 384 * 3
    assert size_of(discriminator) == 3 * 384 + stages + 768 * 16 + 768


def test_a_block_is_the_plain_formula():
    torch.manual_seed(0)
    layer = ResidualBlock(4, 2, 4, 0.2, 3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    w1, b1, w2, b2, w3 = layer.parameters()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    y = leaky_relu(conv2d(x, w1, b1), 0.2)
    y = torch.cat([conv2d(y[:, :4], w2[:4], b2[:4], padding=1), conv2d(y[:, 4:], w2[4:], b2[4:], padding=1)], dim=1)

    torch.testing.assert_close(layer(x), x + conv2d(leaky_relu(y, 0.2), w3))


@pytest.mark.parametrize(("num_all_blocks", "slope"), [(1, 0.2), (16, 0.2), (16, 0.7)])
def test_a_block_starts_as_the_identity_and_its_branch_as_small_as_there_are_blocks(num_all_blocks, slope):
    """Fix-up: in front of the last convolution, which is 0, the mean square is L^(-1/2) for each of the two layers."""
    torch.manual_seed(0)
    layer = ResidualBlock(64, 2, 16, slope, num_all_blocks)
    x = torch.randn(16, 64, 16, 16)
    inside = layer.layers[:4](x)[:, :, 1:-1, 1:-1].detach()  # beyond the border there are zeros

    assert torch.equal(layer(x), x)
    assert (layer.layers[4].weight == 0).all()
    assert (layer.layers[0].bias == 0).all()
    assert (layer.layers[2].bias == 0).all()
    # Exact on average over the weights: after the first activation, the values of a channel have a mean.
    assert inside.square().mean().item() == pytest.approx(1 / num_all_blocks, rel=0.1)


@pytest.mark.parametrize(("num_blocks", "width"), [(1, 8), (3, 8), (1, 32)])
def test_the_initial_images_have_the_variance_that_resampling_leaves(num_blocks, width):
    """Before tanh: 1 at the first side, whatever the widths and the number of blocks, then only the bilinear kernel."""
    values = []
    for seed in range(100):
        torch.manual_seed(seed)
        generator = Generator(sample_shape=(3, 8, 8), width=width, max_width=32, num_blocks=num_blocks).double()
        with torch.no_grad():
            values.append(generator(torch.randn(4, 64, dtype=torch.float64)).atanh())
    impulses = torch.eye(16).view(16, 1, 4, 4)  # what each of the first 4x4 pixels becomes
    kept = upsample_bilinear(impulses, 8).square().sum(dim=0).mean()

    assert kept.item() == pytest.approx((0.625 * 6 + 1.0 * 2) ** 2 / 64, rel=1e-6)  # (1 + 9) / 16, at the border 1
    assert torch.cat(values).square().mean().item() == pytest.approx(kept.item(), rel=0.15)


def test_the_last_side_meets_one_learned_map_a_channel():
    """As the authors' depthwise convolution of the whole side."""
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(3, 5, 5), width=8).double()
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    maps = discriminator.levels(discriminator.image(images))
    products = conv2d(maps, discriminator.basis[:, None], groups=8)

    assert products.shape == (4, 8, 1, 1)
    torch.testing.assert_close(discriminator(images), products.flatten(1) @ discriminator.logit.weight[0])


def test_the_initial_logits_have_the_mean_square_of_the_images():
    torch.manual_seed(0)
    logits = []
    for _ in range(200):
        discriminator = Discriminator(sample_shape=(3, 4, 4), width=8)
        with torch.no_grad():
            logits.append(discriminator(torch.randn(16, 3, 4, 4)))

    assert torch.cat(logits).square().mean().item() == pytest.approx(1.0, rel=0.25)


def test_widths_double_up_to_the_largest():
    settings = {"sample_shape": (1, 64, 64), "width": 8, "max_width": 40, "num_blocks": 2, "group_width": 8}
    generator, discriminator = Generator(**settings), Discriminator(**settings)
    channels = [one.layers[0].in_channels for one in blocks_of(generator)]

    assert channels == [40, 40, 40, 40, 32, 32, 16, 16, 8, 8]
    assert [one.layers[0].in_channels for one in blocks_of(discriminator)] == channels[::-1]


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_all_blocks_of_the_network_count(network):
    torch.manual_seed(0)
    blocks = blocks_of(network(sample_shape=(1, 16, 16), width=32, max_width=32, num_blocks=2))

    assert len(blocks) == 3 * 2
    for one in blocks:
        std = (2 / 1.04 / 32) ** 0.5 * 6 ** (-1 / 4)
        assert one.layers[0].weight.std().item() == pytest.approx(std, rel=0.08)


def test_there_is_no_norm_and_the_slope_is_everywhere():
    for network in (Generator(sample_shape=(1, 16, 16), slope=0.3), Discriminator(sample_shape=(1, 16, 16), slope=0.3)):
        kinds = {type(layer) for layer in network.modules() if not list(layer.children())}
        assert not {kind for kind in kinds if "Norm" in kind.__name__}
        slopes = [layer.negative_slope for layer in network.modules() if isinstance(layer, nn.LeakyReLU)]
        assert slopes == [0.3] * 2 * 3


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_channels_that_do_not_fit_the_groups_are_refused(network):
    network(sample_shape=(1, 8, 8), width=4)  # fewer channels than one group: no groups
    with pytest.raises(
        ValueError, match="28 channels times expansion=2 are no multiple of group_width=16: use a width"
    ):
        network(sample_shape=(1, 8, 8), width=28, max_width=28)
