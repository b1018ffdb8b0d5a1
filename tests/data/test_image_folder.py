import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_lab.data.image_folder import image_folder
from gan_lab.errors import RunError
from gan_lab.features.cache import content_key


def put(path: Path, colour, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (11, 9), colour).save(path)


def first_values(data) -> list[int]:
    return data.samples[:, 0, 0, 0].tolist()


def test_images_in_the_folder_itself_have_no_labels_and_are_sorted(tmp_path):
    for name, value in {"b.png": 2, "a.PNG": 1, "c.tif": 3}.items():
        put(tmp_path / name, value)

    data = image_folder(root=str(tmp_path), image_size=16)

    assert data.samples.shape == (3, 1, 16, 16)
    assert data.samples.dtype == torch.uint8
    assert first_values(data) == [1, 2, 3]
    assert data.labels is None
    assert data.classes is None


def test_the_default_size_is_64(tmp_path):
    put(tmp_path / "a.png", 1)

    assert image_folder(root=str(tmp_path)).samples.shape == (1, 1, 64, 64)


def test_sub_folders_at_any_depth_are_classes_in_sorted_order(tmp_path):
    put(tmp_path / "dog" / "1.png", 30)
    put(tmp_path / "cat" / "young" / "1.png", 20)
    put(tmp_path / "cat" / "2.png", 10)
    (tmp_path / "notes").mkdir()  # holds no image: no class
    (tmp_path / "notes" / "read.txt").touch()

    data = image_folder(root=str(tmp_path), image_size=8)

    assert first_values(data) == [10, 20, 30]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.labels.dtype == torch.int64
    assert data.classes == ("cat", "dog")


def test_hidden_files_and_other_files_are_skipped(tmp_path):
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".hidden" / "a.png", 2)
    (tmp_path / "._a.png").write_text("what another system leaves")
    (tmp_path / "list.csv").touch()

    assert first_values(image_folder(root=str(tmp_path), image_size=8)) == [1]


def test_links_are_followed_once(tmp_path):
    put(tmp_path / "elsewhere" / "1.png", 5)
    root = tmp_path / "root"
    root.mkdir()
    (root / "class").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(root, target_is_directory=True)

    data = image_folder(root=str(root), image_size=8)

    assert first_values(data) == [5]
    assert data.classes == ("class",)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 9, 9)), ("P", 0), ("CMYK", (0, 0, 0, 0))])
def test_one_colour_file_makes_three_channels(tmp_path, mode, colour):
    put(tmp_path / "a.png", 7)
    put(tmp_path / "b.tif", colour, mode)

    data = image_folder(root=str(tmp_path), image_size=8)

    assert data.samples.shape == (2, 3, 8, 8)
    assert data.samples[0, :, 0, 0].tolist() == [7, 7, 7]


def test_gray_modes_of_all_kinds_make_one_channel(tmp_path):
    put(tmp_path / "a.png", 1, "1")
    put(tmp_path / "b.png", 100)
    put(tmp_path / "c.png", (0, 0), "LA")
    put(tmp_path / "d.png", 257 * 3, "I;16")

    data = image_folder(root=str(tmp_path), image_size=8)

    assert data.samples.shape == (4, 1, 8, 8)
    assert first_values(data) == [255, 100, 255, 3]


@pytest.mark.parametrize(("channels", "expected"), [(1, [255]), (3, [255, 255, 255]), (4, [0, 0, 0, 0])])
def test_channels_given_win_over_detection(tmp_path, channels, expected):
    put(tmp_path / "a.png", (0, 0, 0, 0), "RGBA")

    data = image_folder(root=str(tmp_path), image_size=8, channels=channels)

    assert data.samples[0, :, 0, 0].tolist() == expected


def test_broken_files_are_all_named(tmp_path):
    put(tmp_path / "x" / "good.png", 1)
    (tmp_path / "x" / "empty.png").touch()
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "broken.jpg").write_text("not an image")

    with pytest.raises(RunError) as caught:
        image_folder(root=str(tmp_path), image_size=8)

    assert "2 of 3 image files" in str(caught.value)
    assert str(tmp_path / "x" / "empty.png") in str(caught.value)
    assert str(tmp_path / "y" / "broken.jpg") in str(caught.value)


def test_images_beside_classes_are_refused(tmp_path):
    put(tmp_path / "loose.png", 1)
    put(tmp_path / "cat" / "1.png", 2)

    with pytest.raises(RunError, match=r"unclear what the classes are") as caught:
        image_folder(root=str(tmp_path), image_size=8)

    assert "loose.png" in str(caught.value)
    assert os.path.join("cat", "1.png") in str(caught.value)


def test_a_missing_folder_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RunError) as caught:
        image_folder(root="nowhere", image_size=8)

    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "dataset.root" in str(caught.value)


def test_a_folder_without_images_says_what_is_expected(tmp_path):
    (tmp_path / "readme.txt").touch()

    with pytest.raises(RunError, match=r"No image in .*\.png") as caught:
        image_folder(root=str(tmp_path), image_size=8)

    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("labelled", [False, True])
def test_decoded_images_are_kept_and_the_labels_are_the_same(tmp_path, labelled):
    for name, value in {"cat/1.png": 10, "cat/2.png": 20, "dog/1.png": 30}.items():
        put(tmp_path / "pictures" / (name if labelled else name.replace("/", "-")), value)
    root, cache = str(tmp_path / "pictures"), tmp_path / "cache"
    expected = image_folder(root=root, image_size=8)
    assert expected.samples_key is None

    for _ in range(2):
        data = image_folder(root=root, image_size=8, cache_dir=str(cache))
        assert torch.equal(data.samples, expected.samples)
        assert data.samples_key == content_key(expected.samples)
        assert data.classes == expected.classes == (("cat", "dog") if labelled else None)
        assert data.labels is None if not labelled else data.labels.tolist() == [0, 0, 1]
    (path,) = cache.glob("images-*.npy")
    assert path.stat().st_size == 128 + 3 * 8 * 8


def test_the_folder_of_decoded_images_is_relative_to_the_working_directory_or_to_home(tmp_path, monkeypatch):
    put(tmp_path / "pictures" / "a.png", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    for cache_dir in ("kept", "~/kept"):
        image_folder(root="pictures", image_size=8, cache_dir=cache_dir)

    assert len(list((tmp_path / "kept").glob("images-*.npy"))) == 1
    assert len(list((tmp_path / "home" / "kept").glob("images-*.npy"))) == 1
