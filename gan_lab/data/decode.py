"""Image files to one uint8 tensor, in parallel and with bounded memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from gan_lab.errors import RunError

CHUNK_FILES = 64
LISTED_FILES = 10
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow up to 10 opens a 16-bit gray PNG as "I"
GRAY_MODES = ("1", "L", "LA", *SIXTEEN_BIT_MODES)


def decode_images(paths: Sequence[Path], *, image_size: int, channels: int) -> Tensor:
    """Decode every file, centre-crop it to a square and resize it with Pillow's bicubic filter (antialiased).

    Returns uint8 (N, channels, image_size, image_size) in the order of ``paths``; ``channels`` is 1, 3 or 4.
    - The orientation in the EXIF data is applied. Of an animation the first frame is taken.
    - Colour becomes gray by ITU-R 601 luma; a palette, CMYK and YCbCr become RGB.
    - 16-bit gray: 0..65535 maps to 0..255 linearly, never stretched to an image's own range.
    - Opacity is kept with 4 channels; with 1 or 3 the image is laid on white.

    Raises RunError that names the files that cannot be read (all are tried, the first 10 are listed).
    """
    images = torch.empty((len(paths), channels, image_size, image_size), dtype=torch.uint8)
    pixels = images.numpy()  # the threads write through this view
    failures: dict[int, str] = {}

    def decode_chunk(start: int) -> None:
        for index in range(start, min(start + CHUNK_FILES, len(paths))):
            failure = _decode_into(pixels[index], paths[index])
            if failure is not None:
                failures[index] = failure

    # Pillow releases the GIL while it decodes and resizes. One task a chunk keeps the queue short for large folders.
    pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16))
    try:
        starts = range(0, len(paths), CHUNK_FILES)
        # The bar shows on a terminal alone (disable=None), and only when the work takes a while.
        list(tqdm(pool.map(decode_chunk, starts), "decoding", len(starts), unit="chunk", delay=2, disable=None))
    finally:  # on an interrupt, do not decode what is left
        pool.shutdown(cancel_futures=True)

    if failures:
        listed = [f"  {paths[index]}: {failures[index]}" for index in sorted(failures)[:LISTED_FILES]]
        if len(failures) > LISTED_FILES:
            listed.append(f"  and {len(failures) - LISTED_FILES} more")
        raise RunError(
            f"{len(failures)} of {len(paths)} image files cannot be read; remove or replace them:\n" + "\n".join(listed)
        )
    return images


def is_gray(path: Path) -> bool:
    """Whether the file holds gray pixels by its mode (not by its values); True for a file that cannot be opened."""
    try:
        with Image.open(path) as image:
            return image.mode in GRAY_MODES
    except Exception:  # decode_images names every such file; it should not decide about the others here
        return True


def _decode_into(target: np.ndarray, path: Path) -> str | None:
    """Fill ``target`` (C, H, W) from the file; returns what is wrong with the file, None when nothing is."""
    channels, height, width = target.shape
    try:
        with Image.open(path) as image:
            square = _to_square(_to_channels(ImageOps.exif_transpose(image), channels), height)
    except FileNotFoundError:
        return "no such file"
    except UnidentifiedImageError:
        return "the file is empty" if path.stat().st_size == 0 else "not an image, or a broken one"
    except Exception as error:  # Pillow's readers raise many types on a broken file; it is reported with its path
        return f"{type(error).__name__}: {error}"
    target[:] = np.asarray(square).reshape(height, width, channels).transpose(2, 0, 1)
    return None


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L, RGB or RGBA for 1, 3 or 4 channels."""
    if image.mode in SIXTEEN_BIT_MODES:
        image = _from_sixteen_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the image with 8 or 16 bits")
    if channels == 4:
        return image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    # A gray image must not go through RGB (nor RGBA back to L): the luma weights round.
    return image.convert("L" if channels == 1 else "RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside of 0..65535; store the image with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _to_square(image: Image.Image, image_size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.BICUBIC)
