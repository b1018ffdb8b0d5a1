"""Image files to uint8 pixels, in parallel."""

import os
from collections.abc import Callable, Sequence
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


class UnreadableImages(RunError):
    """Names the image files that cannot be read."""


def decode_images(paths: Sequence[Path], *, image_size: int, channels: int) -> Tensor:
    """Decode every file, centre-crop it to a square and resize it with Pillow's bicubic filter (antialiased).

    Returns uint8 (N, channels, image_size, image_size) in the order of ``paths``; ``channels`` is 1, 3 or 4.
    - The orientation in the EXIF data is applied. Of an animation the first frame is taken.
    - Colour becomes gray by ITU-R 601 luma; a palette, CMYK and YCbCr become RGB.
    - 16-bit gray: 0..65535 maps to 0..255 linearly, never stretched to an image's own range.
    - Opacity is kept with 4 channels; with 1 or 3 the image is laid on white.

    Raises UnreadableImages (all files are tried, the first 10 that cannot be read are listed).
    """
    images = torch.empty((len(paths), channels, image_size, image_size), dtype=torch.uint8)
    pixels = images.numpy()  # the threads write through this view
    decode_files(paths, chunks_of(len(paths)), image_size=image_size, channels=channels, store=pixels.__setitem__)
    return images


def chunks_of(num_files: int) -> list[range]:
    """The indices of all files in order, in the pieces that threads decode."""
    return [range(start, min(start + CHUNK_FILES, num_files)) for start in range(0, num_files, CHUNK_FILES)]


def decode_files(
    paths: Sequence[Path],
    chunks: Sequence[range],
    *,
    image_size: int,
    channels: int,
    store: Callable[[int, np.ndarray], None],
    finished: Callable[[range], None] = lambda chunk: None,
) -> None:
    """Decode the files whose indices are in ``chunks`` as ``decode_images`` does, in threads.

    store: takes the index of a file and its picture, uint8 (channels, image_size, image_size), which is overwritten by
        the next one; it is called in the threads. finished: takes a chunk all of whose pictures are stored; it is
        called in order in the caller's thread.

    Raises UnreadableImages after all others are stored.
    """
    failures: dict[int, str] = {}

    def decode_chunk(chunk: range) -> bool:
        picture = np.empty((channels, image_size, image_size), dtype=np.uint8)
        whole = True
        for index in chunk:
            failure = _decode_into(picture, paths[index])
            if failure is None:
                store(index, picture)
            else:
                failures[index], whole = failure, False
        return whole

    # Pillow releases the GIL while it decodes and resizes. One task a chunk keeps the queue short for large folders.
    pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16))
    num_there = len(paths) - sum(map(len, chunks))
    try:
        # The bar shows on a terminal alone (disable=None), and only when the work takes a while.
        with tqdm(desc="decoding", total=len(paths), initial=num_there, unit=" images", delay=2, disable=None) as bar:
            for chunk, whole in zip(chunks, pool.map(decode_chunk, chunks), strict=True):
                if whole:
                    finished(chunk)
                bar.update(len(chunk))
    finally:  # on an interrupt, do not decode what is left
        pool.shutdown(cancel_futures=True)

    if failures:
        listed = [f"  {paths[index]}: {failures[index]}" for index in sorted(failures)[:LISTED_FILES]]
        if len(failures) > LISTED_FILES:
            listed.append(f"  and {len(failures) - LISTED_FILES} more")
        raise UnreadableImages(
            f"{len(failures)} of {len(paths)} image files cannot be read; remove or replace them:\n" + "\n".join(listed)
        )


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
