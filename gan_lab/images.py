"""Samples as pictures: grids of images, scatter plots of points."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from gan_lab.files import replacing

PICTURE_CHANNELS = (1, 3, 4)
"""Of a picture in a file: gray, RGB, RGB and opacity."""

SMALLEST_TILE = 56
"""Images with smaller sides are enlarged in grids by a whole factor, smoothly, so that 8x8 digits can be read."""


def to_uint8(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] as uint8: clamped, scaled, rounded to nearest."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def image_grid(images: Tensor, columns: int) -> Tensor:
    """uint8 images (N, C, H, W) as one uint8 picture (3 or 1, height, width), row by row, a thin line between.

    Opacity is left out. Images of two domains (C = 2 or 6) show the second one to the right of the first.
    """
    num, channels, height, width = images.shape
    if channels in (2, 6):
        images = torch.cat(images.chunk(2, dim=1), dim=3)
    elif channels not in (1, 3):
        images = images[:, :3] if channels > 3 else images[:, :1]
    channels, width = images.shape[1], images.shape[3]
    factor = max(1, math.ceil(SMALLEST_TILE / max(height, width)))
    height, width = height * factor, width * factor
    if factor > 1:
        enlarged = torch.nn.functional.interpolate(images.float(), (height, width), mode="bicubic")
        images = enlarged.round().clamp(0, 255).to(torch.uint8)
    rows = math.ceil(num / columns)
    line = 2
    grid = torch.full((channels, rows * (height + line) + line, columns * (width + line) + line), 40, dtype=torch.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = line + row * (height + line), line + column * (width + line)
        grid[:, top : top + height, left : left + width] = image
    return grid


def whole_groups(size: int, columns: int) -> int:
    """Columns of a grid whose samples come in groups of `size`, side by side: as many groups as fit, at least one."""
    return max(1, columns // size) * size if size > 1 else columns


def scatter_plot(points: Tensor, modes: Tensor | None, std: float | None, side: int = 640) -> Tensor:
    """Points (N, 2) as a uint8 picture (3, side, side); true centres as circles of 3 std. The first axis goes right."""
    centres = modes if modes is not None else points
    middle = (centres.amax(0) + centres.amin(0)) / 2
    reach = float((centres - middle).abs().max()) * 1.35 + 1e-6
    scale = side / (2 * reach)

    def place(point: Tensor) -> tuple[float, float]:
        x, y = ((point - middle) * scale).tolist()
        return side / 2 + x, side / 2 - y

    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for point in points.cpu():
        x, y = place(point)
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(30, 90, 180))
    for mode in modes if modes is not None else ():
        x, y = place(mode)
        radius = max(3 * (std or 0) * scale, 4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(220, 60, 30), width=2)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def save_png(picture: Tensor, path: Path) -> bytes:
    """Writes a uint8 picture (1, 3 or 4 channels first), packed quickly rather than tightly; returns what it wrote."""
    array = picture.permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG", compress_level=1)
    content = buffer.getvalue()
    with replacing(path) as file:
        file.write(content)
    return content
