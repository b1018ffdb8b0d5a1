"""Augmentations against second formulas on the same draws, closed forms of their distributions, and known pictures."""

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.functional import grid_sample

from gan_lab.augment import Adaptive, Augmentation, DiffAugment, InstanceNoise, Ramp

ALL = (
    "flip",
    "quarter_turns",
    "translation",
    "scaling",
    "rotation",
    "stretching",
    "fractional_translation",
    "brightness",
    "contrast",
    "luma_flip",
    "hue",
    "saturation",
)
COLOURS = ALL[-5:]


def always(*policy: str, share: float = 1.0) -> Ramp:
    """The transforms with the same probability at all times."""
    return Ramp(policy=policy, final_probability=share, over_kimg=0.001)


AT_END = 1
"""Images after which `always` is at its probability."""
EVERY = pytest.mark.parametrize(
    "augment",
    [
        DiffAugment(),
        DiffAugment(policy=["cutout", "color"]),
        always(*ALL, share=0.8),
        always("rotation", "fractional_translation"),
        always(*COLOURS),
        InstanceNoise(std=0.3, until_kimg=1),
    ],
    ids=["diffaugment", "some", "all", "places", "colours", "noise"],
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=dtype) * 2 - 1


def share_of(condition: Tensor) -> float:
    return condition.double().mean().item()


# ---------------------------------------------------------------------- what all have in common


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_same_seed_gives_the_same_result_and_nothing_is_changed_in_place(augment, channels):
    samples = pictures(5, channels, 12, 12, dtype=torch.float32)
    before = samples.clone()
    first, again, other = (augment(samples, generator(seed), AT_END) for seed in (1, 1, 2))

    assert first.shape == samples.shape
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(samples, before)
    assert not torch.equal(first, other)
    assert augment.observe(torch.tensor(1.0), 5) is None
    assert augment.state == {}


@EVERY
def test_samples_of_a_batch_are_changed_each_in_its_own_way_and_do_not_mix(augment):
    alike = pictures(1, 3, 12, 12).repeat(6, 1, 1, 1)
    many = augment(alike, generator(), AT_END)
    others = alike.clone()
    others[1:] = 0

    assert len(many.unique(dim=0)) == 6
    assert torch.equal(augment(others, generator(), AT_END)[0], many[0])


@EVERY
def test_gradients_of_both_orders(augment):
    """gradgradcheck also differentiates with respect to the gradient that comes from D."""

    def change(samples: Tensor) -> Tensor:
        return augment(samples, generator(3), AT_END)

    samples = pictures(2, 3, 4, 4).requires_grad_()

    assert torch.autograd.gradcheck(change, samples, fast_mode=True)
    assert torch.autograd.gradgradcheck(change, samples, fast_mode=True)


@EVERY
def test_the_gradient_of_a_gradient_penalty_is_its_finite_difference(augment):
    samples, weights = pictures(2, 4, 5, 5), pictures(4, 5, 5, seed=1).requires_grad_()

    def penalty(weights: Tensor, samples: Tensor) -> Tensor:
        seen = samples.detach().requires_grad_()
        logits = (weights * augment(seen, generator(3), AT_END).pow(3)).sum()
        return torch.autograd.grad(logits, seen, create_graph=True)[0].square().sum()

    (slope,) = torch.autograd.grad(penalty(weights, samples), weights)
    step = 1e-3 * pictures(4, 5, 5, seed=2)  # the penalty is quadratic in the weights: no smaller step is needed
    difference = (penalty(weights + step, samples) - penalty(weights - step, samples)).item()

    assert difference == pytest.approx(2 * (slope * step).sum().item(), rel=1e-8)


@EVERY
def test_autocast_rounds_nothing(augment):
    samples = pictures(3, 3, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augment(samples, generator(), AT_END)

    assert torch.equal(cast, augment(samples, generator(), AT_END))


@EVERY
def test_no_value_is_read_back_from_the_device(augment):
    """Fake tensors have no values: .item(), or a branch on one, raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        samples = torch.zeros(3, 3, 8, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(augment(samples, generator(), AT_END).sum(), samples)
        assert slope.shape == samples.shape


def test_only_noise_is_for_points():
    assert not InstanceNoise.images_only
    assert all(kind.images_only for kind in (Augmentation, DiffAugment, Adaptive, Ramp))


# ---------------------------------------------------------------------- DiffAugment


def plain_diff_augment(image: Tensor, name: str, draws: list[float]) -> Tensor:
    """One image (C, H, W), as the published code has it; draws in [0, 1)."""
    result = image.clone()
    height, width = image.shape[1:]
    if name == "color":
        colours = slice(0, min(len(image), 3))
        result[colours] += draws[0] - 0.5
        for row in range(height):
            for column in range(width):
                pixel = result[colours, row, column].clone()
                result[colours, row, column] = (pixel - pixel.mean()) * (draws[1] * 2) + pixel.mean()
        mean = result[colours].mean()
        result[colours] = (result[colours] - mean) * (draws[2] + 0.5) + mean
    elif name == "translation":
        reaches = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        down, right = (math.floor(u * (2 * reach + 1)) - reach for u, reach in zip(draws, reaches, strict=True))
        for row in range(height):
            for column in range(width):
                inside = 0 <= row + down < height and 0 <= column + right < width
                result[:, row, column] = image[:, row + down, column + right] if inside else 0
    else:
        sides = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        top = math.floor(draws[0] * (height + (1 - sides[0] % 2))) - sides[0] // 2
        left = math.floor(draws[1] * (width + (1 - sides[1] % 2))) - sides[1] // 2
        result[:, max(top, 0) : max(top + sides[0], 0), max(left, 0) : max(left + sides[1], 0)] = 0
    return result


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 9), (4, 13, 10)])
@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], ["cutout", "translation", "color"]])
def test_diffaugment_is_the_published_code(policy, shape):
    samples = expected = pictures(40, *shape)
    result = DiffAugment(policy=policy)(samples, generator(7), 0)

    draws = generator(7)
    for name in policy:
        numbers = torch.rand(40, 3 if name == "color" else 2, generator=draws, dtype=torch.float64).tolist()
        pairs = zip(expected, numbers, strict=True)
        expected = torch.stack([plain_diff_augment(image, name, values) for image, values in pairs])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)


def test_a_dot_goes_at_most_an_eighth_of_the_side_and_to_all_places_alike():
    samples = torch.zeros(9000, 1, 8, 8)
    samples[:, 0, 3, 5] = 1
    moved = DiffAugment(policy=["translation"])(samples, generator(), 0).mean(dim=(0, 1))

    expected = torch.zeros(8, 8)
    expected[2:5, 4:7] = 1 / 9
    torch.testing.assert_close(moved, expected, rtol=0, atol=4.5 * math.sqrt(1 / 9 * 8 / 9 / 9000))
    assert moved[2:5, 4:7].sum().item() == pytest.approx(1, abs=1e-6)


def test_the_hole_of_cutout_has_half_the_side_or_is_cut_by_the_border():
    holes = DiffAugment(policy=["cutout"])(torch.ones(8100, 1, 8, 8), generator(), 0) == 0
    heights, widths = holes.any(dim=3).sum(dim=2), holes.any(dim=2).sum(dim=2)

    assert torch.equal(holes.sum(dim=(2, 3)), heights * widths)
    # Of the 9 places of the centre, 0 and 8 leave half of the hole, 1 and 7 leave three quarters.
    for lengths in (heights, widths):
        shares = [share_of(lengths == length) for length in (2, 3, 4)]
        assert shares == pytest.approx([2 / 9, 2 / 9, 5 / 9], abs=4.5 * 0.5 / 90)
    assert len(holes.flatten(1).unique(dim=0)) == 81


def test_diffaugment_keeps_the_mean_and_spreads_it_as_its_distributions_say():
    num = 40_000
    samples = pictures(1, 3, 2, 2).expand(num, -1, -1, -1)
    changed = DiffAugment(policy=["color"])(samples, generator(), 0)
    means, chroma = changed.mean(dim=(1, 2, 3)), changed - changed.mean(dim=1, keepdim=True)
    was = samples[0] - samples[0].mean(dim=0, keepdim=True)

    torch.testing.assert_close(changed.mean(dim=0), samples[0], rtol=0, atol=4.5 * 1.0 / math.sqrt(num))
    assert means.var().item() == pytest.approx(1 / 12, rel=0.03)  # of U(-0.5, 0.5)
    # E s^2 = 4/3 of U(0, 2), E c^2 = 1 + 1/12 of U(0.5, 1.5)
    assert (chroma.square().mean() / was.square().mean()).item() == pytest.approx(4 / 3 * 13 / 12, rel=0.03)


# ---------------------------------------------------------------------- the transforms of Adaptive and Ramp


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("side", [8, 13, 32])
@pytest.mark.parametrize("augment", [Adaptive(policy=ALL), Ramp(policy=ALL, over_kimg=1)], ids=["adaptive", "ramp"])
def test_with_probability_0_nothing_changes_to_the_last_bit(augment, channels, side):
    samples = pictures(7, channels, side, side, dtype=torch.float32)

    assert torch.equal(augment(samples, generator(), 0), samples)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_has_neither_hue_nor_saturation(channels):
    gray = pictures(6, 1, 8, 8).expand(-1, channels, -1, -1)
    changed = always("hue", "saturation")(gray, generator(), AT_END)

    torch.testing.assert_close(changed, gray, rtol=0, atol=0 if channels == 1 else 1e-14)


@pytest.mark.parametrize("augment", [always(*COLOURS), DiffAugment(policy=["color"])], ids=["all", "diffaugment"])
def test_opacity_has_no_part_in_colours(augment):
    samples = pictures(6, 4, 8, 8)
    changed = augment(samples, generator(), AT_END)

    assert torch.equal(changed[:, 3], samples[:, 3])
    assert torch.equal(changed[:, :3], augment(samples[:, :3], generator(), AT_END))
    assert (changed[:, :3] != samples[:, :3]).all()


def test_gray_is_changed_as_equal_channels_are():
    samples = pictures(30, 1, 8, 8)
    gray = always(*COLOURS)(samples, generator(), AT_END)
    three = always(*COLOURS)(samples.expand(-1, 3, -1, -1), generator(), AT_END)

    torch.testing.assert_close(three, gray.expand(-1, 3, -1, -1), rtol=0, atol=1e-13)


UNCHANGED = {
    "flip": 1 / 2,
    "quarter_turns": 1 / 4,
    "translation": (4 / 9) ** 2,  # U(-9/8, 9/8) rounds to 0 in both directions
    "luma_flip": 1 / 2,
}
"""How often an applied transform does nothing."""


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_each_transform_comes_with_its_probability(name, share):
    num = 4000
    samples = pictures(1, 3, 9, 9).expand(num, -1, -1, -1)
    changed = always(name, share=share)(samples, generator(), AT_END)
    unchanged = share_of((changed == samples).flatten(1).all(dim=1))

    expected = 1 - share + share * UNCHANGED.get(name, 0)
    assert unchanged == pytest.approx(expected, abs=4.5 * math.sqrt(max(expected * (1 - expected), 1e-12) / num))


def test_transforms_come_independently_of_one_another():
    samples = pictures(1, 3, 4, 4).expand(6000, -1, -1, -1)
    changed = always("flip", "luma_flip", share=0.8)(samples, generator(), AT_END)
    plain = torch.stack([samples[0], samples[0].flip(2)])
    forms = torch.cat([plain, plain - 2 * plain.mean(dim=1, keepdim=True)])
    shares = [share_of((changed - one).abs().amax(dim=(1, 2, 3)) < 1e-12) for one in forms]

    assert shares == pytest.approx([0.36, 0.24, 0.24, 0.16], abs=4.5 * 0.5 / math.sqrt(6000))
    assert sum(shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_flips_and_quarter_turns_are_those_of_the_array(mirrored):
    samples = pictures(1, 2, 6, 6).expand(400, -1, -1, -1)
    policy = ("quarter_turns", "flip") if mirrored else ("quarter_turns",)
    changed = always(*policy)(samples, generator(), AT_END)
    images = [samples[0], samples[0].flip(2)] if mirrored else [samples[0]]
    forms = torch.stack([image.rot90(turns, (1, 2)) for image in images for turns in range(4)])
    found = (changed.unsqueeze(1) - forms).abs().amax(dim=(2, 3, 4)) < 1e-12

    assert (found.sum(dim=1) == 1).all()
    assert found.any(dim=0).all()


def places(*policy: str, num: int = 1000, side: int = 17) -> tuple[Tensor, Tensor]:
    """What the pictures x and y become: matrices (num, 2, 2) and shifts (num, 2) in pixels, read next to the centre.

    source = matrix target + shift, both from the centre.
    """
    half = side // 2
    line = torch.arange(side, dtype=torch.float64) - half
    ramps = torch.stack([line.expand(side, side), line.unsqueeze(1).expand(side, side)])
    seen = always(*policy)(ramps.expand(num, -1, -1, -1), generator(), AT_END)
    shift = seen[:, :, half, half]
    right, below = seen[:, :, half, half + 1] - shift, seen[:, :, half + 1, half] - shift
    return torch.stack([right, below], dim=2), shift


def test_scaling_rotation_and_stretching_are_what_they_are_called():
    num = 1000
    eye = torch.eye(2, dtype=torch.float64)
    wide = 4.5 / math.sqrt(num)

    matrix, shift = places("scaling")
    sizes = -matrix[:, 0, 0].log2()
    torch.testing.assert_close(matrix, matrix[:, :1, :1] * eye, rtol=0, atol=1e-12)
    assert sizes.mean().item() == pytest.approx(0, abs=0.2 * wide)
    assert sizes.std().item() == pytest.approx(0.2, abs=0.2 * wide / math.sqrt(2))
    assert shift.abs().max().item() < 1e-12

    matrix, shift = places("rotation")
    torch.testing.assert_close(matrix @ matrix.mT, eye.expand(num, 2, 2), rtol=0, atol=1e-12)
    assert (torch.linalg.det(matrix) > 0).all()
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    assert angles.std().item() == pytest.approx(2 * math.pi / math.sqrt(12), rel=wide)

    matrix, shift = places("stretching")
    sizes = matrix[:, 1, 1].log2()
    torch.testing.assert_close(matrix, torch.diag_embed(torch.stack([0.5**sizes, 2**sizes], 1)), rtol=0, atol=1e-12)
    assert sizes.std().item() == pytest.approx(0.2, abs=0.2 * wide / math.sqrt(2))


def test_an_image_is_turned_before_and_after_it_is_stretched():
    """M = R S R: neither M M^T, which knows the first R alone, nor M^T M is diagonal; their eigenvalues are 4^+-n."""
    matrix, _ = places("rotation", "stretching", num=200)
    for squared in (matrix @ matrix.mT, matrix.mT @ matrix):
        assert share_of(squared[:, 0, 1].abs() > 1e-3) > 0.95
        octaves = torch.linalg.eigvalsh(squared)[:, 1].log2() / 2
        assert octaves.square().mean().sqrt().item() == pytest.approx(0.2, rel=4.5 / math.sqrt(400))
    assert torch.linalg.det(matrix).tolist() == pytest.approx([1] * 200, abs=1e-12)


def test_translations_of_whole_pixels_and_of_parts():
    num = 1000
    _, shift = places("translation")
    assert torch.equal(shift, shift.round())
    # U(-17/8, 17/8) is rounded: -1, 0 and 1 have 8/34 each, -2 and 2 share the rest.
    shares = [share_of(shift == whole) for whole in range(-2, 3)]
    assert shares == pytest.approx([5 / 34, *3 * [8 / 34], 5 / 34], abs=4.5 * math.sqrt(0.18 / (2 * num)))
    assert sum(shares) == pytest.approx(1, abs=1e-12)

    _, shift = places("fractional_translation", side=33)
    assert shift.std(dim=0).tolist() == pytest.approx([33 / 8] * 2, rel=4.5 / math.sqrt(2 * num))
    assert shift.mean(dim=0).tolist() == pytest.approx([0] * 2, abs=4.5 * 33 / 8 / math.sqrt(num))


def test_translation_is_the_first_and_fractional_translation_the_last():
    """source = M (target + fraction) + whole: the whole pixels stay whole, the fraction goes through M."""
    matrix, shift = places("translation", "scaling", "rotation", num=50)
    torch.testing.assert_close(shift, shift.round(), rtol=0, atol=1e-12)
    matrix, shift = places("scaling", "fractional_translation", side=33)
    scales = matrix[:, 0, 0]
    fraction = shift / scales.unsqueeze(1) / 33
    inside = shift.abs().amax(dim=1) < 15  # the others are mirrored
    assert share_of(inside) > 0.99
    assert fraction[inside].std().item() == pytest.approx(1 / 8, rel=4.5 / math.sqrt(4 * 1000))


def test_all_changes_of_place_are_one_resampling_as_grid_sample_does_it():
    side, num = 17, 60
    half = side // 2
    line = torch.arange(side, dtype=torch.float64) - half
    samples = pictures(1, 3, side, side).repeat(num, 1, 1, 1)
    samples[:, 0], samples[:, 1] = line.expand(side, side), line.unsqueeze(1).expand(side, side)
    seen = always(*ALL[:7])(samples, generator(), AT_END)
    shift = seen[:, :2, half, half]
    right, below = seen[:, :2, half, half + 1] - shift, seen[:, :2, half + 1, half] - shift
    # Where the map is read, the picture must not be mirrored.
    inside = shift.abs().amax(dim=1) < half - 2

    grid = shift[:, None, None] + line[:, None, None] * below[:, None, None] + line[:, None] * right[:, None, None]
    expected = grid_sample(samples, grid / half, mode="bilinear", padding_mode="reflection", align_corners=True)
    assert inside.sum() > 40
    torch.testing.assert_close(seen[inside], expected[inside], rtol=0, atol=1e-11)


def in_axes(colours: Tensor) -> tuple[Tensor, Tensor]:
    """(the part along gray, the complex number of the part across it), which hue turns."""
    basis = torch.tensor([[1.0, 1.0, 1.0], [2.0, -1.0, -1.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    basis /= basis.norm(dim=1, keepdim=True)
    along, first, second = torch.einsum("ij,njhw->inhw", basis, colours)
    return along / 3**0.5, torch.complex(first, second)


def test_colours_have_the_distributions_of_the_paper():
    num = 20_000
    samples = pictures(1, 3, 2, 1).expand(num, -1, -1, -1)
    luma, chroma = in_axes(samples)
    wide = 4.5 / math.sqrt(num)

    def changed(name: str) -> tuple[Tensor, Tensor]:
        return in_axes(always(name)(samples, generator(), AT_END))

    new_luma, new_chroma = changed("brightness")
    shift = (new_luma - luma)[:, 0, 0]
    torch.testing.assert_close(new_chroma, chroma, rtol=0, atol=1e-12)
    torch.testing.assert_close(new_luma - luma, shift.view(-1, 1, 1).expand_as(luma), rtol=0, atol=1e-12)
    assert shift.mean().item() == pytest.approx(0, abs=0.2 * wide)
    assert shift.std().item() == pytest.approx(0.2, rel=wide)

    new_luma, new_chroma = changed("contrast")
    octaves = (new_luma / luma)[:, 0, 0].log2()
    torch.testing.assert_close(new_luma / luma, 2 ** octaves.view(-1, 1, 1).expand_as(luma), rtol=1e-9, atol=0)
    torch.testing.assert_close((new_chroma / chroma).real, new_luma / luma, rtol=1e-9, atol=0)
    assert octaves.mean().item() == pytest.approx(0, abs=0.5 * wide)
    assert octaves.std().item() == pytest.approx(0.5, rel=wide)
    # The mean of 2^N(0, 0.5^2) is exp((0.5 log 2)^2 / 2).
    assert (2**octaves).mean().item() == pytest.approx(math.exp((0.5 * math.log(2)) ** 2 / 2), rel=wide)

    new_luma, new_chroma = changed("luma_flip")
    torch.testing.assert_close(new_chroma, chroma, rtol=0, atol=1e-12)
    torch.testing.assert_close(new_luma.abs(), luma.abs(), rtol=0, atol=1e-12)

    new_luma, new_chroma = changed("hue")
    turns = new_chroma / chroma
    torch.testing.assert_close(new_luma, luma, rtol=0, atol=1e-12)
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns), rtol=0, atol=1e-9)
    torch.testing.assert_close(turns.abs(), torch.ones_like(luma), rtol=0, atol=1e-9)
    assert turns.angle().std().item() == pytest.approx(2 * math.pi / math.sqrt(12), rel=wide)
    assert turns.mean().abs().item() == pytest.approx(0, abs=wide)

    new_luma, new_chroma = changed("saturation")
    octaves = (new_chroma / chroma).real[:, 0, 0].log2()
    torch.testing.assert_close(new_luma, luma, rtol=0, atol=1e-12)
    assert octaves.mean().item() == pytest.approx(0, abs=wide)
    assert octaves.std().item() == pytest.approx(1, rel=wide)


def test_brightness_comes_before_contrast_and_luma_flip():
    """c f (m + b): where m + b is 0, the others do nothing; of two lumas, the factor is the quotient of differences."""
    samples = torch.tensor([-0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 2).expand(5000, -1, -1, -1)
    first, second = always("brightness", "contrast", "luma_flip")(samples, generator(), AT_END)[:, 0, 0].unbind(dim=1)
    factor = second - first
    shift = (first + second) / 2 / factor

    assert share_of(factor < 0) == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(5000))
    assert shift.std().item() == pytest.approx(0.2, rel=4.5 / math.sqrt(2 * 5000))
    assert factor.abs().log2().std().item() == pytest.approx(0.5, rel=4.5 / math.sqrt(2 * 5000))


# ---------------------------------------------------------------------- Adaptive


def test_adaptive_moves_by_the_sign_of_four_updates():
    """Each time p moves by 4 * 64 / 2000 = 0.128."""
    augment = Adaptive(target=0.6, speed_kimg=2)
    signs = [
        *(1.0, 1.0, 1.0, 1.0),  # 1: up
        *(0.5, 0.7, 0.75, 0.5),  # 0.6125: up
        *(0.5, 0.7, 0.5, 0.625),  # 0.58125: down
        *(-1.0, 1.0, 1.0, 1.0),  # 0.5: down
        *(0.0, 0.0, 0.0, 0.0),  # down, to 0 and not below
        *(1.0, 1.0, 1.0),  # not yet
    ]
    path = []
    for sign in signs:
        augment.observe(torch.tensor(sign), 64)
        path.append(augment.state["probability"].item())

    expected = [0.0] * 3 + [0.128] * 4 + [0.256] * 4 + [0.128] * 4 + [0.0] * 8
    assert path == pytest.approx(expected, abs=1e-7)


def test_adaptive_follows_the_plain_formula_and_stays_within_0_and_1():
    augment = Adaptive(target=0.25, speed_kimg=0.5)
    draws = torch.rand(400, generator=generator()).tolist()
    sizes = torch.randint(1, 40, (400,), generator=generator()).tolist()
    probability, waiting, largest = 0.0, [], 0.0
    for step, (draw, size) in enumerate(zip(draws, sizes, strict=True)):
        sign = draw if step < 200 else draw - 0.4  # the mean is first above the target, then below
        augment.observe(torch.tensor(sign, dtype=torch.float64), size)
        waiting.append((sign, size))
        if len(waiting) == 4:
            images = sum(size for _, size in waiting)
            mean = sum(sign * size for sign, size in waiting) / images
            move = images / 500 if mean > 0.25 else -images / 500
            probability, waiting = min(max(probability + move, 0.0), 1.0), []
        largest = max(largest, probability)
        assert augment.state["probability"].item() == pytest.approx(probability, abs=1e-5)

    assert largest == 1
    assert all(value.shape == () and value.dtype == torch.float32 for value in augment.state.values())


def test_adaptive_at_its_target_stays_and_keeps_no_graph():
    augment = Adaptive(target=0.5, speed_kimg=0.5)
    for _ in range(4):
        augment.observe(torch.tensor(0.5, requires_grad=True), 8)

    assert augment.state["probability"].item() == 0
    assert not any(value.requires_grad for value in augment.state.values())


def test_adaptive_goes_on_from_another_s_state():
    """The state is all there is: half of the observations in one, half in its successor."""
    whole, first, second = (Adaptive(speed_kimg=1) for _ in range(3))
    for step in range(18):
        whole.observe(torch.tensor(0.9 if step % 7 else -1.0), 32)
        if step == 10:
            second.state = {name: value.clone() for name, value in first.state.items()}
        (first if step < 10 else second).observe(torch.tensor(0.9 if step % 7 else -1.0), 32)

    assert second.state == whole.state
    assert whole.state["num_observations"].item() == 2


def test_adaptive_applies_the_probability_of_its_state():
    augment = Adaptive(policy=["brightness"])
    augment.state = {name: value.clone() for name, value in augment.state.items()}
    augment.state["probability"] = torch.tensor(0.7)
    samples = torch.zeros(5000, 1, 2, 2)
    changed = (augment(samples, generator(), 0) != 0).flatten(1)

    assert share_of(changed) == pytest.approx(0.7, abs=4.5 * math.sqrt(0.21 / 5000))
    augment.state["probability"] = torch.tensor(0.0)
    assert torch.equal(augment(samples, generator(), 0), samples)


def test_adaptive_reads_no_value_back_from_the_device():
    with FakeTensorMode():
        augment = Adaptive(policy=ALL)
        for _ in range(5):
            augment.observe(torch.zeros(()), 8)
        assert augment(torch.zeros(3, 3, 8, 8), generator(), 0).shape == (3, 3, 8, 8)


@pytest.mark.parametrize("kind", [Adaptive(), Ramp(over_kimg=1)], ids=["adaptive", "ramp"])
def test_by_default_nothing_is_turned_mirrored_or_inverted(kind):
    assert set(kind.policy) == {*ALL[2:4], *ALL[5:9]}


# ---------------------------------------------------------------------- Ramp, InstanceNoise


def test_ramp_rises_along_a_cosine_and_stays():
    augment = Ramp(policy=["brightness"], final_probability=0.4, over_kimg=2)
    quarter = 0.2 * (1 - math.sqrt(0.5))

    expected = {0: 0.0, 500: quarter, 1000: 0.2, 1500: 0.4 - quarter, 2000: 0.4, 10**9: 0.4}
    assert [augment.probability(images) for images in expected] == pytest.approx(list(expected.values()), abs=1e-15)
    for images in (500, 1000, 2000, 5000):
        changed = augment(torch.zeros(5000, 1, 2, 2), generator(), images) != 0
        share = augment.probability(images)
        assert share_of(changed) == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / 5000))


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8)])
def test_instance_noise_fades_in_a_straight_line(shape):
    augment = InstanceNoise(std=0.2, until_kimg=2)
    samples = pictures(2000, *shape)
    for images, std in {0: 0.2, 500: 0.15, 1000: 0.1, 1900: 0.01}.items():
        noise = augment(samples, generator(), images) - samples
        assert noise.std().item() == pytest.approx(std, rel=4.5 / math.sqrt(2 * noise.numel()))
        assert noise.mean().item() == pytest.approx(0, abs=4.5 * std / math.sqrt(noise.numel()))
        assert len(noise.unique()) > 0.99 * noise.numel()
    assert torch.equal(augment(samples, generator(), 2000), samples)
    assert torch.equal(augment(samples, generator(), 10**7), samples)
