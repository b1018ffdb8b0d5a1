"""Files are whole or absent; checkpoints hold data, never code."""

import fcntl
import json
import logging
import os
import pickle
import stat
import threading
from pathlib import Path

import pytest
import torch

from gan_lab.errors import RunError
from gan_lab.files import locked, read_checkpoint, replacing, try_lock, write_checkpoint, write_json

CHECKPOINT = {"format": "gan_lab checkpoint 1", "weights": torch.arange(3.0), "counters": {"d_steps": 5}, "name": "é"}


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_replaced_file_is_new_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "folder" / "file"
    for content in (b"one", b"two, longer", b""):
        with replacing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file"]


def test_a_private_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "file"
    for private, mode in ((False, 0o644), (True, 0o600), (False, 0o644)):
        mask = os.umask(0o022)
        try:
            write_json(path, {}, private=private)
        finally:
            os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_until_all_is_written_the_old_file_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_nothing_new(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail():
        with replacing(path) as file:
            file.write(b"half of ")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_disk_that_refuses_is_named_in_the_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*file: No space left on device"), replacing(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot write"), replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["file"]

    (tmp_path / "plain").write_text("")
    with pytest.raises(RunError, match="cannot write"), replacing(tmp_path / "plain" / "file"):
        pass


def test_the_file_is_flushed_to_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_json(tmp_path / "file", {})

    assert calls == ["fsync", "replace"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "file", {})

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_comes_back(tmp_path):
    content = {"status": "running", "seed": 0, "error": None, "nested": {"values": [1, 2.5]}}
    write_json(tmp_path / "run.json", content)

    assert json.loads((tmp_path / "run.json").read_text()) == content
    assert (tmp_path / "run.json").read_text().endswith("}\n")


def test_a_checkpoint_comes_back(tmp_path):
    write_checkpoint(tmp_path / "last.ckpt", CHECKPOINT)
    content = read_checkpoint(tmp_path / "last.ckpt")

    assert torch.equal(content.pop("weights"), CHECKPOINT["weights"])
    assert content == {key: value for key, value in CHECKPOINT.items() if key != "weights"}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_no_checkpoint(tmp_path):
    for path in (tmp_path / "last.ckpt", tmp_path):
        with pytest.raises(RunError, match="there is no checkpoint"):
            read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_called_damaged(tmp_path, share):
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, CHECKPOINT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(RunError, match="is damaged or truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text\n", b"\x00" * 100, b"\x89PNG\r\n\x1a\n" + b"\x01" * 50],
    ids=["text", "zeros, as a power cut leaves them", "picture"],
)
def test_a_file_of_another_kind_is_not_called_code(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)

    with pytest.raises(RunError, match="is damaged or truncated"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("save", ["zip", "legacy", "pickle", "old pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    path, proof = tmp_path / "last.ckpt", tmp_path / "proof"
    content = {**CHECKPOINT, "extra": Touch(proof)}
    if save in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    else:
        del content["weights"]
        path.write_bytes(pickle.dumps(content, protocol=4 if save == "pickle" else 2))

    with pytest.raises(RunError, match="contains pickled code and was not loaded"):
        read_checkpoint(path)
    assert not proof.exists()


def test_other_objects_in_a_checkpoint_are_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({**CHECKPOINT, "network": torch.nn.Linear(2, 2)}, path)

    with pytest.raises(RunError, match="contains pickled code and was not loaded"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}}, {"format": "gan_lab checkpoint 0"}, [1, 2], torch.zeros(2), "text"]
)
def test_data_of_another_program_is_not_a_checkpoint_of_ours(tmp_path, content):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)

    with pytest.raises(RunError, match="is not a checkpoint of gan_lab"):
        read_checkpoint(path)


def test_a_lock_is_held_while_its_file_is_open(tmp_path):
    """By one alone, or by any number of those that only look; two descriptors are as two processes."""
    with (tmp_path / "lock").open("a") as one, (tmp_path / "lock").open() as other:
        assert try_lock(one)
        assert not try_lock(other)
        assert not try_lock(other, shared=True)
        one.close()
        assert try_lock(other, shared=True)
        with (tmp_path / "lock").open() as third:
            assert try_lock(third, shared=True)
            assert not try_lock(third)


def test_what_is_locked_is_made_by_one_after_the_other(tmp_path, caplog):
    """Two threads hold locks of their own, as two processes do."""
    path, events, waiting = tmp_path / "deep" / "file", [], threading.Event()

    def second():
        for name in ("other", "file"):
            with locked(path.with_name(name)) as problem:
                events.append((name, problem))

    class Told(logging.Handler):
        def emit(self, record):
            events.append(record.getMessage())
            waiting.set()

    handler = Told(logging.INFO)
    logger = logging.getLogger("gan_lab.files")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO), locked(path) as problem:
            assert problem is None
            thread = threading.Thread(target=second)
            thread.start()
            assert waiting.wait(timeout=60)
            events.append("the first is done")
        thread.join(timeout=60)
    finally:
        logger.removeHandler(handler)

    waiting_for_file = "waiting for another run that makes file"
    assert events == [("other", None), waiting_for_file, "the first is done", ("file", None)]


def test_what_cannot_be_locked_is_told(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    with locked(tmp_path / "plain" / "file") as problem:
        assert isinstance(problem, OSError)

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "file") as problem:
        assert isinstance(problem, OSError)
        assert problem.strerror == "No locks available"


@pytest.mark.parametrize("folder", ["", "plain"])
def test_an_error_while_something_is_locked_is_that_error_alone(tmp_path, folder):
    (tmp_path / "plain").write_text("")
    with pytest.raises(KeyError) as caught, locked(tmp_path / folder / "file"):
        raise KeyError
    assert caught.value.__context__ is None
    with locked(tmp_path / "file") as problem:  # it is free again
        assert problem is None
