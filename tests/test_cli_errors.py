"""What goes wrong is said in one message, without a traceback, and with the right exit code."""

import fcntl
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command
from test_cli import SMALL, Result, called, done, record_of

from gan_lab.files import read_checkpoint

TINY_RUN = ["train", *SMALL, "hydra.run.dir=run"]


def refused(*arguments: str, cwd: Path, code: int) -> str:
    """The one message with which the command ends: nothing on standard output, no traceback."""
    result = called(*arguments, cwd=cwd)
    assert (result.code, result.out) == (code, ""), result.err
    return message(result)


def message(result: Result) -> str:
    """The error among the messages of a run; exactly one."""
    assert "Traceback" not in result.err
    assert result.err.count("error: ") == 1, result.err
    return result.err[result.err.index("error: ") + len("error: ") :].rstrip("\n")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run; copy it before changing it."""
    cwd = tmp_path_factory.mktemp("finished")
    done(*TINY_RUN, cwd=cwd)
    return cwd / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, in the working directory of the test as `run`."""
    for name, content in files_of(finished).items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    return tmp_path / "run"


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


# ---------------------------------------------------------------------- before anything is built


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian", "trian: unknown verb; did you mean train? (gan-lab --help)"),
        ("xyz seed=3", "xyz: unknown verb; known: train, resume, sample, evaluate, report, reproduce (gan-lab --help)"),
        ("seed=3", "seed=3: unknown verb; known: train, resume, sample, evaluate, report, reproduce (gan-lab --help)"),
        ("train lr=0.1", "lr: unknown key; did you mean optimizer.lr?"),
        ("train model=mpl", "model=mpl: no such option; did you mean mlp?"),
        ("train --bogus", "--bogus: unknown flag; gan-lab train --help lists them"),
        ("train seed=1,2", "seed=1,2 names several values: add -m to run each, or quote it as one"),
        ("train sweep=wgan_gp", "sweep=wgan_gp is a search over many runs: add -m to run it (gan-lab "),
        ("train -m seed=1,-2", "seed=-2: expected an integer at least 0 (with seed=-2)"),
        ("train dataset=image_folder", "dataset.root must be given: dataset.root=..."),
        ("train --config-dir nowhere", "--config-dir nowhere: there is no such directory"),
        ("resume", "run must be given: gan-lab resume run=DIR, or run=latest"),
        ("resume run=latest", "run=latest: there is no run in "),
        (
            "resume run=latest retry_failed=true",
            "retry_failed=true: a run has no such key, a sweep has: gan-lab resume sweep=DIR retry_failed=true",
        ),
        ("resume run=here sweep=there", "run=here and sweep=there: give one of them"),
        ("train --config-name=nope", "Cannot find primary config 'nope'."),
        ("resume run=nowhere", "run=nowhere: there is no such directory "),
        ("sample run=latest out=a.png", "run=latest: there is no run in "),
        ("sample run=nowhere out=a.png", "run=nowhere: there is no such directory "),
        ("train hydra/launcher=nope", "In 'hydra/config': Could not find 'hydra/launcher/nope'"),
        ("train hydra.run.dirr=x", "Could not override 'hydra.run.dirr'."),
        ("train callbacks.mine._target_=nowhere.Thing", "callbacks.mine._target_=nowhere.Thing cannot be imported: "),
        ("train model.generator.width=${nothing}", "model.generator.width: Interpolation key 'nothing' not found"),
        ("train evaluation=null", "evaluation=null: "),
    ],
)
def test_wrong_command_line(arguments: str, expected: str, tmp_path: Path) -> None:
    found = refused(*arguments.split(), cwd=tmp_path, code=2)
    assert found.startswith(expected)
    assert len(found.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    result = called("train", "lr=0.1", "model.depht=2", "batch_size=0", "loss=vanila", cwd=tmp_path)
    assert result.code == 2
    assert sorted(result.err.splitlines()) == [
        "error: batch_size=0: expected an integer at least 1",
        "error: loss=vanila: no such option; did you mean vanilla?",
        "error: lr: unknown key; did you mean optimizer.lr?",
        "error: model.depht: unknown key; did you mean model.depth?",
    ]
    assert list(tmp_path.iterdir()) == []


def test_wrong_value_of_a_flag(tmp_path: Path) -> None:
    """argparse's own message, with its usage before it."""
    result = called("train", "--cfg", "nonsense", cwd=tmp_path)
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith("invalid choice: 'nonsense' (choose from 'job', 'hydra', 'all')")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("spelling", ["true", "True", "yes", "On"])
def test_debug_shows_the_traceback(spelling: str, tmp_path: Path) -> None:
    result = called("train", "lr=0.1", f"debug={spelling}", cwd=tmp_path)
    assert result.code == 2
    assert result.err.startswith("Traceback (most recent call last):\n")
    assert result.err.endswith("error: lr: unknown key; did you mean optimizer.lr?\n")


def test_an_objective_that_only_the_data_rule_out_is_refused_before_training(tmp_path: Path) -> None:
    """The source does not say how many classes it has; ten categories and eight classes have no error."""
    given = ["dataset=gaussian_ring", "conditioning=infogan", "objective=clusters/error", "hydra.run.dir=run"]
    result = called("train", *SMALL, *given, cwd=tmp_path)
    assert result.code == 2
    problem = "error: objective=clusters/error is not measured by this run; did you mean clusters/purity?"
    assert result.err.splitlines()[-1] == problem
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("verb", ["resume run=nowhere", "sample run=nowhere out=a.png", "evaluate run=nowhere"])
def test_every_verb_takes_debug(verb: str, tmp_path: Path) -> None:
    quiet = called(*verb.split(), "debug=off", cwd=tmp_path)
    assert (quiet.code, quiet.err.count("Traceback")) == (2, 0)
    result = called(*verb.split(), "debug=yes", cwd=tmp_path)
    assert result.code == 2
    assert result.err.startswith("Traceback (most recent call last):\n")
    (line,) = (line for line in result.err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: run=nowhere: there is no such directory ")


def test_debug_of_the_configuration_is_debug_of_the_command_line(tmp_path: Path) -> None:
    """Set by an experiment: for the run, for one that goes on with its configuration, and for a sweep of it."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\n# Mine\ndebug: yes\n")
    shown = ["train", "--config-dir", "own", "experiment=mine", *SMALL]
    for arguments in (
        [*shown, "optimizer.lr=1e30", "hydra.run.dir=run"],
        ["resume", "run=run"],
        ["evaluate", "run=run"],
        [*shown, "-m", "seed=1,2", "hydra.sweeper.n_jobs=2"],
    ):
        result = called(*arguments, cwd=tmp_path)
        assert result.code in (1, 2)
        assert "Traceback (most recent call last)" in result.err, arguments
        assert result.err.count("\nerror: ") == 1
    assert "Traceback" in called("train", "debug=true", *SMALL, "optimizer.lr=1e30", cwd=tmp_path).err
    assert "Traceback" not in called(*shown, "debug=false", "optimizer.lr=1e30", cwd=tmp_path).err


@pytest.mark.parametrize("arguments", ["--version", "train --help", "train --cfg job"])
def test_a_pipe_that_nobody_reads_ends_quietly(arguments: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        command(*arguments.split()), cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")


def test_refusal_is_quick_and_silent(tmp_path: Path) -> None:
    """In a process of its own: nothing is printed but the message, and what takes seconds to import waits for training.

    Its time is printed beside that of the import of torch (pytest -s), not asserted.
    """
    (tmp_path / "refuse.py").write_text(
        "import sys, time\nstart = time.perf_counter()\nimport torch\nimported = time.perf_counter()\n"
        "from gan_lab.cli import main\ntry:\n    main(['train', 'callbacks.mine._target_=nowhere.Thing'])\n"
        "except SystemExit as stop:\n    print(stop.code)\n"
        "slow = {'pytorch_lightning', 'torchvision', 'sklearn', 'tensorboard', 'tensorflow'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
        "print(f'import torch: {imported - start:.2f} s; then refused in {time.perf_counter() - imported:.2f} s')\n"
    )
    process = subprocess.run([sys.executable, "refuse.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    code, modules, times = process.stdout.splitlines()
    print(f"\n{times}")
    assert (code, modules) == ("2", "[]")
    assert process.stderr == (
        "error: callbacks.mine._target_=nowhere.Thing cannot be imported: there is no module nowhere; put nowhere.py "
        "into the directory where you run gan-lab, or on PYTHONPATH, or install its package\n"
    )


# ---------------------------------------------------------------------- data, places


def test_missing_data(tmp_path: Path) -> None:
    found = refused(*TINY_RUN, "dataset=mnist", "dataset.root=nowhere", "dataset.download=false", cwd=tmp_path, code=1)
    assert found.startswith("MNIST is not there, and dataset.download is false.\nLooked in: ")
    assert str(tmp_path / "nowhere") in found
    record = record_of(tmp_path / "run")
    assert (record["status"], record["error"]) == ("failed", found)
    assert record["images_seen"] == 0


def test_missing_folder_of_pictures(tmp_path: Path) -> None:
    found = refused(*TINY_RUN, "dataset=image_folder", "dataset.root=nowhere", cwd=tmp_path, code=1)
    assert found.startswith(f"There is no folder {tmp_path / 'nowhere'}: dataset.root must be ")


@pytest.mark.parametrize("multirun", [False, True])
def test_place_that_cannot_be_written(tmp_path: Path, multirun: bool) -> None:
    (tmp_path / "file").touch()
    place = ["-m", "hydra.sweep.dir=file/runs"] if multirun else ["hydra.run.dir=file/run"]
    flags, overrides = (place[:1], place[1:]) if multirun else ([], place)
    found = refused("train", *flags, *SMALL, *overrides, cwd=tmp_path, code=1)
    assert found.startswith("cannot write file/run")
    assert len(found.splitlines()) == 1
    assert "hydra.sweep.dir=DIR" in found if multirun else "hydra.run.dir=DIR" in found


def test_depth_that_the_images_do_not_bear(tmp_path: Path) -> None:
    """Known only once the data are: the key is named all the same."""
    found = refused(*TINY_RUN, "model=dcgan", "model.depth=7", cwd=tmp_path, code=2)
    assert found == "model.generator: depth=7 halves 8 pixels to less than 2: use a smaller depth"


def test_directory_that_holds_a_run(run: Path) -> None:
    """Refused, and the run that is there goes on being what it was."""
    before = files_of(run)
    found = refused("train", *SMALL, "seed=7", "batch_size=8", "hydra.run.dir=run", cwd=run.parent, code=2)
    assert found == (
        "hydra.run.dir=run already holds a run; continue it with `gan-lab resume run=run`, or choose another directory"
    )
    assert files_of(run) == before


# ---------------------------------------------------------------------- resume


def test_directory_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = refused("resume", "run=empty", cwd=tmp_path, code=2)
    assert found == "run=empty is not the directory of a run: it has no .hydra/config.yaml"
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=0.1", "lr: unknown key; did you mean optimizer.lr?"),
        ("budget.kimg=-1", "budget.kimg=-1: expected a number above 0"),
        ("budget.kimg=1,2", "budget.kimg=1,2 names several values: a run is resumed with one"),
        ("loss=hing", "loss=hing: no such option; did you mean hinge?"),
        ("~seed", "~seed: a key cannot be removed on resume; set it to null"),
        ("hydra.run.dir=other", "hydra"),
        ("experiment=toy_ring", "experiment=toy_ring sets keys of the whole configuration, and this run has its own; "),
        ("sweep.x=1", "sweep"),
    ],
)
def test_wrong_change_on_resume(run: Path, override: str, expected: str) -> None:
    before = files_of(run)
    assert refused("resume", "run=run", override, cwd=run.parent, code=2).startswith(expected)
    assert files_of(run) == before


def test_checkpoint_of_another_model(run: Path) -> None:
    """The refused change is not kept: without it, the run goes on."""
    found = refused("resume", "run=run", "model.width=16", cwd=run.parent, code=1)
    assert found.startswith(
        "run/checkpoints/last.ckpt is the checkpoint of another model than the configuration describes: size mismatch "
    )
    assert found.endswith("Undo the changes to what it was trained with, or start a new run")
    found = refused("resume", "run=run", "penalty=lecam", cwd=run.parent, code=1)
    assert "describes: it holds the states of [], and [penalty.lecam] have one. Undo the changes" in found
    assert done("resume", "run=run", "budget.kimg=0.08", cwd=run.parent).out == "run: run\n"
    assert record_of(run)["images_seen"] == 80


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("dataset=gaussian_ring", "run/checkpoints/last.ckpt is the checkpoint of another model than the "),
        ("dataset=mnist dataset.root=nowhere dataset.download=false", "MNIST is not there, and dataset.download is "),
        ("dataset=image_folder dataset.root=nowhere", "There is no folder "),
        ("num_training_images=10000000", "num_training_images=10000000: the data set has "),
    ],
)
def test_data_that_cannot_be_gone_on_with(run: Path, changes: str, expected: str) -> None:
    """Known only once the data are there, or are not: the run stays the finished one that it was."""
    before = files_of(run)
    code = 2 if changes.startswith("num") else 1
    found = refused("resume", "run=run", "budget.kimg=1", *changes.split(), cwd=run.parent, code=code)
    assert found.startswith(expected)
    after = files_of(run)
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} <= {"run.log"}
    done("resume", "run=run", "budget.kimg=0.08", cwd=run.parent)
    assert (record_of(run)["status"], record_of(run)["images_seen"]) == ("finished", 80)


@pytest.mark.parametrize("kept", [0, 1000, -1])
@pytest.mark.parametrize("verb", ["resume", "sample"])
def test_truncated_checkpoint(run: Path, kept: int, verb: str) -> None:
    checkpoint(run).write_bytes(checkpoint(run).read_bytes()[:kept])
    before = files_of(run)
    arguments = ["budget.kimg=1"] if verb == "resume" else ["out=a.npz"]
    found = refused(verb, "run=run", *arguments, cwd=run.parent, code=1)
    assert found.startswith("run/checkpoints/last.ckpt is damaged or truncated: it cannot be read (")
    after = files_of(run)
    assert {name for name in before if before[name] != after[name]} <= {"run.log"}
    assert not (run.parent / "a.npz").exists()


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {os.environ['EVIL']}",)


@pytest.mark.parametrize("verb", ["resume", "sample"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(run: Path, verb: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = run.parent / "evil"
    monkeypatch.setenv("EVIL", str(trace))
    content = {**read_checkpoint(checkpoint(run)), "evil": Evil()}
    if form == "torch":
        torch.save(content, checkpoint(run))
    else:
        checkpoint(run).write_bytes(pickle.dumps({"format": "gan_lab checkpoint 1", "evil": Evil()}, protocol=2))
    arguments = ["budget.kimg=1"] if verb == "resume" else ["out=a.npz"]
    found = refused(verb, "run=run", *arguments, cwd=run.parent, code=1)
    assert found == ("run/checkpoints/last.ckpt contains pickled code and was not loaded: only data is read")
    assert not trace.exists()
    torch.load(checkpoint(run), weights_only=False) if form == "torch" else pickle.loads(checkpoint(run).read_bytes())
    assert trace.exists()  # the file would have done it


def test_another_programs_checkpoint(run: Path) -> None:
    torch.save({"state_dict": {}}, checkpoint(run))
    found = refused("resume", "run=run", "budget.kimg=1", cwd=run.parent, code=1)
    assert found == "run/checkpoints/last.ckpt is not a checkpoint of gan_lab"


def test_run_that_another_process_trains(run: Path) -> None:
    """The second process leaves the files of the first alone."""
    before = files_of(run)
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = refused("resume", "run=run", "budget.kimg=1", cwd=run.parent, code=1)
    assert found == "run is being trained by another process; stop that one first"
    after = files_of(run)
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} <= {"run.log"}
    done("resume", "run=run", "budget.kimg=0.08", cwd=run.parent)


def test_damaged_record(run: Path) -> None:
    (run / "run.json").write_text('{"status": ')
    found = refused("resume", "run=run", cwd=run.parent, code=1)
    assert found.startswith("run/run.json is damaged: ")


# ---------------------------------------------------------------------- while training


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    found = refused(*TINY_RUN, "optimizer.lr=1e30", cwd=tmp_path, code=1)
    assert found.startswith("the generator's loss became nan at 16 images (D step 1, G step 0); ")
    assert found.endswith("Lower optimizer.generator.lr, set optimizer.clip_norm.generator, or try another loss")
    record = record_of(tmp_path / "run")
    assert (record["status"], record["error"]) == ("failed", found)
    assert record["ended"] >= record["started"]


def test_last_good_checkpoint_outlives_a_loss_that_is_not_finite(run: Path) -> None:
    good = checkpoint(run).read_bytes()
    found = refused("resume", "run=run", "budget.kimg=1", "optimizer.lr=1e30", cwd=run.parent, code=1)
    assert " loss became " in found
    assert checkpoint(run).read_bytes() == good
    record = record_of(run)
    assert (record["status"], record["error"], record["images_seen"]) == ("failed", found, 64)
    assert read_checkpoint(checkpoint(run))["counters"] == {"images_seen": 64, "d_steps": 4, "g_steps": 4}
    done("sample", "run=run", "out=a.npz", cwd=run.parent)
    # With the mistake undone, the run goes on from there.
    done("resume", "run=run", "budget.kimg=0.096", "optimizer.lr=0.0002", cwd=run.parent)
    record = record_of(run)
    assert (record["status"], record["error"], record["images_seen"]) == ("finished", None, 96)
    rates = {"optimizer.lr", "optimizer.generator.lr", "optimizer.discriminator.lr"}
    assert [set(one["changed"]) for one in record["resumed"]] == [{"budget.kimg"} | rates] * 2


def test_error_inside_a_callback_of_the_users(tmp_path: Path) -> None:
    """Unexpected: one line with its type, its text and the way to see more; debug=true shows it."""
    (tmp_path / "own.py").write_text(
        "from gan_lab.callbacks.base import Callback\n\n\nclass Mine(Callback):\n"
        "    def on_cycle_end(self, trainer, gan):\n        raise LookupError('no such star')\n"
    )
    arguments = ["train", *SMALL, "callbacks.mine._target_=own.Mine"]
    sys.path.insert(0, str(tmp_path))
    try:
        found = refused(*arguments, "hydra.run.dir=run", cwd=tmp_path, code=1)
        shown = called(*arguments, "hydra.run.dir=again", "debug=true", cwd=tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own", None)
    assert found == "unexpected LookupError: no such star (debug=true shows where)"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["error"] == "no such star"
    assert shown.code == 1
    assert 'raise LookupError("no such star")' in shown.err or "raise LookupError('no such star')" in shown.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: mine\n", "the file that experiment= chooses must begin with the line: # @package _global_"),
        ("# @package _global_\nname: mine\n  batch_size: : 16\n", "mine.yaml, line 3: mapping values are not allowed"),
    ],
)
def test_an_experiment_file_that_is_not_one(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(content)
    assert said in refused("train", "--config-dir", "own", "experiment=mine", cwd=tmp_path, code=2)
    assert not (tmp_path / "outputs").exists()
