"""Each failure of training, brought about on purpose, is named; and what was asked for then is done."""

import json
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import Result, called, done, record_of

from gan_lab.files import read_checkpoint

BASE = [
    "model.width=64",
    "model.depth=2",
    "batch_size=32",
    "callbacks.metrics.every_kimg=0.2",
    "callbacks.samples=null",
]
SURE = ["model.discriminator.dropout=0.0", "optimizer.lr=1e-9", "optimizer.discriminator.lr=0.003"]
"""D learns and G stands still: D tells noise from digits."""
FAILURES = {
    "discriminator_won": [*BASE, *SURE, "budget.kimg=4", "callbacks.health.patience_kimg=1", "evaluation=none"],
    "vanishing_gradient": [  # a step so large that every unit of G is dead, or saturated
        *(*BASE, "model.generator.norm=none", "model.generator.slope=0.0", "optimizer.lr=1", "budget.kimg=3"),
        *("optimizer.discriminator.lr=0.001", "callbacks.health.patience_kimg=1", "evaluation=none"),
    ],
    "exploding_gradient": [
        *(*BASE, "loss=wgan", "loss.weight_clip=null", "loss.num_discriminator_steps=1", "optimizer.lr=0.03"),
        *("model.discriminator.dropout=0.0", "budget.kimg=12", "evaluation=none"),
    ],
    "mode_collapse": [
        *("model=dcgan", "model.width=8", "model.generator.norm=none", "model.generator.init_std=1e-12"),
        *("optimizer.lr=0.0002", "optimizer.generator.lr=1e-12", "batch_size=32", "budget.kimg=2"),
        *("evaluation.every_kimg=0.5", "evaluation.num_samples=200", "evaluation.extractor=none"),
    ],
}


def problems(run_dir: Path) -> list[str]:
    return [finding["problem"] for finding in record_of(run_dir).get("health", [])]  # type: ignore[attr-defined]


def texts(run_dir: Path) -> str:
    """What TensorBoard shows under health."""
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return "".join(
        event.tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
        if tag.startswith("health")
        for event in events.Tensors(tag)
    )


@pytest.mark.parametrize("problem", FAILURES)
def test_a_failure_is_named_in_the_log_in_tensorboard_and_in_run_json(problem: str, tmp_path: Path) -> None:
    result = done("train", *FAILURES[problem], "hydra.run.dir=run", cwd=tmp_path)
    run_dir = tmp_path / "run"

    assert problem in problems(run_dir)
    assert len(problems(run_dir)) == len(set(problems(run_dir)))  # each once
    assert f"warning: {problem}: " in result.err
    assert f"WARNING gan_lab.callbacks.health: warning: {problem}: " in (run_dir / "run.log").read_text()
    assert f"**{problem}** " in texts(run_dir)
    assert record_of(run_dir)["status"] == "finished"


def failed(*arguments: str, cwd: Path) -> Result:
    result = called(*arguments, cwd=cwd)
    assert result.code == 1
    assert "Traceback" not in result.err
    return result


def test_a_loss_that_is_not_a_number_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    result = failed("train", *BASE, "optimizer.lr=1e30", "budget.kimg=2", "hydra.run.dir=run", cwd=tmp_path)

    assert set(threading.enumerate()) <= threads  # TensorBoard's writer has nothing left to write
    assert "**non_finite** " in texts(tmp_path / "run")
    assert problems(tmp_path / "run") == ["non_finite"]
    assert result.err.count("loss became") == 1
    assert record_of(tmp_path / "run")["status"] == "failed"


def test_stop_ends_the_run_as_failed_with_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    overrides = [*FAILURES["discriminator_won"], "callbacks.health.action=stop", "budget.kimg=30"]
    result = failed("train", *overrides, "hydra.run.dir=run", cwd=tmp_path)
    record = record_of(tmp_path / "run")
    found = record["health"][0]["images_seen"]  # type: ignore[index]

    assert record["status"] == "failed"
    assert str(record["error"]).startswith(f"stopped by the health watch at {found + 32:,} images: From ")
    assert f"error: {record['error']}" in result.err
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["images_seen"] == found + 32

    done("resume", "run=run", "callbacks.health.action=warn", "budget.kimg=6", cwd=tmp_path)
    assert record_of(tmp_path / "run")["status"] == "finished"
    assert problems(tmp_path / "run") == ["discriminator_won"]  # the watch remembers that it has said so


def test_roll_back_goes_on_from_the_last_good_checkpoint_with_lower_rates(tmp_path: Path) -> None:
    done("train", *BASE, "budget.kimg=1", "hydra.run.dir=run", cwd=tmp_path)
    overrides = ["optimizer.lr=1e30", "callbacks.health.action=roll_back", "callbacks.health.lr_factor=1e-34"]
    result = done("resume", "run=run", *overrides, "budget.kimg=2", cwd=tmp_path)
    record = record_of(tmp_path / "run")

    assert [(back["to_images"]) for back in record["roll_backs"]] == [1024]  # type: ignore[attr-defined]
    assert problems(tmp_path / "run") == ["non_finite"]
    assert "rolled back to 1,024 images, with lower learning rates" in result.err
    assert (record["status"], record["images_seen"]) == ("finished", 2016)
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    rates = [state["optimizers"][player]["param_groups"][0]["lr"] for player in ("generator", "discriminator")]
    assert rates == pytest.approx([1e-4, 1e-4], rel=1e-9)


def test_roll_back_from_the_start_where_there_is_no_checkpoint_and_only_so_often(tmp_path: Path) -> None:
    overrides = ["optimizer.lr=1e30", "callbacks.health.action=roll_back", "callbacks.health.most_roll_backs=2"]
    failed("train", *BASE, *overrides, "budget.kimg=2", "hydra.run.dir=run", cwd=tmp_path)
    record = record_of(tmp_path / "run")

    assert [back["to_images"] for back in record["roll_backs"]] == [0, 0]  # type: ignore[attr-defined]
    assert problems(tmp_path / "run") == ["non_finite"] * 3
    assert record["status"] == "failed"


def test_a_state_that_shows_a_problem_does_not_replace_the_last_good_one(tmp_path: Path) -> None:
    """D has won from about 600 images on; the watch is sure 1 kimg later and rolls back to before."""
    overrides = [*FAILURES["discriminator_won"], "callbacks.health.action=roll_back", "callbacks.health.lr_factor=0"]
    done("train", *overrides, "callbacks.checkpoint.every_kimg=0.2", "hydra.run.dir=run", cwd=tmp_path)
    record = record_of(tmp_path / "run")
    (back,) = record["roll_backs"]  # type: ignore[misc]

    began = int(record["health"][0]["message"].split()[1].replace(",", ""))  # type: ignore[index]
    assert 0 < back["to_images"] < began
    assert began - back["to_images"] <= 224


def test_late_collapse_after_a_resume_with_a_rate_that_ruins_the_generator(tmp_path: Path) -> None:
    evaluation = ["evaluation.every_kimg=1", "evaluation.num_samples=200", "evaluation.extractor=none"]
    done("train", *BASE, *evaluation, "budget.kimg=4", "hydra.run.dir=run", cwd=tmp_path)
    assert problems(tmp_path / "run") == []
    best = record_of(tmp_path / "run")["best"]
    result = done("resume", "run=run", "optimizer.lr=1", "budget.kimg=9", cwd=tmp_path)

    assert "late_collapse" in problems(tmp_path / "run")
    assert f"its best, {best['value']:.4g} at {best['images_seen']:,} images" in result.err  # type: ignore[index]
    assert record_of(tmp_path / "run")["best"] == best


def test_discriminator_overfitting_is_found_in_its_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out pictures of another kind: D, which has learned the training set, takes them for fakes."""
    import torch

    from gan_lab import config
    from gan_lab.data import Data

    gray = torch.full((300, 1, 8, 8), 128, dtype=torch.uint8)
    monkeypatch.setattr(config, "build_held_out", lambda config: Data(gray, None, None))
    overrides = [*BASE, "budget.kimg=6", "evaluation.every_kimg=1", "evaluation.extractor=none", "optimizer.lr=0.001"]
    done("train", *overrides, "evaluation.num_samples=200", "hydra.run.dir=run", cwd=tmp_path)

    assert "discriminator_overfitting" in problems(tmp_path / "run")


def test_a_run_of_several_processes_is_not_rolled_back(tmp_path: Path) -> None:
    arguments = ["accelerator=ddp", "accelerator.device=cpu", "callbacks.health.action=roll_back"]
    result = called("train", *arguments, cwd=tmp_path)

    assert result.code == 2
    assert "callbacks.health.action=roll_back with accelerator.num_processes=2" in result.err


def test_a_healthy_run_raises_nothing(tmp_path: Path) -> None:
    done(
        "train",
        *BASE,
        "optimizer.lr=0.0005",
        "budget.kimg=20",
        "evaluation.every_kimg=4",
        "hydra.run.dir=r",
        cwd=tmp_path,
    )

    assert "health" not in json.loads((tmp_path / "r" / "run.json").read_text())


def test_without_the_watch_a_run_trains_as_before(tmp_path: Path) -> None:
    done("train", *BASE, "callbacks.health=null", "budget.kimg=1", "hydra.run.dir=run", cwd=tmp_path)

    assert record_of(tmp_path / "run")["status"] == "finished"
