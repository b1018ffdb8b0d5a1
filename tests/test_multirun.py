"""Sweeps: one directory a run, all checked before the first, and one that fails does not stop the others."""

from pathlib import Path

import pytest
import yaml
from conftest import rows_without_wall_time
from test_cli import SMALL, called, done, record_of

from gan_lab.files import read_json

SWEEP = ["loss=vanilla,hinge", "seed=1,2"]
CHOICES = [["loss=vanilla", "seed=1"], ["loss=vanilla", "seed=2"], ["loss=hinge", "seed=1"], ["loss=hinge", "seed=2"]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished sweep over losses and seeds."""
    cwd = tmp_path_factory.mktemp("sweep")
    result = done("train", "-m", *SMALL, *SWEEP, cwd=cwd)
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    relative = folder.relative_to(cwd)
    printed = [line for line in result.out.splitlines() if line.startswith("run: ")]
    assert printed == [f"run: {relative}/{number}" for number in range(4)]
    return folder


def test_one_directory_a_run(sweep: Path) -> None:
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2", "3", "conf", "workers"]
    for number, choice in enumerate(CHOICES):
        run_dir = sweep / str(number)
        record = record_of(run_dir)
        assert record["status"] == "finished"
        assert (record["seed"], record["images_seen"]) == (int(choice[1][-1]), 64)
        overrides = yaml.safe_load((run_dir / ".hydra" / "overrides.yaml").read_text())
        assert set(choice) <= set(overrides)
        resolved = yaml.safe_load((run_dir / ".hydra" / "resolved.yaml").read_text())
        assert resolved["loss"]["adversarial"]["_target_"] == f"gan_lab.losses.{choice[0].removeprefix('loss=')}"
        assert record["name"] == f"digits-mlp-{choice[0].removeprefix('loss=')}"
        assert (run_dir / "checkpoints" / "last.ckpt").is_file()
        assert (run_dir / "run.log").is_file()
    files = {path.name for path in sweep.iterdir() if path.is_file()}
    assert files == {".lock", "sweep.json", "report.html", "report.md", "trials.csv"}


def test_runs_of_a_sweep_are_the_runs_alone(sweep: Path, tmp_path: Path) -> None:
    """Nothing is left in the process by the run before."""
    done("train", *SMALL, *CHOICES[3], "hydra.run.dir=run", cwd=tmp_path)
    assert rows_without_wall_time(tmp_path / "run") == rows_without_wall_time(sweep / "3")
    different = {repr(rows_without_wall_time(sweep / str(number))) for number in range(4)}
    assert len(different) == 4


def test_run_of_a_sweep_is_resumed(tmp_path: Path) -> None:
    done("train", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=sweep", cwd=tmp_path)
    done("resume", "run=sweep/1", "budget.kimg=0.08", cwd=tmp_path)
    done("train", *SMALL, "seed=2", "budget.kimg=0.08", "hydra.run.dir=whole", cwd=tmp_path)
    one, other = (rows_without_wall_time(tmp_path / name)[-1] for name in ("sweep/1", "whole"))
    assert one["images_seen"] == other["images_seen"] == "80"
    assert one["sliced_wasserstein"] == other["sliced_wasserstein"]


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (["loss=vanilla,hing"], "loss=hing: no such option; did you mean hinge?"),
        (["seed=1,x"], "seed=x: expected an integer at least 0 (with seed=x)"),
        (
            ["dataset=digits,gaussian_ring", "model=mlp,article_conv"],
            "model.generator (gan_lab.models.article.ConvGenerator) is for images, and the data set (gaussian_ring) "
            "has points; use model=mlp (with dataset=gaussian_ring model=article_conv)",
        ),
    ],
)
def test_wrong_combination_is_refused_before_the_first_run(choices: list[str], problem: str, tmp_path: Path) -> None:
    arguments = [text for text in SMALL if not text.startswith("model.depth")]  # not a key of article_conv
    result = called("train", "-m", *arguments, *choices, cwd=tmp_path)
    assert (result.code, result.out, result.err) == (2, "", f"error: {problem}\n")
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    result = called("train", "-m", *SMALL, "optimizer.lr=1e30,1e-3", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.code == 1
    assert [line for line in result.out.splitlines() if line.startswith("run: ")] == ["run: sweep/1"]
    assert [record_of(tmp_path / "sweep" / name)["status"] for name in "01"] == ["failed", "finished"]
    assert "#0 failed after " in result.err
    assert ": the generator's loss became nan at 16 images" in result.err
    assert "Traceback" not in result.err
    assert result.err.count("loss became") == 1


def test_the_objective_of_each_run_is_kept(tmp_path: Path) -> None:
    """Whatever decides in a run: the final value of the metric named by `objective`."""
    done("train", "-m", *SMALL, "objective=loss/generator,null", "hydra.sweep.dir=s", cwd=tmp_path)
    values = [read_json(tmp_path / "s" / name / "trial.json")["values"] for name in "01"]
    rows = [rows_without_wall_time(tmp_path / "s" / name)[-1] for name in "01"]
    assert values == [{"loss/generator": float(row["loss/generator"])} for row in rows]


def test_joblib_runs_several_at_once_with_the_same_numbers(sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra joblib")
    from joblib.externals.loky import get_reusable_executor

    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    try:
        result = called("train", "-m", *SMALL, "loss=hinge", "seed=1,2", *launcher, cwd=tmp_path)
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert result.code == 0, result.err
    for number, same in ((0, 2), (1, 3)):
        assert record_of(tmp_path / "sweep" / str(number))["status"] == "finished"
        assert rows_without_wall_time(tmp_path / "sweep" / str(number)) == rows_without_wall_time(sweep / str(same))
