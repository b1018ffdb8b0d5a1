from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.utils.flop_counter import FlopCounterMode
from torch_calls import FunctionsCalled

from gan_lab.conversions import Conversions
from gan_lab.models import dcgan, mlp, r3gan, upconv
from gan_lab.models.layers import (
    FourierFeatures,
    LastLayer,
    LeakyReLU,
    LeakyReLUDropout,
    Lowpass,
    MinibatchStd,
    UpsampledConv,
    feature_maps,
    halved_sizes,
    image_norm,
    initialise_normal,
    mixes_samples,
    most_halvings,
    only_slopes,
    pooled_conv,
    spectrally_normalised,
    square_image,
    upsample_bilinear,
    upsample_nearest,
    upsampled_conv,
    vector_norm,
)


@pytest.mark.parametrize(
    ("size", "depth", "sizes"),
    [
        (8, None, [8, 4]),
        (9, None, [9, 5]),
        (16, None, [16, 8, 4]),
        (28, None, [28, 14, 7]),
        (30, None, [30, 15, 8, 4]),
        (32, None, [32, 16, 8, 4]),
        (37, None, [37, 19, 10, 5]),
        (64, None, [64, 32, 16, 8, 4]),
        (100, None, [100, 50, 25, 13, 7]),
        (128, None, [128, 64, 32, 16, 8, 4]),
        (64, 2, [64, 32, 16]),
        (32, 4, [32, 16, 8, 4, 2]),
    ],
)
def test_halved_sizes(size, depth, sizes):
    assert halved_sizes(size, depth) == sizes


@pytest.mark.parametrize(("size", "depth"), [(8, 3), (32, 5), (28, 5), (128, 8)])
def test_halving_below_two_pixels_is_refused(size, depth):
    with pytest.raises(ValueError, match=f"depth={depth} halves {size} pixels"):
        halved_sizes(size, depth)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 9, 16, 17, 28, 32, 33, 128])
def test_most_halvings_leave_two_pixels_and_one_more_less(size):
    most = most_halvings(size)

    assert halved_sizes(size, most)[-1] == 2
    with pytest.raises(ValueError, match="to less than 2"):
        halved_sizes(size, most + 1)


def test_square_images_are_told_from_the_rest():
    assert square_image((3, 28, 28), "some") == (3, 28)
    for shape in [(2,), (3, 28, 32), (28, 28)]:
        with pytest.raises(ValueError, match="model=some draws square images"):
            square_image(shape, "some")


def test_nearest_upsampling_doubles_every_pixel_and_drops_the_last_of_an_odd_side():
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    four = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])

    assert torch.equal(upsample_nearest(images, 4)[0, 0], four)
    assert torch.equal(upsample_nearest(images, 3)[0, 0], four[:3, :3])


def with_derivatives(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The result, the derivatives of a weighed sum of its sines, and those of their squared length."""
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    first = torch.autograd.grad((weights * result.sin()).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(one.square().sum() for one in first), inputs)
    return [result, *first, *second]


@pytest.mark.parametrize("size", [2, 3, 8, 13])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_upsampling_and_convolution_in_one_are_the_two_apart(size, spectral_norm):
    """Values, first derivatives, and second ones through a penalty on the first; odd sides are cropped."""
    torch.manual_seed(0)
    layer = spectrally_normalised(UpsampledConv(3, 5, size), spectral_norm).double().eval()
    half = (size + 1) // 2
    images = torch.randn(2, 3, half, half, dtype=torch.float64, requires_grad=True)
    inputs = [images, *layer.parameters()]

    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :size, :size]
    expected = with_derivatives(conv2d(doubled, layer.weight, layer.bias, padding=1), inputs)
    assert all(one.abs().max() > 1e-3 for one in expected)
    torch.testing.assert_close(with_derivatives(layer(images), inputs), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(upsampled_conv(layer, images, size), expected[0], rtol=1e-12, atol=1e-12)


def test_upsampling_and_convolution_in_one_take_four_products_instead_of_nine():
    layer, images = UpsampledConv(3, 5, 8), torch.randn(2, 3, 4, 4)
    counts = []
    for run in (lambda: layer(images), lambda: conv2d(upsample_nearest(images, 8), layer.weight, padding=1)):
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())

    assert counts == [2 * 2 * 3 * 5 * 8 * 8 * 4, 2 * 2 * 3 * 5 * 8 * 8 * 9]  # a multiplication and an addition are 2


def test_a_convolution_behind_upsampling_starts_and_is_saved_as_a_plain_one():
    torch.manual_seed(0)
    layer = UpsampledConv(3, 5, 8)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 3, padding=1)

    assert list(layer.state_dict()) == ["weight", "bias"]
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_convolution_and_pooling_in_one_are_the_two_apart(size, spectral_norm):
    """Values, first and second derivatives; the means are written out: of two by two, or what an odd side leaves."""
    torch.manual_seed(0)
    layer = spectrally_normalised(nn.Conv2d(3, 5, 3, padding=1), spectral_norm).double().eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    inputs = [images, *layer.parameters()]

    result = conv2d(images, layer.weight, layer.bias, padding=1)
    odd = size % 2
    sums = pad(result, (0, odd, 0, odd)).unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(4, 5))
    counts = pad(torch.ones_like(result[:1, :1]), (0, odd, 0, odd)).unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(4, 5))
    expected = with_derivatives(sums / counts, inputs)
    assert all(one.abs().max() > 1e-3 for one in expected)
    torch.testing.assert_close(with_derivatives(pooled_conv(layer, images), inputs), expected, rtol=1e-10, atol=1e-10)


def test_convolution_and_pooling_in_one_take_sixteen_products_instead_of_thirty_six():
    with FlopCounterMode(display=False) as counter:
        pooled_conv(nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8))

    assert counter.get_total_flops() == 2 * 2 * 3 * 5 * 4 * 4 * 16


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 5, padding=1), nn.Conv2d(3, 5, 3, 2, 1)])
def test_only_the_convolution_whose_sums_are_known_is_taken(conv):
    with pytest.raises(AssertionError):
        upsampled_conv(conv, torch.randn(2, 3, 4, 4), 8)
    with pytest.raises(AssertionError):
        pooled_conv(conv, torch.randn(2, 3, 4, 4))


def test_feature_maps_are_rows_of_rows_with_the_channels_last_in_memory():
    features = torch.arange(2 * 5 * 3 * 4.0).view(2, 60)

    maps = feature_maps(features, 3, 4)
    assert torch.equal(maps, features.view(2, 5, 3, 4))
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert feature_maps(features[:, :45], 3).shape == (2, 5, 3, 3)


def test_bilinear_upsampling_weighs_neighbours_by_one_and_three():
    row = torch.tensor([0.0, 4.0, 12.0])
    doubled = torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0, 12.0])  # (3 a + b) / 4 and (a + 3 b) / 4, the ends repeated
    images = row.expand(1, 1, 3, 3)

    torch.testing.assert_close(upsample_bilinear(images, 6)[0, 0], doubled.expand(6, 6))
    torch.testing.assert_close(upsample_bilinear(images, 5)[0, 0], doubled[:5].expand(5, 5))
    torch.testing.assert_close(upsample_bilinear(images.transpose(2, 3), 6)[0, 0], doubled[:, None].expand(6, 6))


@pytest.mark.parametrize(("stride", "padding", "gain"), [(2, 1, 1.0), (1, 2, 1.0), (1, 1, 4.0)])
@pytest.mark.parametrize("size", [6, 7])
def test_lowpass_is_the_sum_of_neighbours_weighed_by_one_three_three_one(stride, padding, gain, size):
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    result = Lowpass(3, stride=stride, padding=padding, gain=gain).double()(images)
    sides = {(2, 1): (size + 1) // 2, (1, 2): size + 1 + size % 2, (1, 1): size - 1 + size % 2}
    assert result.shape == (2, 3, *[sides[stride, padding]] * 2)
    for i in range(result.shape[2]):
        for j in range(result.shape[3]):
            expected = torch.zeros(2, 3, dtype=torch.float64)
            for a, tap_a in enumerate((1, 3, 3, 1)):
                for b, tap_b in enumerate((1, 3, 3, 1)):
                    row, column = stride * i + a - padding, stride * j + b - padding
                    if 0 <= row < size and 0 <= column < size:
                        expected += gain * tap_a * tap_b / 64 * images[:, :, row, column]
            torch.testing.assert_close(result[:, :, i, j], expected)


@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (1, 2), (1, 1)])
@pytest.mark.parametrize("size", [4, 5])
def test_lowpass_has_derivatives_of_any_order(stride, padding, size):
    torch.manual_seed(0)
    layer = Lowpass(2, stride=stride, padding=padding, gain=3.0).double()
    images = torch.randn(2, 2, size, size, dtype=torch.float64, requires_grad=True)

    def bent(images):  # of a linear map, the second derivative would be 0
        return layer(images).square()

    assert torch.autograd.gradcheck(layer, (images,))
    assert torch.autograd.gradcheck(bent, (images,))
    assert torch.autograd.gradgradcheck(bent, (images,))


def test_lowpass_under_autocast_rounds_to_bfloat16_and_gives_its_inputs_gradients_in_their_type():
    torch.manual_seed(0)
    layer = Lowpass(3)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    precise = layer(images)
    (precise_gradient,) = torch.autograd.grad(precise.square().sum(), images, create_graph=True)
    (precise_second,) = torch.autograd.grad(precise_gradient.square().sum(), images)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(images)
        (gradient,) = torch.autograd.grad(outputs.float().square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)

    assert outputs.dtype == torch.bfloat16
    assert gradient.dtype == second.dtype == torch.float32
    torch.testing.assert_close(outputs.float(), precise, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradient, precise_gradient, rtol=0.02, atol=0.02)
    torch.testing.assert_close(second, precise_second, rtol=0.03, atol=0.03)


def test_lowpass_has_nothing_to_learn_or_to_save():
    layer = Lowpass(3)

    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.9])
def test_dropout_keeps_its_share_of_the_values_and_their_mean(p):
    torch.manual_seed(0)
    inputs = torch.ones(999, 1001, dtype=torch.float64, requires_grad=True)
    outputs = LeakyReLUDropout(1.0, p)(inputs)
    kept = outputs != 0
    num = inputs.numel()

    assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / num) ** 0.5
    assert outputs[kept].unique().tolist() == [pytest.approx(1 / (1 - p), rel=1e-4)]
    (gradient,) = torch.autograd.grad((3 * outputs).sum(), inputs)
    assert torch.equal(gradient, 3 * outputs.detach())  # of ones, the factors themselves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dropouts_factors_are_the_same_in_all_precisions_but_for_rounding(dtype):
    for p in (0.1, 0.3, 2**-16, 1 - 2**-16):  # the largest factor, 2^16, is not finite in float16
        factors = []
        for one in (dtype, torch.float64):
            torch.manual_seed(0)
            factors.append(LeakyReLUDropout(0.2, p).factors(torch.empty(33, 7, dtype=one)))
        assert factors[0].dtype == dtype
        assert torch.equal(factors[0], factors[1].to(dtype))


def test_values_are_dropped_independently():
    """Of neighbours, four of which share a draw, of rows, and of two passes."""
    torch.manual_seed(0)
    layer, inputs = LeakyReLUDropout(0.2, 0.4), torch.ones(500, 1024)
    first, second = ((layer(inputs) != 0).double() for _ in range(2))
    centred = (first - 0.6) / 0.24**0.5
    others = [centred.roll(shift, 1) for shift in range(1, 9)]
    others += [centred.roll(1, 0), (second - 0.6) / 0.24**0.5]

    for other in others:
        assert abs((centred * other).mean()) < 5 / inputs.numel() ** 0.5
    torch.manual_seed(0)
    assert torch.equal(layer(inputs) != 0, first != 0)  # by torch's generator


def test_dropout_of_nothing_of_all_and_outside_training():
    inputs = torch.randn(7, 3)

    assert torch.equal(LeakyReLUDropout(1.0, 0.3).eval()(inputs), inputs)
    assert torch.equal(LeakyReLUDropout(1.0, 0.0)(inputs), inputs)
    assert torch.equal(LeakyReLUDropout(1.0, 1.0)(inputs), torch.zeros(7, 3))
    assert LeakyReLUDropout(1.0, 0.3)(inputs[:0]).shape == (0, 3)
    assert LeakyReLUDropout(1.0, 0.3)(inputs.bfloat16()).dtype == torch.bfloat16
    assert LeakyReLUDropout(1.0, 0.3)(inputs.to("meta")).is_meta


@pytest.mark.parametrize(
    ("group_size", "sizes"),
    [(4, [4, 4]), (4, [6]), (4, [5]), (8, [3]), (16, [8]), (4, [5, 4]), (4, [5, 5, 5, *[4] * 21])],
)
def test_minibatch_std_says_how_much_the_samples_of_a_group_differ(group_size, sizes):
    torch.manual_seed(0)
    features = torch.randn(sum(sizes), 3, 2, 2, dtype=torch.float64)
    result = MinibatchStd(group_size)(features)

    assert result.shape == (sum(sizes), 4, 2, 2)
    assert torch.equal(result[:, :3], features)
    # samples in a row: those of real and fake, one after the other, stay apart
    for size, group, values in zip(sizes, features.split(sizes), result[:, 3].split(sizes), strict=True):
        expected = group.std(dim=0, unbiased=False).mean()
        torch.testing.assert_close(values, expected.expand(size, 2, 2), rtol=1e-6, atol=2e-4)


def test_minibatch_std_of_equal_samples_has_a_finite_gradient():
    features = torch.ones(4, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(MinibatchStd(4)(features).sum(), features, create_graph=True)
    gradient.square().sum().backward()

    assert features.grad.isfinite().all()


def standardised(inputs: torch.Tensor, dimensions: list[int]) -> torch.Tensor:
    mean = inputs.mean(dim=dimensions, keepdim=True)
    return (inputs - mean) / (inputs.var(dim=dimensions, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(("name", "dimensions"), [("batch", [0, 2, 3]), ("layer", [1, 2, 3]), ("instance", [2, 3])])
def test_image_norms_standardise_over_their_dimensions_and_scale_per_channel(name, dimensions):
    norm = image_norm(name, 6)
    images = torch.randn(4, 6, 5, 5) * torch.rand(4, 6, 1, 1) + torch.randn(4, 6, 1, 1)

    torch.testing.assert_close(norm(images), standardised(images, dimensions), rtol=1e-4, atol=1e-4)
    assert norm.weight.shape == norm.bias.shape == (6,)


@pytest.mark.parametrize(("name", "dimensions"), [("batch", [0]), ("layer", [1])])
def test_vector_norms_standardise_over_their_dimension(name, dimensions):
    norm = vector_norm(name, 6)
    vectors = torch.randn(16, 6) * torch.rand(6) + torch.randn(6)

    torch.testing.assert_close(norm(vectors), standardised(vectors, dimensions), rtol=1e-4, atol=1e-4)
    assert norm.weight.shape == norm.bias.shape == (6,)


def test_no_norm_changes_nothing():
    images = torch.randn(2, 3, 4, 4)

    assert torch.equal(image_norm("none", 3)(images), images)
    assert torch.equal(vector_norm("none", 4)(images[0, 0]), images[0, 0])


def test_batch_norm_and_minibatch_std_mix_samples_and_nothing_else():
    for name in ("none", "layer", "instance"):
        assert not mixes_samples(nn.Sequential(image_norm(name, 4)))
    assert not mixes_samples(vector_norm("layer", 4))
    assert mixes_samples(nn.Sequential(nn.Sequential(image_norm("batch", 4))))
    assert mixes_samples(vector_norm("batch", 4))
    assert mixes_samples(nn.Sequential(MinibatchStd(4)))


def test_initialisation_of_every_kind_of_layer():
    torch.manual_seed(0)
    kinds = [
        nn.Linear(300, 100),
        nn.Conv2d(50, 60, 4),
        nn.ConvTranspose2d(50, 60, 4, bias=False),
        nn.BatchNorm2d(20_000),
        nn.GroupNorm(1, 20_000),
        nn.LayerNorm(20_000),
        nn.InstanceNorm2d(20_000, affine=True),
    ]
    module = nn.Sequential(*kinds)
    initialise_normal(module, 0.05)

    for layer in kinds:
        centre = 0.0 if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) else 1.0
        num = layer.weight.numel()
        assert abs(layer.weight.mean() - centre) < 5 * 0.05 / num**0.5, layer
        assert abs(layer.weight.std() / 0.05 - 1) < 5 / (2 * num) ** 0.5, layer
        if layer.bias is not None:
            assert (layer.bias == 0).all(), layer


def test_fourier_features_are_the_points_and_waves_of_them():
    torch.manual_seed(0)
    layer = FourierFeatures(2, 3, std=1.5)
    points = torch.randn(5, 2)
    result = layer(points)
    angles = [[sum(p[i] * layer.frequencies[i, k] for i in range(2)) for k in range(3)] for p in points]

    assert result.shape == (5, 8)
    assert torch.equal(result[:, :2], points)
    torch.testing.assert_close(result[:, 2:5], torch.tensor(angles).sin())
    torch.testing.assert_close(result[:, 5:], torch.tensor(angles).cos())
    assert list(layer.parameters()) == []  # not trained ...
    assert list(layer.state_dict()) == ["frequencies"]  # ... but kept


def test_fourier_frequencies_have_the_asked_spread():
    torch.manual_seed(0)

    assert FourierFeatures(2, 20_000, std=3.0).frequencies.std().item() == pytest.approx(3.0, rel=0.02)  # 5.7 sigma


LAST_INPUTS = [(4, 12), (4, 3, 2, 5), (4, 1, 2, 5), (4, 3, 1, 1)]


@pytest.mark.parametrize("shape", LAST_INPUTS, ids=str)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_last_layer_is_a_dense_one_of_the_flat_features_in_every_order_of_memory(shape, order, num_outputs):
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=torch.float64)
    features = features.contiguous(memory_format=order if len(shape) == 4 else torch.contiguous_format)
    layer = LastLayer(features[0].numel(), num_outputs).double()

    def derivatives(outputs) -> list[Tensor]:
        """Outputs, and first and mixed second derivatives of a curved function of them."""
        one = features.clone().requires_grad_()
        result = outputs(one)
        parameters = list(layer.parameters())
        (slope,) = torch.autograd.grad(result.pow(3).sum(), one, create_graph=True)
        return [result, slope, *torch.autograd.grad(result.sin().sum() + slope.square().sum(), [one, *parameters])]

    expected = derivatives(lambda one: nn.functional.linear(one.flatten(1), layer.weight, layer.bias))
    torch.testing.assert_close(derivatives(layer), expected, rtol=1e-12, atol=1e-12)


def test_the_last_layer_computes_in_float32_and_gives_gradients_back_in_the_features_order():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 2, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    layer = LastLayer(36, 2)
    received: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        features.requires_grad_().register_hook(received.append)
        outputs = layer(features)
        assert torch.is_autocast_enabled("cpu")
    outputs.sum().backward()

    assert outputs.dtype == torch.float32
    by_hand = features.detach().double().flatten(1) @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(outputs.double(), by_hand, rtol=1e-6, atol=1e-6)
    assert received[0].is_contiguous(memory_format=torch.channels_last)
    assert received[0].stride() == features.stride()


def test_the_last_layer_takes_tensors_of_a_device_without_autocast():
    assert LastLayer(12, 2).to("meta")(torch.empty(4, 3, 2, 2, device="meta")).shape == (4, 2)


def test_the_last_layers_weights_are_turned_once_between_updates():
    torch.manual_seed(0)
    layer = LastLayer(12, 2)
    features = [torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last) for _ in range(2)]

    def turns_and_gradient():
        with FunctionsCalled() as called:
            loss = sum(layer(one).square().sum() for one in features)
            (gradient,) = torch.autograd.grad(loss, layer.weight)
        return called.names.count("aten.clone.default"), gradient

    num, expected = turns_and_gradient()
    with Conversions().in_use("cpu", False):
        num_kept, gradient = turns_and_gradient()
    assert (num, num_kept) == (4, 2)  # there and back
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_leaky_relu_is_torchs_in_place_but_not_on_views(slope):
    given = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    expected = nn.LeakyReLU(slope)(given)
    own, view = given.clone(), given.clone().view(2, 2)
    assert LeakyReLU(slope)(own).data_ptr() == own.data_ptr()
    assert torch.equal(own, expected)
    assert torch.equal(LeakyReLU(slope)(view).flatten(), expected)
    assert torch.equal(view.flatten(), given)
    # Of a view, gradients in its order of memory come back without a copy.
    base = torch.randn(4, 2, 2, 3, requires_grad=True)
    with FunctionsCalled() as called:
        LeakyReLU(slope)(base.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).sum().backward()
    assert not {"aten.clone.default", "aten.copy_.default"} & set(called.names)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("kept", [1.0, 0.7])
def test_slopes_alone_have_torchs_derivatives_without_the_zeros(slope, kept):
    """Of a penalty on the gradient of a network of two dense layers: the same derivatives, two products fewer."""
    torch.manual_seed(0)
    points = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    first, second = nn.Linear(3, 4).double(), nn.Linear(4, 1, bias=False).double()
    layer = LeakyReLU(slope) if kept == 1 else LeakyReLUDropout(slope, 1 - kept)

    def products_and_derivatives(activation):
        torch.manual_seed(1)
        with FunctionsCalled() as called:
            total = second(activation(first(points))).sum()
            (gradient,) = torch.autograd.grad(total, points, create_graph=True)
            penalty = gradient.square().sum()
            results = torch.autograd.grad(penalty, [first.weight, second.weight])
        return called.names.count("aten.mm.default"), [gradient, *results]

    def plain(inputs):
        factors = LeakyReLUDropout(slope, 1 - kept).factors(inputs)
        return nn.functional.leaky_relu(inputs, slope) * (1 if factors is None else factors)

    num, expected = products_and_derivatives(plain)
    with only_slopes():
        num_own, own = products_and_derivatives(layer)
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
    assert all(one.abs().max() > 0.01 for one in own)
    assert num_own < num


def test_only_slopes_ends_and_leaves_passes_without_a_graph_alone():
    layer, inputs = LeakyReLU(0.2), torch.randn(4, 3)
    weights = torch.ones(3, requires_grad=True)
    with only_slopes():
        with only_slopes():
            pass
        with FunctionsCalled() as called:
            layer(inputs.clone() * weights)
            assert called.names.count("aten.leaky_relu_backward.default") == 1
            layer(inputs.clone())
        assert called.names.count("aten.leaky_relu_backward.default") == 1
    with FunctionsCalled() as called:
        layer(inputs.clone() * weights)
        layer((inputs.clone() * weights).view(3, 4))
    assert "aten.leaky_relu_backward.default" not in called.names


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_leaky_relu_with_dropout_is_one_after_the_other(p, training):
    inputs = torch.randn(64, 32, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (LeakyReLUDropout(0.2, p), nn.Sequential(nn.LeakyReLU(0.2), LeakyReLUDropout(1.0, p))):
        torch.manual_seed(0)
        outputs = layer.train(training)(inputs)
        results.append([outputs, *torch.autograd.grad(outputs.sin().sum(), inputs)])
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)
    assert LeakyReLUDropout(0.2, p)(inputs.to("meta")).is_meta
    assert LeakyReLUDropout(0.2, p)(inputs.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_passes_of_dropout_leave_each_others_derivatives_alone(dtype):
    layer, shapes = LeakyReLUDropout(0.2, 0.3), [(33, 7), (33, 7), (64, 8), (33, 7)]
    batches = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    other = deepcopy(layer)  # before it has any memory
    torch.manual_seed(0)
    alive = [layer(batch) for batch in batches]
    torch.manual_seed(0)
    one_by_one = [other(batch) for batch in batches]
    copied = deepcopy(layer)
    for batch, outputs, expected in zip(batches, alive, one_by_one, strict=True):
        assert torch.equal(outputs, expected)
        (slopes,) = torch.autograd.grad(outputs.sum(), batch)
        assert torch.equal(slopes * batch, expected)
    torch.manual_seed(1)
    again = copied(batches[0])
    torch.manual_seed(1)
    assert torch.equal(layer(batches[0]), again)
    assert len(layer._memories) == 2
    assert not layer.state_dict()

    assert layer.factors(batches[0].double()).dtype == torch.float64
    layer.p = 0.5
    assert layer.factors(batches[0]).unique().tolist() == [0, 2]


@pytest.mark.parametrize("family", [dcgan, upconv, mlp, r3gan])
def test_networks_are_compiled_whole(family):
    """No part of them asks what compiled code cannot know, or keeps what it makes of weights."""
    torch.manual_seed(0)
    options = {} if family is mlp else {"width": 4}
    generator = family.Generator(sample_shape=(1, 16, 16), latent_dim=3, **options).eval()
    discriminator = family.Discriminator(sample_shape=(1, 16, 16), **options).eval()
    discriminator.to(memory_format=torch.channels_last)  # in which LastLayer turns its weights
    conversions, latents = Conversions(), torch.randn(2, 3)
    with conversions.in_use("cpu", False), torch.no_grad():
        expected = discriminator(generator(latents))
        conversions.known.clear()
        images = torch.compile(generator, backend="eager", fullgraph=True)(latents)
        logits = torch.compile(discriminator, backend="eager", fullgraph=True)(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert not conversions.known


def test_the_last_layer_takes_one_step_of_power_iteration_a_pass(monkeypatch):
    layer = spectrally_normalised(LastLayer(12, 1), True)
    steps = []
    parametrization = layer.parametrizations.weight[0]
    power_method = parametrization._power_method
    monkeypatch.setattr(parametrization, "_power_method", lambda *given: steps.append(1) or power_method(*given))
    features = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    with Conversions().in_use("cpu", False):
        layer(features)
        assert len(steps) == 1
        with torch.no_grad():
            layer(features)
    assert len(steps) == 2
