import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d
from torch.utils.flop_counter import FlopCounterMode
from torch_calls import compiled, randn, same_with_derivatives

from gan_lab.models import dcgan, resnet, upconv, winograd
from gan_lab.models.layers import DoublingConv, HalvingConv
from gan_lab.models.winograd import (
    Convolution,
    Kernel,
    Sums,
    Transposed,
    WeightGradient,
    doubling_conv2d,
    halving_conv2d,
)


@pytest.fixture(params=[1, 9_000, 2**24])
def chunk_bytes(request, monkeypatch):
    """Of one image each, of some images and others, and all in one."""
    monkeypatch.setattr(winograd, "CHUNK_BYTES", request.param)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST_CHANNEL_PAIRS", 0)
    monkeypatch.setattr(winograd, "FEWEST_TILES", 0)
    monkeypatch.setattr(winograd, "MOST_PRODUCTS", 3)


@pytest.mark.usefixtures("chunk_bytes", "always")
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 4), (3, 2), (5, 7), (8, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_both_are_torchs_convolutions(shape, bias):
    """Values, first and second derivatives; odd sides and those that are not square, too."""
    torch.manual_seed(0)
    weight, images, outputs = randn(5, 3, 4, 4), randn(3, 3, 2 * shape[0], 2 * shape[1]), randn(3, 5, *shape)
    biases = (randn(5), randn(3)) if bias else (None, None)

    for fast, plain, data, offset in (
        (halving_conv2d, conv2d, images, biases[0]),
        (doubling_conv2d, conv_transpose2d, outputs, biases[1]),
    ):
        inputs = [data, weight] + ([offset] if bias else [])
        result = same_with_derivatives(fast, plain, inputs, stride=2, padding=1)
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num", [0, 1, 5, 7])
@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_chunks_are_of_like_size(num, most, monkeypatch):
    images, outputs = torch.randn(num, 3, 8, 12), torch.randn(num, 5, 4, 6)
    monkeypatch.setattr(winograd, "CHUNK_BYTES", most * 9 * 6 * (4 * 3 + 5) * 4 + 1)
    sizes = [len(some) for _, some, _ in winograd._chunks(images, outputs)]

    assert sum(sizes) == num
    assert max(sizes) - min(sizes) <= max(sizes) - 1 if num else sizes == [0]
    assert max(sizes) <= most
    expected = torch.autograd.functional.vjp(lambda w: conv2d(images, w, None, 2, 1), torch.zeros(5, 3, 4, 4), outputs)[
        1
    ]
    torch.testing.assert_close(Kernel.apply(WeightGradient.apply(images, outputs)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("name", ["Convolution", "Transposed", "WeightGradient", "Sums", "Kernel"])
def test_every_function_has_its_first_and_second_derivatives(name):
    torch.manual_seed(0)
    images, outputs, weights = randn(2, 2, 6, 4), randn(2, 3, 3, 2), randn(9, 3, 8)
    function, inputs = {
        "Convolution": (Convolution, (images, weights)),
        "Transposed": (Transposed, (outputs, weights)),
        "WeightGradient": (WeightGradient, (images, outputs)),
        "Sums": (Sums, (randn(3, 2, 4, 4),)),
        "Kernel": (Kernel, (weights,)),
    }[name]

    assert torch.autograd.gradcheck(function.apply, inputs)
    assert torch.autograd.gradgradcheck(function.apply, inputs, fast_mode=True)


def test_the_sums_of_weights_by_hand():
    weight = torch.arange(16.0).view(1, 1, 4, 4)
    even = Sums.apply(weight)[:, 0, 0].view(3, 3)  # of the even rows and columns: 0, 2 and 8, 10

    assert torch.equal(even, torch.tensor([[0.0, 2, 2], [8, 20, 12], [8, 18, 10]]))


@pytest.mark.usefixtures("always")
def test_nine_products_instead_of_sixteen():
    for run in (
        lambda: halving_conv2d(torch.randn(2, 3, 8, 8), torch.randn(5, 3, 4, 4)),
        lambda: doubling_conv2d(torch.randn(2, 5, 4, 4), torch.randn(5, 3, 4, 4)),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == 2 * 2 * 3 * 5 * 4 * 4 * 9


def products(layer, images):
    with FlopCounterMode(display=False) as counter:
        layer(images)
    counts = counter.get_flop_counts()["Global"]
    assert (torch.ops.aten.bmm in counts) != (torch.ops.aten.convolution in counts)
    return torch.ops.aten.bmm in counts


def test_only_many_channels_of_many_tiles_are_worth_it():
    assert products(HalvingConv(128, 256), torch.zeros(8, 128, 16, 16))
    assert not products(HalvingConv(127, 256), torch.zeros(8, 127, 16, 16))
    assert not products(HalvingConv(128, 256), torch.zeros(7, 128, 16, 16))
    assert not products(HalvingConv(128, 256), torch.zeros(8, 128, 17, 16))
    assert products(DoublingConv(256, 128), torch.zeros(8, 256, 7, 8))
    assert not products(DoublingConv(256, 127), torch.zeros(8, 256, 7, 8))
    assert not products(DoublingConv(256, 128), torch.zeros(8, 256, 6, 8))
    assert products(DoublingConv(256, 128), torch.zeros(64, 256, 7, 7))
    assert not products(DoublingConv(256, 128), torch.zeros(64, 256, 5, 5))  # 0.81 of torch's products, and sums
    assert not products(DoublingConv(256, 128), torch.zeros(256, 256, 8))  # one image


def test_other_precisions_and_devices_take_torchs_own():
    layer, images = HalvingConv(128, 256), torch.zeros(8, 128, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not products(layer, images)
        assert layer(images).dtype == torch.bfloat16
    assert not products(layer.bfloat16(), images.bfloat16())
    assert layer.to("meta")(images.to("meta", torch.bfloat16)).shape == (8, 256, 8, 8)
    with FlopCounterMode(display=False) as counter:
        layer.float()(images.to("meta"))
    assert torch.ops.aten.convolution in counter.get_flop_counts()["Global"]


def test_compiled_code_takes_torchs_own():
    layer, images = HalvingConv(128, 256), torch.randn(8, 128, 16, 16)
    in_one_graph, seen = compiled(layer)
    torch.testing.assert_close(in_one_graph(images), layer(images), rtol=1e-4, atol=1e-4)
    assert conv2d in seen


@pytest.mark.parametrize("function", ["halving", "doubling"])
def test_rounding_is_that_of_torchs_convolution(function):
    """Float32 against float64, at DCGAN's channels: at most four times torch's own error."""
    torch.manual_seed(0)
    weight, small, large = 0.02 * torch.randn(256, 128, 4, 4), torch.randn(16, 256, 8, 8), torch.randn(16, 128, 16, 16)
    fast, plain, images = {
        "halving": (halving_conv2d, conv2d, large),
        "doubling": (doubling_conv2d, conv_transpose2d, small),
    }[function]
    gradient = torch.randn_like(plain(images, weight, stride=2, padding=1))

    def computed(convolution, dtype, **options):
        inputs = [images.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        outputs = convolution(*inputs, **options)
        return [outputs, *torch.autograd.grad(outputs, inputs, gradient.to(dtype))]

    exact = computed(plain, torch.float64, stride=2, padding=1)
    torchs = computed(plain, torch.float32, stride=2, padding=1)
    for one, other, right in zip(computed(fast, torch.float32), torchs, exact, strict=True):
        assert 0 < (one - right).norm() < 4 * (other - right).norm() < 1e-5 * right.norm()


@pytest.mark.parametrize("family", [dcgan, upconv, resnet])
@pytest.mark.parametrize("size", [16, 28])
def test_networks_are_the_same_in_fewer_products(family, size, monkeypatch):
    """Images, logits and all gradients, those through a penalty on D's gradient too, in float64."""
    torch.manual_seed(0)
    options = {"sample_shape": (2, size, size), "width": 8}
    generator = family.Generator(latent_dim=5, **options).double()
    discriminator = family.Discriminator(**options).double().eval()  # no dropout
    latents = torch.randn(4, 5, dtype=torch.float64)
    parameters = [*generator.parameters(), *discriminator.parameters()]

    def computed():
        images = generator(latents)
        logits = discriminator(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = logits.square().sum() + gradient.square().sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [images, logits, *gradients]

    calls = []
    chunks = winograd._chunks
    monkeypatch.setattr(winograd, "_chunks", lambda *tensors: calls.append(1) or chunks(*tensors))
    expected = computed()
    assert not calls
    monkeypatch.setattr(winograd, "FEWEST_CHANNEL_PAIRS", 0)
    monkeypatch.setattr(winograd, "FEWEST_TILES", 0)
    monkeypatch.setattr(winograd, "MOST_PRODUCTS", 3)
    result = computed()
    assert calls
    torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-8)


def counted(run):
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops() / (2 * 8 * 128 * 256 * 8 * 8 * 9)


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("function", ["halving", "doubling"])
def test_only_gradients_that_are_asked_for_are_computed(function, leaf):
    """In passes through the layer, as torch's own: one for the outputs, one for each gradient."""
    weight = torch.randn(256, 128, 4, 4, requires_grad=True)
    data = torch.randn(8, *{"halving": (128, 16, 16), "doubling": (256, 8, 8)}[function], requires_grad=True)
    convolution = {"halving": halving_conv2d, "doubling": doubling_conv2d}[function]

    def passes(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / (2 * 8 * 128 * 256 * 8 * 8 * 9)

    outputs = convolution(data if leaf else 2 * data, weight)
    loss = outputs.sum()
    assert passes(lambda: torch.autograd.grad(loss, data, retain_graph=True)) == 1
    assert passes(lambda: torch.autograd.grad(loss, weight, retain_graph=True)) == 1
    assert passes(lambda: loss.backward(inputs=[data], retain_graph=True)) == 1
    assert passes(lambda: loss.backward(inputs=[weight], retain_graph=True)) == 1
    assert passes(lambda: loss.backward(inputs=[data, weight], retain_graph=True)) == 2
    (gradient,) = torch.autograd.grad(outputs.square().sum(), data, create_graph=True)
    # Of the gradient by its weights and by the outputs, of these by the weights:
    assert passes(lambda: gradient.square().sum().backward(inputs=[weight])) == 3
    assert passes(lambda: convolution(data, weight.detach()).sum().backward()) == 2


def test_layers_are_saved_as_torchs():
    torch.manual_seed(0)
    layers = HalvingConv(3, 5), DoublingConv(3, 5, bias=False)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 4, 2, 1), nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False)

    for layer, same in zip(layers, plain, strict=True):
        assert list(layer.state_dict()) == list(same.state_dict())
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in same.state_dict().items())
