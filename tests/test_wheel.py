"""The built wheel: what is in it, and that it runs from an environment without the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*command, cwd, **environment):
    """What the command printed; it must succeed."""
    # Neither the checkout nor this process's own settings may help the installed package.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GAN_LAB"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment with the wheel; dependencies come from the environment of this test."""
    folder = tmp_path_factory.mktemp("an environment")
    venv.create(folder, with_pip=False, symlinks=True)
    dependencies = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    options = ("--no-deps", "--no-index", "--no-cache-dir", "--disable-pip-version-check", "--quiet")
    call(
        # The pip of this test's environment, which must not see the gan_lab that is installed there.
        *(folder / "bin" / "python", "-m", "pip", "install", "--ignore-installed", *options, wheel),
        cwd=folder,
        PYTHONPATH=os.pathsep.join(dependencies),
    )
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched last, and .pth files in it (that of the checkout) are not read.
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    return folder / "bin"


def test_wheel_has_every_config_as_it_is_and_nothing_but_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    configs = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sorted((ROOT / "conf").rglob("*.yaml"))}
    assert len(configs) > 20
    assert {n.removeprefix("gan_lab/"): t for n, t in packed.items() if n.startswith("gan_lab/conf/")} == configs

    plugins = "gan_lab/plugins/"  # whose place is beside the package, where Hydra looks for them
    sources = {
        path.relative_to(ROOT).as_posix().removeprefix(plugins): path.read_bytes()
        for path in (ROOT / "gan_lab").rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js")
    }
    rest = {name: text for name, text in packed.items() if not name.startswith("gan_lab/conf/")}
    assert {name: text for name, text in rest.items() if ".dist-info/" not in name} == sources
    assert {name.split("/")[0].split("-")[0] for name in packed} == {"gan_lab", "hydra_plugins"}
    assert {name.split("/", 1)[1] for name in rest if ".dist-info/" in name} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_installed_package_is_the_one_of_the_wheel(installed, tmp_path):
    found = call(installed / "python", "-c", "import gan_lab; print(gan_lab.__file__)", cwd=tmp_path).strip()
    assert Path(found).is_relative_to(installed.parent)
    assert not Path(found).is_relative_to(ROOT)


def test_help_and_config_are_shown_from_another_folder(installed, tmp_path):
    assert "gan-lab train" in call(installed / "gan-lab", "--help", cwd=tmp_path)
    shown = call(installed / "gan-lab", "train", "--cfg", "job", cwd=tmp_path)
    assert "_target_: gan_lab.models.mlp.Generator" in shown
    sources = call(installed / "gan-lab", "train", "--info", "searchpath", cwd=tmp_path)
    assert str(ROOT) not in sources
    assert str(installed.parent) in sources


def test_sweepers_are_found_by_hydra(installed, tmp_path):
    shown = call(installed / "gan-lab", "train", "--info", "plugins", cwd=tmp_path)
    assert "GridSweeper" in shown
    assert "OptunaSweeper" in shown
    assert "\n_target_: hydra_plugins.gan_lab_sweepers.sweepers.GridSweeper" in call(
        *(installed / "gan-lab", "train", "--cfg", "hydra", "--package", "hydra.sweeper"), cwd=tmp_path
    )


def test_experiment_of_the_user_is_found(installed, tmp_path):
    experiment = tmp_path / "my configs" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nseed: 7\n")
    options = ("--config-dir", experiment.parent.parent, "experiment=mine", "--cfg", "job")
    assert "\nseed: 7\n" in call(installed / "gan-lab", "train", *options, cwd=tmp_path)


def test_short_training_runs_and_leaves_its_run(installed, tmp_path):
    arguments = ["dataset=digits", "budget.kimg=1", "evaluation=none", "accelerator=cpu", "model.width=16"]
    out = call(installed / "gan-lab", "train", *arguments, "hydra.run.dir=a run", cwd=tmp_path)
    assert out.splitlines()[-1] == "run: a run"
    assert (tmp_path / "a run" / "run.json").exists()
    assert (tmp_path / "a run" / "checkpoints" / "last.ckpt").exists()
