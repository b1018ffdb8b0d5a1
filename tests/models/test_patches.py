"""Convolutions whose weights' gradients are products of patches: the values and derivatives of torch's own."""

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d
from torch.utils.flop_counter import FlopCounterMode

from gan_lab.models import dcgan, patches
from gan_lab.models.layers import DoublingConv, HalvingConv
from gan_lab.models.patches import Convolution, Transposed, WeightGradient, doubling_conv2d, halving_conv2d


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def in_bfloat16(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@pytest.fixture(autouse=True)
def _patches_up_to_16_pixels(monkeypatch):
    """Where they pay; the program takes them nowhere for now."""
    monkeypatch.setattr(patches, "LARGEST_OUTPUTS", 16)


@pytest.fixture
def calls(monkeypatch):
    """How often a gradient of a weight was computed by products of patches."""
    found = []
    original = WeightGradient.forward
    monkeypatch.setattr(WeightGradient, "forward", staticmethod(lambda *inputs: found.append(1) or original(*inputs)))
    return found


@pytest.mark.parametrize("most", [1, 2**22])
@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (3, 2, 2, 6), (1, 1, 8, 2), (0, 2, 4, 4)])
def test_the_weights_gradient_is_torchs(shape, most, monkeypatch):
    monkeypatch.setattr(patches, "CHUNK_BYTES", most)
    torch.manual_seed(0)
    num, _, height, width = shape
    images, outputs = randn(*shape), randn(num, 7, height // 2, width // 2)
    weight = torch.zeros(7, shape[1], 4, 4, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(conv2d(images, weight, None, 2, 1), weight, outputs)

    torch.testing.assert_close(WeightGradient.apply(images, outputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("most", [1, 2**22])
@pytest.mark.parametrize("name", ["Convolution", "Transposed", "WeightGradient"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_every_function_has_its_first_and_second_derivatives(name, with_bias, most, monkeypatch):
    monkeypatch.setattr(patches, "CHUNK_BYTES", most)
    torch.manual_seed(0)
    images, outputs, weight = randn(3, 2, 6, 4), randn(3, 3, 3, 2), randn(3, 2, 4, 4)
    function, inputs = {
        "Convolution": (Convolution, (images, weight, randn(3) if with_bias else None)),
        "Transposed": (Transposed, (outputs, weight, randn(2) if with_bias else None)),
        "WeightGradient": (WeightGradient, (images, outputs)),
    }[name]

    assert torch.autograd.gradcheck(function.apply, inputs)
    assert torch.autograd.gradgradcheck(function.apply, inputs, fast_mode=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("function", ["halving", "doubling"])
def test_rounding_is_that_of_torchs_convolution_in_bfloat16(function, bias, calls):
    """Outputs, gradients, and the gradients of a penalty on the first: their error against float64 is at most one and a
    half times torch's own."""
    torch.manual_seed(0)
    data = {"halving": (32, 64, 8, 8), "doubling": (32, 128, 4, 4)}[function]
    inputs = [randn(*data), randn(128, 64, 4, 4)]
    inputs += [randn({"halving": 128, "doubling": 64}[function])] if bias else []
    fast, plain = {
        "halving": (halving_conv2d, conv2d),
        "doubling": (doubling_conv2d, conv_transpose2d),
    }[function]

    def computed(convolution, dtype, **options):
        images, *weights = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        with in_bfloat16(dtype == torch.float32):
            outputs = convolution(images, *weights, **options)
        loss = outputs.double().square().sum()
        gradients = torch.autograd.grad(loss, [images, *weights], create_graph=True)
        penalty = gradients[0].double().square().sum()
        return [outputs, *gradients, *torch.autograd.grad(penalty, [images, weights[0]])]

    exact = computed(plain, torch.float64, stride=2, padding=1)
    torchs = computed(plain, torch.float32, stride=2, padding=1)
    assert not calls
    ours = computed(fast, torch.float32)
    assert len(calls) == 3  # of the loss; of the penalty by both uses of the weight
    for one, other, right in zip(ours, torchs, exact, strict=True):
        assert one.dtype == other.dtype
        assert 0 < (one - right).norm() < 1.5 * (other - right).norm() < 0.02 * right.norm()


def test_a_networks_gradients_are_those_of_torchs_own(calls, monkeypatch):
    """Of D's logits and of a penalty on their gradient, by all weights of both networks."""
    torch.manual_seed(0)
    options = {"sample_shape": (1, 8, 8), "width": 32, "depth": 2}
    generator = dcgan.Generator(latent_dim=5, **options)
    discriminator = dcgan.Discriminator(**options)
    latents = torch.randn(16, 5)
    parameters = [*generator.parameters(), *discriminator.parameters()]

    def computed():
        with in_bfloat16():
            images = generator(latents)
            logits = discriminator(images).float()
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = (logits - 1).square().sum() + 100 * gradient.float().square().sum()
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])

    ours = computed()
    assert len(calls) == 3  # G's layer before the image's; D's second, once for each of its two uses
    monkeypatch.setattr(patches, "LARGEST_OUTPUTS", 0)
    torchs = computed()
    assert (ours - torchs).norm() < 0.03 * torchs.norm()


def takes_patches(layer, images, calls, no_grad=False):
    calls.clear()
    with torch.set_grad_enabled(not no_grad):
        outputs = layer(images)
    if outputs.requires_grad:
        outputs.sum().backward()
    return bool(calls)


def test_only_small_outputs_in_bfloat16_take_patches(calls):
    small = torch.zeros(2, 16, 8, 8)
    with in_bfloat16():
        assert takes_patches(HalvingConv(16, 32), small, calls)
        assert takes_patches(DoublingConv(16, 32), small[:, :, :4, :4], calls)
        assert not takes_patches(HalvingConv(16, 31), small, calls)
        assert not takes_patches(DoublingConv(16, 31), small[:, :, :4, :4], calls)
        assert not takes_patches(HalvingConv(16, 32), torch.zeros(2, 16, 8, 10), calls)
        assert not takes_patches(DoublingConv(16, 32), small[:, :, :4, :5], calls)
        assert not takes_patches(HalvingConv(16, 32), torch.zeros(2, 16, 7, 8), calls)
        assert not takes_patches(HalvingConv(16, 32), small, calls, no_grad=True)
    assert not takes_patches(HalvingConv(16, 32), small, calls)
    for dtype in (torch.float32, torch.bfloat16):
        for layer, images in ((HalvingConv(16, 32), small), (DoublingConv(16, 32), small[:, :, :4, :4])):
            layer, images = layer.to(dtype), images.to(dtype)
            assert layer(images[:0]).shape == (0, *layer(images).shape[1:])
            with in_bfloat16():
                assert layer(images[:0]).shape == (0, *layer(images).shape[1:])
                assert not takes_patches(layer, images[0], calls)  # no batch
    with in_bfloat16():
        assert not takes_patches(HalvingConv(16, 32).double(), small.double(), calls)
    with torch.autocast("cpu", torch.float16):
        assert not takes_patches(HalvingConv(16, 32), small, calls)
    with in_bfloat16():
        assert not takes_patches(HalvingConv(16, 32).to("meta"), small.to("meta"), calls)


def test_compiled_code_takes_torchs_own():
    layer, images, seen = HalvingConv(16, 32), torch.randn(2, 16, 8, 8), []

    def backend(graph, _):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    with in_bfloat16():
        torch.compile(layer, backend=backend, fullgraph=True)(images)
    assert conv2d in seen


@pytest.mark.parametrize("function", ["halving", "doubling"])
def test_only_gradients_that_are_asked_for_are_computed(function):
    """In passes through the layer, as torch's own: one for the outputs, one for each gradient."""
    weight, bias = torch.randn(32, 32, 4, 4, requires_grad=True), torch.zeros(32, requires_grad=True)
    data = torch.randn(8, 32, *{"halving": (8, 8), "doubling": (4, 4)}[function], requires_grad=True)
    convolution = {"halving": halving_conv2d, "doubling": doubling_conv2d}[function]

    def passes(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / (2 * 8 * 32 * 32 * 16 * 16)

    with in_bfloat16():
        outputs = convolution(data, weight, bias)
    loss = outputs.sum()
    assert passes(lambda: loss.backward(inputs=[data], retain_graph=True)) == 1
    assert passes(lambda: loss.backward(inputs=[weight], retain_graph=True)) == 1
    assert passes(lambda: loss.backward(inputs=[bias], retain_graph=True)) == 0
    assert passes(lambda: loss.backward(inputs=[data, weight], retain_graph=True)) == 2
