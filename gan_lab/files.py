"""Files that are either whole or not there."""

import fcntl
import io
import json
import logging
import math
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from gan_lab.errors import RunError

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = "gan_lab checkpoint 1"


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write to that takes `path`'s place only when everything is on the disk; nothing is left otherwise.

    private: nobody but its owner may read it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if not private:  # as which a temporary file is made
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Locks an open file against other processes until it is closed, without waiting; False where another holds it.

    The system lets go when this process ends in any way. OSError on a file system without locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[OSError | None]:
    """Holds the making of `path` against other processes; the system lets go when this process ends in any way.

    Waits, and says so, while another process holds it. Yields None; or, without waiting, why nothing could be locked:
    nothing can be written there, or the file system has no locks.
    """
    problem = file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        problem = error
    if file is None:
        yield problem
        return
    with file:
        try:
            if not try_lock(file):
                log.info(f"waiting for another run that makes {path.name}")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            problem = error
        yield problem


def write_json(path: Path, content: dict[str, Any], *, private: bool = False) -> None:
    """JSON with null for numbers that are infinite or not a number, which it cannot hold."""
    with replacing(path, private=private) as file:
        file.write((json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """torch.save of tensors, numbers, strings and containers of them."""
    buffer = io.BytesIO()  # torch.save turns a full disk into an unrelated error when it writes to the file itself
    torch.save(content, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def read_tensors(path: Path) -> dict[str, Any]:
    """What `write_tensors` wrote, on the CPU. Data only: a file with code inside is refused, not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of some pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damage through many types
        if isinstance(error, pickle.UnpicklingError) and _holds_pickle(path):
            raise RunError(f"{path} contains pickled code and was not loaded: only data is read") from error
        raise RunError(f"{path} is damaged or truncated: it cannot be read ({type(error).__name__})") from error


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """A state of training, or a generator; `read_checkpoint` knows it again."""
    write_tensors(path, {"format": CHECKPOINT_FORMAT, **content})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint."""
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}: the run did not come so far; resume it, or name another one")
    content = read_tensors(path)
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise RunError(f"{path} is not a checkpoint of gan_lab")
    return content


def _holds_pickle(path: Path) -> bool:
    """Whether a file that torch refuses is a pickle, in torch's archive or bare, and not merely damaged."""
    with path.open("rb") as file:
        is_bare_pickle = file.read(1) == b"\x80"
    return is_bare_pickle or zipfile.is_zipfile(path)
