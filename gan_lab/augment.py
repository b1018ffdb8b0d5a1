"""Augmentations: what D sees of real and fake alike, so that it does not learn a small data set by heart.

All are objects called as augment(samples, generator, images_seen): `samples` are float (N, C, H, W) in [-1, 1], C = 1
(gray), 3 (RGB) or 4 (RGB and opacity), or points (N, D) where not `images_only`; `generator` gives every random number;
schedules depend on `images_seen`, the real images shown to D so far. The result has the same shape and dtype, may leave
[-1, 1], and is affine in the samples, so that gradient penalties go through it. Each sample is changed by itself.

Nothing waits for the device: probabilities may be tensors. There are no matrix products, which autocast and TF32 would
round: positions must be exact to a small part of a pixel.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from gan_lab.constraints import Fraction, PositiveFloat
from gan_lab.schedules import cosine

DiffAugmentTransform = Literal["color", "translation", "cutout"]
Transform = Literal[
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
]


class Augmentation:
    """state: 0-dim float tensors that a checkpoint keeps, empty unless the augmentation adapts; their owner may replace
    them by copies on another device. shown: the names of those that belong into the logs."""

    images_only: ClassVar[bool] = True
    reads_signs: ClassVar[bool] = False  # of D's logits, which therefore must tell by their sign
    shown: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        raise NotImplementedError

    def observe(self, real_sign: Tensor, num_images: int) -> None:
        """Called after each update of D: the mean of sign(D(real)), 0-dim, over the `num_images` reals of the batch."""


def _draw(distribution: Callable[..., Tensor], samples: Tensor, num_values: int, generator: torch.Generator) -> Tensor:
    """(N, num_values) from torch.rand or torch.randn."""
    shape = (len(samples), num_values)
    return distribution(shape, generator=generator, dtype=samples.dtype, device=generator.device).to(samples.device)


def _on_colours(change: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """The change of gray or RGB; opacity stays as it is."""
    if samples.shape[1] <= 3:
        return change(samples)
    return torch.cat([change(samples[:, :3]), samples[:, 3:]], dim=1)


def _pixels(samples: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, H, W): the pixels at whole positions inside the image, which have shape (N, H, W) or broadcast to it."""
    index = (rows * samples.shape[3] + columns).flatten(1).unsqueeze(1).expand(-1, samples.shape[1], -1)
    return samples.flatten(2).gather(2, index).view(samples.shape)


# ---------------------------------------------------------------------- DiffAugment


class DiffAugment(Augmentation):
    """Every transform of `policy`, in its order, on every sample (Zhao et al. 2020, as in the published code).

    color: x + U(-0.5, 0.5); then, about the mean over the channels, times U(0, 2), which leaves gray as it is; then,
        about the mean of the whole sample, times U(0.5, 1.5). Opacity takes no part.
    translation: by whole pixels, up to 1/8 of the side in both directions; 0 comes in.
    cutout: a square of half the side is set to 0; its centre is anywhere, so parts of it may lie outside.
    """

    def __init__(self, *, policy: Sequence[DiffAugmentTransform] = ("color", "translation", "cutout")):
        super().__init__()
        self.policy = tuple(policy)

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        for name in self.policy:
            samples = _DIFF_AUGMENT[name](samples, generator)
        return samples


def _color(samples: Tensor, generator: torch.Generator) -> Tensor:
    draws = _draw(torch.rand, samples, 3, generator).view(-1, 3, 1, 1, 1)
    brightness, saturation, contrast = draws.unbind(dim=1)

    def change(colours: Tensor) -> Tensor:
        colours = colours + (brightness - 0.5)
        if colours.shape[1] == 3:  # two channels are two domains, each of them gray
            gray = colours.mean(dim=1, keepdim=True)
            colours = gray + 2 * saturation * (colours - gray)
        middle = colours.mean(dim=(1, 2, 3), keepdim=True)
        return middle + (contrast + 0.5) * (colours - middle)

    return _on_colours(change, samples)


def _translation(samples: Tensor, generator: torch.Generator) -> Tensor:
    draws = _draw(torch.rand, samples, 2, generator)
    positions, inside = [], []
    for size, uniform in zip(samples.shape[2:], draws.unbind(dim=1), strict=True):
        reach = int(size / 8 + 0.5)
        shift = (uniform * (2 * reach + 1)).long() - reach
        places = torch.arange(size, device=samples.device) + shift.unsqueeze(1)
        inside.append((places >= 0) & (places < size))
        positions.append(places.clamp(0, size - 1))
    shown = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return _pixels(samples, positions[0].unsqueeze(2), positions[1].unsqueeze(1)) * shown


def _cutout(samples: Tensor, generator: torch.Generator) -> Tensor:
    draws = _draw(torch.rand, samples, 2, generator)
    within = []
    for size, uniform in zip(samples.shape[2:], draws.unbind(dim=1), strict=True):
        length = int(size / 2 + 0.5)
        # A square of even side has its centre between pixels: there is one place more.
        first = (uniform * (size + 1 - length % 2)).long().unsqueeze(1) - length // 2
        places = torch.arange(size, device=samples.device)
        within.append((places >= first) & (places < first + length))
    return samples * ~(within[0][:, None, :, None] & within[1][:, None, None, :])


_DIFF_AUGMENT = {"color": _color, "translation": _translation, "cutout": _cutout}


# ---------------------------------------------------------------------- Adaptive, Ramp


class _Draws(NamedTuple):
    """One transform's random numbers: the distribution, how many a sample, and what they mean; 0 means no change."""

    distribution: Callable[..., Tensor]
    num_values: int
    amount: Callable[[Tensor], Tensor]


_TRANSFORMS: dict[Transform, _Draws] = {
    "flip": _Draws(torch.rand, 1, lambda u: (2 * u).floor()),
    "quarter_turns": _Draws(torch.rand, 1, lambda u: (4 * u).floor()),
    "translation": _Draws(torch.rand, 2, lambda u: (2 * u - 1) / 8),
    "scaling": _Draws(torch.randn, 1, lambda n: 0.2 * n),
    "rotation": _Draws(torch.rand, 2, lambda u: math.pi * (2 * u - 1)),
    "stretching": _Draws(torch.randn, 1, lambda n: 0.2 * n),
    "fractional_translation": _Draws(torch.randn, 2, lambda n: n / 8),
    "brightness": _Draws(torch.randn, 1, lambda n: 0.2 * n),
    "contrast": _Draws(torch.randn, 1, lambda n: 0.5 * n),
    "luma_flip": _Draws(torch.rand, 1, lambda u: (2 * u).floor()),
    "hue": _Draws(torch.rand, 1, lambda u: math.pi * (2 * u - 1)),
    "saturation": _Draws(torch.randn, 1, lambda n: n),
}
_COLOURS: tuple[Transform, ...] = ("brightness", "contrast", "luma_flip", "hue", "saturation")
_PLACES: tuple[Transform, ...] = tuple(name for name in _TRANSFORMS if name not in _COLOURS)
_ANY_IMAGE: tuple[Transform, ...] = (
    "translation",
    "scaling",
    "stretching",
    "fractional_translation",
    "brightness",
    "contrast",
)


def transformed(
    samples: Tensor, generator: torch.Generator, policy: Sequence[Transform], probability: Tensor | float
) -> Tensor:
    """Each transform of `policy` on each sample with `probability`, independently (Karras et al. 2020, appendix B).

    In this order, whatever the order of `policy`; U is uniform, N normal:
      translation: by whole pixels, U(-1/8, 1/8) of the side in both directions
      flip: left to right, in half of the cases; quarter_turns: 0 to 3
      scaling: by 2^N(0, 0.2^2); rotation: by U(-pi, pi)
      stretching: by 2^n and 2^-n, n = N(0, 0.2^2), along axes that rotation turns: it is also applied afterwards, and
        each of the two with 1 - sqrt(1 - p), so that an image is turned with p
      fractional_translation: by N(0, 1/8^2) of the side in both directions
      brightness: + N(0, 0.2^2); contrast: times 2^N(0, 0.5^2), about 0
      luma_flip: the mean over the channels changes its sign, in half of the cases
      hue: rotation of the colours about gray by U(-pi, pi); saturation: 2^N(0, 1) times the difference from gray
    Hue and saturation leave gray images alone, colours leave opacity alone. All changes of place are one resampling,
    bilinear and with the image mirrored at its borders; the paper's filters against aliasing are left out.
    """
    amounts = _amounts(samples, generator, policy, probability)
    if not set(policy).isdisjoint(_PLACES):
        samples = _resampled(samples, *_sources(amounts, *samples.shape[2:]))
    if not set(policy).isdisjoint(_COLOURS):
        samples = _on_colours(lambda colours: _recoloured(colours, amounts), samples)
    return samples


def _amounts(
    samples: Tensor, generator: torch.Generator, policy: Sequence[Transform], probability: Tensor | float
) -> dict[str, Tensor]:
    """Of each transform (N, number of values): 0 where it is not applied."""
    amounts: dict[str, Tensor] = {}
    for name, (distribution, num_values, amount) in _TRANSFORMS.items():
        if name not in policy:
            amounts[name] = samples.new_zeros(len(samples), num_values)
            continue
        values = amount(_draw(distribution, samples, num_values, generator))
        twice = name == "rotation"
        share = 1 - (1 - probability) ** 0.5 if twice else probability
        applied = _draw(torch.rand, samples, 2 if twice else 1, generator) < share
        amounts[name] = values.masked_fill(~applied, 0.0)
    return amounts


def _sources(amounts: dict[str, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """The place (x, y), each (N, H, W) in pixels, that each pixel of the result comes from.

    With (x, y) from the centre, source = F R(before) S R(after) (target + fraction) + whole, where F flips, R turns
    (quarter turns included), S scales and stretches: each undoes its transform, the last one first.
    """

    def of(name: str) -> tuple[Tensor, ...]:
        return amounts[name].view(amounts[name].shape[0], -1, 1, 1).unbind(dim=1)

    (flip,), (quarters,), (scaling,), (stretching,) = map(of, ("flip", "quarter_turns", "scaling", "stretching"))
    (shift_x, shift_y), (fraction_x, fraction_y), (before, after) = map(
        of, ("translation", "fractional_translation", "rotation")
    )
    before = before + math.pi / 2 * quarters
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, dtype=flip.dtype, device=flip.device) - centre_x + width * fraction_x
    y = torch.arange(height, dtype=flip.dtype, device=flip.device).unsqueeze(1) - centre_y + height * fraction_y
    x, y = after.cos() * x - after.sin() * y, after.sin() * x + after.cos() * y
    x, y = torch.exp2(-scaling - stretching) * x, torch.exp2(stretching - scaling) * y
    x, y = before.cos() * x - before.sin() * y, before.sin() * x + before.cos() * y
    x = (1 - 2 * flip) * x
    return x + (width * shift_x).round() + centre_x, y + (height * shift_y).round() + centre_y


def _resampled(samples: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The image at places (x, y) between its pixels, bilinear, mirrored about its outermost pixels.

    As grid_sample with reflection and align_corners, which lacks double backward in older versions of torch, and whose
    places, from -1 to 1, are rounded: without a change, the result would not be the image itself.
    """
    column, right = _between(x, samples.shape[3])
    row, below = _between(y, samples.shape[2])
    right, below = right.unsqueeze(1), below.unsqueeze(1)
    upper = (1 - right) * _pixels(samples, row, column) + right * _pixels(samples, row, column + 1)
    lower = (1 - right) * _pixels(samples, row + 1, column) + right * _pixels(samples, row + 1, column + 1)
    return (1 - below) * upper + below * lower


def _between(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(the pixel before, the share in [0, 1] of the next one) of mirrored places."""
    last = size - 1
    mirrored = last - (places.remainder(2 * last) - last).abs()
    before = mirrored.floor().clamp(max=last - 1)
    return before.long(), mirrored - before


def _recoloured(colours: Tensor, amounts: dict[str, Tensor]) -> Tensor:
    """With m the mean over the channels and v = (1, 1, 1) / sqrt(3), the axis that hue turns about,

    c f (m + b) + c s (cos h (x - m) + sin h v cross x): contrast c, luma flip f = +-1, saturation s, hue h.
    """
    brightness, contrast, luma_flip, hue, saturation = (amounts[name].view(-1, 1, 1, 1) for name in _COLOURS)
    luma_gain = torch.exp2(contrast) * (1 - 2 * luma_flip)
    if colours.shape[1] < 3:
        return luma_gain * (colours + brightness)
    gain = torch.exp2(contrast + saturation)
    along, across = gain * hue.cos(), gain * hue.sin() / 3**0.5
    luma = colours.mean(dim=1, keepdim=True)
    crossed = colours.roll(1, dims=1) - colours.roll(-1, dims=1)
    # Sorted by x, m and b: with no change, these are 1 x + 0 m + 0, and x to the last bit.
    return along * colours + (luma_gain - along) * luma + luma_gain * brightness + across * crossed


class Adaptive(Augmentation):
    """`transformed` with a probability p that D's overfitting controls: ADA (Karras et al. 2020, section 3.1).

    Every 4 updates of D, p += sign(r - target) * images / (1000 speed_kimg), within [0, 1], where r is the mean of
    sign(D(real)) over these updates' images: 0 while D cannot tell, 1 once it knows all reals. p starts at 0 and
    crosses [0, 1] in speed_kimg thousand images. The paper does not limit p from above. Logged as augment/probability.

    policy: by default what suits any image, digits and text too. The paper's ("bgc") has all twelve transforms; what
        the data do not bear (flip, quarter_turns, rotation, luma_flip) can leak into the fakes once p is near 1.
    """

    observations = 4

    reads_signs: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...]] = ("probability",)

    def __init__(
        self, *, target: Fraction = 0.6, speed_kimg: PositiveFloat = 500, policy: Sequence[Transform] = _ANY_IMAGE
    ):
        super().__init__()
        self.target = target
        self.speed_kimg = speed_kimg
        self.policy = tuple(policy)
        names = ("probability", "sign_sum", "num_images", "num_observations")
        self.state = {name: torch.zeros(()) for name in names}

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        return transformed(samples, generator, self.policy, self.state["probability"])

    @torch.no_grad()
    def observe(self, real_sign: Tensor, num_images: int) -> None:
        probability = self.state["probability"]
        sign_sum = self.state["sign_sum"] + real_sign.float() * num_images
        images = self.state["num_images"] + num_images
        count = self.state["num_observations"] + 1
        due = count >= self.observations
        step = (sign_sum / images - self.target).sign() * images / (1000 * self.speed_kimg)
        self.state["probability"] = torch.where(due, (probability + step).clamp(0, 1), probability)
        self.state["sign_sum"] = sign_sum.masked_fill(due, 0.0)
        self.state["num_images"] = images.masked_fill(due, 0.0)
        self.state["num_observations"] = count.masked_fill(due, 0.0)


class Ramp(Augmentation):
    """`transformed` with a probability that rises along a cosine and then stays (Huang et al. 2024, R3GAN's code).

    p = final_probability (1 - cos(pi t)) / 2, where t goes from 0 to 1 in `over_kimg` thousand images. R3GAN takes all
    of `Adaptive`'s transforms, those of colour with p / 2, and cutout.
    """

    def __init__(
        self,
        *,
        policy: Sequence[Transform] = _ANY_IMAGE,
        final_probability: Fraction = 0.5,
        over_kimg: PositiveFloat,
    ):
        super().__init__()
        self.policy = tuple(policy)
        self.final_probability = final_probability
        self.over_kimg = over_kimg

    def probability(self, images_seen: int) -> float:
        return cosine(0.0, self.final_probability, images_seen / (1000 * self.over_kimg))

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        return transformed(samples, generator, self.policy, self.probability(images_seen))


# ---------------------------------------------------------------------- instance noise


class InstanceNoise(Augmentation):
    """x + N(0, s^2), one draw a value, s falling linearly from `std` to 0 (Sønderby et al. 2017, section 3).

    s is 0 from `until_kimg` thousand images on. Widens both distributions until they overlap: for images and points.
    """

    images_only: ClassVar[bool] = False

    def __init__(self, *, std: PositiveFloat = 0.1, until_kimg: PositiveFloat):
        super().__init__()
        self.std = std
        self.until_kimg = until_kimg

    def std_at(self, images_seen: int) -> float:
        return self.std * max(0.0, 1 - images_seen / (1000 * self.until_kimg))

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        noise = _draw(torch.randn, samples, samples[0].numel(), generator).view(samples.shape)
        return samples + self.std_at(images_seen) * noise
