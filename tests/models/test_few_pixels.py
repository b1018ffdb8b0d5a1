from functools import partial

import pytest
import torch
from tiny import ready, sgd
from torch.nn.functional import conv2d, conv_transpose2d
from torch.utils.flop_counter import FlopCounterMode
from torch_calls import compiled, randn, same_with_derivatives

from gan_lab.conversions import Conversions
from gan_lab.losses import vanilla
from gan_lab.models import dcgan, few_pixels
from gan_lab.models.few_pixels import Matrix, Weight, doubling, halving
from gan_lab.models.layers import DoublingConv, HalvingConv, spectrally_normalised
from gan_lab.module import GAN, Optimization
from gan_lab.penalties import r1

SIDES = [(1, 1), (2, 2), (1, 4), (3, 2), (4, 4)]


@pytest.mark.parametrize("num_channels", [1, 3, 5], ids=["grey", "colours", "features"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_both_are_torchs_convolutions(num_channels, side, bias, order):
    """Values, first and second derivatives, whatever the order in memory of images and weights."""
    torch.manual_seed(0)
    weight, large = randn(7, num_channels, 4, 4), randn(3, num_channels, 2 * side[0], 2 * side[1])
    small, biases = randn(3, 7, *side), (randn(7), randn(num_channels)) if bias else (None, None)

    for fast, plain, images, offset in (
        (halving, conv2d, large, biases[0]),
        (doubling, conv_transpose2d, small, biases[1]),
    ):
        inputs = [images, weight] + ([offset] if bias else [])

        def in_order(images, weight, bias=None, fast=fast):
            return fast(images.contiguous(memory_format=order), weight.contiguous(memory_format=order), bias)

        same_with_derivatives(in_order, plain, inputs, stride=2, padding=1)


@pytest.mark.parametrize("num_channels", [1, 5], ids=["image", "features"])
def test_the_matrix_by_hand(num_channels):
    """Two outputs side by side, of four pixels in two rows: the weights' middle rows, which lie on them."""
    weight = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, num_channels, 1, 1)
    expected = [[5, 6, 7, 0, 9, 10, 11, 0], [0, 4, 5, 6, 0, 8, 9, 10]]

    assert Matrix.apply(weight, 1, 2, torch.float32)[:, ::num_channels].tolist() == expected
    # Back: each weight as often as it lies on a pixel.
    ones = Weight.apply(torch.ones(2, 8 * num_channels), 1, 2)
    assert ones[0, -1].tolist() == [[0, 0, 0, 0], [1, 2, 2, 1], [1, 2, 2, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("num_channels", [2, 6], ids=["image", "features"])
@pytest.mark.parametrize("side", SIDES)
def test_the_matrix_has_its_first_and_second_derivatives(side, num_channels):
    num_pixels = side[0] * side[1]
    weight, matrix = randn(3, num_channels, 4, 4), randn(num_pixels * 3, 4 * num_pixels * num_channels)

    def there(weight):
        return Matrix.apply(weight, *side, torch.float64)

    def back(matrix):
        return Weight.apply(matrix, *side)

    turned, second = matrix.t().contiguous().t(), torch.stack([matrix, matrix])[1]
    for function, given in ((there, weight), (back, matrix), (there, weight[:, 1:]), (back, turned), (back, second)):
        assert torch.autograd.gradcheck(function, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("num_channels", [1, 5], ids=["image", "features"])
def test_weights_back_from_bfloat16_are_summed_in_float32(num_channels):
    matrix = torch.full((4, 16 * num_channels), 1 / 3, dtype=torch.bfloat16)
    matrix[0] = 1 / 256
    weight = Weight.apply(matrix.requires_grad_(), 2, 2)
    assert weight.dtype == torch.float32
    assert weight.max().item() == 3 * matrix[1, 0].item() + 1 / 256
    (gradient,) = torch.autograd.grad(weight.sum(), matrix)
    assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize("num_channels", [1, 64])
@pytest.mark.parametrize("function", ["halving", "doubling"])
def test_rounding_is_that_of_torchs_convolution(function, num_channels):
    """In bfloat16 against float64, values and derivatives: at most a quarter more than torch's own error.

    But for a single bias, which torch rounds once, and a dense layer once for each pixel.
    """
    torch.manual_seed(0)
    side = 4 if num_channels == 1 else 2
    layer = {"halving": HalvingConv(num_channels, 64), "doubling": DoublingConv(64, num_channels)}[function]
    plain = {"halving": conv2d, "doubling": conv_transpose2d}[function]
    shape = {"halving": (64, num_channels, 2 * side, 2 * side), "doubling": (64, 64, side, side)}[function]
    images = torch.randn(shape).requires_grad_()
    inputs = [images, *layer.parameters()]
    gradient = torch.randn_like(layer(images))

    def errors(outputs):
        results = [outputs, *torch.autograd.grad(outputs, inputs, gradient.to(outputs.dtype))]
        return [(one - right).norm() / right.norm() for one, right in zip(results, exact, strict=True)]

    doubles = [one.detach().double().requires_grad_() for one in inputs]
    outputs = plain(*doubles, stride=2, padding=1)
    exact = [outputs, *torch.autograd.grad(outputs, doubles, gradient.double())]
    with torch.autocast("cpu", torch.bfloat16):
        own, torchs = layer(images), plain(images, layer.weight, layer.bias, stride=2, padding=1)
    assert own.dtype == torchs.dtype
    assert not torch.equal(own, torchs) or num_channels == 1
    for one, other in zip(errors(own), errors(torchs), strict=True):
        assert 0 < one < max(1.25 * other, 0.0005)
        assert other < 0.01


def is_dense(layer, images):
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        layer(images)
    counts = counter.get_flop_counts()["Global"]
    assert (torch.ops.aten.addmm in counts) != (torch.ops.aten.convolution in counts)
    return torch.ops.aten.addmm in counts


def test_only_few_pixels_of_many_images_are_worth_it():
    assert is_dense(HalvingConv(5, 6), torch.zeros(32, 5, 4, 4))
    assert not is_dense(HalvingConv(5, 6), torch.zeros(31, 5, 4, 4))
    assert is_dense(HalvingConv(5, 6), torch.zeros(32, 5, 2, 8))
    assert not is_dense(HalvingConv(5, 6), torch.zeros(32, 5, 4, 6))
    assert not is_dense(HalvingConv(5, 6), torch.zeros(32, 5, 4, 3))
    assert is_dense(HalvingConv(4, 6), torch.zeros(32, 4, 8, 8))
    assert not is_dense(HalvingConv(4, 6), torch.zeros(32, 4, 8, 10))
    assert not is_dense(HalvingConv(32, 6), torch.zeros(32, 4, 4))  # one image
    assert is_dense(DoublingConv(6, 5), torch.zeros(32, 6, 2, 2))
    assert not is_dense(DoublingConv(6, 5), torch.zeros(31, 6, 2, 2))
    assert not is_dense(DoublingConv(6, 5), torch.zeros(32, 6, 2, 3))
    assert is_dense(DoublingConv(6, 4), torch.zeros(32, 6, 4, 4))
    assert not is_dense(DoublingConv(6, 4), torch.zeros(32, 6, 4, 5))


def test_other_precisions_devices_and_compiled_code_take_torchs_own():
    images = torch.randn(64, 64, 4, 4)
    for device, dtype in (("cpu", None), ("meta", torch.bfloat16), ("cpu", torch.float16)):
        with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype, enabled=dtype is not None):
            HalvingConv(64, 128).to(device)(images.to(device))
        assert torch.ops.aten.convolution in counter.get_flop_counts()["Global"]

    with torch.autocast("cpu", torch.bfloat16):
        assert HalvingConv(64, 128).double()(images.double()).dtype == torch.float64

    in_one_graph, seen = compiled(HalvingConv(64, 128))
    with torch.autocast("cpu", torch.bfloat16):
        in_one_graph(images)
    assert conv2d in seen


def test_the_features_matrix_has_as_many_products_as_the_convolution():
    weight, images = torch.randn(7, 5, 4, 4), torch.randn(3, 5, 4, 4)
    for run in (lambda: halving(images, weight, None), lambda: conv2d(images, weight, stride=2, padding=1)):
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == 2 * 3 * 5 * 7 * 2 * 2 * 16


def test_networks_are_the_same_as_with_torchs_convolutions(monkeypatch):
    """Images, logits and gradients, those through a penalty on D's gradient too: in bfloat16, near float32's."""
    torch.manual_seed(0)
    options = {"sample_shape": (1, 8, 8), "width": 16, "depth": 2, "init_std": None}
    generator, discriminator = dcgan.Generator(latent_dim=5, **options), dcgan.Discriminator(**options)
    latents = torch.randn(64, 5)
    parameters = [*generator.parameters(), *discriminator.parameters()]

    def computed(dtype):
        with Conversions().in_use("cpu", dtype is not None), torch.autocast("cpu", dtype, enabled=dtype is not None):
            images = generator(latents)
            logits = discriminator(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = logits.square().sum() + gradient.float().square().sum()
        return [images, logits, *torch.autograd.grad(loss, parameters)]

    exact, own = computed(None), computed(torch.bfloat16)
    monkeypatch.setattr(few_pixels, "FEWEST_IMAGES", 65)
    torchs = computed(torch.bfloat16)
    total = [torch.cat([one.float().flatten() for one in some]) for some in (exact, own, torchs)]
    assert not torch.equal(total[1], total[2])
    assert (total[1] - total[0]).norm() < 1.25 * (total[2] - total[0]).norm() < 0.05 * total[0].norm()


class Made:
    """How many matrices are made."""

    def __init__(self, monkeypatch):
        self.num = 0
        matrix = Matrix.apply
        monkeypatch.setattr(Matrix, "apply", lambda *given: self.add() or matrix(*given))

    def add(self):
        self.num += 1


def test_the_matrix_is_made_once_between_updates(monkeypatch):
    made, layer, images = Made(monkeypatch), HalvingConv(3, 6), torch.randn(32, 3, 4, 4)

    def passes(*batches):
        with torch.autocast("cpu", torch.bfloat16):
            return [layer(batch) for batch in batches]

    apart = passes(images, 2 * images)
    assert made.num == 2
    conversions = Conversions()
    with conversions.in_use("cpu", True):
        together = passes(images, 2 * images)
        assert made.num == 3
        passes(torch.randn(32, 3, 2, 2))  # another size, another matrix
        assert made.num == 4
        assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
        gradients = [torch.autograd.grad(one[0].sum() + one[1].sum(), layer.weight)[0] for one in (apart, together)]
        torch.testing.assert_close(*gradients, rtol=0.01, atol=0.1)
        with torch.no_grad():
            layer.weight.mul_(2)
            layer.bias.mul_(2)
        conversions.forget(layer.parameters())
        assert torch.equal(passes(images)[0], 2 * together[0])
        assert made.num == 5
    passes(images)
    assert made.num == 6


@pytest.mark.parametrize("layer", [HalvingConv(5, 6), DoublingConv(5, 6)], ids=["halving", "doubling"])
def test_a_matrix_lies_where_the_one_before_it_did(layer, monkeypatch):
    matrices, matrix = [], Matrix.apply
    monkeypatch.setattr(Matrix, "apply", lambda *given: matrices.append(matrix(*given)) or matrices[-1])
    images = torch.randn(32, 5, *([2, 2] if isinstance(layer, DoublingConv) else [4, 4]), requires_grad=True)
    conversions = Conversions()

    def outputs():
        with torch.autocast("cpu", torch.bfloat16):
            return layer(images)

    with conversions.in_use("cpu", True):
        first = outputs()
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight))
        conversions.forget([layer.weight])
        second = outputs()
    last = outputs()  # anew

    assert matrices[1].data_ptr() == matrices[0].data_ptr() != matrices[2].data_ptr()
    assert torch.equal(second, last)
    assert torch.equal(*[torch.autograd.grad(one.float().square().sum(), layer.weight)[0] for one in (second, last)])
    assert [node for node, _ in matrices[1].grad_fn.next_functions if node is not None] == [
        matrices[2].grad_fn.next_functions[0][0]  # the weight's alone: no chain of all before
    ]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.sum().backward()


def test_weights_that_are_computed_in_each_pass_are_not_kept(monkeypatch):
    made, layer, images = Made(monkeypatch), HalvingConv(3, 6), torch.randn(32, 3, 4, 4)
    spectrally_normalised(layer, True)
    with Conversions().in_use("cpu", True), torch.autocast("cpu", torch.bfloat16):
        layer(images), layer(images)
    assert made.num == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_makes_a_matrix_for_each_update_of_the_weights(accumulate, monkeypatch):
    """And moves them as torch's convolutions do."""
    num_cycles = 3

    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        options = {"sample_shape": (1, 8, 8), "width": 8, "depth": 2, "init_std": 0.2}
        gan = ready(
            GAN(
                generator=dcgan.Generator(latent_dim=4, **options),
                discriminator=dcgan.Discriminator(**options),
                latent_dim=4,
                adversarial_loss=vanilla(),
                optimization=Optimization(sgd(0.1), sgd(0.1), accumulate=accumulate),
                penalties={"r1": partial(r1, weight=1.0)},
                autocast_dtype=torch.bfloat16,
                batch_size=64 * accumulate,
                budget_images=10**6,
            )
        )
        before = torch.cat([one.detach().flatten().clone() for one in gan.parameters()])
        for _ in range(num_cycles):
            gan.training_step(torch.rand(64 * accumulate, 1, 8, 8) * 2 - 1, 0)
        return torch.cat([one.detach().flatten() for one in gan.parameters()]) - before

    made = Made(monkeypatch)
    own = trained()
    assert made.num == 2 * num_cycles + 2 * (num_cycles + 1)  # of two layers of G, two of D
    monkeypatch.setattr(few_pixels, "FEWEST_IMAGES", 10**6)
    torchs = trained()
    assert made.num == 2 * num_cycles + 2 * (num_cycles + 1)
    assert 0 < (own - torchs).norm() < 0.02 * torchs.norm()
