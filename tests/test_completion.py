"""Shell completion: the installed function is sourced by a real bash, and every query answers what bash will offer."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import called

from gan_lab.cli import VERBS
from gan_lab.compose import conf_dir


def offered(line: str, cwd: Path) -> list[str]:
    """What is completed behind `line`."""
    result = called("-sc", "query=bash", cwd=cwd, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (result.code, result.err) == (0, "")
    return result.out.split()


def names(group: str) -> set[str]:
    return {f"{group}={path.stem}" for path in (conf_dir() / group).glob("*.yaml")}


@pytest.mark.parametrize(
    ("typed", "expected"), [("", set(VERBS)), ("tr", {"train"}), ("resu", {"resume"}), ("x", set())]
)
def test_verbs(typed: str, expected: set[str], tmp_path: Path) -> None:
    assert set(offered(f"gan-lab {typed}", tmp_path)) == expected


@pytest.mark.parametrize("group", ["loss", "model", "experiment", "dataset"])
def test_options_of_a_group(group: str, tmp_path: Path) -> None:
    assert set(offered(f"gan-lab train {group}=", tmp_path)) == names(group)


def test_behind_other_overrides(tmp_path: Path) -> None:
    assert offered("gan-lab train seed=1 loss=wgan_", tmp_path) == ["loss=wgan_div", "loss=wgan_gp"]
    assert offered("gan-lab train loss=hinge optimizer.l", tmp_path) == ["optimizer.lr="]
    assert set(offered("gan-lab resume optimizer.clip_norm.", tmp_path)) == {
        "optimizer.clip_norm.generator=",
        "optimizer.clip_norm.discriminator=",
    }


def test_keys_of_the_chosen_model(tmp_path: Path) -> None:
    assert "model.generator.max_width=" in offered("gan-lab train model=dcgan model.generator.", tmp_path)
    assert "model.generator.growth=" in offered("gan-lab train model=mlp model.generator.", tmp_path)


def test_completion_leaves_nothing(tmp_path: Path) -> None:
    offered("gan-lab train ", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_each_shell(shell: str, tmp_path: Path) -> None:
    result = called("-sc", f"install={shell}", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert "hydra" in result.out


def test_bash_completes(tmp_path: Path) -> None:
    """eval "$(gan-lab -sc install=bash)", then the function that bash calls at a tab; two processes of gan-lab."""
    program = tmp_path / "bin" / "gan-lab"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom gan_lab.cli import main\n\nmain()\n")
    program.chmod(0o755)
    script = (
        'PATH="$1:$PATH"\neval "$(gan-lab -sc install=bash)" || exit 1\ncomplete -p gan-lab\n'
        "COMP_LINE='gan-lab train loss=wgan'; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(gan-lab train loss = wgan)\n"
        "COMP_CWORD=4\nhydra_bash_completion\nprintf '<%s>\\n' \"${COMPREPLY[@]}\"\n"
    )
    process = subprocess.run(
        ["bash", "-c", script, "bash", str(program.parent)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    complete, *replies = process.stdout.splitlines()
    assert complete.startswith("complete ")
    assert complete.endswith(" -F hydra_bash_completion gan-lab")
    assert sorted(reply.strip("<>").removeprefix("loss=") for reply in replies) == ["wgan", "wgan_div", "wgan_gp"]
