"""Labels, codes and directions from the command line: `conditioning=...`, its pictures, `gan-lab sample`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL, called, done

from gan_lab.directions import closed_form_directions
from gan_lab.files import read_checkpoint
from gan_lab.models.mlp import Generator
from gan_lab.streams import Streams

LATENT_DIM = 4
SHADES = {"1": 0, "2": 100, "3": 250}
"""The folders of the run `folders`, and what is in them."""


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs `labels` (conditioning=acgan) and `codes` (conditioning=infogan), on digits, and `folders`."""
    cwd = tmp_path_factory.mktemp("runs")
    for name, conditioning in (("labels", "acgan"), ("codes", "infogan")):
        more = ["evaluation=full", "evaluation.num_samples=300"] if name == "labels" else []
        done("train", *SMALL, f"conditioning={conditioning}", *more, f"hydra.run.dir={name}", cwd=cwd)
    for name, shade in SHADES.items():
        (cwd / "pictures" / name).mkdir(parents=True)
        for index in range(30):
            Image.new("L", (8, 8), shade).save(cwd / "pictures" / name / f"{index}.png")
    folders = ["dataset=image_folder", f"dataset.root={cwd / 'pictures'}", "dataset.image_size=8", "evaluation=none"]
    settings = [one for one in SMALL if not one.startswith(("evaluation.", "callbacks."))]
    more = ["callbacks.samples.num=18", "conditioning=concat", "hydra.run.dir=folders"]
    done("train", *settings, *folders, *more, cwd=cwd)
    return cwd


def drawn(cwd: Path, tmp_path: Path, run: str, *arguments: str) -> np.ndarray:
    done("sample", f"run={run}", f"out={tmp_path / 'drawn.npz'}", *arguments, cwd=cwd)
    with np.load(tmp_path / "drawn.npz") as content:
        return content["images"]


def generated(cwd: Path, run: str, codes: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
    """By another way: the checkpoint's weights through plain layers."""
    state = read_checkpoint(cwd / run / "checkpoints" / "last.ckpt")
    generator = Generator(
        sample_shape=(1, 8, 8), latent_dim=LATENT_DIM + codes.shape[1], width=8, depth=1, norm="batch"
    )
    generator.load_state_dict(state["generator_ema"])
    with torch.no_grad():
        images = generator.eval()(torch.cat([noise, codes], dim=1))
    return ((images + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def noise_of(num: int) -> torch.Tensor:
    return Streams(0).normal((256, LATENT_DIM), "noise/sample", 0)[:num]


@pytest.mark.parametrize(("label", "labels"), [("3", [3] * 5), ("[7,0]", [7, 0, 7, 0, 7]), ("'9'", [9] * 5)])
def test_samples_have_the_label_that_was_asked_for(cwd: Path, tmp_path: Path, label: str, labels: list[int]) -> None:
    images = drawn(cwd, tmp_path, "labels", "num=5", f"label={label}")
    expected = generated(cwd, "labels", torch.eye(10)[labels], noise_of(5))
    assert np.abs(images - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("label", "labels"), [("1", [0] * 4), ("3", [2] * 4), ("'2'", [1] * 4), ("0", [0] * 4), ("[0,2,3]", [0, 1, 2, 0])]
)
def test_a_label_is_a_name_before_it_is_a_number(cwd: Path, tmp_path: Path, label: str, labels: list[int]) -> None:
    """Of the folders 1, 2 and 3; none is called 0, so that this is the first."""
    images = drawn(cwd, tmp_path, "folders", "num=4", f"label={label}")
    expected = generated(cwd, "folders", torch.eye(3)[labels], noise_of(4))
    assert np.abs(images - expected).max() <= 0.51


def test_every_label_in_a_grid(cwd: Path, tmp_path: Path) -> None:
    done("sample", "run=labels", f"out={tmp_path / 'grid.png'}", "num=20", "label=all", cwd=cwd)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 + 10 * 58, 2 + 2 * 58)


@pytest.mark.parametrize(
    ("arguments", "columns", "rows"),
    [
        ("label=all num=36", 6, 6),
        ("label=[1,2] num=16", 4, 4),
        ("label=all num=4", 3, 2),
        ("label=all num=64 columns=4", 4, 16),
    ],
)
def test_few_labels_make_a_grid_that_is_about_a_square(
    cwd: Path, tmp_path: Path, arguments: str, columns: int, rows: int
) -> None:
    """Of three labels; columns that are asked for are kept to."""
    done("sample", "run=folders", f"out={tmp_path / 'grid.png'}", *arguments.split(), cwd=cwd)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 + columns * 58, 2 + rows * 58)


def test_codes_of_infogan(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "codes", "num=3", "label=2", "codes=[0.5,-1]")
    codes = torch.cat([torch.eye(10)[[2] * 3], torch.tensor([[0.5, -1.0]] * 3)], dim=1)
    assert np.abs(images - generated(cwd, "codes", codes, noise_of(3))).max() <= 0.51


def test_labels_are_drawn_as_often_as_in_the_data(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "labels", "num=200")
    alike = [
        np.abs(images[:200] - generated(cwd, "labels", torch.eye(10)[[k] * 200], noise_of(200))) for k in range(10)
    ]
    labels = np.stack([one.max(axis=(1, 2, 3)) for one in alike]).argmin(axis=0)
    assert np.stack([one.max(axis=(1, 2, 3)) for one in alike]).min(axis=0).max() <= 0.51
    assert (np.bincount(labels, minlength=10) >= 8).all()


def test_interpolation_keeps_a_label(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "labels", "interpolate=[0,1]", "steps=4", "label=6")
    assert len(images) == 4
    expected = generated(cwd, "labels", torch.eye(10)[[6]], noise_of(1))
    assert np.abs(images[:1] - expected).max() <= 0.51


def test_directions_move_one_sample_along_the_first_layers_singular_vectors(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "labels", "directions=3", "steps=5", "strength=2", "label=1")
    assert len(images) == 15
    state = read_checkpoint(cwd / "labels" / "checkpoints" / "last.ckpt")
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=LATENT_DIM + 10, width=8, depth=1, norm="batch")
    generator.load_state_dict(state["generator_ema"])
    directions = closed_form_directions(generator, LATENT_DIM, 3)
    noise = torch.stack([noise_of(1)[0] + t * direction for direction in directions for t in (-2, -1, 0, 1, 2)])
    expected = generated(cwd, "labels", torch.eye(10)[[1] * 15], noise)
    assert np.abs(images - expected).max() <= 0.51
    assert np.abs(images[2].astype(int) - images[7]).max() <= 1  # the middle of every row is the sample itself


def test_one_step_along_a_direction_is_the_sample_itself(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "labels", "directions=2", "steps=1", "label=1")
    expected = generated(cwd, "labels", torch.eye(10)[[1] * 2], noise_of(1).repeat(2, 1))
    assert np.abs(images - expected).max() <= 0.51


@pytest.mark.parametrize(("codes", "warned"), [("[1,-1]", False), ("[0,1.5]", True), ("[-9,9]", True)])
def test_codes_that_training_never_saw(
    cwd: Path, tmp_path: Path, codes: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    drawn(cwd, tmp_path, "codes", "num=2", f"codes={codes}")
    assert ("training saw -1 to 1" in caplog.text) is warned


@pytest.mark.parametrize(
    ("run", "arguments", "problem"),
    [
        ("labels", "label=10", "label=10: expected 0 to 9, all, or a name"),
        ("labels", "label=shoe", "label=shoe: expected 0 to 9, all, or a name"),
        ("labels", "codes=[1]", "this generator takes 0 continuous codes"),
        ("codes", "codes=[1]", "this generator takes 2 continuous codes"),
        (
            "labels",
            "directions=5",
            "directions=5: latents of 4 values have no more than 4 directions; use ",
        ),
    ],
)
def test_wrong_arguments(cwd: Path, tmp_path: Path, run: str, arguments: str, problem: str) -> None:
    result = called("sample", f"run={run}", f"out={tmp_path / 'x.npz'}", *arguments.split(), cwd=cwd)
    assert result.code in (1, 2)
    assert problem in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_pictures_have_a_column_for_each_label_and_one_for_each_continuous_code(cwd: Path) -> None:
    first = sorted(path.name for path in (cwd / "codes" / "samples").glob("000000000*.png"))
    assert first == ["000000000-code_1.png", "000000000-code_2.png", "000000000.png"]
    with Image.open(cwd / "labels" / "samples" / "000000000.png") as picture:
        assert picture.width == 2 + 10 * 58


def test_several_noises_share_a_row_where_labels_are_few(cwd: Path) -> None:
    """18 samples of three labels in 8 columns: twice three, three times."""
    with Image.open(cwd / "folders" / "samples" / "000000000.png") as picture:
        assert picture.size == (2 + 6 * 58, 2 + 3 * 58)
        tiles = np.array(picture)[2:, 2:].reshape(3, 58, 6, 58).transpose(0, 2, 1, 3)
    assert len(np.unique(tiles.reshape(18, -1), axis=0)) == 18  # six noises, each with three labels


def test_the_picture_of_the_data_shows_every_class(cwd: Path) -> None:
    """Folders are read class after class, and the first 18 of these pictures are all of one."""
    with Image.open(cwd / "folders" / "samples" / "real.png") as picture:
        assert set(np.unique(np.array(picture))) == {*SHADES.values(), 40}  # 40: the lines between


def test_metrics_of_labels_and_codes(cwd: Path) -> None:
    with (cwd / "labels" / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    for name in ("label_accuracy", "classification_accuracy", "classes/accuracy"):
        assert 0 <= float(row[name]) <= 1
    assert float(row["class_fd"]) > float(row["class_fd/floor"]) >= 0
    assert float(row["label_accuracy/floor"]) > 0.9
    with (cwd / "codes" / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert 0.1 <= float(row["clusters/purity"]) <= 1
    assert 0 <= float(row["clusters/error"]) <= 0.9
    assert "label_accuracy" not in row


def test_evaluate_scores_the_labels_of_training(cwd: Path) -> None:
    done("evaluate", "run=labels", "evaluation=full", "num=300", "out=scores.json", cwd=cwd)
    result = json.loads((cwd / "scores.json").read_text())
    scores = result["scores"]
    with (cwd / "labels" / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    for name in ("label_accuracy", "class_fd", "classification_accuracy", "fd", "classes/accuracy"):
        assert scores[name] == pytest.approx(float(row[name]), rel=1e-6)
    each = result["class_fd"]
    assert set(each) <= {str(digit) for digit in range(10)}
    assert sum(each.values()) / len(each) == pytest.approx(scores["class_fd"])
    shown = done("evaluate", "run=labels", "evaluation=full", "num=300", "weights=best", cwd=cwd)
    assert "class_fd of each class: 0 " in shown.out
    assert "classes/accuracy" not in shown.out  # beside the best generator no D is kept


def test_evaluate_reads_the_categories_as_training_did(cwd: Path) -> None:
    done("evaluate", "run=codes", "out=codes.json", cwd=cwd)
    scores = json.loads((cwd / "codes.json").read_text())["scores"]
    with (cwd / "codes" / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    for name in ("clusters/purity", "clusters/error"):
        assert scores[name] == pytest.approx(float(row[name]), rel=1e-6)


def test_few_training_images_are_scored_against_all(cwd: Path, tmp_path: Path) -> None:
    done("train", *SMALL, "num_training_images=50", "evaluation.num_samples=600", "hydra.run.dir=few", cwd=cwd)
    record = json.loads((cwd / "few" / "run.json").read_text())
    (card,) = record["cards"].values()
    assert card["num_real"] == 600
    result = called("train", *SMALL, "num_training_images=5000", "hydra.run.dir=many", cwd=cwd)
    assert result.code == 2
    assert "num_training_images=5000: the data set has 1442" in result.err


def test_labels_are_needed(cwd: Path) -> None:
    result = called("train", *SMALL, "dataset=coupled_digits", "conditioning=concat", cwd=cwd)
    assert result.code == 2
    assert "needs labels, and the data set has none" in result.err
