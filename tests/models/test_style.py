import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu, pad

from gan_lab.models.layers import Lowpass, MinibatchStd, mixes_samples, upsample_bilinear
from gan_lab.models.style import (
    Convolution,
    Dense,
    Discriminator,
    DiscriminatorBlock,
    Generator,
    StyledConvolution,
    ToImage,
    activate,
    modulated_conv,
)


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def dense(num_inputs: int, num_outputs: int) -> int:
    return num_inputs * num_outputs + num_outputs


def test_the_networks_for_cifar10():
    """cfg=cifar of the authors' stylegan2-ada-pytorch: 512 channels everywhere, 2 mapping layers."""
    with torch.device("meta"):
        settings = {"sample_shape": (3, 32, 32), "width": 512, "max_width": 512}
        generator = Generator(latent_dim=512, style_dim=512, mapping_depth=2, **settings)
        discriminator = Discriminator(minibatch_std=32, **settings)
        noisy = Generator(latent_dim=512, style_dim=512, mapping_depth=2, noise=True, **settings)

    convolution = dense(512, 512) + 512 * 512 * 9 + 512  # style, weight, bias
    to_image = dense(512, 512) + 512 * 3 + 3
    by_hand = 2 * dense(512, 512) + 512 * 16 + (convolution + to_image) + 3 * (2 * convolution + to_image)
    assert size_of(generator) == by_hand == 19_947_532
    assert size_of(noisy) == by_hand + 7  # a strength for each convolution
    level = 2 * (512 * 512 * 9 + 512) + 512 * 512
    end = 513 * 512 * 9 + 512 + dense(512 * 16, 512) + dense(512, 1)
    assert size_of(discriminator) == dense(3, 512) + 3 * level + end == 21_507_073


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("side", [1, 3])
def test_modulated_convolution_is_a_convolution_with_other_weights_for_each_sample(demodulate, side):
    torch.manual_seed(0)
    x, style = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    weight = torch.randn(6, 4, side, side, dtype=torch.float64)
    result = modulated_conv(x, weight, style, demodulate=demodulate)

    for sample, scales, image in zip(x, style, result, strict=True):
        own = weight.clone()
        for o in range(6):
            for i in range(4):
                own[o, i] *= scales[i]
            if demodulate:
                own[o] /= (own[o].square().sum() + 1e-8).sqrt()
        torch.testing.assert_close(image, conv2d(sample, own, padding=side // 2), rtol=1e-10, atol=1e-10)


def test_doubling_puts_zeros_between_the_pixels():
    torch.manual_seed(0)
    x, style = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    between = torch.zeros(3, 4, 9, 9, dtype=torch.float64)
    between[:, :, ::2, ::2] = x
    expected = modulated_conv(pad(between, (1, 1, 1, 1)), weight.flip(2, 3), style)

    torch.testing.assert_close(modulated_conv(x, weight, style, double=True), expected, rtol=1e-10, atol=1e-10)


def test_a_doubling_layer_is_bilinear_upsampling_and_a_convolution_away_from_the_border():
    torch.manual_seed(0)
    layer = StyledConvolution(4, 3, 5, 12, double=True, noise=False).double()
    nn.init.normal_(layer.bias)
    x, style = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    scales = style @ layer.style.weight.T / 5**0.5 + layer.style.bias
    plain = modulated_conv(upsample_bilinear(x, 12), layer.weight.flip(2, 3), scales)
    expected = leaky_relu(plain + layer.bias.view(-1, 1, 1), 0.2) * 2**0.5

    assert layer(x, style).shape == (2, 3, 12, 12)
    torch.testing.assert_close(layer(x, style)[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], rtol=1e-10, atol=1e-10)


def test_demodulation_brings_outputs_back_to_unit_variance():
    torch.manual_seed(0)
    x, style = torch.randn(64, 32, 10, 10), 5 * torch.randn(64, 32)
    inside = modulated_conv(x, 100 * torch.randn(16, 32, 3, 3), style)[:, :, 1:-1, 1:-1]

    assert inside.square().mean().item() == pytest.approx(1.0, rel=0.02)


def test_weights_are_scaled_when_used():
    """Equalised learning rate: N(0, 1) / lr_factor in memory, N(0, 1 / fan in) in use, and steps to match."""
    torch.manual_seed(0)
    layers = [Dense(300, 200), Dense(300, 200, lr_factor=0.01, bias=2.0), Convolution(40, 60, 3, padding=1)]

    for layer, std in zip(layers, (1.0, 100.0, 1.0), strict=True):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    x = torch.randn(1000, 300)
    for layer, bias in zip(layers[:2], (0.0, 2.0), strict=True):
        assert layer(x).std().item() == pytest.approx(1.0, rel=0.02)
        assert layer(torch.zeros(1, 300)).mean().item() == pytest.approx(bias)
    assert layers[2](torch.randn(8, 40, 20, 20))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1.0, rel=0.02)
    for layer, factor in zip(layers[:2], (1.0, 0.01), strict=True):
        layer(x).sum().backward()  # the same gradient in use is a hundred times smaller in memory
        torch.testing.assert_close(layer.weight.grad[0], factor * x.sum(0) / 300**0.5, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.bias.grad, torch.full((200,), factor * 1000))


def test_only_the_direction_of_a_latent_matters():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=6, width=4)
    latents = torch.randn(3, 6)

    torch.testing.assert_close(generator(5 * latents), generator(latents), rtol=1e-4, atol=1e-5)
    assert len(generator.mapping) == 2
    hidden = latents / latents.square().mean(1, keepdim=True).sqrt()
    for layer in generator.mapping:
        hidden = activate(hidden @ layer.weight.T * 0.01 / layer.weight.shape[1] ** 0.5 + 0.01 * layer.bias)
    torch.testing.assert_close(generator.style(latents), hidden)


def test_the_image_is_the_sum_of_every_sides_part():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(3, 13, 13), latent_dim=6, width=4).double()
    latents = torch.randn(2, 6, dtype=torch.float64)
    parts = []
    for level in generator.levels:
        level.to_image.register_forward_hook(lambda _, inputs, part: parts.append(part))
    images = generator(latents)

    assert [tuple(part.shape) for part in parts] == [(2, 3, 7, 7), (2, 3, 13, 13)]
    torch.testing.assert_close(images, (upsample_bilinear(parts[0], 13) + parts[1]).tanh())
    assert parts[0].std() > 0.1


def test_a_part_of_the_image_is_a_weighted_sum_of_the_channels():
    torch.manual_seed(0)
    layer = ToImage(5, 3, 4).double()
    nn.init.normal_(layer.bias)
    x, style = torch.randn(2, 5, 3, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    scales = style @ layer.style.weight.T / 4**0.5 + 1.0
    expected = torch.einsum("oi,ni,nihw->nohw", layer.weight[:, :, 0, 0], scales, x) / 5**0.5

    torch.testing.assert_close(layer(x, style), expected + layer.bias.view(-1, 1, 1), rtol=1e-10, atol=1e-10)


def test_every_convolution_has_a_style_of_its_own():
    generator = Generator(sample_shape=(1, 16, 16), latent_dim=6, width=4, max_width=8, style_dim=10)
    sizes = [
        (layer.weight.shape, layer.bias.mean().item()) for layer in generator.modules() if isinstance(layer, Dense)
    ]

    assert sizes[:2] == [((10, 6), 0.0), ((10, 10), 0.0)]
    inputs = [8, 8, *[8, 8, 8], *[8, 4, 4]]  # convolutions and part of the image, from 4x4 up
    assert sizes[2:] == [((num, 10), 1.0) for num in inputs]


def test_noise_is_fresh_in_training_and_fixed_in_evaluation():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=6, width=4, noise=True)
    latents = torch.randn(2, 6)
    plain = generator(latents)
    assert torch.equal(plain, generator(latents))  # its strength starts at 0
    for level in generator.levels:
        level.conv2.strength.data.fill_(1.0)
    first = generator(latents)

    assert not torch.equal(first, generator(latents))
    state = torch.random.get_rng_state()
    generator(latents)
    torch.random.set_rng_state(state)
    repeated = generator(latents)
    torch.random.set_rng_state(state)
    assert torch.equal(repeated, generator(latents))  # a function of torch's default generator
    generator.eval()
    assert torch.equal(generator(latents), generator(latents))
    assert not torch.allclose(generator(latents), plain)
    torch.testing.assert_close(generator(latents[:1]), generator(latents)[:1])  # the same for every sample
    assert "levels.0.conv2.noise" in generator.state_dict()


def test_without_noise_there_is_none():
    torch.manual_seed(0)
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=6, width=4)
    latents = torch.randn(2, 6)

    assert torch.equal(generator(latents), generator(latents))
    assert list(generator.state_dict()) == [name for name, _ in generator.named_parameters()]
    assert not any("strength" in name for name in generator.state_dict())


@pytest.mark.parametrize("size", [8, 7])
def test_a_block_of_the_discriminator_is_the_plain_formula(size):
    torch.manual_seed(0)
    block = DiscriminatorBlock(3, 4).double()
    for bias in (block.conv1.bias, block.conv2.bias):
        nn.init.normal_(bias)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    y = leaky_relu(conv2d(x, block.conv1.weight / 27**0.5, block.conv1.bias, padding=1), 0.2) * 2**0.5
    blurred = Lowpass(3, stride=1, padding=2).double()(y)
    y = leaky_relu(conv2d(blurred, block.conv2.weight / 27**0.5, block.conv2.bias, stride=2), 0.2) * 2**0.5
    shortcut = conv2d(Lowpass(3).double()(x), block.shortcut.weight / 3**0.5)

    assert block(x).shape == (2, 4, 4, 4)
    torch.testing.assert_close(block(x), (y + shortcut) / 2**0.5, rtol=1e-10, atol=1e-10)


def test_the_grids_of_both_branches_lie_on_each_other():
    """A picture that does not change from left to right keeps its place in the residual branch and in the shortcut."""
    block = DiscriminatorBlock(1, 1).double()
    for layer, centre in ((block.conv1, 1), (block.conv2, 1), (block.shortcut, 0)):
        nn.init.zeros_(layer.weight)
        layer.weight.data[0, 0, centre, centre] = 1 / layer.scale  # the middle of the kernel alone: the identity
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    residual = block.conv2(block.smooth(block.conv1(ramp)))

    torch.testing.assert_close(residual[..., 2:-2], block.shortcut(block.halve(ramp))[..., 2:-2])


def test_minibatch_std_lets_a_group_see_each_other_and_no_other_group():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=8, minibatch_std=2)
    images = torch.randn(4, 1, 8, 8)
    logits = discriminator(images)
    changed = images.clone()
    changed[3] *= 2
    after = discriminator(changed)

    assert mixes_samples(discriminator)
    assert sum(isinstance(layer, MinibatchStd) for layer in discriminator.modules()) == 1
    torch.testing.assert_close(after[:2], logits[:2])
    assert (after[2] - logits[2]).abs() > 1e-4


def test_activation():
    torch.testing.assert_close(activate(torch.tensor([-1.0, 2.0])), torch.tensor([-0.2 * 2**0.5, 2 * 2**0.5]))
    x = torch.randn(100_000)
    assert activate(x).square().mean().item() == pytest.approx(1.04, rel=0.03)
