import json
import os
from pathlib import Path
from typing import Any

import pytest

from gan_lab.errors import ConfigError
from gan_lab.record import RunRecord, find_run


def write(run_dir: Path, started: str, *resumed: str, touched: int = 0) -> Path:
    """A run's record, with the times of day at which it was started and resumed; touched: the file's own time."""
    run_dir.mkdir(parents=True)
    sittings = [{"at": f"2026-01-02T{at}+00:00", "from_images": 0, "changed": {}} for at in resumed]
    content: dict[str, Any] = {"status": "running", "started": f"2026-01-02T{started}+00:00", "resumed": sittings}
    (run_dir / "run.json").write_text(json.dumps(content))
    os.utime(run_dir / "run.json", (touched, touched))
    return run_dir


def test_latest_is_the_run_that_was_started_last_not_the_one_that_has_written_last(tmp_path: Path) -> None:
    write(tmp_path / "day" / "1-long", "10:00:00", touched=2_000)
    short = write(tmp_path / "day" / "2-short", "11:00:00", touched=1_000)
    assert find_run("latest", tmp_path) == short
    resumed = write(tmp_path / "day" / "0-resumed", "09:00:00", "09:30:00", "11:00:01")
    assert find_run("latest", tmp_path) == resumed


def test_latest_is_found_however_deep_it_lies(tmp_path: Path) -> None:
    write(tmp_path / "day" / "1-one", "10:00:00")
    trial = write(tmp_path / "sweeps" / "s" / "0", "10:30:00")
    assert find_run("latest", tmp_path) == trial
    deep = write(tmp_path / "day" / "2-a" / "b", "11:00:00")
    write(deep / "checkpoints" / "not-a-run-of-its-own", "12:00:00")
    assert find_run("latest", tmp_path) == deep


def test_latest_passes_over_records_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run=latest: there is no run in .*; give its directory: run=DIR"):
        find_run("latest", tmp_path)
    run_dir = write(tmp_path / "day" / "1-one", "10:00:00")
    for name, text in (("2-damaged", "{"), ("3-empty", "{}"), ("4-list", "[]"), ("5-other", '{"started": 3}')):
        (tmp_path / "day" / name).mkdir()
        (tmp_path / "day" / name / "run.json").write_text(text)
    assert find_run("latest", tmp_path) == run_dir


def test_a_run_that_was_made_is_the_latest(tmp_path: Path) -> None:
    write(tmp_path / "day" / "1-one", "10:00:00")
    run_dir = tmp_path / "day" / "2-a" / "b"
    run_dir.mkdir(parents=True)
    RunRecord.create(run_dir, name="a/b", seed=0)
    assert find_run("latest", tmp_path) == run_dir
