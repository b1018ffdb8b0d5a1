"""The public image datasets that torchvision can download: MNIST, Fashion-MNIST, CIFAR-10 and CelebA.

Files that are there already are used without any network access. A download goes to a temporary folder beside its
target, is checked against torchvision's MD5 sums there, and is then renamed: an interrupted one leaves nothing that
could later be taken for the whole.
"""

import gzip
import logging
import math
import os
import socket
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gan_lab.constraints import ImageSize
from gan_lab.data import Data
from gan_lab.data.decoded import decoded_images
from gan_lab.data.resize import resize_images
from gan_lab.errors import RunError

log = logging.getLogger(__name__)

BYTES_AT_ONCE = 2**24
"""Read of a file at a time: reading all at once would hold it twice."""

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
NETWORK_REMEDY = "dataset.download=true gets them where there is network access"
DOWNLOAD_TIMEOUT_SECONDS = 30.0  # without an answer; torchvision sets none, and a silent firewall would hang the run


def mnist(
    *,
    root: str,
    image_size: ImageSize | None = None,
    split: Literal["train", "test", "all"] = "train",
    download: bool = True,
) -> Data:
    """MNIST: gray handwritten digits, 28x28 pixels, classes "0" to "9"; 60,000 in "train", 10,000 in "test".

    samples: uint8 (N, 1, 28, 28), or ``image_size`` squared. "all" is train, then test.
    root: the four idx files, plain or with .gz, are looked for in root/MNIST/raw (where torchvision and a download put
        them), root/mnist and root itself. Only the files of the split are needed.

    Raises RunError when they are missing and not, or not successfully, downloaded, or when a file is damaged.
    """
    home = _absolute(root)
    folders = [home / "MNIST" / "raw", home / "mnist", home]
    images, labels = _idx_dataset("MNIST", home, folders, split, download)
    return Data(resize_images(images, image_size), labels, tuple(str(digit) for digit in range(10)))


def fashion_mnist(
    *,
    root: str,
    image_size: ImageSize | None = None,
    split: Literal["train", "test", "all"] = "train",
    download: bool = True,
) -> Data:
    """Fashion-MNIST: gray pictures of clothes, 28x28 pixels, 10 classes; 60,000 in "train", 10,000 in "test".

    samples: uint8 (N, 1, 28, 28), or ``image_size`` squared. "all" is train, then test.
    root: the four idx files, plain or with .gz, are looked for in root/FashionMNIST/raw (where torchvision and a
        download put them), root/fashion-mnist, root itself, and then in the folder of Debian's package
        dataset-fashion-mnist, /usr/share/datasets/fashion-mnist. Only the files of the split are needed. MNIST's files
        have the same names: keep the two sets in their own folders.

    Raises RunError when they are missing and not, or not successfully, downloaded, or when a file is damaged.
    """
    from torchvision.datasets import FashionMNIST

    home = _absolute(root)
    folders = [home / "FashionMNIST" / "raw", home / "fashion-mnist", home, DEBIAN_FASHION_MNIST]
    remedy = f"{NETWORK_REMEDY}; on Debian and Ubuntu, so does 'apt install dataset-fashion-mnist'"
    images, labels = _idx_dataset("FashionMNIST", home, folders, split, download, remedy=remedy)
    return Data(resize_images(images, image_size), labels, tuple(FashionMNIST.classes))


def cifar10(
    *,
    root: str,
    image_size: ImageSize | None = None,
    split: Literal["train", "test", "all"] = "train",
    download: bool = True,
) -> Data:
    """CIFAR-10: colour photographs, 32x32 pixels, 10 classes; 50,000 in "train", 10,000 in "test".

    samples: uint8 (N, 3, 32, 32) RGB, or ``image_size`` squared. "all" is train, then test.
    root: holds the folder cifar-10-batches-py, or the archive cifar-10-python.tar.gz, which is then unpacked. All files
        are checked against torchvision's MD5 sums, because they are pickles.

    Raises RunError when they are missing or damaged and not, or not successfully, downloaded.
    """
    import numpy
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, download_url

    home = _absolute(root)
    files = [(home / CIFAR10.base_folder / name, md5) for name, md5 in CIFAR10.train_list + CIFAR10.test_list]
    files.append((home / CIFAR10.base_folder / CIFAR10.meta["filename"], CIFAR10.meta["md5"]))

    archive = home / CIFAR10.filename
    have_archive = False

    def fetch(staging: Path) -> None:
        if not have_archive:
            download_url(CIFAR10.url, str(staging), CIFAR10.filename, CIFAR10.tgz_md5)
        with tarfile.open(archive if have_archive else staging / CIFAR10.filename) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)  # none before 3.10.12
            tar.extractall(staging)
        _move_folder(staging / CIFAR10.base_folder, home / CIFAR10.base_folder)

    wrong = [path.name for path, md5 in files if not check_integrity(path, md5)]
    if wrong:
        have_archive = check_integrity(archive, CIFAR10.tgz_md5)
        expected = (
            f"the original {archive.name}, or the folder {CIFAR10.base_folder} with its original files; "
            f"{', '.join(wrong)} missing or not the original by MD5 sum"
        )
        _download("CIFAR-10", home, [home], expected, download or have_archive, fetch)

    with warnings.catch_warnings():
        # The pickles are of 2009: numpy 2.4.0 to 2.4.4 warn about how they write a dtype.
        warnings.filterwarnings("ignore", r"dtype\(\): align", numpy.exceptions.VisibleDeprecationWarning)
        train = {"train": [True], "test": [False], "all": [True, False]}[split]
        parts = [CIFAR10(str(home), train=part) for part in train]
    images = torch.cat([torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in parts])
    labels = torch.cat([torch.tensor(part.targets) for part in parts])
    return Data(resize_images(images, image_size), labels, tuple(parts[0].classes))


def celeba(
    *,
    root: str,
    image_size: ImageSize = 64,
    split: Literal["train", "valid", "test", "all"] = "train",
    download: bool = True,
    cache_dir: str | None = None,
) -> Data:
    """CelebA, aligned and cropped: colour photographs of faces; 162,770 train, 19,867 valid, 19,962 test, 202,599 all.

    samples: uint8 (N, 3, image_size, image_size) RGB: the central 178x178 pixels of each 178x218 picture, resized.
    No labels: the 40 attributes of a face overlap, so they are no classes.
    root: holds celeba/list_eval_partition.txt and the folder celeba/img_align_celeba, or the original archive
        celeba/img_align_celeba.zip (by its MD5 sum), which is then unpacked. This is torchvision's layout, but its
        other text files are not needed. A download (1.4 GB, from Google Drive) needs the package gdown.
    cache_dir: where the decoded images are kept, to be mapped into memory by later starts (see ``decoded_images``);
        None decodes into memory.

    Raises RunError when files are missing and not, or not successfully, downloaded, when images cannot be read, or
    when ``cache_dir`` has no room.
    """
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import check_integrity, download_file_from_google_drive

    home = _absolute(root) / CelebA.base_folder
    pictures, archive, partition = (
        home / name for name in ("img_align_celeba", "img_align_celeba.zip", "list_eval_partition.txt")
    )
    sources = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}

    have_archive = False

    def fetch(staging: Path) -> None:
        if not partition.is_file():
            file_id, md5 = sources[partition.name]
            download_file_from_google_drive(file_id, str(staging), partition.name, md5)
            (staging / partition.name).replace(partition)
        if not pictures.is_dir():
            if not have_archive:
                file_id, md5 = sources[archive.name]
                download_file_from_google_drive(file_id, str(staging), archive.name, md5)
            with zipfile.ZipFile(archive if have_archive else staging / archive.name) as opened:
                opened.extractall(staging)
            _move_folder(staging / pictures.name, pictures)

    if not (pictures.is_dir() and partition.is_file()):
        have_archive = check_integrity(archive, sources[archive.name][1])
        expected = f"{partition.name} and the folder {pictures.name} (or the original {archive.name} by MD5 sum)"
        remedy = (
            "For the download from Google Drive, 'pip install gdown'; where Drive refuses (its daily quota is often "
            "used up), get the files from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html by hand"
        )
        _download(
            "CelebA", home, [home], expected, download or (have_archive and partition.is_file()), fetch, remedy=remedy
        )

    files = [Path(name) for name in _celeba_names(partition, split)]
    images, key = decoded_images(pictures, files, image_size=image_size, channels=3, cache_dir=cache_dir)
    return Data(images, None, None, samples_key=key)


# The check knows these before the data are read.
mnist.num_classes = fashion_mnist.num_classes = cifar10.num_classes = 10  # type: ignore[attr-defined]
celeba.num_classes = 0  # type: ignore[attr-defined]


def _celeba_names(partition: Path, split: str) -> list[str]:
    """The file names of a split, from lines such as ``000001.jpg 0``."""
    numbers = {"train": ["0"], "valid": ["1"], "test": ["2"], "all": ["0", "1", "2"]}[split]
    rows = [line.split() for line in partition.read_text(encoding="ascii", errors="replace").splitlines()]
    if any(len(row) != 2 or row[1] not in ("0", "1", "2") for row in rows):
        raise RunError(f"{partition} is damaged: each line must be a file name and 0, 1 or 2; get the file again")
    names = [row[0] for row in rows if row[1] in numbers]
    if not names:
        raise RunError(f"{partition} lists no image of the split {split!r}; get the file again")
    return names


def _idx_dataset(
    torchvision_name: str,
    home: Path,
    folders: Sequence[Path],
    split: str,
    download: bool,
    *,
    remedy: str = NETWORK_REMEDY,
) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) and labels (N,) from the first of ``folders`` that has the files of ``split``."""
    parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[split]
    stems = [f"{part}-{kind}" for part in parts for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]

    def fetch(staging: Path) -> None:
        from torchvision import datasets

        getattr(datasets, torchvision_name)(str(staging), download=True)
        _move_folder(staging / torchvision_name / "raw", home / torchvision_name / "raw")

    files = _find_idx_files(folders, stems)
    if files is None:
        expected = f"{', '.join(stems)} (plain or with .gz), all in one folder"
        _download(torchvision_name, home, folders, expected, download, fetch, remedy=remedy)
        files = _find_idx_files(folders, stems)
        assert files is not None, "torchvision's layout is the first folder that is searched"

    images = _joined([_read_idx(path, 3) for path in files[0::2]]).unsqueeze(1)
    labels = _joined([_read_idx(path, 1) for path in files[1::2]]).long()
    if len(images) != len(labels):
        raise RunError(
            f"{len(images)} images but {len(labels)} labels in {', '.join(map(str, files))}: the files do not belong "
            "together; get them again"
        )
    return images, labels


def _find_idx_files(folders: Sequence[Path], stems: Sequence[str]) -> list[Path] | None:
    """One file for each stem, all from the same folder; None where no folder has them all."""
    for folder in folders:
        found = [
            next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None) for stem in stems
        ]
        files = [path for path in found if path is not None]
        if len(files) == len(stems):
            return files
    return None


def _joined(tensors: list[Tensor]) -> Tensor:
    """One after the other; a single one as it is, because copies of large sets are what memory is short of."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an idx file: 0, 0, 8 (unsigned byte), rank, the big-endian int32 sizes, the values.

    torchvision's own reader takes no .gz, does not say which file is damaged, and passes one that is too long.
    """
    content = bytearray()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while piece := file.read(BYTES_AT_ONCE):
                content += piece
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path} cannot be read ({error}); delete it and get it again") from error
    start = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[offset : offset + 4], "big") for offset in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + math.prod(sizes) or 0 in sizes:
        raise RunError(
            f"{path} is not a whole idx file of unsigned bytes with {dimensions} dimension(s) "
            f"({len(content)} bytes); delete it and get it again"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(sizes)


def _absolute(root: str) -> Path:
    return Path(root).expanduser().absolute()


def _download(
    name: str,
    home: Path,
    folders: Sequence[Path],
    expected: str,
    download: bool,
    fetch: Callable[[Path], None],
    *,
    remedy: str = NETWORK_REMEDY,
) -> None:
    """Call ``fetch`` with a temporary folder, or raise the RunError that says what is missing and how to get it."""
    wanted = (
        f"Looked in: {', '.join(map(str, folders))}.\nExpected: {expected}.\n{remedy}; "
        f"or copy the files from another machine to {folders[0]}."
    )
    if not download:
        raise RunError(f"{name} is not there, and dataset.download is false.\n{wanted}")
    log.info("downloading %s to %s", name, home)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        with _staging(home) as staging:
            fetch(staging)
    except Exception as error:  # gdown, requests, http and torchvision each have their own types; the cause is chained
        reason = str(error).strip() or type(error).__name__
        raise RunError(f"{name} is not there, and getting it failed: {reason}\n{wanted}") from error
    finally:
        socket.setdefaulttimeout(timeout)


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A temporary folder on the file system of ``home``, so that what is complete can be renamed into place."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=home) as folder:
        yield Path(folder)


def _move_folder(source: Path, target: Path) -> None:
    """Rename the folder; where the target is there already, its files are replaced one by one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError:
        for file in source.iterdir():
            os.replace(file, target / file.name)
