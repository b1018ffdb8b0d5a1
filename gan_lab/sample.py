"""`gan-lab sample`: from a trained run to an .npz, a picture, or a folder of pictures."""

import math
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gan_lab.constraints import NonNegativeInt, PositiveInt
from gan_lab.errors import ConfigError
from gan_lab.files import replacing
from gan_lab.images import image_grid, save_png, scatter_plot, to_uint8
from gan_lab.record import find_run
from gan_lab.sampling import generate, interpolate, latents_of
from gan_lab.streams import Streams
from gan_lab.trained import SavedWeights, device_of, trained_generator

MOST_IN_A_GRID = 10_000


@dataclass
class Sampling:
    """What to draw. out: FILE.npz (array `images`), FILE.png (a grid), or a folder for one PNG each."""

    run: str
    out: str
    num: PositiveInt = 64
    weights: SavedWeights = "ema"
    seed: NonNegativeInt = 0
    columns: PositiveInt | None = None
    batch_size: PositiveInt = 256
    device: Literal["cpu", "gpu"] = "cpu"
    interpolate: list[int] | None = None
    steps: PositiveInt = 8


def sample(request: Sampling) -> Path:
    """Draws from a run's generator and returns the path written. Nothing is left there unless it is complete."""
    device = device_of(request.device)
    trained = trained_generator(find_run(request.run), request.weights, device)
    generator, model, state = trained.generator, trained.model, trained.content
    streams = Streams(request.seed, device)
    out = Path(request.out)
    num = request.num
    if request.interpolate is None:
        latents = latents_of(streams, "noise/sample", num, model.latent_dim, model.latent_distribution)
    else:
        latents, num = _between_seeds(request, model, device)
    samples = (part for block in latents for part in _in_batches(generator, block, request.batch_size))

    columns = request.columns or (request.steps if request.interpolate else math.ceil(math.sqrt(num)))
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


def _between_seeds(request: Sampling, model: Any, device: torch.device) -> tuple[Iterator[Tensor], int]:
    """Latents on the way between the first latents of the given seeds, and how many they are."""
    seeds = request.interpolate or []
    if len(seeds) < 2 or request.steps < 2:
        raise ConfigError("interpolate needs at least two seeds and two steps: interpolate=[0,1,2] steps=8")
    ends = [
        next(iter(latents_of(Streams(seed), "noise/sample", 1, model.latent_dim, model.latent_distribution)))
        for seed in seeds
    ]
    latents = interpolate(torch.cat(ends), request.steps, model.latent_distribution).to(device)
    return iter(latents.split(request.batch_size)), len(latents)


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
            for image in to_uint8(part):
                save_png(image, unfinished / f"{index:0{digits}d}.png")
                index += 1
        if out.is_dir():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
