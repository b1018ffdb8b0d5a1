"""The user's own pictures: a folder of image files of any size and kind."""

import os
from pathlib import Path
from typing import Literal

import torch

from gan_lab.constraints import ImageSize
from gan_lab.data import Data
from gan_lab.data.decoded import decoded_images
from gan_lab.errors import RunError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    *,
    root: str,
    image_size: ImageSize = 64,
    channels: Literal[1, 3, 4] | None = None,
    cache_dir: str | None = None,
) -> Data:
    """All images under ``root``, searched recursively, centre-cropped to squares and resized with antialiasing.

    root: images directly in it have no labels. Where they lie in sub-folders (at any depth), each first-level
        sub-folder that holds images is a class; the classes are sorted by name. A mixture of both is refused.
        Files count by suffix (``SUFFIXES``, in either case); other files and all hidden files and folders are skipped,
        links are followed. The order is that of the relative paths.
    channels: 1 gray, 3 RGB, 4 RGB and opacity. None: 1 if the mode of every file is gray (a palette counts as colour),
        else 3. With 1 and 3, transparent pixels are laid on white.
    cache_dir: where the decoded images are kept, to be mapped into memory by later starts (see ``decoded_images``);
        None decodes into memory.
    samples: uint8 (N, channels, image_size, image_size); see ``decode_images`` for CMYK, 16 bits and the like.

    Raises RunError: the folder is missing, holds no image, or mixes labelled and unlabelled images; files cannot be
    read, all of which are then named together; or ``cache_dir`` has no room.
    """
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise RunError(
            f"There is no folder {folder}: dataset.root must be a folder of images, or of sub-folders (one a class)"
        )
    files = image_files(folder)
    if not files:
        raise RunError(
            f"No image in {folder}: expected files that end in {' '.join(SUFFIXES)}, in the folder itself "
            "(no labels) or in sub-folders (one a class)"
        )
    labelled = [file for file in files if len(file.parts) > 1]
    if labelled and len(labelled) < len(files):
        loose = next(file for file in files if len(file.parts) == 1)
        raise RunError(
            f"{folder} has images of its own ({loose} and {len(files) - len(labelled) - 1} more) beside images in "
            f"sub-folders ({labelled[0]} and {len(labelled) - 1} more), so it is unclear what the classes are: "
            "move the former into a sub-folder, or point dataset.root at one sub-folder"
        )

    images, key = decoded_images(folder, files, image_size=image_size, channels=channels, cache_dir=cache_dir)
    if not labelled:
        return Data(images, None, None, samples_key=key)
    classes = sorted({file.parts[0] for file in files})
    index = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([index[file.parts[0]] for file in files])
    return Data(images, labels, tuple(classes), samples_key=key)


def image_files(folder: Path) -> list[Path]:
    """The image files below ``folder`` as paths relative to it, sorted."""
    files = []
    visited = set()  # a link to a folder above would never end
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(parent).relative_to(folder)
        files += [relative / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(files, key=lambda file: file.parts)
