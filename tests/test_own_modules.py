"""A user's own module beside where he works: the installed command finds it as `python -m gan_lab` does.

The networks are the README's example, so it is tried, too.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_cli import SMALL, called, done, record_of

ARGUMENTS = ["train", "--config-dir", "conf", "model=mine", "model.discriminator.width=8"]
ARGUMENTS += [text for text in SMALL if not text.startswith("model.")]


def write_networks(folder: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (nets,) = re.findall(r"```python\n(.*?class Generator.*?)```", text, re.DOTALL)
    (mine,) = re.findall(r"```yaml\n(.*?nets\.Generator.*?)```", text, re.DOTALL)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "nets.py").write_text(nets)
    (folder / "conf" / "model" / "mine.yaml").write_text(mine)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The module of one test is not that of the next."""
    yield
    sys.modules.pop("nets", None)


@pytest.fixture
def here(tmp_path: Path, forgotten: None) -> Path:
    write_networks(tmp_path)
    return tmp_path


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The console script as pip writes it, whose own directory, not the working one, is where Python looks first."""
    program = tmp_path_factory.mktemp("bin") / "gan-lab"
    program.write_text("import sys\nfrom gan_lab.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_every_verb_finds_it(here: Path) -> None:
    done(*ARGUMENTS, "hydra.run.dir=run", cwd=here)
    assert record_of(here / "run")["images_seen"] == 64
    for verb in (
        ["reproduce", "run=run", "out=again"],
        ["resume", "run=run", "budget.kimg=0.08"],
        ["sample", "run=run", "out=a.png", "num=4"],
        ["evaluate", "run=run", "evaluation=fast", "num=32"],
    ):
        sys.modules.pop("nets", None)
        done(*verb, cwd=here)


@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray", "submitit_local"])
def test_a_sweep_finds_it_whatever_starts_its_processes(
    launcher: str, here: Path, installed: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    result = installed(*ARGUMENTS, "-m", "seed=1", f"hydra/launcher={launcher}", "hydra.sweep.dir=s", cwd=here)
    assert result.returncode == 0, result.stdout + result.stderr
    assert record_of(here / "s" / "0")["status"] == "finished"


def test_what_is_installed_is_found_before_a_file_of_the_same_name(tmp_path: Path) -> None:
    for name in ("torchvision", "hydra", "gan_lab"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError\n")
    code = "import sys; sys.path[:] = sys.path[1:]; from gan_lab.cli import main; main(['train', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, *SMALL, "hydra.run.dir=run"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr


def test_a_module_that_is_not_there_is_named_with_the_remedy(here: Path) -> None:
    (here / "nets.py").rename(here / "networks.py")
    result = called(*ARGUMENTS, cwd=here)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[0] == (
        "error: model.generator._target_=nets.Generator cannot be imported: there is no module nets; put nets.py into "
        "the directory where you run gan-lab, or on PYTHONPATH, or install its package"
    )
