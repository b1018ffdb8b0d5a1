"""Results that are made once: their keys, damage, and several processes at once."""

import logging
import multiprocessing
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_lab.features.cache import Cache, code_key, content_key


def content() -> dict[str, Any]:
    return {"vectors": torch.arange(12.0).view(3, 4), "floor": {"fd": 1.5, "kd": -0.25}, "radii": None, "shape": [1, 8]}


def never() -> dict[str, Any]:
    raise AssertionError("this is made anew, though it is there")


def assert_is_content(found: dict[str, Any]) -> None:
    assert torch.equal(found.pop("vectors"), content()["vectors"])
    assert found == {key: value for key, value in content().items() if key != "vectors"}


# ----------------------------------------------------------------------- keys

DIFFERENT: dict[str, tuple[Any, ...]] = {
    "types of a value": (1, 1.0, "1", True, None, "True", "None", ""),
    "values": (0, False, -1, 0.0, -0.0, 1e-300, float("inf"), "a", "A"),
    "types of a tensor": tuple(torch.zeros(4, dtype=t) for t in (torch.int32, torch.float32, torch.uint8, torch.int64)),
    "shapes": tuple(torch.zeros(shape) for shape in ((6,), (6, 1), (1, 6), (2, 3), (3, 2), (1, 2, 3), (0,), (0, 3))),
    "a tensor and its text": (torch.tensor(1), 1, "tensor(1)", "tensor torch.int64 ()|"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_parts_have_different_keys(name):
    values = DIFFERENT[name]
    keys = [content_key(value) for value in values]
    assert len(set(keys)) == len(values)
    assert keys == [content_key(value) for value in values]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


def test_a_key_changes_with_any_byte():
    images = torch.randint(0, 256, (5, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys = {content_key(images)}
    for index in range(images.numel()):
        changed = images.clone()
        changed.view(-1)[index] ^= 1
        keys.add(content_key(changed))
    assert len(keys) == 1 + images.numel()


def test_a_key_changes_with_order_and_division():
    one, other = torch.zeros(2), torch.ones(2)
    parts: tuple[tuple[Tensor | str | int, ...], ...] = (
        *((one, other), (other, one), (torch.cat([one, other]),), (one,), (one, one), ()),
        *(("a", "b"), ("b", "a"), ("ab",), ("a|str 'b'",), ("a", "b", ""), (one, "a"), ("a", one), (1, 2), (12,)),
    )
    assert len({content_key(*own) for own in parts}) == len(parts)


def test_a_key_is_of_the_values_not_of_their_place():
    images = torch.arange(60.0).view(1, 3, 4, 5)
    assert content_key(images.contiguous(memory_format=torch.channels_last)) == content_key(images)
    assert content_key(torch.cat([images, images])[1:]) == content_key(images)
    assert content_key(images.clone().requires_grad_()) == content_key(images)


def test_the_key_of_the_code_is_stable():
    assert re.fullmatch("[0-9a-f]{12}", code_key())
    assert code_key() == code_key()


def test_the_key_of_the_code_changes_with_any_file(tmp_path, monkeypatch):
    monkeypatch.setattr("gan_lab.features.cache.PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text("a = 1")
    one = code_key()
    (tmp_path / "notes.txt").write_text("not code")
    assert code_key() == one
    (tmp_path / "b.py").write_text("b = 1")
    assert code_key() != one
    (tmp_path / "b.py").unlink()
    (tmp_path / "a.py").write_text("a = 2")
    assert code_key() != one


# ------------------------------------------------------------------- one process


def test_a_result_is_made_once_and_read_afterwards(tmp_path):
    cache = Cache(tmp_path / "deep" / "cache")
    assert_is_content(cache.get("reference", "k" * 64, content))
    assert_is_content(cache.get("reference", "k" * 64, never))
    assert_is_content(Cache(cache.folder).get("reference", "k" * 64, never))
    assert [path.name for path in cache.folder.glob("*.pt")] == [f"reference-{'k' * 32}.pt"]


def test_kinds_and_keys_are_kept_apart(tmp_path):
    cache = Cache(tmp_path)
    names = [("a", "1"), ("a", "2"), ("b", "1")]
    for number, name in enumerate(names):
        cache.get(*name, lambda number=number: {"number": number})
    assert [cache.get(*name, never)["number"] for name in names] == [0, 1, 2]


def truncate(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    "damage",
    [truncate, lambda whole: b"", lambda whole: b"not a file of torch", lambda whole: b"\x80\x02cos\nsystem\n."],
    ids=["truncated", "empty", "text", "code"],
)
def test_a_damaged_file_is_made_again_and_said_so(tmp_path, caplog, damage: Callable[[bytes], bytes]):
    cache = Cache(tmp_path)
    cache.get("reference", "key", content)
    path = tmp_path / "reference-key.pt"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert_is_content(cache.get("reference", "key", content))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert "made again" in record.getMessage()
    assert_is_content(cache.get("reference", "key", never))


def test_without_a_place_to_write_the_result_is_returned(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        assert_is_content(cache.get("reference", "key", content))
    (record,) = caplog.records
    assert str(tmp_path / "file") in record.getMessage()
    assert (tmp_path / "file").read_text() == "in the way"


def test_nothing_is_left_when_making_fails(tmp_path):
    class Failure(Exception):
        pass

    def fail() -> dict[str, Any]:
        raise Failure

    cache = Cache(tmp_path)
    with pytest.raises(Failure):
        cache.get("reference", "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".reference-key.pt.lock"]  # empty, and not held
    assert_is_content(cache.get("reference", "key", content))


def test_nothing_is_left_when_writing_fails(tmp_path, caplog, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with caplog.at_level(logging.WARNING):
        assert_is_content(Cache(tmp_path).get("reference", "key", content))
    assert "No space left on device" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [".reference-key.pt.lock"]


# -------------------------------------------------------------- several processes


def get_in_a_process(folder: Path, made: Path, start: Any, found: Any) -> None:
    def make() -> dict[str, Any]:
        with made.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return content()

    start.wait()  # importing torch takes longer than making
    found.put({key: value for key, value in Cache(folder).get("reference", "key", make).items() if key != "vectors"})


def test_of_several_processes_one_makes_it_and_the_others_read_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(3), context.Queue()
    arguments = (tmp_path / "cache", tmp_path / "made", start, found)
    processes = [context.Process(target=get_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    results = [found.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert results == 3 * [{key: value for key, value in content().items() if key != "vectors"}]
    assert (tmp_path / "made").read_text() == "made\n"
    assert_is_content(Cache(tmp_path / "cache").get("reference", "key", never))
