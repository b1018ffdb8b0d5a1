"""A run is repeated byte for byte, however it ended; what is not the same is named."""

import csv
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from conftest import TINY, assert_same_run
from omegaconf import OmegaConf
from test_cli import called, done
from test_resume import RUN, start, wait_for_row

from gan_lab.errors import ConfigError, RunError
from gan_lab.files import write_tensors
from gan_lab.record import RunRecord
from gan_lab.reproduce import Reproduction, compare, in_words, repeat, reproduce

QUICK = [*TINY, "callbacks.metrics.every_kimg=0.5", "evaluation.num_samples=64", "callbacks.samples.num=4"]


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("finished")
    done("train", *QUICK, "hydra.run.dir=run", cwd=cwd)
    return cwd / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def record_of(run_dir: Path | str) -> dict[str, Any]:
    return json.loads(Path(run_dir, "run.json").read_text())


def change_record(run_dir: Path, **changes: Any) -> None:
    (run_dir / "run.json").write_text(json.dumps(record_of(run_dir) | changes))


def change_config(run_dir: Path, key: str, value: Any) -> None:
    path = run_dir / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(path)
    OmegaConf.update(cfg, key, value)
    OmegaConf.save(cfg, path)


# ---------------------------------------------------------------------- runs


def test_finished_run_is_repeated(run: Path) -> None:
    result = repeat(Reproduction("run"))
    assert result["same"]
    (again,) = Path("outputs").glob("*/*-digits-mlp-vanilla-again")
    assert result["run"] == str(again)
    assert_same_run(run, again)
    assert json.loads((again / "reproduction.json").read_text()) == result
    words = "same: 4 rows of 32 metrics, the best score and all weights are equal, byte for byte"
    assert in_words(result).splitlines()[0] == words
    assert (result["num_rows"], result["images_seen"], result["notes"]) == (4, 2016, [])
    record = record_of(again)
    assert (record["status"], record["repeats"]) == ("finished", "run")
    before, after = (OmegaConf.load(run_dir / ".hydra" / "config.yaml") for run_dir in (run, again))
    assert after.accelerator.num_threads == record["machine"]["threads"] == record_of(run)["machine"]["threads"]
    after.accelerator.num_threads = before.accelerator.num_threads
    assert before == after


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> "Noon":
        return cls(2026, 1, 31, 12)


def test_two_repetitions_have_two_directories(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_lab.reproduce.datetime", Noon)
    change_config(run, "budget.kimg", 0.032)
    change_record(run, images_seen=32)
    runs = [repeat(Reproduction("run"))["run"] for _ in range(3)]
    first = "outputs/2026-01-31/12-00-00-digits-mlp-vanilla-again"
    assert runs == [first, f"{first}-2", f"{first}-3"]


def test_interrupted_run_is_repeated_to_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rate depends on the whole budget; a row and a score at the end are only for those that finish."""
    monkeypatch.chdir(tmp_path)
    shorter = ["budget.kimg=6", "callbacks.checkpoint.every_kimg=1000"]
    process = start(tmp_path, *RUN, *shorter, "hydra.run.dir=run")
    wait_for_row(tmp_path / "run", 2000, process)
    process.send_signal(signal.SIGTERM)
    assert "gan-lab resume" in process.communicate(timeout=60)[0]
    images = record_of("run")["images_seen"]
    assert 2000 < images < 6000

    result = repeat(Reproduction("run", out="again"))
    assert result["same"], in_words(result)
    assert result["images_seen"] == record_of("again")["images_seen"] == images
    assert record_of("again")["status"] == "interrupted"
    assert_same_run(Path("run"), Path("again"))
    for name in ("run", "again"):  # both go on to the same end
        done("resume", f"run={name}", cwd=tmp_path)
    assert_same_run(Path("run"), Path("again"))
    assert record_of("again")["images_seen"] == 6016


def test_killed_run_is_repeated_to_its_last_checkpoint(run: Path) -> None:
    """What it had written after that is not compared, nor a line that was cut short."""
    change_record(run, status="running")
    with (run / "metrics.csv").open("a") as file:
        file.write("2528,1.0\n20")
    assert repeat(Reproduction("run", out="again"))["same"]


def test_run_whose_time_was_up_is_repeated_to_its_last_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done("train", *QUICK, "budget.kimg=1000000", "budget.minutes=0.005", "hydra.run.dir=run", cwd=tmp_path)
    result = repeat(Reproduction("run", out="again"))
    assert result["same"], in_words(result)
    assert result["num_rows"] > 0
    assert_same_run(Path("run"), Path("again"))
    assert record_of("again")["status"] == "finished"
    assert OmegaConf.load("again/.hydra/config.yaml").budget.minutes == 0.005


def test_run_that_the_health_watch_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stops = ["callbacks.health.action=stop", "callbacks.health.patience_evaluations=1", "evaluation.every_kimg=0.25"]
    stops += ["callbacks.health.late_factor=1.01", "optimizer.lr=0.1", "budget.kimg=20"]
    result = called("train", *QUICK, *stops, "hydra.run.dir=run", cwd=tmp_path)
    assert "stopped by the health watch" in result.err
    repeated = repeat(Reproduction("run", out="again"))
    assert repeated["same"], in_words(repeated)
    assert record_of("again")["error"] == record_of("run")["error"]


@pytest.mark.skipif(joblib.cpu_count() < 2, reason="needs two cores")
def test_threads_of_the_original_are_used(run: Path) -> None:
    change_record(run, machine={**record_of(run)["machine"], "threads": 2})
    result = repeat(Reproduction("run", out="again"))
    assert record_of("again")["machine"]["threads"] == 2
    assert "threads" not in result["differs"]


# ---------------------------------------------------------------------- runs that are not the same


def test_other_settings_are_found_out(run: Path) -> None:
    change_config(run, "optimizer.lr", 0.000201)
    change_record(run, versions={**record_of(run)["versions"], "torch": "1.0"}, git={"commit": "abc", "changed": True})
    result = repeat(Reproduction("run", out="again"))
    assert not result["same"]
    first, largest = result["first_difference"], result["largest_final_difference"]
    assert (first["images_seen"], first["metric"]) == (512, "loss/discriminator")
    assert 0 < first["relative"] < 0.01
    assert first["relative"] == pytest.approx(abs(first["original"] / first["again"] - 1), rel=0.01)
    assert largest["relative"] >= first["relative"]
    assert result["weights"] == {"generator": False, "generator_ema": False, "discriminator": False}
    assert result["differs"]["torch"] == ["1.0", record_of("again")["versions"]["torch"]]
    words = in_words(result).splitlines()
    assert words[0].startswith("different: first in loss/discriminator at 512 images: ")
    assert words[1].startswith("largest relative difference of the final metrics: ")
    assert words[2] == "weights: generator, discriminator, generator_ema differ"
    assert words[3].startswith("best: fd ")
    assert f"torch: 1.0; now {result['differs']['torch'][1]}" in words
    assert any(line.startswith("commit: abc; now ") for line in words)


def test_repetition_that_ends_early_is_compared_too(run: Path) -> None:
    change_config(run, "optimizer.lr", 1e30)
    result = repeat(Reproduction("run", out="again"))
    assert not result["same"]
    assert result["failure"].startswith("the repetition ended early: the generator's loss became nan")
    assert in_words(result).startswith("different: the repetition ended early")
    assert record_of("again")["status"] == "failed"


def test_what_cannot_be_repeated_exactly_is_said(run: Path) -> None:
    resumed = [
        {"at": "", "from_images": 512, "changed": {}},
        {"at": "", "from_images": 1024, "changed": {"optimizer.lr": [1, 2], "seed": [0, 1]}},
    ]
    machine = {**record_of(run)["machine"], "threads": 4096}
    change_record(run, resumed=resumed, roll_backs=[{"to_images": 0}], machine=machine)
    notes = repeat(Reproduction("run", out="again"))["notes"]
    assert notes == [
        "the original was resumed at 1,024 images with other settings (optimizer.lr, seed); the repetition has the "
        "last ones from its start",
        "the original was rolled back 1 time(s), to checkpoints that depend on the clock",
        f"the original had 4096 threads, and this process may use {joblib.cpu_count()} cores",
    ]


def test_verdict_is_printed_and_a_difference_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(Reproduction("run", out="again")) == Path("again")
    assert capsys.readouterr().out.startswith("same: 4 rows")
    change_config(run, "seed", 1)
    with pytest.raises(RunError, match="run and its repetition other are not the same"):
        reproduce(Reproduction("run", out="other"))
    assert capsys.readouterr().out.startswith("different: first in loss/discriminator at 512 images")
    assert json.loads(Path("other", "reproduction.json").read_text())["same"] is False


# ---------------------------------------------------------------------- refused


def test_runs_with_nothing_to_compare_are_refused(run: Path) -> None:
    Path("there").mkdir()
    Path("there", "run.json").touch()
    with pytest.raises(ConfigError, match="out=there already holds a run"):
        repeat(Reproduction("run", out="there"))
    with RunRecord.load(run).locked(), pytest.raises(RunError, match="is being trained by another process"):
        repeat(Reproduction("run"))
    change_config(run, "batch_size", 0)
    with pytest.raises(ConfigError, match="batch_size=0"):
        repeat(Reproduction("run"))
    (run / "checkpoints" / "last.ckpt").unlink()
    change_record(run, error="it became nan")
    with pytest.raises(RunError, match=r"has no checkpoint, so nothing to compare with \(it failed: it became nan\)"):
        repeat(Reproduction("run"))
    (run / ".hydra" / "config.yaml").unlink()
    with pytest.raises((ConfigError, RunError)):
        repeat(Reproduction("run"))
    assert not Path("outputs").exists()


def test_a_run_that_cannot_be_written_to(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's, say; root may write everywhere, so the answer is given here."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = sorted(path.name for path in run.iterdir())
    (run / ".lock").unlink()
    assert repeat(Reproduction("run", out="again"))["same"]
    assert sorted(path.name for path in run.iterdir()) == [name for name in before if name != ".lock"]


# ---------------------------------------------------------------------- the comparison


def written(
    run_dir: Path, rows: list[dict[str, Any]], weights: torch.Tensor, encoder: torch.Tensor | None = None
) -> RunRecord:
    run_dir.mkdir()
    with (run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    (run_dir / "checkpoints").mkdir()
    networks = {name: {"weight": weights} for name in ("generator", "generator_ema", "discriminator")}
    if encoder is not None:
        networks["encoder"] = {"weight": encoder}
    others = {"counters": {"images_seen": 20}, "recorded": {"sums": {}, "counts": {}}}
    write_tensors(run_dir / "checkpoints" / "last.ckpt", {"format": "gan_lab checkpoint 1", **networks, **others})
    return RunRecord(run_dir, {"best": None})


ROWS = [
    {"images_seen": 10, "a": "1.0", "fd": "", "wall_seconds": "1", "card": ""},
    {"images_seen": 20, "a": "nan", "fd": "2.0", "wall_seconds": "2", "card": "cnn 1"},
]
WEIGHTS = torch.tensor([0.0, float("nan"), 1.0])


def compared(tmp_path: Path, rows: list[dict[str, Any]], weights: torch.Tensor = WEIGHTS, images: int = 20) -> Any:
    original = written(tmp_path / "original", ROWS, WEIGHTS)
    return compare(original, written(tmp_path / "again", rows, weights), images) | {"notes": []}


def test_only_wall_times_may_differ(tmp_path: Path) -> None:
    rows = [{**row, "wall_seconds": "9", "images_per_second": "3"} for row in ROWS]
    result = compared(tmp_path, rows)
    assert result["same"]
    assert (result["num_rows"], result["num_metrics"], result["best"]) == (2, 2, None)
    assert in_words(result) == "same: 2 rows of 2 metrics and all weights are equal, byte for byte"


@pytest.mark.parametrize(
    ("rows", "first", "largest", "words"),
    [
        (
            [ROWS[0], {**ROWS[1], "fd": "2.5"}],
            {"images_seen": 20, "metric": "fd", "original": 2.0, "again": 2.5, "relative": 0.2},
            ("fd", 0.2),
            "first in fd at 20 images: 2.0, now 2.5 (relative difference 2.0e-01)",
        ),
        (
            [{**ROWS[0], "a": "1.0000000000000002"}, ROWS[1]],
            {
                "images_seen": 10,
                "metric": "a",
                "original": 1.0,
                "again": 1.0000000000000002,
                "relative": pytest.approx(2**-52),
            },
            None,
            "first in a at 10 images: 1.0, now 1.0000000000000002 (relative difference 2.2e-16)",
        ),
        (
            [ROWS[0], {**ROWS[1], "a": "3.0"}],
            {"images_seen": 20, "metric": "a", "again": 3.0, "relative": None},
            None,
            "first in a at 20 images: nan, now 3.0",
        ),
        (
            [ROWS[0], {**ROWS[1], "card": "cnn 2"}],
            {"images_seen": 20, "metric": "card", "original": "cnn 1", "again": "cnn 2", "relative": None},
            None,
            "first in card at 20 images: cnn 1, now cnn 2",
        ),
        (
            [ROWS[0]],
            {"images_seen": 20, "metric": None, "only_in": "original"},
            None,
            "only the original has a row at 20",
        ),
        (
            [ROWS[0], {"images_seen": 15, "a": "1.0"}, ROWS[1]],
            {"images_seen": 15, "metric": None, "only_in": "again"},
            None,
            "only the repetition has a row at 15 images",
        ),
        (
            [{**row, "new": "1.0"} for row in ROWS],
            {"images_seen": 10, "metric": "new", "original": None, "again": 1.0, "relative": None},
            None,
            "first in new at 10 images: none, now 1.0",
        ),
    ],
)
def test_first_difference(
    rows: list[dict[str, Any]], first: dict[str, Any], largest: Any, words: str, tmp_path: Path
) -> None:
    result = compared(tmp_path, rows)
    found = result["first_difference"]
    assert not result["same"]
    assert {name: found[name] for name in first} == first
    final = result["largest_final_difference"]
    assert (final and (final["metric"], pytest.approx(final["relative"]))) == largest
    assert in_words(result).startswith(f"different: {words}")
    assert "weights: generator, generator_ema, discriminator equal" in in_words(result)


def test_rows_after_the_images_that_are_compared_do_not_count(tmp_path: Path) -> None:
    assert compared(tmp_path, [ROWS[0]], images=15)["same"]


@pytest.mark.parametrize(
    "weights",
    [
        torch.tensor([-0.0, float("nan"), 1.0]),
        torch.tensor([0.0, float("nan"), 1.0000001]),
        torch.tensor([[0.0], [float("nan")], [1.0]]),
        torch.tensor([0.0, float("nan"), 1.0], dtype=torch.float64),
    ],
)
def test_weights_are_compared_to_the_last_bit(weights: torch.Tensor, tmp_path: Path) -> None:
    result = compared(tmp_path, ROWS, weights)
    assert not result["same"]
    assert in_words(result).splitlines() == [
        "different: 2 rows of 2 metrics are equal, and yet not all else is",
        "weights: generator, generator_ema, discriminator differ",
    ]


@pytest.mark.parametrize("encoders", [(WEIGHTS, WEIGHTS + 1), (WEIGHTS, None), (None, WEIGHTS)])
def test_an_encoder_is_compared_where_either_run_has_one(
    encoders: tuple[torch.Tensor | None, torch.Tensor | None], tmp_path: Path
) -> None:
    original, again = (
        written(tmp_path / name, ROWS, WEIGHTS, encoder)
        for name, encoder in zip(("original", "again"), encoders, strict=True)
    )
    result = compare(original, again, 20)
    assert not result["same"]
    assert [name for name, is_equal in result["weights"].items() if not is_equal] == ["encoder"]
