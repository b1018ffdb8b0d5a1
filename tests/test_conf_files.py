"""Every file under conf/ describes itself, composes, passes the check and trains."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image

from gan_lab.compose import Composer, checked_overrides, conf_dir
from gan_lab.config import check, deciding_metric, problems_of
from gan_lab.run import train
from gan_lab.sweep.plan import representative_choices

FILES = sorted(conf_dir().rglob("*.yaml"))
OPTIONS = [
    (path.parent.name, path.stem)
    for path in FILES
    if path.parent != conf_dir() and "hydra" not in path.relative_to(conf_dir()).parts
]
NOT_RUN_HERE = [("accelerator", "gpu"), ("accelerator", "ddp"), ("evaluation", "inception")]
"""The first has a test below, the others have files of their own: test_ddp.py, test_evaluate.py."""
NEEDS = {
    ("model", "autoencoder"): ["loss=began"],
    ("model", "coupled"): ["dataset=coupled_digits"],
    ("loss", "began"): ["model=autoencoder"],
    ("loss", "energy"): ["model=autoencoder"],
    ("penalty", "class_consistency"): ["dataset=digits", "conditioning=infogan"],
}
BATCH_SIZE = 8


@pytest.fixture(autouse=True)
def _no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def composed(overrides: Sequence[str]) -> DictConfig:
    return Composer().compose(overrides)


def idx_file(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made data: MNIST/raw, FashionMNIST/raw and pictures/, of random pixels."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        idx_file(root / name / "raw" / "train-images-idx3-ubyte", random.integers(0, 256, (200, 28, 28)))
        idx_file(root / name / "raw" / "train-labels-idx1-ubyte", np.arange(200) % 10)
        idx_file(root / name / "raw" / "t10k-images-idx3-ubyte", random.integers(0, 256, (30, 28, 28)))
        idx_file(root / name / "raw" / "t10k-labels-idx1-ubyte", random.integers(0, 10, 30))
    (root / "pictures").mkdir()
    for index in range(40):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{index}.png")
    return root


def overrides_of(group: str, option: str, data_root: Path) -> list[str]:
    """The option and what it cannot do without; points have no place in dcgan, nor a mandatory root a default."""
    given = [f"{group}={option}", *NEEDS.get((group, option), [])]
    if (group, option) == ("dataset", "image_folder"):
        given.append(f"dataset.root={data_root / 'pictures'}")
    return given


def with_small_data(cfg: DictConfig, overrides: list[str], data_root: Path) -> DictConfig:
    """The configuration on data that are here: made files, or digits of the same size in place of large sets."""
    source = cfg.dataset._target_.rsplit(".", 1)[-1]
    if source in ("mnist", "fashion_mnist", "stacked_mnist"):
        return composed([*overrides, f"dataset.root={data_root}", "dataset.download=false"])
    if source in ("cifar10", "celeba"):
        others = [text for text in overrides if not text.startswith("dataset=")]
        size = f"dataset.image_size={cfg.dataset.image_size or 32}"
        cfg = composed([*others, "dataset=digits", size])
        if cfg.evaluation is not None and cfg.evaluation.extractor == "auto":
            cfg.evaluation.extractor = "random"  # training a classifier of large digits takes a minute
        return cfg
    if source == "image_folder" and cfg.dataset.root != str(data_root / "pictures"):
        return composed([*overrides, f"dataset.root={data_root / 'pictures'}"])
    return cfg


def made_small(cfg: DictConfig) -> int:
    """Two cycles of a few narrow samples; returns the images they show."""
    cfg.batch_size = BATCH_SIZE * cfg.optimizer.accumulate
    cfg.model.width = 8
    cfg.loss.warmup_kimg = 0
    cfg.num_training_images = None
    cfg.callbacks.samples.num = 4
    if cfg.evaluation is not None:
        cfg.evaluation.num_samples = 32
    images = 2 * cfg.loss.num_discriminator_steps * cfg.batch_size
    cfg.budget.kimg = images / 1000
    return images


def test_there_are_files() -> None:
    groups = {group for group, _ in OPTIONS}
    expected = {"model", "dataset", "loss", "penalty", "optimizer", "accelerator", "evaluation", "logger", "callbacks"}
    assert groups == expected | {"augment", "conditioning", "schedule", "experiment", "sweep"}
    assert len(OPTIONS) >= 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(conf_dir())))
def test_first_comment_describes_the_file(path: Path) -> None:
    first, second, *_ = [*path.read_text().splitlines(), "", ""]
    comment = second if first.startswith("# @package") else first
    assert comment.startswith("# ")
    assert comment.strip("# \n")


@pytest.mark.parametrize(
    ("group", "option"),
    [pytest.param(*choice, id="=".join(choice)) for choice in OPTIONS if choice not in NOT_RUN_HERE],
)
def test_passes_the_check_and_trains_two_cycles(group: str, option: str, data_root: Path, tmp_path: Path) -> None:
    overrides = overrides_of(group, option, data_root)
    cfg = composed(overrides)
    assert problems_of(cfg) == []
    cfg = with_small_data(cfg, overrides, data_root)
    images = made_small(cfg)
    objective = train(cfg, tmp_path / "run")

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["images_seen"] == images
    assert record["d_steps"] == 2 * cfg.loss.num_discriminator_steps
    assert record["g_steps"] == 2
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert int(row["images_seen"]) == images
    assert math.isfinite(float(row["loss/discriminator"]))
    assert math.isfinite(float(row["loss/generator"]))
    assert ("loss/penalty" in row) == bool(cfg.loss.penalty or cfg.penalty)
    decides = deciding_metric(check(cfg))
    assert (objective is None) == (decides is None)
    if objective is not None:
        assert objective == float(row[decides])


def test_gpu_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has a GPU")
    assert problems_of(Composer().compose(["accelerator=gpu"])) == [
        "accelerator.device=gpu: torch sees no GPU on this machine; use accelerator=cpu, or accelerator=auto"
    ]


def test_ddp_asks_for_two_processes() -> None:
    cfg = composed(["accelerator=ddp", "accelerator.device=cpu"])
    assert problems_of(cfg) == []
    assert cfg.accelerator.num_processes == 2
    assert Composer().compose(["accelerator=auto"]).accelerator.num_processes == 1


def test_defaults_compose_without_overrides() -> None:
    assert checked_overrides([]) == []
    cfg = composed([])
    assert cfg.name == "digits-mlp-vanilla"


@pytest.mark.parametrize("name", [path.stem for path in FILES if path.parent.name == "sweep"])
def test_every_choice_of_a_ready_sweep_is_legal(name: str) -> None:
    """At both ends of each interval, on images and, where the model allows, on points."""
    assert checked_overrides([f"sweep={name}"], None, representative_choices) == [f"sweep={name}"]
    if name not in ("dcgan", "methods", "methods_digits"):
        checked_overrides([f"sweep={name}", "dataset=gaussian_ring"], None, representative_choices)
