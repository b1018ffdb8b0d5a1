"""A run on two domains from the command line: trained, scored, sampled, and its images scored as another program's."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import called, done, record_of

from gan_lab.data.coupled import coupled_digits

EVALUATION = ["evaluation.num_samples=300", "evaluation.metrics=[frechet,modes]"]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the run `run`."""
    cwd = tmp_path_factory.mktemp("pairs")
    small = ["model.width=8", "batch_size=16", "budget.kimg=0.064"]
    done("train", "experiment=cogan", *small, *EVALUATION, "hydra.run.dir=run", cwd=cwd)
    return cwd


def scores(text: str) -> dict[str, list[float]]:
    """Name -> [value, floor] of `gan-lab evaluate`'s table."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: [float(one) for one in row[1:3]] for row in rows if len(row) == 4 and row[3].endswith("x")}


def test_training_decides_by_the_worse_domain(cwd: Path) -> None:
    record = record_of(cwd / "run")
    assert {"fd", "modes_covered", "pair_agreement"} <= set(record["metrics"])  # type: ignore[call-overload]
    assert record["best"]["metric"] == "fd"  # type: ignore[index]
    (card,) = record["cards"].values()  # type: ignore[attr-defined]
    assert card["domains"] == "the worse of two"


def test_scores_afterwards(cwd: Path) -> None:
    found = json.loads((cwd / "run" / "run.json").read_text())["metrics"]
    table = scores(done("evaluate", "run=run", *EVALUATION, cwd=cwd).out)
    for name in ("fd", "modes_covered", "pair_agreement"):
        assert table[name][0] == pytest.approx(found[name], rel=1e-3)
    assert table["pair_agreement"][1] == 1.0


def test_images_of_another_program(cwd: Path) -> None:
    """Digits beside their own negatives agree always; those of the data by chance."""
    digits = coupled_digits().samples[:400, :1].numpy()
    np.savez(cwd / "own.npz", images=np.concatenate([digits, 255 - digits], axis=1).transpose(0, 2, 3, 1))
    np.savez(cwd / "data.npz", images=coupled_digits().samples[:400].numpy().transpose(0, 2, 3, 1))
    tables = [
        scores(done("evaluate", f"images={name}.npz", "dataset=coupled_digits", *EVALUATION, cwd=cwd).out)
        for name in ("own", "data")
    ]
    assert tables[0]["pair_agreement"][0] == 1.0
    assert 0.04 < tables[1]["pair_agreement"][0] < 0.17
    assert tables[0]["modes_covered"] == tables[1]["modes_covered"] == [10, 10]


def test_a_picture_shows_both_domains_and_a_folder_is_refused(cwd: Path) -> None:
    done("sample", "run=run", "out=pairs.png", "num=4", cwd=cwd)
    result = called("sample", "run=run", "out=pairs", "num=4", cwd=cwd)
    assert result.code == 2
    assert result.err == (
        "error: out=pairs: samples of 2 channels are no pictures; use out=FILE.npz or out=FILE.png "
        "(both domains side by side)\n"
    )
    assert not (cwd / "pairs").exists()
