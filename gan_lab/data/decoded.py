"""Image files decoded once: their pixels are kept in a file, which later starts map into memory."""

import errno
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from gan_lab.data import decode
from gan_lab.data.decode import UnreadableImages, chunks_of, decode_files, decode_images, is_gray
from gan_lab.errors import RunError
from gan_lab.features.cache import content_key
from gan_lab.files import locked, read_json, write_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the files that are kept: another number makes new ones."""

SECONDS_BETWEEN_RECORDS = 2.0
"""About so much decoding is lost when the process is killed."""

REMEDIES = (
    "Free some space, set dataset.cache_dir=DIR to a folder elsewhere, choose a smaller dataset.image_size, or decode "
    "into memory at every start with dataset.cache_dir=null"
)


def decoded_images(
    folder: Path, files: Sequence[Path], *, image_size: int, channels: int | None, cache_dir: str | None
) -> tuple[Tensor, str | None]:
    """The pictures of ``files``, which are relative to ``folder``, in their order; see ``decode_images``.

    Returns uint8 (N, channels, image_size, image_size), and their ``content_key`` where it is known without reading
    them. With ``cache_dir`` the tensor is the file images-KEY.npy in it, mapped into memory and read-only: writing to
    it ends the process. Without, or where nothing can be written there (a warning says so), it is decoded into memory.

    channels: 1, 3 or 4. None: 1 if the mode of every file is gray, else 3.
    KEY: of ``image_size``, ``channels``, the decoding program, and each file's relative path, size and time of change.
        So where the file is there, no picture is opened; a changed picture makes a new file, and the old one stays.
    The file is written under another name, which is taken up again after an interruption, and renamed when it is whole.
    Of several processes one makes it, and the others wait.

    Raises RunError: pictures cannot be read (all are named), or the disk has no room.
    """
    paths = [folder / file for file in files]
    if cache_dir is not None:
        path = Path(cache_dir).expanduser().absolute() / f"images-{_key(files, paths, image_size, channels)}.npy"
        pixels = _mapped(path, len(paths), image_size)  # without a lock: it is whole as soon as it is there
        if pixels is None:
            with locked(path) as problem:
                pixels = _mapped(path, len(paths), image_size)
                if pixels is None and problem is None:
                    _make(path, paths, image_size, channels)
                    pixels = _mapped(path, len(paths), image_size)
        if pixels is not None:
            samples = _as_tensor(pixels)
            return samples, _samples_key(path, samples)
        assert problem is not None, "what was made is there"
        log.warning(
            f"decoded images cannot be kept in {path.parent} ({problem.strerror or problem}), so they are decoded into "
            "memory at every start; set dataset.cache_dir=DIR to a folder that can be written to"
        )
    return decode_images(paths, image_size=image_size, channels=channels or _channels_of(paths)), None


def _key(files: Sequence[Path], paths: Sequence[Path], image_size: int, channels: int | None) -> str:
    digest = sha256(repr((FORMAT, PIL.__version__, image_size, channels)).encode())
    digest.update(Path(decode.__file__).read_bytes())  # changed decoding makes new files
    for file, path in zip(files, paths, strict=True):
        try:
            status = os.stat(path)
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # decoding will name it, together with all others that cannot be read
            facts = "not there"
        digest.update(b"%s\0%s\0" % (os.fsencode(file), facts.encode()))
    return digest.hexdigest()[:32]


def _channels_of(paths: Sequence[Path]) -> int:
    return 1 if all(map(is_gray, paths)) else 3


def _as_tensor(pixels: np.memmap) -> Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors and warns of that. A writable mapping that leaves the file as it is (mode "c")
        # is no way out: Linux refuses one that is larger than the machine's memory.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _mapped(path: Path, num: int, image_size: int) -> np.memmap | None:
    """The array (num, channels, image_size, image_size) in an .npy file; None where it does not hold one."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = pixels.ndim == 4 and pixels.shape == (num, pixels.shape[1], image_size, image_size)
    return pixels if fits and pixels.dtype == np.uint8 and pixels.flags.c_contiguous else None


def _samples_key(path: Path, samples: Tensor) -> str:
    """Their ``content_key``, as it was written down beside the file, or else by reading them all."""
    with suppress(RunError, OSError, KeyError):
        return read_json(path.with_suffix(".json"))["samples_key"]
    key = content_key(samples)
    with suppress(RunError):  # a folder that can only be read: it will be computed again
        write_json(path.with_suffix(".json"), {"samples_key": key})
    return key


def _make(path: Path, paths: Sequence[Path], image_size: int, channels: int | None) -> None:
    """Decodes into a work file beside ``path``, or what an interrupted one lacks, and renames it when it is whole."""
    if path.exists():
        log.warning(f"{path} is damaged; the images are decoded again")
    started = time.monotonic()
    pixels_path, record_path = path.with_name(f"{path.stem}.partial.npy"), path.with_name(f"{path.stem}.partial.done")
    try:
        begun = _begun(pixels_path, record_path, len(paths), image_size)
        shape = begun or (len(paths), channels or _channels_of(paths), image_size, image_size)
        _require_space(pixels_path, math.prod(shape))
        if begun is None:
            _begin(pixels_path, record_path, shape)
        with _WorkFile(pixels_path, record_path) as work:
            missing = [chunk for chunk in chunks_of(len(paths)) if not work.done[chunk.start : chunk.stop].all()]
            num = sum(map(len, missing))
            there = "" if num == len(paths) else f"; {len(paths) - num:,} others are there already"
            log.info(f"decoding {num:,} images, once, to {path} ({math.prod(shape):,} bytes){there}")
            decode_files(
                paths, missing, image_size=image_size, channels=shape[1], store=work.store, finished=work.finished
            )
        pixels = _mapped(pixels_path, len(paths), image_size)
        assert pixels is not None, "it was begun with these facts"
        write_json(path.with_suffix(".json"), {"samples_key": content_key(_as_tensor(pixels))})
        os.replace(pixels_path, path)
        record_path.unlink()
    except UnreadableImages:  # whether they are removed or replaced, the file will have another name
        pixels_path.unlink()
        record_path.unlink()
        raise
    except OSError as error:  # of the work file: those of the pictures are told by UnreadableImages
        raise RunError(f"cannot write {path}: {error.strerror or error}. {REMEDIES}") from error
    log.info(f"decoded in {time.monotonic() - started:,.0f} s")


def _begun(pixels_path: Path, record_path: Path, num: int, image_size: int) -> tuple[int, ...] | None:
    """The shape of the array in a work file that an interrupted process left; None where there is none to take up."""
    if not record_path.is_file() or record_path.stat().st_size != num:
        return None
    pixels = _mapped(pixels_path, num, image_size)
    return None if pixels is None else pixels.shape


def _require_space(pixels_path: Path, num_bytes: int) -> None:
    if pixels_path.exists():
        num_bytes -= pixels_path.stat().st_blocks * 512  # which it has already
    free = shutil.disk_usage(pixels_path.parent).free
    if num_bytes > free:
        raise RunError(
            f"{pixels_path.parent} has no room for the decoded images: {num_bytes:,} bytes are needed, and {free:,} "
            f"are free. {REMEDIES}"
        )


def _begin(pixels_path: Path, record_path: Path, shape: tuple[int, ...]) -> None:
    """Makes a work file with all the space it needs. The record comes last: where it is, the rest is there."""
    record_path.unlink(missing_ok=True)
    try:
        np.lib.format.open_memmap(pixels_path, "w+", np.uint8, shape)
        with pixels_path.open("r+b") as file:
            _reserve(file.fileno(), pixels_path.stat().st_size)
        record_path.write_bytes(bytes(shape[0]))
    except BaseException:
        with suppress(OSError):
            pixels_path.unlink()
        raise


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Takes the space now, so that a full disk is met at once and not after hours."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot
            raise


class _WorkFile:
    """The array in the making, and the record of it: a byte for each image, 1 once its pixels are on the disk.

    Pixels are written by plain calls and not through a memory map: a full disk is then an error of the call, and not
    the death of the process.
    """

    def __init__(self, pixels_path: Path, record_path: Path):
        array = np.load(pixels_path, mmap_mode="r")
        self.first_byte, self.image_bytes = array.offset, array[0].nbytes
        self.done = np.fromfile(record_path, np.uint8)
        self.pixels = pixels_path.open("r+b", buffering=0)
        self.record = record_path.open("r+b", buffering=0)
        self.unrecorded: list[range] = []
        self.recorded_at = time.monotonic()

    def __enter__(self) -> "_WorkFile":
        return self

    def __exit__(self, *problem: object) -> None:
        with self.pixels, self.record:
            self.write_down()

    def store(self, index: int, picture: np.ndarray) -> None:
        """Writes the pixels of an image; may be called by several threads at once."""
        rest, position = picture.data.cast("B"), self.first_byte + index * self.image_bytes
        while rest:
            written = os.pwrite(self.pixels.fileno(), rest, position)
            rest, position = rest[written:], position + written

    def finished(self, chunk: range) -> None:
        """All images of a chunk are stored: it is recorded, now or soon."""
        self.unrecorded.append(chunk)
        if time.monotonic() - self.recorded_at >= SECONDS_BETWEEN_RECORDS:
            self.write_down()

    def write_down(self) -> None:
        """Records the finished chunks, after their pixels are on the disk."""
        os.fsync(self.pixels.fileno())
        for chunk in self.unrecorded:
            os.pwrite(self.record.fileno(), b"\1" * len(chunk), chunk.start)
        self.unrecorded.clear()
        self.recorded_at = time.monotonic()
