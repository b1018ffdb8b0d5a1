"""The command line where all is well: help, the run directory, what is printed where."""

import contextlib
import csv
import io
import json
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from conftest import ROOT, command, rows_without_wall_time
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from gan_lab.cli import VERBS, main
from gan_lab.compose import conf_dir

SMALL = [
    "model.width=8",
    "model.depth=1",
    "model.latent_dim=4",
    "batch_size=16",
    "budget.kimg=0.064",
    "callbacks.samples.num=4",
    "evaluation.num_samples=32",
]
"""Four cycles of model=mlp on digits: a fraction of a second once everything is imported."""


class Result(NamedTuple):
    code: int | None
    out: str
    err: str


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Gives back what a process of the command line may change for good: it ends afterwards, the tests go on."""
    root, arguments, directory, environment = logging.getLogger(), sys.argv, Path.cwd(), os.environ.copy()
    handlers, level, path = list(root.handlers), root.level, list(sys.path)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv = arguments
        sys.path[:] = path
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler_before in signals.items():
            signal.signal(number, handler_before)


def called(*arguments: str, cwd: Path, **environment: str) -> Result:
    """`gan-lab ...` in this process, in the directory `cwd`: saves the seconds that imports take."""
    out, err = io.StringIO(), io.StringIO()
    with restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(cwd)
        os.environ.update(environment)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    assert stop.value.code is None or isinstance(stop.value.code, int)
    return Result(stop.value.code, out.getvalue(), err.getvalue())


def done(*arguments: str, cwd: Path) -> Result:
    result = called(*arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result


def record_of(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "run.json").read_text())


# ---------------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_the_verbs(arguments: list[str], tmp_path: Path) -> None:
    result = done(*arguments, cwd=tmp_path)
    for verb in VERBS:
        assert f"gan-lab {verb} " in result.out
    assert result.err == ""


def test_help_of_train_names_every_group_and_option(tmp_path: Path) -> None:
    text = done("train", "--help", cwd=tmp_path).out
    lines = [line.strip() for line in text.splitlines()]
    groups = {path.parent.name for path in conf_dir().glob("*/*.yaml")}
    assert len(groups) >= 9
    for group in groups:
        start = lines.index(group)
        for path in (conf_dir() / group).glob("*.yaml"):
            comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
            description = next(line for line in comments if "@package" not in line).lstrip("# ")
            pattern = rf"\*?{path.stem} +{re.escape(description)}"
            assert any(re.fullmatch(pattern, line) for line in lines[start:]), path
    assert lines.count("(* is the default)") == 1
    for entry in yaml.safe_load((conf_dir() / "train.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            (group, option), *_ = entry.items()
            if group in groups and option is not None:
                assert any(line.startswith(f"*{option} ") for line in lines[lines.index(group) :])


def test_keys_in_the_help_of_train_exist(tmp_path: Path) -> None:
    """No key is advertised that the check refuses."""
    from gan_lab.compose import checked_overrides

    text = done("train", "--help", cwd=tmp_path).out
    section = text[text.index("Keys (key=value)") : text.index("Flags:")]
    keys = re.findall(r"(?<!\S)([a-z_]+(?:\.[a-z_]+)*)=(\S+)", section)
    assert len(keys) >= 14
    given = [f"{key}={value}" for key, value in keys if value != "DIR" and "interval" not in value]
    with restored():
        checked_overrides(["model=dcgan", "loss=wgan_gp", *given], None)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, tmp_path: Path) -> None:
    text = done(verb, "--help", cwd=tmp_path).out
    assert text.startswith(f"gan-lab {verb} ")
    assert "Examples:" in text
    if verb != "train":
        assert re.search(r"runs?=DIR", text)
    assert text == done(verb, "-h", cwd=tmp_path).out


def test_help_of_sample_names_every_argument(tmp_path: Path) -> None:
    from gan_lab.sample import Sampling

    text = done("sample", "--help", cwd=tmp_path).out
    for name, default in Sampling.__dataclass_fields__.items():
        assert f"\n  {name}=" in text
        if isinstance(default.default, int | str):
            assert f"\n  {name}={default.default} " in text


@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"], ["-cd=own"], ["--config-di", "own"]])
def test_help_shows_the_users_own_options(flag: list[str], tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\n# My own words\nseed: 3\n")
    text = done("train", "--help", *flag, cwd=tmp_path).out
    assert re.search(r"^ +mine +My own words$", text, re.MULTILINE)


def test_version(tmp_path: Path) -> None:
    from gan_lab import __version__

    assert done("--version", cwd=tmp_path).out == f"gan_lab {__version__}\n"


def test_cfg_prints_the_configuration_and_runs_nothing(tmp_path: Path) -> None:
    result = done("train", "model=dcgan", "seed=3", "--cfg", "job", cwd=tmp_path)
    printed = yaml.safe_load(result.out)
    assert printed["seed"] == 3
    assert printed["model"]["generator"]["_target_"] == "gan_lab.models.dcgan.Generator"
    assert printed["model"]["discriminator"]["norm"] == "${loss.discriminator_norm}"
    resolved = yaml.safe_load(done("train", "model=dcgan", "--cfg", "job", "--resolve", cwd=tmp_path).out)
    assert resolved["model"]["discriminator"]["norm"] == "batch"
    assert list(tmp_path.iterdir()) == []


def test_cfg_takes_the_keys_that_train_takes(tmp_path: Path) -> None:
    """Also legal ones that conf/ does not have, and with what must still be given; a mistyped one is named."""
    shown = done("train", "--cfg", "job", "callbacks.health.patience_kimg=3", "dataset=image_folder", cwd=tmp_path).out
    config = yaml.safe_load(shown)
    assert config["callbacks"]["health"]["patience_kimg"] == 3
    assert config["dataset"]["root"] == "???"
    result = called("train", "--cfg", "job", "callbacks.health.patence_kimg=3", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "callbacks.health.patence_kimg: unknown key; did you mean callbacks.health.patience_kimg?" in result.err


def test_cfg_all_resolved_makes_no_directory(tmp_path: Path) -> None:
    """The run's directory is made by resolving its name, but showing it starts no run."""
    printed = done("train", "--cfg", "all", "--resolve", cwd=tmp_path).out
    assert "outputs/" in printed
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- a run


class Run(NamedTuple):
    cwd: Path
    process: subprocess.CompletedProcess[str]

    @property
    def directory(self) -> Path:
        (record,) = self.cwd.glob("outputs/*/*/run.json")
        return record.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`gan-lab train ...` as a user starts it: a process of its own, the default directory."""
    cwd = tmp_path_factory.mktemp("run")
    arguments = command("train", *SMALL, "callbacks.progress.every_seconds_plain=1e-9")
    # A cache of its own: whether another test is making the same extractor must not show in what is printed.
    own = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", "GAN_LAB_CACHE": str(cwd / "cache")}
    environment = {**os.environ, **own}
    process = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return Run(cwd, process)


def test_run_directory(run: Run) -> None:
    parts = run.directory.relative_to(run.cwd).parts
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", parts[1])
    assert re.fullmatch(r"\d\d-\d\d-\d\d-digits-mlp-vanilla", parts[2])
    files = {str(path.relative_to(run.directory)) for path in run.directory.rglob("*") if path.is_file()}
    (events,) = (name for name in files if name.startswith("tensorboard/"))
    assert events.startswith("tensorboard/events.out.tfevents.")
    assert files - {events} == {
        ".lock",
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        ".hydra/resolved.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "run.json",
        "run.log",
        "samples/000000000.png",
        "samples/000000064.png",
        "samples/real.png",
    }


def test_standard_output_is_the_directory_alone(run: Run) -> None:
    assert run.process.stdout == f"run: {run.directory.relative_to(run.cwd)}\n"


def test_plain_progress_lines_off_a_terminal(run: Run) -> None:
    lines = run.process.stderr.splitlines()
    directory = run.directory.relative_to(run.cwd)
    assert lines[:2] == [
        f"run digits-mlp-vanilla in {directory}",
        f"watch it: tensorboard --logdir {directory}/tensorboard",
    ]
    pattern = r" *(\d+)%  (\d\.\d) of 0\.1 kimg, [\d,]+ images/s(, D -?\d+\.\d{3}, G -?\d+\.\d{3})?(, fd [\d.]+)?"
    pattern += r", \d\d:\d\d left"
    progress = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert [int(match[1]) for match in progress] == [25, 50, 75, 100]
    assert progress[-1][3]
    score = r"64 images: fd \d+\.?\d* \(floor \d+\.\d+, \d+\.\d\dx\), precision .*"
    score += r"\(cnn [0-9a-f]{12}, 32 ema fakes against 32 train\)"
    assert [bool(re.fullmatch(score, line)) for line in lines] == [False] * (len(lines) - 3) + [True, False, False]
    assert re.fullmatch(r"best fd: \d+\.?\d*, at 64 images \(checkpoints/best.ckpt\)", lines[-1])
    assert sum("feature extractor" in line for line in lines) == 2  # it is trained, it was trained
    assert len(lines) == 10  # and no warning
    assert "\r" not in run.process.stderr
    assert "\x1b" not in run.process.stderr
    log = (run.directory / "run.log").read_text().splitlines()
    assert [line.split(": ", 1)[1] for line in log] == lines


def test_run_json(run: Run) -> None:
    record = record_of(run.directory)
    assert list(record) == [
        *("status", "name", "seed", "started", "command", "versions", "git", "images_seen", "d_steps", "g_steps"),
        *("wall_seconds", "images_per_second", "resumed", "error", "machine", "cards", "best", "ended", "metrics"),
    ]
    assert (record["status"], record["error"], record["resumed"]) == ("finished", None, [])
    assert (record["name"], record["seed"]) == ("digits-mlp-vanilla", 0)
    assert (record["images_seen"], record["d_steps"], record["g_steps"]) == (64, 4, 4)
    assert record["command"][-len(SMALL) - 4 : -1] == ["-m", "gan_lab", "train", *SMALL]
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["started"] <= record["ended"]
    assert 0 < record["wall_seconds"] < 60
    assert record["images_per_second"] == pytest.approx(64 / record["wall_seconds"], rel=0.2)
    assert record["machine"]["threads"] == 1
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (record["git"] or {}).get("commit") == (git.stdout.strip() if git.returncode == 0 else None)
    with (run.directory / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    card = last.pop("card")
    assert record["metrics"] == {name: float(value) for name, value in last.items() if name != "images_seen"}
    assert list(record["cards"]) == [card]
    assert record["cards"][card]["num_fake"] == record["cards"][card]["num_real"] == 32
    best = record["best"]
    assert (best["metric"], best["images_seen"], best["card_id"]) == ("fd", 64, card)
    assert best["value"] == record["metrics"]["fd"] == best["scores"]["fd"]


def test_columns_of_metrics_csv(run: Run) -> None:
    with (run.directory / "metrics.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[0] == "images_seen"
    scores = ["coverage", "density", "diversity", "fd", "high_quality", "mode_kl", "modes_covered", "modes_with_5"]
    scores += ["precision", "recall", "sliced_wasserstein"]
    always = [name for name in header[1:] if name != "discriminator/gap"]  # not of a D that ranks nothing yet
    assert sorted(always) == sorted(
        [
            *("discriminator/accuracy", "gradient_norm/discriminator", "gradient_norm/generator", "images_per_second"),
            *("logits/fake", "logits/real", "loss/discriminator", "loss/generator"),
            *("steps/discriminator", "steps/generator", "wall_seconds", "card"),
            *scores,
            *(f"{name}/floor" for name in scores),
        ]
    )
    assert [row[0] for row in rows] == ["64"]
    values = dict(zip(header, rows[0], strict=True))
    assert (values["steps/discriminator"], values["steps/generator"]) == ("4", "4")


def test_saved_configuration(run: Run) -> None:
    """config.yaml keeps interpolations for later overrides; resolved.yaml is what was trained."""
    folder = run.directory / ".hydra"
    config, resolved = (yaml.safe_load((folder / name).read_text()) for name in ("config.yaml", "resolved.yaml"))
    assert config["model"]["generator"]["width"] == "${model.width}"
    assert resolved["model"]["generator"]["width"] == 8
    assert config["name"] == resolved["name"] == "digits-mlp-vanilla"
    overrides = yaml.safe_load((folder / "overrides.yaml").read_text())
    assert overrides[: len(SMALL)] == SMALL


def test_a_relative_folder_of_pictures_is_found_from_elsewhere(tmp_path: Path) -> None:
    """The configuration holds where it is; what comes from the environment (the cache) stays what it is."""
    (tmp_path / "pics").mkdir()
    (tmp_path / "other").mkdir()
    for number in range(64):
        Image.new("L", (8, 8), number).save(tmp_path / "pics" / f"{number}.png")
    pictures = ["dataset=image_folder", "dataset.root=pics", "dataset.image_size=8"]
    done("train", *SMALL, *pictures, "hydra.run.dir=run", cwd=tmp_path)
    saved = yaml.safe_load((tmp_path / "run" / ".hydra" / "config.yaml").read_text())
    assert saved["dataset"]["root"] == str(tmp_path / "pics")
    assert saved["dataset"]["cache_dir"] == "${oc.env:GAN_LAB_CACHE,outputs/cache}"
    done("resume", "run=../run", "budget.kimg=0.08", cwd=tmp_path / "other")
    metrics = "evaluation.metrics=[sliced_wasserstein]"
    done("evaluate", "run=../run", "evaluation=fast", metrics, "num=32", cwd=tmp_path / "other")
    assert record_of(tmp_path / "run")["resumed"][0]["changed"] == {"budget.kimg": [0.064, 0.08]}


def test_two_runs_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two runs share a directory, whatever the clock says."""
    import hydra.core.utils

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stopped":
            return cls(2026, 1, 31, 12, 0, 0)

    monkeypatch.setattr(hydra.core.utils, "datetime", Stopped)
    outputs = [done("train", *SMALL, "name=twin", cwd=tmp_path).out for _ in range(3)]
    names = ["12-00-00-twin", "12-00-00-twin-2", "12-00-00-twin-3"]
    assert outputs == [f"run: outputs/2026-01-31/{name}\n" for name in names]
    assert sorted(path.name for path in tmp_path.glob("outputs/*/*")) == names
    for path in tmp_path.glob("outputs/*/*"):
        assert record_of(path)["status"] == "finished"


def test_resume_latest_takes_the_run_that_ran_last(tmp_path: Path) -> None:
    done("train", *SMALL, "name=one", cwd=tmp_path)
    done("train", *SMALL, "name=two", cwd=tmp_path)
    result = done("resume", "run=latest", "budget.kimg=0.096", cwd=tmp_path)
    assert re.fullmatch(r"run: outputs/[\d-]+/[\d-]+-two\n", result.out)
    assert "budget.kimg: 0.064 -> 0.096" in result.err
    (one,) = tmp_path.glob("outputs/*/*-one")
    result = done("resume", f"run={one}", "budget.kimg=0.08", cwd=tmp_path)
    assert result.out == f"run: {one}\n" or result.out == f"run: {one.relative_to(tmp_path)}\n"
    assert done("resume", "run=latest", "budget.kimg=0.096", cwd=tmp_path).out.endswith("-one\n")
    assert record_of(one)["images_seen"] == 96


@pytest.mark.parametrize("folder", ["own", "Café, 'new' [1]"])
def test_users_config_dir_reaches_the_run(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder / "experiment").mkdir(parents=True)
    (tmp_path / folder / "experiment" / "mine.yaml").write_text("# @package _global_\n# Mine\nseed: 3\nbatch_size: 4\n")
    arguments = [text for text in SMALL if not text.startswith("batch_size")]
    done("train", "--config-dir", folder, *arguments, "experiment=mine", "hydra.run.dir=run", cwd=tmp_path)
    record = record_of(tmp_path / "run")
    assert (record["seed"], record["d_steps"]) == (3, 16)


def test_resume_reaches_the_users_config_dir(tmp_path: Path) -> None:
    """The one that the run was started with, without being told; another one by --config-dir."""
    for folder in ("mine", "other"):
        (tmp_path / folder / "loss").mkdir(parents=True)
        (tmp_path / folder / "loss" / f"{folder}.yaml").write_text("defaults:\n  - hinge\nwarmup_kimg: 0.001\n")
    done("train", *SMALL, "--config-dir", "mine", "hydra.run.dir=run", cwd=tmp_path)
    done("resume", "run=run", "loss=mine", "budget.kimg=0.08", cwd=tmp_path)
    done("resume", "--config-dir=other", "run=run", "loss=other", "budget.kimg=0.096", cwd=tmp_path)
    assert yaml.safe_load((tmp_path / "run" / ".hydra" / "config.yaml").read_text())["loss"]["warmup_kimg"] == 0.001


def test_flags_may_stand_between_overrides(tmp_path: Path) -> None:
    first = done("train", "seed=3", "--cfg", "job", "batch_size=4", cwd=tmp_path).out
    assert first == done("train", "seed=3", "batch_size=4", "--cfg", "job", cwd=tmp_path).out
    assert yaml.safe_load(first)["batch_size"] == 4


def test_a_key_with_spaces_and_quotes(tmp_path: Path) -> None:
    """Hydra's quoting holds all the way to the run."""
    done("train", *SMALL, 'name="a run, with=signs"', "hydra.run.dir=run", cwd=tmp_path)
    assert record_of(tmp_path / "run")["name"] == "a run, with=signs"


@pytest.mark.parametrize("verb", VERBS)
def test_script_is_the_console_script(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python scripts/VERB.py ...` does what `gan-lab VERB ...` does: here a run, and two refusals."""
    arguments = [*SMALL, "hydra.run.dir=run"] if verb == "train" else ["run=nowhere", "out=a.npz"]
    if verb == "report":
        arguments = ["runs=nowhere"]
    with restored():
        os.chdir(tmp_path)
        sys.argv = [str(ROOT / "scripts" / f"{verb}.py"), *arguments]
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(sys.argv[0], run_name="__main__")
    out, err = capsys.readouterr()
    if verb == "train":
        assert (stop.value.code, out) == (0, "run: run\n")
        assert record_of(tmp_path / "run")["status"] == "finished"
    else:
        assert (stop.value.code, out) == (2, "")
        assert err == f"error: {arguments[0]}: there is no such directory ({tmp_path / 'nowhere'})\n"


def test_callbacks_of_lightnings_own_see_every_cycle_and_change_none(tmp_path: Path) -> None:
    """Without one, several cycles are one of Lightning's batches; what is trained and written is the same."""
    (tmp_path / "own.py").write_text(
        "from pytorch_lightning import Callback\n\n\nclass Mine(Callback):\n"
        "    def on_train_batch_end(self, trainer, gan, *rest):\n"
        "        with open('seen', 'a') as file:\n            file.write(f'{gan.images_seen}\\n')\n"
    )
    arguments = ["train", *SMALL, "budget.kimg=0.64", "callbacks.metrics.every_kimg=0.016"]
    done(*arguments, "hydra.run.dir=without", cwd=tmp_path)
    assert not (tmp_path / "seen").exists()
    sys.path.insert(0, str(tmp_path))
    try:
        done(*arguments, "hydra.run.dir=with", "callbacks.mine._target_=own.Mine", cwd=tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own", None)
    images = [16 * cycle for cycle in range(1, 41)]
    assert [int(line) for line in (tmp_path / "seen").read_text().split()] == images
    rows = rows_without_wall_time(tmp_path / "with")
    assert [int(row["images_seen"]) for row in rows] == images
    assert rows == rows_without_wall_time(tmp_path / "without")


def test_data_that_does_not_live_on_the_device_trains_alike(tmp_path: Path) -> None:
    arguments = ["train", *SMALL, "budget.kimg=0.64", "callbacks.metrics.every_kimg=0.016"]
    for name, gib in (("resident", 4), ("host", 1e-9)):
        done(*arguments, f"accelerator.data_gib={gib}", f"hydra.run.dir={name}", cwd=tmp_path)
    rows = [rows_without_wall_time(tmp_path / name) for name in ("resident", "host")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 40


@pytest.mark.parametrize("cycle", [1, 5, 16, 17])
def test_a_callback_that_asks_to_stop_ends_the_run_within_the_next_cycle(tmp_path: Path, cycle: int) -> None:
    """Also in the middle of one of Lightning's batches, which hold 16 cycles."""
    (tmp_path / "own.py").write_text(
        "from gan_lab.callbacks.base import Callback\n\n\nclass Mine(Callback):\n"
        "    def on_cycle_end(self, trainer, gan):\n"
        f"        gan.stop_asked = gan.images_seen == {16 * cycle}\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        done(
            *("train", *SMALL, "budget.kimg=0.64", "evaluation=none", "hydra.run.dir=run"),
            "callbacks.mine._target_=own.Mine",
            cwd=tmp_path,
        )
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own", None)
    assert record_of(tmp_path / "run")["images_seen"] == 16 * (cycle + 1)


def test_steps_on_the_cpu_do_not_look_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Lightning has torch load NVIDIA's library to count GPUs, and Adam asks in every step.

    With a torch that is built for CPUs only, nothing asks.
    """
    asked: list[int] = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr("torch.cuda._device_count_nvml", lambda: asked.append(1) or -1)
    done("train", *SMALL, "accelerator=cpu", "budget.kimg=0.8", "hydra.run.dir=run", cwd=tmp_path)
    assert record_of(tmp_path / "run")["g_steps"] == 50
    assert len(asked) < 20
