"""`gan-lab sample`: from a trained run to an .npz, a picture, or a folder of pictures."""

import logging
import math
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gan_lab.constraints import NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.directions import closed_form_directions
from gan_lab.errors import ConfigError
from gan_lab.files import replacing
from gan_lab.images import PICTURE_CHANNELS, image_grid, save_png, scatter_plot, to_uint8, whole_groups
from gan_lab.names import nearest
from gan_lab.record import find_run
from gan_lab.sampling import LatentSpace, generate, interpolate, latents_of
from gan_lab.streams import Streams
from gan_lab.trained import SavedWeights, Trained, device_of, trained_generator

log = logging.getLogger(__name__)

MOST_IN_A_GRID = 10_000


@dataclass
class Sampling:
    """What to draw. out: FILE.npz (array `images`), FILE.png (a grid), or a folder for one PNG each.

    label: of a generator that takes labels, one name or, where no class has that name, number from 0, or several that
    take turns; `all`: every one. Of one that takes categories (infogan, cluster_gan), their numbers. codes: of infogan,
    the continuous ones.
    directions: this many latent directions in closed form, a row each, in `steps` steps from -strength to strength; one
    step is the sample itself.
    """

    run: str
    out: str
    num: PositiveInt = 64
    weights: SavedWeights = "ema"
    seed: NonNegativeInt = 0
    columns: PositiveInt | None = None
    batch_size: PositiveInt = 256
    device: Literal["cpu", "gpu"] = "cpu"
    label: int | str | list[int | str] | None = None
    codes: list[float] | None = None
    interpolate: list[int] | None = None
    directions: PositiveInt | None = None
    strength: PositiveFloat = 3.0
    steps: PositiveInt = 8


def sample(request: Sampling) -> Path:
    """Draws from a run's generator and returns the path written. Nothing is left there unless it is complete."""
    device = device_of(request.device)
    trained = trained_generator(find_run(request.run), request.weights, device)
    generator, space, state = trained.generator, trained.space, trained.content
    out = Path(request.out)
    choices = _choices(request, trained)
    latents, num, columns = _latents(request, trained, device, len(choices))
    wanted = _with_choices(latents, choices, request.codes, space)
    samples = (part for block in wanted for part in _in_batches(generator, block, request.batch_size))
    columns = request.columns or columns
    if out.suffix == ".npz":
        _write_npz(samples, num, tuple(state["sample_shape"]), out)
    elif out.suffix == ".png":
        if num > MOST_IN_A_GRID:
            raise ConfigError(
                f"num={num}: a picture holds at most {MOST_IN_A_GRID:,} samples; use out=FILE.npz or a folder"
            )
        drawn = torch.cat([part.cpu() for part in samples])
        points = drawn.ndim == 2
        save_png(
            scatter_plot(drawn, state["modes"], state["mode_std"]) if points else image_grid(to_uint8(drawn), columns),
            out,
        )
    elif out.suffix == "":
        _write_folder(samples, num, out)
    else:
        raise ConfigError(f"out={out}: expected FILE.npz, FILE.png, or a folder (a name without a suffix)")
    return out


def _latents(
    request: Sampling, trained: Trained, device: torch.device, num_choices: int
) -> tuple[Iterator[Tensor], int, int]:
    """G's inputs in blocks, how many they are, and how many make a row of a picture."""
    if request.directions is not None and request.interpolate is not None:
        raise ConfigError("directions and interpolate are two different pictures: leave one of them out")
    if num_choices > 1 and (request.directions is not None or request.interpolate is not None):
        raise ConfigError(f"label={request.label}: directions and interpolate keep one label; give one")
    if request.directions is None and request.interpolate is None:
        drawn = latents_of(Streams(request.seed, device), "noise/sample", request.num, trained.space)
        return drawn, request.num, whole_groups(num_choices, math.ceil(math.sqrt(request.num)))
    if request.directions is None:
        latents = _between_seeds(request, trained.space, device)
    else:
        latents = _along_directions(request, trained, device)
    return iter(latents.split(request.batch_size)), len(latents), request.steps


def _choices(request: Sampling, trained: Trained) -> list[int]:
    """The labels or categories that the samples take in turn; none where they are to be drawn."""
    conditioning, classes = trained.space.conditioning, trained.content.get("classes")
    num = conditioning.num_choices
    num_continuous = conditioning.num_codes - num
    if request.codes is not None and len(request.codes) != num_continuous:
        raise ConfigError(f"codes={request.codes}: this generator takes {num_continuous} continuous codes")
    if any(abs(code) > 1 for code in request.codes or ()):
        log.warning(f"warning: codes={request.codes}: training saw -1 to 1, use those for samples as it made them")
    if request.label is None:
        return []
    if num == 0:
        raise ConfigError(
            f"label={request.label}: this run's generator takes no labels; train one: conditioning=concat"
        )
    names = list(classes or ()) if conditioning.needs_labels else [str(index) for index in range(num)]
    wanted = request.label if isinstance(request.label, list) else [request.label]
    if wanted == ["all"]:
        return list(range(num))
    found = []
    for one in wanted:
        if str(one) in names:  # names that are numbers, such as folders called 1, 2, 3, come before positions
            found.append(names.index(str(one)))
        elif isinstance(one, int) and 0 <= one < num:
            found.append(one)
        else:
            raise ConfigError(f"label={one}: expected 0 to {num - 1}, all, or a name; {nearest(str(one), names)}")
    return found


def _with_choices(
    blocks: Iterator[Tensor], choices: list[int], continuous: list[float] | None, space: LatentSpace
) -> Iterator[Tensor]:
    """The blocks of latents with these labels or categories in turn, and these continuous codes, in place of theirs."""
    start, num = 0, space.conditioning.num_choices
    for block in blocks:
        if choices:
            turns = torch.tensor(choices, device=block.device)[torch.arange(start, start + len(block)) % len(choices)]
            block[:, space.dim : space.dim + num] = one_hot(turns, num).to(block.dtype)
        if continuous:
            block[:, space.dim + num :] = torch.tensor(continuous, device=block.device)
        start += len(block)
        yield block


def _along_directions(request: Sampling, trained: Trained, device: torch.device) -> Tensor:
    """One latent moved along each of the directions that change G's first layer most: a row of steps for each."""
    assert request.directions is not None
    space = trained.space
    if request.directions > space.dim:
        raise ConfigError(
            f"directions={request.directions}: latents of {space.dim} values have no more than {space.dim} directions; "
            f"use directions={space.dim} or fewer"
        )
    try:
        directions = closed_form_directions(trained.generator, space.dim, request.directions).to(device)
    except ValueError as error:
        raise ConfigError(f"directions={request.directions}: {error}") from error
    latent = next(latents_of(Streams(request.seed, device), "noise/sample", 1, space))
    strength = request.strength if request.steps > 1 else 0.0
    lengths = torch.linspace(-strength, strength, request.steps, device=device)
    moves = (directions[:, None, :] * lengths[None, :, None]).flatten(0, 1) * space.conditioning.noise_scale
    latents = latent.repeat(len(moves), 1)
    latents[:, : space.dim] += moves
    return latents


def _between_seeds(request: Sampling, space: LatentSpace, device: torch.device) -> Tensor:
    """Latents on the way between the first latents of the given seeds; codes change evenly."""
    seeds = request.interpolate or []
    if len(seeds) < 2 or request.steps < 2:
        raise ConfigError("interpolate needs at least two seeds and two steps: interpolate=[0,1,2] steps=8")
    ends = torch.cat([next(latents_of(Streams(seed), "noise/sample", 1, space)) for seed in seeds])
    noise = interpolate(ends[:, : space.dim], request.steps, space.distribution)
    codes = interpolate(ends[:, space.dim :], request.steps, "uniform")
    return torch.cat([noise, codes], dim=1).to(device)


def _in_batches(generator: torch.nn.Module, latents: Tensor, batch_size: int) -> Iterator[Tensor]:
    return generate(generator, iter(latents.split(batch_size)))


def _as_stored(samples: Tensor) -> np.ndarray:
    """uint8 (N, H, W, C) for images, float32 (N, D) for points."""
    if samples.ndim == 2:
        return samples.cpu().numpy()
    return to_uint8(samples).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _write_npz(samples: Iterator[Tensor], num: int, sample_shape: tuple[int, ...], out: Path) -> None:
    """What np.savez would write, one batch in memory at a time."""
    points = len(sample_shape) == 1
    shape = (num, *sample_shape) if points else (num, *sample_shape[1:], sample_shape[0])
    header = {"descr": "<f4" if points else "|u1", "fortran_order": False, "shape": shape}
    with (
        replacing(out) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_2_0(entry, header)
        for part in samples:
            entry.write(_as_stored(part).tobytes())


def _write_folder(samples: Iterator[Tensor], num: int, out: Path) -> None:
    """000000.png, 000001.png, ... in a folder that is new or empty."""
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"out={out}: the folder is not empty; choose a new one")
    digits = max(6, len(str(num - 1)))
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    index = 0
    try:
        for part in samples:
            if part.ndim == 2:
                raise ConfigError(
                    f"out={out}: points are not pictures; use out=FILE.npz or out=FILE.png (a scatter plot)"
                )
            if part.shape[1] not in PICTURE_CHANNELS:
                raise ConfigError(
                    f"out={out}: samples of {part.shape[1]} channels are no pictures; use out=FILE.npz or out=FILE.png "
                    "(both domains side by side)"
                )
            for image in to_uint8(part):
                save_png(image, unfinished / f"{index:0{digits}d}.png")
                index += 1
        if out.is_dir():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
