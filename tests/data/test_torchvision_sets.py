import copyreg
import functools
import gzip
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gan_lab.data.torchvision_sets import DEBIAN_FASHION_MNIST, celeba, cifar10, fashion_mnist, mnist
from gan_lab.errors import RunError
from gan_lab.features.cache import content_key

needs_debian_files = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def idx(array: np.ndarray) -> bytes:
    """The array as the content of an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, *, compressed: bool = False, parts: tuple[str, ...] = ("train", "t10k")) -> None:
    """4 training and 3 test images of 28x28, filled with 10, 11, .. and 20, 21, ..; labels 0, 1, .. and 5, 6, .."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        count, value, label = (4, 10, 0) if part == "train" else (3, 20, 5)
        images = np.broadcast_to(np.arange(value, value + count)[:, None, None], (count, 28, 28))
        for name, array in {
            f"{part}-images-idx3-ubyte": images,
            f"{part}-labels-idx1-ubyte": np.arange(label, label + count),
        }.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a local web server, and the folder that it serves."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


# MNIST and Fashion-MNIST


@needs_debian_files
def test_fashion_mnist_of_debian_is_the_real_one(tmp_path, no_network):
    data = fashion_mnist(root=str(tmp_path), split="all", download=False)

    assert data.samples.shape == (70_000, 1, 28, 28)
    assert data.samples.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert data.labels[60_000:60_005].tolist() == [9, 2, 1, 1, 6]
    assert data.labels[:60_000].bincount().tolist() == [6000] * 10
    assert data.labels[60_000:].bincount().tolist() == [1000] * 10
    assert data.classes[9] == "Ankle boot"
    mean = data.samples[:60_000].double().mean() / 255
    assert mean == pytest.approx(0.2860, abs=1e-4)  # the constant of every Fashion-MNIST normalisation


@needs_debian_files
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_splits_of_fashion_mnist_have_their_official_sizes(tmp_path, split, count):
    assert fashion_mnist(root=str(tmp_path), split=split, download=False).samples.shape == (count, 1, 28, 28)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("source", "folder"),
    [
        (mnist, "MNIST/raw"),
        (mnist, "mnist"),
        (mnist, "."),
        (fashion_mnist, "FashionMNIST/raw"),
        (fashion_mnist, "fashion-mnist"),
        (fashion_mnist, "."),
    ],
)
def test_idx_files_are_read_where_they_lie(tmp_path, no_network, source, folder, compressed):
    write_idx_files(tmp_path / folder, compressed=compressed)

    data = source(root=str(tmp_path), split="all")

    assert data.samples.shape == (7, 1, 28, 28)
    assert data.samples.dtype == torch.uint8
    assert data.samples[:, 0, 3, 4].tolist() == [10, 11, 12, 13, 20, 21, 22]
    assert data.labels.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert len(data.classes) == 10


def test_the_default_is_the_training_part_at_its_own_size(tmp_path, no_network):
    write_idx_files(tmp_path)

    assert mnist(root=str(tmp_path)).samples.shape == (4, 1, 28, 28)
    assert fashion_mnist(root=str(tmp_path)).labels.tolist() == [0, 1, 2, 3]
    assert mnist(root=str(tmp_path)).classes == tuple("0123456789")


def test_a_split_needs_only_its_own_files(tmp_path, no_network):
    write_idx_files(tmp_path, parts=("t10k",))

    assert mnist(root=str(tmp_path), split="test").labels.tolist() == [5, 6, 7]
    with pytest.raises(RunError, match=r"train-images-idx3-ubyte"):
        mnist(root=str(tmp_path), split="all", download=False)


def test_a_relative_root_and_a_size(tmp_path, monkeypatch):
    write_idx_files(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    assert mnist(root="data", image_size=32).samples.shape == (4, 1, 32, 32)


def test_missing_files_are_named_with_the_folders_looked_in(tmp_path):
    with pytest.raises(RunError) as caught:
        mnist(root=str(tmp_path), download=False)

    message = str(caught.value)
    assert "dataset.download is false" in message
    for folder in (tmp_path / "MNIST" / "raw", tmp_path / "mnist", tmp_path):
        assert f"{folder}" in message
    assert "train-images-idx3-ubyte, train-labels-idx1-ubyte" in message
    assert "dataset.download=true" in message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_says_so_and_leaves_nothing(tmp_path, no_network):
    with pytest.raises(RunError, match=r"(?s)getting it failed: .*no network in this test.*Looked in") as caught:
        mnist(root=str(tmp_path))

    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_failed_download(tmp_path, no_network):
    (tmp_path / "file").touch()

    with pytest.raises(RunError, match=r"MNIST is not there, and getting it failed"):
        mnist(root=str(tmp_path / "file" / "data"))


def serve_idx_files(server, monkeypatch, *, damaged: str | None = None) -> None:
    """Let torchvision's MNIST download made files from the local server; one may differ from its checksum."""
    address, folder = server
    write_idx_files(folder, compressed=True)
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    if damaged is not None:
        (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-9])


def test_a_download_lands_in_torchvisions_layout_and_is_used_from_then_on(tmp_path, server, monkeypatch):
    serve_idx_files(server, monkeypatch)
    root = tmp_path / "root"

    assert mnist(root=str(root), split="all").labels.tolist() == [0, 1, 2, 3, 5, 6, 7]

    assert [path.name for path in root.iterdir()] == ["MNIST"]
    assert (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file()
    assert mnist(root=str(root), download=False).labels.tolist() == [0, 1, 2, 3]
    assert len(torchvision.datasets.MNIST(str(root), train=False)) == 3


def test_a_damaged_download_leaves_nothing(tmp_path, server, monkeypatch):
    serve_idx_files(server, monkeypatch, damaged="train-images-idx3-ubyte.gz")
    root = tmp_path / "root"

    with pytest.raises(RunError, match="corrupted"):
        mnist(root=str(root))

    assert list(root.iterdir()) == []


def test_a_download_completes_a_folder_that_is_there(tmp_path, server, monkeypatch):
    serve_idx_files(server, monkeypatch)
    root = tmp_path / "root"
    write_idx_files(root / "MNIST" / "raw", parts=("t10k",))

    assert mnist(root=str(root)).labels.tolist() == [0, 1, 2, 3]
    assert len(list((root / "MNIST" / "raw").iterdir())) == 8


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"<html>" * 99])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("stem", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named(tmp_path, stem, compressed, damage):
    write_idx_files(tmp_path, compressed=compressed)
    path = tmp_path / (f"{stem}.gz" if compressed else stem)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(RunError, match="get it again") as caught:
        mnist(root=str(tmp_path), download=False)

    assert str(path) in str(caught.value)


def test_an_idx_file_that_is_too_long_is_refused(tmp_path):
    write_idx_files(tmp_path)
    with (tmp_path / "train-labels-idx1-ubyte").open("ab") as file:
        file.write(b"more")

    with pytest.raises(RunError, match="not a whole idx file"):
        mnist(root=str(tmp_path), download=False)


def test_an_idx_file_of_another_type_is_refused(tmp_path):
    write_idx_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 9, 3]) + path.read_bytes()[4:])  # signed bytes

    with pytest.raises(RunError, match="not a whole idx file"):
        mnist(root=str(tmp_path), download=False)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_idx_files(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(3)))

    with pytest.raises(RunError, match="4 images but 3 labels"):
        mnist(root=str(tmp_path), download=False)


# CIFAR-10


def pickled(content: dict) -> bytes:
    """A pickle like those of 2009, in which a dtype holds numbers where numpy wants booleans."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=2)
    pickler.dispatch_table = {
        **copyreg.dispatch_table,
        type(np.dtype("u1")): lambda dtype: (np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)),
    }
    pickler.dump(content)
    return stream.getvalue()


def write_cifar(folder: Path) -> dict[str, str]:
    """Two images a file; in file k the pixels are 10 k (first image: red only), the labels k, 9; returns MD5 sums."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"batches.meta": pickled({"label_names": list("abcdefghij")})}
    for number, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"], start=1):
        images = np.full((2, 3, 32, 32), 10 * number, dtype=np.uint8)
        images[0, 1:] = 0
        contents[name] = pickled({"data": images.reshape(2, 3072), "labels": [number, 9]})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}


@pytest.fixture
def made_cifar(tmp_path, monkeypatch):
    """A folder with made CIFAR files, which torchvision's checksums are changed to accept."""
    source = torchvision.datasets.CIFAR10
    sums = write_cifar(tmp_path / "made" / source.base_folder)
    monkeypatch.setattr(source, "train_list", [[name, sums[name]] for name, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [[name, sums[name]] for name, _ in source.test_list])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums["batches.meta"]})
    return tmp_path / "made"


def pack_cifar(made: Path, archive: Path, monkeypatch) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


def test_cifar_is_read_from_torchvisions_layout(made_cifar, no_network):
    data = cifar10(root=str(made_cifar), split="all")

    assert data.samples.shape == (12, 3, 32, 32)
    assert data.samples.dtype == torch.uint8
    assert data.samples.is_contiguous()
    assert data.samples[0, :, 5, 6].tolist() == [10, 0, 0]
    assert data.samples[1::2, 2, 31, 31].tolist() == [10, 20, 30, 40, 50, 60]
    assert data.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9]
    assert data.labels.dtype == torch.int64
    assert data.classes == tuple("abcdefghij")


def test_the_splits_of_cifar(made_cifar, no_network):
    assert cifar10(root=str(made_cifar)).labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert cifar10(root=str(made_cifar), split="test").labels.tolist() == [6, 9]
    assert cifar10(root=str(made_cifar), image_size=16, split="test").samples.shape == (2, 3, 16, 16)


def test_cifar_files_that_are_not_the_original_are_refused_unread(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py")

    with pytest.raises(RunError) as caught:
        cifar10(root=str(tmp_path), download=False)

    message = str(caught.value)
    assert f"Looked in: {tmp_path}." in message
    assert "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta" in message
    assert "not the original by MD5 sum" in message


def test_a_cifar_archive_is_unpacked_without_network(made_cifar, tmp_path, monkeypatch, no_network):
    root = tmp_path / "root"
    root.mkdir()
    pack_cifar(made_cifar, root / "cifar-10-python.tar.gz", monkeypatch)

    data = cifar10(root=str(root), split="test", download=False)

    assert data.labels.tolist() == [6, 9]
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_a_cifar_download_repairs_a_damaged_folder(made_cifar, tmp_path, monkeypatch, server):
    address, served = server
    pack_cifar(made_cifar, served / "cifar-10-python.tar.gz", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{address}cifar-10-python.tar.gz")
    root = tmp_path / "root"
    write_cifar(root / "cifar-10-batches-py")
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()

    assert cifar10(root=str(root)).labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]


def test_a_failed_cifar_download_leaves_nothing(tmp_path, no_network):
    with pytest.raises(RunError, match=r"CIFAR-10 is not there, and getting it failed: .*no network"):
        cifar10(root=str(tmp_path))

    assert list(tmp_path.iterdir()) == []


# CelebA


def write_celeba(folder: Path) -> None:
    """Five 178x218 images: the central square is (40 k, 0, 0), the margins are white; split 0 0 0 1 2."""
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = []
    for number, split in enumerate([0, 0, 0, 1, 2], start=1):
        image = Image.new("RGB", (178, 218), "white")
        image.paste((40 * number, 0, 0), (0, 20, 178, 198))
        image.save(folder / "img_align_celeba" / f"{number:06}.jpg", quality=100, subsampling=0)
        lines.append(f"{number:06}.jpg {split}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("split", "reds"), [("train", [40, 80, 120]), ("valid", [160]), ("test", [200]), ("all", [40, 80, 120, 160, 200])]
)
def test_celeba_is_cropped_to_the_face(tmp_path, no_network, split, reds):
    write_celeba(tmp_path / "celeba")

    data = celeba(root=str(tmp_path), image_size=32, split=split)

    assert data.samples.shape == (len(reds), 3, 32, 32)
    assert data.samples.dtype == torch.uint8
    assert data.samples[:, 0, 16, 16].tolist() == pytest.approx(reds, abs=2)
    # The first and the last row are inside the crop: at most the JPEG blocks and the filter touch the white margins.
    assert data.samples[:, 1].max() < 64
    assert data.labels is None
    assert data.classes is None


def test_the_default_of_celeba_is_the_training_part_at_64_pixels(tmp_path, no_network):
    write_celeba(tmp_path / "celeba")

    assert celeba(root=str(tmp_path)).samples.shape == (3, 3, 64, 64)


def test_decoded_celeba_images_are_kept_for_each_split(tmp_path, no_network):
    write_celeba(tmp_path / "celeba")
    options = {"root": str(tmp_path), "image_size": 32}

    for _ in range(2):
        for number, split in enumerate(("train", "valid", "test", "all"), 1):
            data = celeba(**options, split=split, cache_dir=str(tmp_path / "cache"))
            expected = celeba(**options, split=split)
            assert torch.equal(data.samples, expected.samples)
            assert data.samples_key == content_key(expected.samples)
            assert expected.samples_key is None
            assert len(list((tmp_path / "cache").glob("images-*.npy"))) >= number
    assert len(list((tmp_path / "cache").glob("images-*.npy"))) == 4


def test_celeba_images_that_are_missing_are_named(tmp_path, no_network):
    write_celeba(tmp_path / "celeba")
    gone = tmp_path / "celeba" / "img_align_celeba" / "000002.jpg"
    gone.unlink()

    with pytest.raises(RunError, match="1 of 3 image files") as caught:
        celeba(root=str(tmp_path), image_size=32)

    assert f"{gone}: no such file" in str(caught.value)


def test_the_original_celeba_archive_is_unpacked(tmp_path, monkeypatch, no_network):
    write_celeba(tmp_path / "made")
    home = tmp_path / "root" / "celeba"
    home.mkdir(parents=True)
    (tmp_path / "made" / "list_eval_partition.txt").rename(home / "list_eval_partition.txt")
    with zipfile.ZipFile(home / "img_align_celeba.zip", "w") as archive:
        for path in (tmp_path / "made" / "img_align_celeba").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")

    with pytest.raises(RunError, match=r"the original img_align_celeba\.zip"):  # not that one, so far
        celeba(root=str(tmp_path / "root"), image_size=32, download=False)
    md5 = hashlib.md5((home / "img_align_celeba.zip").read_bytes()).hexdigest()
    files = [
        (file_id, md5 if name == "img_align_celeba.zip" else old, name)
        for file_id, old, name in torchvision.datasets.CelebA.file_list
    ]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", files)

    assert len(celeba(root=str(tmp_path / "root"), image_size=32, download=False).samples) == 3
    assert sorted(path.name for path in home.iterdir()) == [
        "img_align_celeba",
        "img_align_celeba.zip",
        "list_eval_partition.txt",
    ]


def test_missing_celeba_names_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(RunError) as caught:
        celeba(root=str(tmp_path), download=False)

    message = str(caught.value)
    assert f"Looked in: {tmp_path / 'celeba'}." in message
    assert "list_eval_partition.txt and the folder img_align_celeba" in message
    assert "pip install gdown" in message


def test_a_failed_celeba_download_chains_its_cause_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(torchvision.datasets.utils, "download_file_from_google_drive", refuse)

    with pytest.raises(RunError, match=r"getting it failed: .*no network in this test") as caught:
        celeba(root=str(tmp_path))

    assert isinstance(caught.value.__cause__, URLError)
    assert list((tmp_path / "celeba").iterdir()) == []


@pytest.mark.parametrize("content", ["000001.jpg\n", "000001.jpg 0\n000002.jpg 7\n", "000004.jpg 1\n", ""])
def test_a_damaged_celeba_list_is_named(tmp_path, content):
    write_celeba(tmp_path / "celeba")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text(content)

    with pytest.raises(RunError, match=r"list_eval_partition\.txt .*get the file again"):
        celeba(root=str(tmp_path), image_size=32, download=False)
