"""Images decoded once: equal to those decoded into memory, made whole or not at all, and by one process."""

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from gan_lab.data import as_training_input, decode, decoded
from gan_lab.data.decode import decode_images
from gan_lab.data.decoded import decoded_images
from gan_lab.errors import RunError
from gan_lab.features.cache import content_key

SIZE = 8
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def put_pictures(folder: Path, num: int, modes: tuple[str, ...] = ("RGB", "L", "RGBA", "P")) -> list[Path]:
    """Noise of several sizes, none of them square, and of several modes; their names, relative to the folder."""
    values = np.random.default_rng(0)
    files = []
    for index in range(num):
        file = Path("ab"[index % 2], f"{index:03}.png")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        height, width = 9 + index % 5, 15 + index % 7
        noise = Image.fromarray(values.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
        noise.convert(modes[index % len(modes)]).save(folder / file)
        files.append(file)
    return files


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    put_pictures(tmp_path / "pictures", 12)
    return tmp_path / "pictures"


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*.png"))


def get(folder: Path, cache: Path | None, **options: Any) -> tuple[torch.Tensor, str | None]:
    settings: dict[str, Any] = {"image_size": SIZE, "channels": 3, **options}
    return decoded_images(folder, files_of(folder), cache_dir=None if cache is None else str(cache), **settings)


def in_memory(folder: Path, **options: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"image_size": SIZE, "channels": 3, **options}
    return decode_images([folder / file for file in files_of(folder)], **settings)


def names_in(cache: Path) -> list[str]:
    """What is kept, by the ends of the names: the key is left out."""
    return sorted(path.name.replace(path.name.lstrip(".")[7:39], "KEY") for path in cache.iterdir())


WHOLE = [".images-KEY.npy.lock", "images-KEY.json", "images-KEY.npy"]
BEGUN = [".images-KEY.npy.lock", "images-KEY.partial.done", "images-KEY.partial.npy"]


@pytest.fixture
def decoded_paths(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    paths: list[Path] = []
    original = decode._decode_into

    def noted(target: np.ndarray, path: Path) -> str | None:
        paths.append(path)
        return original(target, path)

    monkeypatch.setattr(decode, "_decode_into", noted)
    return paths


# --------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_size", [8, 32])
def test_the_images_are_those_decoded_into_memory(pictures, tmp_path, monkeypatch, channels, image_size):
    monkeypatch.setattr(decode, "CHUNK_FILES", 5)
    expected = in_memory(pictures, channels=channels, image_size=image_size)
    assert len(expected.unique()) > 100

    for _ in range(2):  # made, and read
        samples, key = get(pictures, tmp_path / "cache", channels=channels, image_size=image_size)
        assert samples.dtype == torch.uint8
        assert torch.equal(samples, expected)
        assert key == content_key(expected)
    assert names_in(tmp_path / "cache") == WHOLE


def test_the_file_is_a_plain_npy_file(pictures, tmp_path):
    get(pictures, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.npy")

    assert np.array_equal(np.load(path), in_memory(pictures).numpy())


def test_without_a_cache_the_images_are_in_memory(pictures):
    samples, key = get(pictures, None)
    samples += 1  # it can be written to

    assert torch.equal(samples, in_memory(pictures) + 1)
    assert key is None


@pytest.mark.parametrize(("modes", "channels"), [(("L", "1"), 1), (("L", "L", "L", "RGB"), 3)])
@pytest.mark.parametrize("cached", [False, True])
def test_channels_are_chosen_by_the_modes(tmp_path, modes, channels, cached):
    folder = tmp_path / "pictures"
    put_pictures(folder, 8, modes)

    samples, _ = get(folder, tmp_path / "cache" if cached else None, channels=None)

    assert torch.equal(samples, in_memory(folder, channels=channels))


@on_linux
def test_the_tensor_is_the_file_mapped_read_only(pictures, tmp_path):
    samples, _ = get(pictures, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.npy")

    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert [mapping[1] for mapping in mappings] == ["r--s"]
    first, last = (int(address, 16) for address in mappings[0][0].split("-"))
    assert first <= samples.data_ptr() < last


def test_what_is_taken_from_it_is_ordinary_memory(pictures, tmp_path):
    samples, _ = get(pictures, tmp_path / "cache")
    indices = torch.tensor([7, 0, 11, 7])

    taken = samples.index_select(0, indices)
    assert torch.equal(taken, in_memory(pictures)[indices])
    taken.zero_()
    as_training_input(samples[:3]).zero_()
    assert torch.equal(samples, in_memory(pictures))


# ------------------------------------------------------------------------ the second start


def test_a_second_start_opens_no_picture(pictures, tmp_path, monkeypatch):
    expected, key = get(pictures, tmp_path / "cache", channels=None)
    expected = expected.clone()
    for file in files_of(pictures):
        path = pictures / file
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture is opened"))
    monkeypatch.setattr(decoded, "content_key", lambda *_: pytest.fail("all samples are read"))

    samples, key_again = get(pictures, tmp_path / "cache", channels=None)

    assert torch.equal(samples, expected)
    assert key_again == key


def test_what_is_there_is_read_without_waiting_for_others(pictures, tmp_path, monkeypatch):
    get(pictures, tmp_path / "cache")
    monkeypatch.setattr(decoded, "locked", lambda path: pytest.fail("another run may hold it"))

    assert torch.equal(get(pictures, tmp_path / "cache")[0], in_memory(pictures))


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def lengthen(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")  # after the picture's end
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(path: Path) -> None:
    path.rename(path.with_name("zzz.png"))


@pytest.mark.parametrize("change", [touch, lengthen, rename, Path.unlink])
def test_a_changed_picture_makes_a_new_file(pictures, tmp_path, decoded_paths, change: Callable[[Path], None]):
    get(pictures, tmp_path / "cache")
    change(pictures / files_of(pictures)[-1])
    decoded_paths.clear()

    samples, _ = get(pictures, tmp_path / "cache")

    assert len(decoded_paths) == len(files_of(pictures))
    assert torch.equal(samples, in_memory(pictures))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_folder_that_is_moved_keeps_its_file(pictures, tmp_path, decoded_paths):
    get(pictures, tmp_path / "cache")
    moved = pictures.rename(tmp_path / "elsewhere")
    decoded_paths.clear()

    samples, _ = get(moved, tmp_path / "cache")

    assert decoded_paths == []
    assert torch.equal(samples, in_memory(moved))


def test_other_settings_and_programs_make_other_files(pictures, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for number, options in enumerate([{}, {"image_size": 9}, {"channels": 1}, {"channels": 4}, {"channels": None}], 1):
        get(pictures, cache, **options)
        assert len(list(cache.glob("*.npy"))) == number
    changed = tmp_path / "decode.py"
    changed.write_text(Path(decode.__file__).read_text() + "# changed\n")
    for number, (module, name, value) in enumerate(
        [(PIL, "__version__", "99.0"), (decoded, "FORMAT", 99), (decode, "__file__", str(changed))], 6
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            get(pictures, cache)
        assert len(list(cache.glob("*.npy"))) == number


# -------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not an array"),
        lambda path: np.save(path, np.zeros((12, 3, SIZE, SIZE), np.int8)),
        lambda path: np.save(path, np.zeros((11, 3, SIZE, SIZE), np.uint8)),
        lambda path: np.save(path, np.zeros(12 * 3 * SIZE * SIZE, np.uint8)),
        lambda path: np.save(path, np.asfortranarray(np.zeros((12, 3, SIZE, SIZE), np.uint8))),
    ],
    ids=["truncated", "empty", "text", "type", "number", "shape", "order"],
)
def test_a_damaged_file_is_made_again_and_said_so(pictures, tmp_path, caplog, damage: Callable[[Path], Any]):
    get(pictures, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.npy")
    damage(path)

    with caplog.at_level(logging.WARNING):
        samples, key = get(pictures, tmp_path / "cache")

    assert torch.equal(samples, in_memory(pictures))
    assert key == content_key(samples)
    (record,) = caplog.records
    assert record.getMessage() == f"{path} is damaged; the images are decoded again"


@pytest.mark.parametrize("content", [None, "", "{", "{}"])
def test_a_lost_key_of_the_samples_is_found_again(pictures, tmp_path, decoded_paths, content):
    _, key = get(pictures, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.json")
    path.unlink()
    if content is not None:
        path.write_text(content)
    decoded_paths.clear()

    assert get(pictures, tmp_path / "cache")[1] == key
    assert json.loads(path.read_text()) == {"samples_key": key}
    assert decoded_paths == []


# --------------------------------------------------------------------------- interruptions


def make_slowly(folder: Path, cache: Path, chunk_files: int, log_path: Path | None = None) -> torch.Tensor:
    """In a process of its own, on two threads: 0.05 s for an image; a line in ``log_path`` for each."""
    decode.CHUNK_FILES = chunk_files
    decoded.SECONDS_BETWEEN_RECORDS = 0.0
    os.cpu_count = lambda: 2
    original = decode._decode_into

    def slowly(target: np.ndarray, path: Path) -> str | None:
        time.sleep(0.05)
        if log_path is not None:
            with log_path.open("a") as file:
                file.write(f"{path}\n")
        return original(target, path)

    decode._decode_into = slowly
    return get(folder, cache)[0]


def record_in(cache: Path) -> list[int]:
    """For each image whether its pixels are on the disk."""
    return [byte for path in cache.glob("*.partial.done") for byte in path.read_bytes()]


def test_after_a_kill_only_what_is_missing_is_decoded(tmp_path, monkeypatch, decoded_paths):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    put_pictures(folder, 60)
    process = multiprocessing.get_context("spawn").Process(target=make_slowly, args=(folder, cache, 4))
    process.start()
    patience = time.monotonic() + 120
    while sum(record_in(cache)) < 12 and time.monotonic() < patience and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join(timeout=60)

    done = record_in(cache)
    assert 12 <= sum(done) < 60
    assert names_in(cache) == BEGUN
    monkeypatch.setattr(decode, "CHUNK_FILES", 4)
    samples, key = get(folder, cache)
    missing = [folder / file for file, is_done in zip(files_of(folder), done, strict=True) if not is_done]
    assert sorted(decoded_paths) == missing
    assert torch.equal(samples, in_memory(folder))
    assert key == content_key(samples)
    assert names_in(cache) == WHOLE


def interrupt_at(monkeypatch: pytest.MonkeyPatch, name: str, error: type[BaseException] = KeyboardInterrupt) -> None:
    """One thread decodes, one file after the other, until it comes to the one of that name."""
    original = decode._decode_into

    def interrupted(target: np.ndarray, path: Path) -> str | None:
        if path.name == name:
            raise error
        return original(target, path)

    monkeypatch.setattr(decode, "_decode_into", interrupted)
    monkeypatch.setattr(decode, "CHUNK_FILES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def interrupted(folder: Path, cache: Path, **options: Any) -> list[int]:
    """Half of the twelve pictures are decoded: those of the first sub-folder."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, files_of(folder)[6].name)
        with pytest.raises(KeyboardInterrupt):
            get(folder, cache, **options)
    assert names_in(cache) == BEGUN
    return record_in(cache)


def test_an_interrupt_keeps_what_is_finished(pictures, tmp_path, monkeypatch, decoded_paths):
    assert interrupted(pictures, tmp_path / "cache") == 6 * [1] + 6 * [0]

    monkeypatch.setattr(decode, "CHUNK_FILES", 4)  # the second chunk is half done
    decoded_paths.clear()
    samples, _ = get(pictures, tmp_path / "cache")

    assert sorted(decoded_paths) == [pictures / file for file in files_of(pictures)[4:]]
    assert torch.equal(samples, in_memory(pictures))


def test_an_interrupted_choice_of_channels_is_kept(pictures, tmp_path, monkeypatch):
    interrupted(pictures, tmp_path / "cache", channels=None)
    monkeypatch.setattr(decoded, "is_gray", lambda path: pytest.fail("the channels are known"))

    assert get(pictures, tmp_path / "cache", channels=None)[0].shape[1] == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda pixels, record: pixels.unlink(),
        lambda pixels, record: record.unlink(),
        lambda pixels, record: record.write_bytes(11 * b"\1"),
        lambda pixels, record: pixels.write_bytes(pixels.read_bytes()[:-1]),
        lambda pixels, record: np.save(pixels, np.zeros((13, 3, SIZE, SIZE), np.uint8)),
    ],
    ids=["no pixels", "no record", "short record", "short pixels", "other pixels"],
)
def test_what_is_left_is_not_trusted_unless_it_is_whole(pictures, tmp_path, decoded_paths, damage: Callable[..., Any]):
    interrupted(pictures, tmp_path / "cache")
    (pixels,) = (tmp_path / "cache").glob("*.partial.npy")
    damage(pixels, pixels.with_suffix(".done"))
    decoded_paths.clear()

    samples, _ = get(pictures, tmp_path / "cache")

    assert len(decoded_paths) == 12
    assert torch.equal(samples, in_memory(pictures))
    assert names_in(tmp_path / "cache") == WHOLE


def test_an_image_counts_only_when_its_pixels_are_on_the_disk(pictures, tmp_path, monkeypatch):
    """Each entry of the record, and the last renaming, come after an fsync of the pixels that they speak for."""
    monkeypatch.setattr(decoded, "SECONDS_BETWEEN_RECORDS", 0.0)
    monkeypatch.setattr(decode, "CHUNK_FILES", 4)
    image_bytes, written, on_disk, recorded = 3 * SIZE * SIZE, set[int](), set[int](), set[int]()
    pwrite, fsync, replace = os.pwrite, os.fsync, os.replace

    def noted_pwrite(descriptor: int, content: bytes, position: int) -> int:
        if os.fstat(descriptor).st_size > 12 * image_bytes:
            written.add(position // image_bytes)  # the header is shorter than an image
        else:
            assert set(range(position, position + len(content))) <= on_disk
            recorded.update(range(position, position + len(content)))
        return pwrite(descriptor, content, position)

    def noted_fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 12 * image_bytes:
            on_disk.update(written)
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        if str(target).endswith(".npy"):
            assert on_disk == recorded == set(range(12))
        replace(source, target)

    monkeypatch.setattr(os, "pwrite", noted_pwrite)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    get(pictures, tmp_path / "cache")

    assert recorded == set(range(12))


def test_pixels_are_written_whole_though_a_call_writes_a_part(pictures, tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, position: pwrite(descriptor, content[:100], position))

    assert torch.equal(get(pictures, tmp_path / "cache")[0], in_memory(pictures))


def test_files_that_cannot_be_read_are_named_and_nothing_is_left(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK_FILES", 1)
    first, last = pictures / files_of(pictures)[0], pictures / files_of(pictures)[-1]
    first.write_bytes(b"")
    last.unlink()
    last.symlink_to(pictures / "gone")

    for _ in range(2):
        with pytest.raises(RunError, match="2 of 12 image files cannot be read") as caught:
            get(pictures, tmp_path / "cache")
        assert f"{first}: the file is empty" in str(caught.value)
        assert f"{last}: no such file" in str(caught.value)
        assert names_in(tmp_path / "cache") == WHOLE[:1]  # the lock, which nobody holds

    Image.new("RGB", (9, 9)).save(first)
    last.unlink()
    assert torch.equal(get(pictures, tmp_path / "cache")[0], in_memory(pictures))


# ------------------------------------------------------------------------------- the disk

Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_refused_before_anything_is_written(pictures, tmp_path, monkeypatch):
    cache, needed = tmp_path / "cache", 12 * 3 * SIZE * SIZE
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or Usage(9999, 0, needed - 1))

    with pytest.raises(RunError) as caught:
        get(pictures, cache)

    message = str(caught.value)
    assert message.startswith(f"{cache} has no room")
    for words in (f"{needed:,} bytes are needed", f"{needed - 1:,} are free", "Free some space", "cache_dir=DIR"):
        assert words in message
    assert "dataset.image_size" in message
    assert "dataset.cache_dir=null" in message
    assert asked == [cache]
    assert names_in(cache) == WHOLE[:1]

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9999, 0, needed))
    assert torch.equal(get(pictures, cache)[0], in_memory(pictures))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved")
def test_space_is_reserved_and_not_asked_for_twice(tmp_path, monkeypatch):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    put_pictures(folder, 12)
    interrupted(folder, cache, image_size=64)
    (pixels,) = cache.glob("*.partial.npy")
    assert pixels.stat().st_blocks * 512 >= 12 * 3 * 64 * 64  # and not only the half that is written

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9999, 9999, 0))
    assert torch.equal(get(folder, cache, image_size=64)[0], in_memory(folder, image_size=64))


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved")
def test_space_that_cannot_be_reserved_is_an_error_and_nothing_is_left(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(RunError, match=r"cannot write .*\.npy: No space left on device\. Free some space"):
        get(pictures, tmp_path / "cache")
    assert names_in(tmp_path / "cache") == WHOLE[:1]


@pytest.mark.parametrize("number", [22, 95])  # EINVAL, EOPNOTSUPP
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved")
def test_file_systems_that_cannot_reserve_space_are_used_all_the_same(pictures, tmp_path, monkeypatch, number):
    def refuse(*_: Any) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert torch.equal(get(pictures, tmp_path / "cache")[0], in_memory(pictures))


def test_a_disk_that_fills_up_is_an_error_and_the_images_so_far_are_kept(pictures, tmp_path, monkeypatch):
    pwrite, num_written = os.pwrite, []

    def filling(descriptor: int, content: bytes, position: int) -> int:
        if len(content) > 1:  # pixels, not a chunk of one in the record
            num_written.append(position)
            if len(num_written) > 6:
                full()
        return pwrite(descriptor, content, position)

    monkeypatch.setattr(decode, "CHUNK_FILES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(RunError, match="No space left on device"):
        get(pictures, tmp_path / "cache")

    assert record_in(tmp_path / "cache") == 6 * [1] + 6 * [0]
    monkeypatch.undo()
    assert torch.equal(get(pictures, tmp_path / "cache")[0], in_memory(pictures))


def block_the_lock(cache: Path) -> None:
    """A folder takes the place of the lock, as nothing else keeps the superuser from writing."""
    (lock,) = cache.glob(".*.lock")
    lock.unlink()
    lock.mkdir()


def test_where_nothing_can_be_written_the_images_are_decoded_into_memory(pictures, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")

    with caplog.at_level(logging.WARNING):
        samples, key = get(pictures, tmp_path / "file" / "cache", channels=None)

    samples += 1
    assert torch.equal(samples, in_memory(pictures) + 1)
    assert key is None
    (record,) = caplog.records
    assert str(tmp_path / "file" / "cache") in record.getMessage()
    assert "dataset.cache_dir=DIR" in record.getMessage()
    assert (tmp_path / "file").read_text() == "in the way"


def test_without_locks_nothing_is_written(pictures, tmp_path, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        samples, key = get(pictures, tmp_path / "cache")

    assert torch.equal(samples, in_memory(pictures))
    assert key is None
    (record,) = caplog.records
    assert "No locks available" in record.getMessage()
    assert names_in(tmp_path / "cache") == WHOLE[:1]


def test_a_file_is_read_from_a_folder_that_cannot_be_written_to(pictures, tmp_path, decoded_paths, caplog):
    _, key = get(pictures, tmp_path / "cache")
    block_the_lock(tmp_path / "cache")
    decoded_paths.clear()

    with caplog.at_level(logging.WARNING):
        samples, key_again = get(pictures, tmp_path / "cache")

    assert torch.equal(samples, in_memory(pictures))
    assert key_again == key
    assert len(decoded_paths) == 12  # those of the comparison
    assert caplog.records == []


# ----------------------------------------------------------------------- processes, memory


def make_in_a_process(folder: Path, cache: Path, log_path: Path, start: Any, found: Any) -> None:
    messages: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    start.wait()  # importing torch takes longer than decoding
    found.put((content_key(make_slowly(folder, cache, 4, log_path)), messages))


def test_of_several_processes_one_decodes_and_the_others_wait_and_read(tmp_path):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    put_pictures(folder, 24)
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(2), context.Queue()
    arguments = (folder, cache, tmp_path / "log", start, found)
    processes = [context.Process(target=make_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)

    assert [process.exitcode for process in processes] == [0, 0]
    assert [key for key, _ in results] == 2 * [content_key(in_memory(folder))]
    assert len((tmp_path / "log").read_text().splitlines()) == 24
    waiting = [messages for _, messages in results if messages[0].startswith("waiting for another run that makes ")]
    assert len(waiting) == 1
    assert len(waiting[0]) == 1
    assert names_in(cache) == WHOLE


MEMORY = """
import sys, threading, time
from pathlib import Path
from gan_lab.data.decode import decode_images
from gan_lab.data.decoded import decoded_images

def anonymous_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

def watch():
    while True:
        seen.append(anonymous_mib())
        time.sleep(0.005)

folder = Path(sys.argv[1])
files = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
decode_images([folder / file for file in files[:64]], image_size=256, channels=3)  # modules, threads
before, seen = anonymous_mib(), []
threading.Thread(target=watch, daemon=True).start()
samples, _ = decoded_images(folder, files, image_size=256, channels=3, cache_dir=sys.argv[2] or None)
assert len(samples) == len(files)
print(max(seen) - before)
"""


@on_linux
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    put_pictures(tmp_path / "pictures", 600)  # 113 MiB decoded
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "pictures"), str(tmp_path / "cache")]

    for _ in range(2):  # made, and read
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 25
