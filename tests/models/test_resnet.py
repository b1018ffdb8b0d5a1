import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad, relu
from torch.nn.utils.parametrize import is_parametrized

from gan_lab.models.resnet import Discriminator, DiscriminatorBlock, Generator, GeneratorBlock, SelfAttention


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def weighted(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def largest_singular_value(layer: nn.Module) -> float:
    return torch.linalg.svdvals(layer.weight.detach().flatten(1)).max().item()


def convolution(num_inputs: int, num_outputs: int, side: int) -> int:
    return num_inputs * num_outputs * side**2 + num_outputs


def generator_block(num_inputs: int, num_outputs: int) -> int:
    """Parameters of a block with BatchNorm, both convolutions and a learned shortcut."""
    return (
        2 * num_inputs
        + 2 * num_outputs
        + convolution(num_inputs, num_outputs, 3)
        + convolution(num_outputs, num_outputs, 3)
        + convolution(num_inputs, num_outputs, 1)
    )


def test_table_4_the_networks_for_cifar10():
    """Layers by Miyato et al. 2018, table 4; hidden channels and shortcuts by the authors' code (sngan_projection)."""
    generator = Generator(sample_shape=(3, 32, 32), latent_dim=128, width=256, max_width=256)
    discriminator = Discriminator(sample_shape=(3, 32, 32), width=128, max_width=128, depth=2, num_flat=2)

    assert generator.dense.out_features == 4 * 4 * 256
    by_hand = 128 * 4096 + 4096 + 3 * generator_block(256, 256) + 2 * 256 + convolution(256, 3, 3)
    assert size_of(generator) == by_hand == 4_276_739
    first = convolution(3, 128, 3) + convolution(128, 128, 3) + convolution(3, 128, 1)
    down = 2 * convolution(128, 128, 3) + convolution(128, 128, 1)
    flat = 2 * convolution(128, 128, 3)  # nothing changes: the shortcut has no parameters
    assert size_of(discriminator) == first + down + 2 * flat + 128 + 1 == 1_053_825


def test_table_5_the_networks_for_stl10():
    generator = Generator(sample_shape=(3, 48, 48), latent_dim=128, width=64, max_width=512)
    discriminator = Discriminator(sample_shape=(3, 48, 48), width=64, max_width=1024, depth=4, num_flat=1)

    assert generator.dense.out_features == 6 * 6 * 512
    blocks = [layer for layer in generator.modules() if isinstance(layer, GeneratorBlock)]
    assert [(block.conv1.in_channels, block.conv1.out_channels) for block in blocks] == [
        (512, 256),
        (256, 128),
        (128, 64),
    ]
    plan = [(block.conv1.in_channels, block.conv2.out_channels, block.halve) for block in discriminator.levels]
    assert plan == [(3, 64, True), (64, 128, True), (128, 256, True), (256, 512, True), (512, 1024, False)]
    by_hand = 128 * 36 * 512 + 36 * 512 + sum(generator_block(2 * num, num) for num in (256, 128, 64))
    assert size_of(generator) == by_hand + 2 * 64 + convolution(64, 3, 3)
    by_hand = convolution(3, 64, 3) + convolution(64, 64, 3) + convolution(3, 64, 1)
    for num in (64, 128, 256, 512):  # from num to 2 num channels; the hidden ones are num, as in the authors' code
        by_hand += convolution(num, num, 3) + convolution(num, 2 * num, 3) + convolution(num, 2 * num, 1)
    assert size_of(discriminator) == by_hand + 1024 + 1


def test_a_block_of_the_generator_is_the_plain_formula():
    torch.manual_seed(0)
    block = GeneratorBlock(4, 3, 10, "batch", False).double()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(5, 4, 5, 5, dtype=torch.float64)

    def normed(x, norm):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    def double(x):
        return interpolate(x, size=(10, 10), mode="nearest")

    residual = conv2d(double(relu(normed(x, block.norm1))), block.conv1.weight, block.conv1.bias, padding=1)
    residual = conv2d(relu(normed(residual, block.norm2)), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = conv2d(double(x), block.shortcut.weight, block.shortcut.bias)  # in the paper's order
    torch.testing.assert_close(block(x), residual + shortcut, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("halve", [True, False])
def test_a_block_of_the_discriminator_is_the_plain_formula(first, halve):
    torch.manual_seed(0)
    block = DiscriminatorBlock(4, 6, first, halve, False).double()
    x = torch.randn(5, 4, 7, 7, dtype=torch.float64)
    residual = conv2d(x if first else relu(x), block.conv1.weight, block.conv1.bias, padding=1)
    residual = conv2d(relu(residual), block.conv2.weight, block.conv2.bias, padding=1)
    expected = residual + conv2d(x, block.shortcut.weight, block.shortcut.bias)
    if halve:  # 7 -> 4: the last row and column are means of what is there
        padded = pad(expected, (0, 1, 0, 1))
        counts = pad(torch.ones_like(expected), (0, 1, 0, 1))
        expected = avg_pool2d(padded, 2) / avg_pool2d(counts, 2)

    assert block.conv1.out_channels == (6 if first else 4)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_a_flat_block_without_a_change_adds_to_its_input():
    torch.manual_seed(0)
    block = DiscriminatorBlock(4, 4, False, False, False).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    residual = conv2d(relu(x), block.conv1.weight, block.conv1.bias, padding=1)
    residual = conv2d(relu(residual), block.conv2.weight, block.conv2.bias, padding=1)

    torch.testing.assert_close(block(x), x + residual, rtol=1e-12, atol=1e-12)


def test_the_logit_is_a_dense_layer_on_the_sum_over_all_pixels():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4, spectral_norm=False)
    images = torch.randn(3, 1, 8, 8)
    features = relu(discriminator.levels(images))
    sums = torch.stack([sum(features[:, :, i, j] for i in range(4) for j in range(4))])[0]

    assert features.shape == (3, 8, 4, 4)
    expected = sums @ discriminator.logit.weight[0] + discriminator.logit.bias
    torch.testing.assert_close(discriminator(images), expected)


def test_the_outputs_make_the_projection_discriminator():
    """Miyato & Koyama 2018, section 3: psi(phi(x)) + y^T V phi(x) for the label y, one of K as a unit vector."""
    torch.manual_seed(0)
    num_classes = 3
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4, num_outputs=1 + num_classes).double().eval()
    nn.init.normal_(discriminator.logit.bias)
    images, labels = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.tensor([2, 0, 1, 1, 2])
    features = relu(discriminator.levels(images)).sum((2, 3))
    weight, bias = discriminator.logit.weight, discriminator.logit.bias
    unit = torch.eye(num_classes, dtype=torch.float64)[labels]
    expected = features @ weight[0] + bias[0] + (unit @ weight[1:] * features).sum(1) + bias[1:][labels]
    outputs = discriminator(images)

    assert outputs.shape == (5, 4)
    torch.testing.assert_close(outputs[:, 0] + outputs[torch.arange(5), 1 + labels], expected)


def test_spectral_norm_is_of_all_outputs_together():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4, num_outputs=5)
    with torch.no_grad():
        for _ in range(100):
            discriminator(torch.randn(1, 1, 8, 8))

    assert discriminator.logit.weight.shape == (5, 8)
    assert largest_singular_value(discriminator.eval().logit) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_largest_singular_values_are_one_after_enough_passes(dtype):
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(3, 16, 16), width=8, attention=8)
    layers = weighted(discriminator)
    for layer in layers:
        layer.parametrizations.weight.original.data += 0.3 * torch.randn_like(layer.weight)  # the estimates are old now
    before = [largest_singular_value(layer) for layer in discriminator.eval().modules() if layer in layers]
    discriminator.train()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        for _ in range(100):
            discriminator(torch.randn(1, 3, 16, 16))
    after = [largest_singular_value(layer) for layer in discriminator.eval().modules() if layer in layers]

    assert max(before) > 1.05
    assert after == pytest.approx([1.0] * len(layers), abs=0.01)


def test_a_pass_in_evaluation_mode_changes_no_estimate():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4)
    for layer in weighted(discriminator):
        layer.parametrizations.weight.original.data += torch.randn_like(layer.weight)
    images = torch.randn(2, 1, 8, 8)
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))
    discriminator.train()
    assert not torch.equal(discriminator(images), discriminator(images))


@pytest.mark.parametrize("network", [Generator, Discriminator])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_spectral_norm_is_of_every_layer_or_of_none(network, spectral_norm):
    layers = weighted(network(sample_shape=(1, 16, 16), width=4, attention=8, spectral_norm=spectral_norm))

    assert len(layers) >= 10
    assert {is_parametrized(layer, "weight") for layer in layers} == {spectral_norm}


def test_spectral_norm_is_the_discriminators_by_default_and_no_other_norm():
    generator, discriminator = Generator(sample_shape=(1, 8, 8)), Discriminator(sample_shape=(1, 8, 8))

    assert all(is_parametrized(layer) for layer in weighted(discriminator))
    assert not any(is_parametrized(layer) for layer in weighted(generator))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in discriminator.modules())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in generator.modules()) == 2 * 1 + 1


@pytest.mark.parametrize("num_channels", [16, 4])
def test_self_attention_is_the_papers_formula(num_channels):
    """Zhang et al. 2019, equations 1 to 3, a pixel at a time."""
    torch.manual_seed(0)
    layer = SelfAttention(num_channels, False).double()
    layer.gamma.data.fill_(0.7)
    features = torch.randn(2, num_channels, 3, 3, dtype=torch.float64)
    inner = max(num_channels // 8, 1)
    f, g, h, v = (part.weight.flatten(1) for part in (layer.f, layer.g, layer.h, layer.v))
    assert f.shape == g.shape == h.shape == (inner, num_channels)

    for sample, result in zip(features.flatten(2), layer(features).flatten(2), strict=True):
        pixels = [sample[:, i] for i in range(9)]
        for j in range(9):
            scores = [torch.exp((f @ pixels[i]) @ (g @ pixels[j])) for i in range(9)]
            shares = [score / sum(scores) for score in scores]
            o = v @ sum(shares[i] * (h @ pixels[i]) for i in range(9))
            torch.testing.assert_close(result[:, j], 0.7 * o + pixels[j], rtol=1e-10, atol=1e-10)


def test_self_attention_starts_as_the_identity_and_is_learned():
    torch.manual_seed(0)
    layer = SelfAttention(8, True)
    features = torch.randn(2, 8, 4, 4)
    result = layer(features)
    (result * torch.randn_like(result)).sum().backward()

    assert torch.equal(result, features)
    assert layer.gamma.grad.abs() > 0


def test_attention_stands_at_the_side_that_was_asked_for():
    def sides(network, inputs):
        found = []
        for layer in network.modules():
            if isinstance(layer, SelfAttention):
                layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].shape[2:]))
        network(inputs)
        return found

    for side in (7, 14, 28):
        generator = Generator(sample_shape=(1, 28, 28), width=4, attention=side)
        assert sides(generator, torch.randn(2, 128)) == [(side, side)]
    for side in (7, 14):
        discriminator = Discriminator(sample_shape=(1, 28, 28), width=4, attention=side)
        assert sides(discriminator, torch.randn(2, 1, 28, 28)) == [(side, side)]
    assert sides(Generator(sample_shape=(1, 28, 28), width=4), torch.randn(2, 128)) == []


@pytest.mark.parametrize(("network", "sides"), [(Generator, "7, 14, 28"), (Discriminator, "14, 7")])
def test_attention_at_another_side_is_refused(network, sides):
    with pytest.raises(ValueError, match=f"attention=16: . has no features of that side; use one of {sides}, or null"):
        network(sample_shape=(1, 28, 28), attention=16)


def test_the_papers_initialisation():
    """Uniform within gain sqrt(6 / (fan in + fan out)), gain sqrt(2) in residual branches: the authors' code."""
    torch.manual_seed(0)
    for network in (
        Generator(sample_shape=(3, 16, 16), width=32),
        Discriminator(sample_shape=(3, 16, 16), width=32, spectral_norm=False),
    ):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                gain = 2**0.5 if name.endswith(("conv1", "conv2")) else 1.0
                fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
                limit = gain * (6 / (fan_in + fan_out)) ** 0.5
                assert 0.9 * limit < layer.weight.abs().max() <= limit * (1 + 1e-6), name
                assert (layer.bias == 0).all(), name
