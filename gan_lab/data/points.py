"""Two-dimensional Gaussian mixtures: toy data whose modes are known, to see mode collapse in a minute.

The parameters are those of PacGAN (Lin et al. 2018) and VEEGAN (Srivastava et al. 2017), whose tables of modes
covered and share of high-quality samples are the usual reference.
"""

import math

import torch
from torch import Tensor

from gan_lab.constraints import PositiveFloat, PositiveInt
from gan_lab.data import Data


def gaussian_ring(
    *,
    num_modes: PositiveInt = 8,
    radius: PositiveFloat = 1.0,
    std: PositiveFloat = 0.01,
    num_points: PositiveInt = 100_000,
    seed: int = 0,
) -> Data:
    """Equally weighted Gaussians on a circle about the origin: float32 (num_points, 2), labelled by mode.

    Mode k lies at angle 2 pi k / num_modes, counted from the positive x axis. The default std is that of PacGAN's ring
    (radius 1, std 0.01), so that its published numbers can be compared with; other codes use 0.02 at radius 2.
    std: of each mode along each axis, in the units of ``radius``.
    seed: of the points alone; neither reads nor changes torch's global generator.
    """
    angles = torch.arange(num_modes, dtype=torch.float64) * (2 * math.pi / num_modes)
    modes = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _mixture(modes, std, num_points, seed)


def gaussian_grid(
    *,
    num_modes_per_side: PositiveInt = 5,
    spacing: PositiveFloat = 2.0,
    std: PositiveFloat = 0.05,
    num_points: PositiveInt = 100_000,
    seed: int = 0,
) -> Data:
    """Equally weighted Gaussians on a square grid about the origin: float32 (num_points, 2), labelled by mode.

    The defaults are PacGAN's and VEEGAN's 25 modes {-4, -2, 0, 2, 4}^2 with std 0.05. Mode
    i * num_modes_per_side + j lies in column i from the left and row j from below.
    std: of each mode along each axis, in the units of ``spacing``.
    seed: of the points alone; neither reads nor changes torch's global generator.
    """
    ticks = (torch.arange(num_modes_per_side, dtype=torch.float64) - (num_modes_per_side - 1) / 2) * spacing
    return _mixture(torch.cartesian_prod(ticks, ticks), std, num_points, seed)


def _mixture(modes: Tensor, std: float, num_points: int, seed: int) -> Data:
    """``num_points`` draws: a mode with equal chances, then a Gaussian step from its centre."""
    generator = torch.Generator().manual_seed(seed)
    modes = modes.float()
    labels = torch.randint(len(modes), (num_points,), generator=generator)
    points = modes[labels] + std * torch.randn((num_points, 2), generator=generator)
    classes = tuple(f"mode {index}" for index in range(len(modes)))
    return Data(points, labels, classes, modes=modes, mode_std=std)


gaussian_ring.layout = gaussian_grid.layout = "points"  # type: ignore[attr-defined]  # for the check of a config
