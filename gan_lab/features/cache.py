"""Results that are made once and kept on the disk under a key of everything they depend on."""

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_lab.errors import RunError
from gan_lab.features import NUM_HASH_DIGITS
from gan_lab.files import locked, read_tensors, write_tensors

log = logging.getLogger(__name__)

BYTES_AT_ONCE = 2**26

PACKAGE = Path(__file__).resolve().parent


def content_key(*parts: Tensor | str | int | float | bool | None) -> str:
    """A name for a result made of these parts: the SHA-256 of tensors' types, shapes and bytes, and of plain values."""
    digest = sha256()
    for part in parts:
        if isinstance(part, Tensor):
            value = part.detach().cpu().contiguous()
            digest.update(f"tensor {value.dtype} {tuple(value.shape)}|".encode())
            for piece in value.reshape(-1).view(torch.uint8).split(BYTES_AT_ONCE):  # between which one may interrupt
                digest.update(piece.numpy().data)
        else:
            digest.update(f"{type(part).__name__} {part!r}|".encode())
    return digest.hexdigest()


def code_key() -> str:
    """A hash of the sources of the extractors: changed code makes new extractors."""
    digest = sha256()
    for path in sorted(PACKAGE.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:NUM_HASH_DIGITS]


class Cache:
    """A folder of results. Several processes may ask for the same one: one makes it, the others wait and read it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, kind: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result `kind`-`key`, made by `make` if it is not there yet: tensors and plain values in a dict.

        A damaged file is made again. Without a place to write, the result is made for this process alone.
        """
        path = self.folder / f"{kind}-{key[:32]}.pt"
        with locked(path):
            if path.is_file():
                try:
                    return read_tensors(path)
                except RunError as error:
                    log.warning(f"{error}; it is made again")
            content = make()
            try:
                write_tensors(path, content)
            except RunError as error:
                log.warning(f"{error}; it will have to be made again")
            return content
