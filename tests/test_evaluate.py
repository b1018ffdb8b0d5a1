"""`gan-lab evaluate`: scores of a trained run, and of images that any other program made."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL, Result, called, done, record_of
from torch import Tensor, nn

import gan_lab.evaluation
from gan_lab.callbacks.checkpoint import last_checkpoint
from gan_lab.data.digits import digits
from gan_lab.data.points import gaussian_ring
from gan_lab.data.resize import resize_images
from gan_lab.evaluation import Evaluator, Facts, Metric, card_id, metric_names
from gan_lab.features import Extractor
from gan_lab.features.cache import Cache
from gan_lab.files import read_checkpoint
from gan_lab.models.mlp import Generator
from gan_lab.streams import Streams

FAST: tuple[Metric, ...] = ("frechet", "manifold", "sliced_wasserstein", "modes", "diversity")
FULL: tuple[Metric, ...] = (
    *("frechet", "kernel", "manifold", "sliced_wasserstein", "feature_sliced_wasserstein", "class_score", "modes"),
    *("memorisation", "diversity"),
)
NUM = 32
"""Samples that SMALL's runs score."""


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs `images`, whose last third ruins it, and `points`; and fakes.npz, 80 of the former's samples."""
    cwd = tmp_path_factory.mktemp("runs")
    evaluator_of_digits(FAST, NUM).prepare()  # so that all below read the extractor from the cache
    more = ["evaluation.every_kimg=0.016", "optimizer.lr=0.02", "hydra.run.dir=images"]
    done("train", *SMALL, *more, cwd=cwd)
    done("resume", "run=images", "budget.kimg=0.096", "optimizer.generator.lr=1", cwd=cwd)
    done("train", *SMALL, "dataset=gaussian_ring", "hydra.run.dir=points", cwd=cwd)
    done("sample", "run=images", "num=80", "out=fakes.npz", cwd=cwd)
    return cwd


def evaluated(*arguments: str, cwd: Path, out: Path) -> dict[str, Any]:
    """What `gan-lab evaluate` wrote to `out`."""
    done("evaluate", *arguments, f"out={out}", cwd=cwd)
    return json.loads(out.read_text())


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def evaluator_of_digits(metrics: tuple[Metric, ...], num: int) -> Evaluator:
    cache = Cache(Path(os.environ["GAN_LAB_CACHE"]))
    return Evaluator(digits(), digits(split="test"), metrics, cache, num_samples=num, split="train")


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def fakes_of(cwd: Path) -> np.ndarray:
    with np.load(cwd / "fakes.npz") as content:
        return content["images"]


# ---------------------------------------------------------------------- a run


def test_figures_are_those_of_the_evaluation_during_training(cwd: Path, tmp_path: Path) -> None:
    """To the last bit: the same latents, reference and rounding."""
    found = evaluated("run=images", "evaluation=fast", f"num={NUM}", cwd=cwd, out=tmp_path / "a.json")
    row = rows_of(cwd / "images")[-1]
    assert row["images_seen"] == "96"
    assert sorted(found["scores"]) == sorted(metric_names(FAST, Facts()))
    assert found["scores"] == {name: float(row[name]) for name in found["scores"]}
    assert found["floor"] == {name: float(row[f"{name}/floor"]) for name in found["floor"]}
    assert list(found["floor"]) == list(found["scores"])
    assert found["card_id"] == row["card"]


def test_memorisation_is_of_the_images_that_the_run_has_learned_from(cwd: Path, tmp_path: Path) -> None:
    settings = ["num_training_images=40", "evaluation.metrics=[memorisation]", "hydra.run.dir=few"]
    done("train", *SMALL, *settings, "objective=null", cwd=cwd)
    row = rows_of(cwd / "few")[-1]
    arguments = ("run=few", "evaluation.metrics=[memorisation]", f"num={NUM}")
    found = evaluated(*arguments, cwd=cwd, out=tmp_path / "a.json")
    assert found["scores"] == {name: float(row[name]) for name in ("nearest_train_ratio", "authentic")}
    other = evaluated(*arguments, "dataset.split=train", cwd=cwd, out=tmp_path / "b.json")
    assert "training_data" not in other["card"]
    assert other["scores"] != found["scores"]


def test_figures_of_the_best_are_those_in_run_json(cwd: Path, tmp_path: Path) -> None:
    best: Any = record_of(cwd / "images")["best"]
    assert best["images_seen"] < 96  # not the last, or the test shows nothing
    found = evaluated("run=images", "weights=best", "evaluation=fast", f"num={NUM}", cwd=cwd, out=tmp_path / "a.json")
    assert found["scores"] == best["scores"]
    assert found["card_id"] == best["card_id"]
    assert (found["card"]["weights"], found["card"]["images_seen"]) == ("best", best["images_seen"])
    last = evaluated("run=images", "evaluation=fast", f"num={NUM}", cwd=cwd, out=tmp_path / "b.json")
    assert last["scores"] != best["scores"]


def test_extractor_from_the_cache_is_the_one_that_was_made(tmp_path: Path) -> None:
    """A run that made the extractor has the figures of the same run that found it, to the last bit."""
    fake = digits(split="test").samples[:NUM].flip(3)
    scores = [
        Evaluator(digits(), digits(split="test"), FAST, Cache(tmp_path), num_samples=NUM).score(fake) for _ in range(2)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("weights", "saved"), [("ema", "generator_ema"), ("raw", "generator")])
@pytest.mark.parametrize("seed", [None, 5])
def test_weights_and_seed(cwd: Path, tmp_path: Path, weights: str, saved: str, seed: int | None) -> None:
    """By another way: the checkpoint's weights through plain layers, scored by an evaluator made here."""
    given = [f"weights={weights}", "evaluation=fast", f"num={NUM}", *([] if seed is None else [f"seed={seed}"])]
    found = evaluated("run=images", *given, cwd=cwd, out=tmp_path / "a.json")
    state = read_checkpoint(last_checkpoint(cwd / "images"))
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=4, width=8, depth=1, norm="batch").eval()
    generator.load_state_dict(state[saved])
    with torch.no_grad():
        drawn = generator(Streams(seed or 0).normal((256, 4), "noise/evaluation", 0))[:NUM].numpy()
    fake = torch.from_numpy(np.rint((drawn.clip(-1, 1) + 1) * 127.5).astype(np.uint8))
    expected = evaluator_of_digits(FAST, NUM).score(fake)
    for name, value in found["scores"].items():
        assert value == pytest.approx(expected[name], rel=1e-9), name
    assert (found["card"]["weights"], found["card"]["noise_seed"]) == (weights, seed or 0)


def test_result_on_the_terminal_and_in_the_run(cwd: Path) -> None:
    result = done("evaluate", "run=images", "num=70", cwd=cwd)
    (path,) = (cwd / "images" / "evaluations").glob("ema-*.json")
    content = json.loads(path.read_text())
    assert list(content) == ["scores", "floor", "card_id", "card"]
    assert path.name == f"ema-000000096-seed0-{content['card_id']}.json"
    head, *lines, floor, card, last = result.out.splitlines()
    assert head.split() == ["metric", "value", "floor", "ratio"]
    assert last == f"evaluation: {path.relative_to(cwd)}"
    assert floor == "(floor: as many other real samples, what a perfect generator would get)"
    assert [line.split()[0] for line in lines] == list(content["scores"])
    for line in lines:
        name, *figures = line.split()
        value, base = content["scores"][name], content["floor"][name]
        shown = [f"{value:.5g}", f"{base:.5g}", *([f"{value / base:.2f}x"] if base > 0 else [])]
        assert figures == shown
    facts = content["card"]
    assert card == "; ".join(f"{key} {value}" for key, value in facts.items() if key != "metrics")
    assert (facts["metrics"], facts["num_fake"], facts["num_real"]) == (list(FULL), 70, 70)
    assert (facts["split"], facts["quantised"], facts["extractor_name"]) == ("train", "uint8", "cnn")
    assert (facts["weights"], facts["noise_seed"], facts["images_seen"]) == ("ema", 0, 96)
    assert content["card_id"] == card_id(facts)
    assert result.err == ""  # 70 samples are more than the 64 features


def test_full_evaluation_has_every_metric(cwd: Path, tmp_path: Path) -> None:
    found = evaluated("run=images", "num=70", "evaluation=full", cwd=cwd, out=tmp_path / "a.json")
    assert sorted(found["scores"]) == sorted(metric_names(FULL, Facts()))
    assert {"nearest_train_ratio", "authentic", "kd", "class_score"} <= set(found["scores"])
    assert sorted(found["floor"]) == sorted(found["scores"])
    assert found["floor"]["nearest_train_ratio"] == 1.0  # held-out images beside themselves
    assert not list(tmp_path.glob("*.png"))
    again = evaluated("run=images", "num=70", cwd=cwd, out=tmp_path / "b.json")
    assert again == found  # full is what one gets without asking


def test_evaluating_leaves_the_run_as_it_is(cwd: Path, tmp_path: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (cwd / "images").rglob("*")}

    before = files()
    evaluated("run=images", "weights=best", f"num={NUM}", cwd=cwd, out=tmp_path / "new" / "a.json")
    assert files() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_latest_run(tmp_path: Path, cwd: Path) -> None:
    shutil.copytree(cwd / "points", tmp_path / "outputs" / "day" / "run")
    result = done("evaluate", "run=latest", "evaluation=fast", "num=60", cwd=tmp_path)
    assert result.out.splitlines()[-1].startswith("evaluation: outputs/day/run/evaluations/ema-000000064-")


def test_number_is_limited_by_the_data(cwd: Path, tmp_path: Path) -> None:
    """Half of the 1,442 digits; the other half is the floor's."""
    result = done("evaluate", "run=images", "evaluation=fast", "num=1000", f"out={tmp_path / 'a.json'}", cwd=cwd)
    assert result.err == "num=1000 is more than there is to compare with: 721 samples a side are scored\n"
    card = json.loads((tmp_path / "a.json").read_text())["card"]
    assert (card["num_fake"], card["num_real"]) == (721, 721)


def test_few_samples_are_a_warning(cwd: Path, tmp_path: Path) -> None:
    result = done("evaluate", "run=images", "evaluation=fast", "num=63", f"out={tmp_path / 'a.json'}", cwd=cwd)
    assert result.err == (
        "warning: 63 samples are fewer than the 64 features: read distances only beside their floor\n"
    )


def test_evaluations_keys_can_be_set(cwd: Path, tmp_path: Path) -> None:
    given = ["evaluation=fast", "evaluation.extractor=random", "evaluation.metrics=[frechet]", "num=60"]
    found = evaluated("run=images", *given, cwd=cwd, out=tmp_path / "a.json")
    assert list(found["scores"]) == ["fd"]
    assert found["card"]["extractor_name"] == "random"
    other = evaluated("run=images", *given, "dataset.split=test", cwd=cwd, out=tmp_path / "b.json")
    assert other["card"]["split"] == "test"
    assert other["card"]["data"] != found["card"]["data"]


# ---------------------------------------------------------------------- images of any program


@pytest.fixture(scope="module")
def expected(cwd: Path) -> dict[str, float]:
    """Scores of fakes.npz by an evaluator made here."""
    fake = torch.from_numpy(fakes_of(cwd)).permute(0, 3, 1, 2)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    return evaluator_of_digits(FAST, 80).score(fake[order])


def write_layout(layout: str, images: np.ndarray, folder: Path) -> Path:
    """The images (N, H, W, 1) as another program may leave them."""
    path = folder / "fakes.npz"
    if layout == "folder":
        (folder / "fakes").mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image[:, :, 0]).save(folder / "fakes" / f"{index:03d}.png")
        return folder / "fakes"
    if layout == "npy":
        np.save(folder / "fakes.npy", images)
        return folder / "fakes.npy"
    if layout == "NHW":
        return npz(path, images=images[:, :, :, 0])
    if layout == "NCHW":
        return npz(path, images=images.transpose(0, 3, 1, 2))
    if layout == "only array":
        return npz(path, something=images)
    if layout == "images among others":
        return npz(path, labels=np.arange(3.0), images=images)
    if layout == "compressed":
        np.savez_compressed(path, images=images)
        return path
    assert layout == "NHWC"
    return npz(path, images=images)


@pytest.mark.parametrize(
    "layout", ["NHWC", "NHW", "NCHW", "npy", "only array", "images among others", "compressed", "folder"]
)
def test_layouts(cwd: Path, tmp_path: Path, layout: str, expected: dict[str, float]) -> None:
    """The images of `gan-lab sample`, in any form, have the same scores."""
    path = write_layout(layout, fakes_of(cwd), tmp_path)
    found = evaluated(f"images={path}", "dataset=digits", "evaluation=fast", cwd=cwd, out=tmp_path / "a.json")
    assert found["scores"] == pytest.approx(expected, rel=1e-6)  # strides differ
    assert found["card"]["scored"] == f"80 of 80 in {path}"
    assert found["card"]["num_fake"] == found["card"]["num_real"] == 80


def test_images_without_out_are_shown_and_nothing_is_written(cwd: Path, tmp_path: Path) -> None:
    before = sorted(cwd.rglob("*"))
    result = done("evaluate", f"images={cwd / 'fakes.npz'}", "dataset=digits", "evaluation=fast", cwd=tmp_path)
    assert result.out.splitlines()[0].split() == ["metric", "value", "floor", "ratio"]
    assert "evaluation: " not in result.out
    assert list(tmp_path.iterdir()) == []
    assert sorted(cwd.rglob("*")) == before


def test_num_takes_a_part_of_the_images(cwd: Path, tmp_path: Path) -> None:
    arguments = ["images=fakes.npz", "dataset=digits", "evaluation=fast", "num=70"]
    found = evaluated(*arguments, cwd=cwd, out=tmp_path / "a.json")
    assert found["card"]["scored"] == "70 of 80 in fakes.npz"
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:70]
    fake = torch.from_numpy(fakes_of(cwd)).permute(0, 3, 1, 2)[order]
    assert found["scores"] == pytest.approx(evaluator_of_digits(FAST, 70).score(fake), rel=1e-6)


def test_more_than_the_images_there_are(cwd: Path) -> None:
    result = done("evaluate", "images=fakes.npz", "dataset=digits", "evaluation=fast", "num=100", cwd=cwd)
    assert result.err == "num=100 is more than there is to compare with: 80 samples a side are scored\n"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 5), (8, 12)])
def test_another_size_is_resized_and_noted(cwd: Path, tmp_path: Path, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, height, width), dtype=np.uint8)
    path = npz(tmp_path / "a.npz", images=images)
    found = evaluated(f"images={path}", "dataset=digits", "evaluation=fast", cwd=cwd, out=tmp_path / "a.json")
    note = f"60 of 60 in {path}, resized from {height}x{width} (antialiased bicubic)"
    assert found["card"]["scored"] == note
    small = resize_images(torch.from_numpy(images).unsqueeze(1), 8)
    small_path = npz(tmp_path / "b.npz", images=small.numpy())
    small_found = evaluated(f"images={small_path}", "dataset=digits", "evaluation=fast", cwd=cwd, out=tmp_path / "b")
    assert small_found["scores"] == found["scores"]
    assert small_found["card_id"] == found["card_id"]


def test_colour_in_both_layouts(tmp_path: Path) -> None:
    """A folder of colour pictures is the data; its own images, channels first or last, have the same scores."""
    generator = np.random.default_rng(0)
    (tmp_path / "real").mkdir()
    for index in range(120):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "real" / f"{index}.png")
    images = generator.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    data = ["dataset=image_folder", f"dataset.root={tmp_path / 'real'}", "dataset.image_size=8", "evaluation=fast"]
    scores = []
    for name, array in (("last", images), ("first", images.transpose(0, 3, 1, 2))):
        path = npz(tmp_path / f"{name}.npz", images=array)
        scores.append(evaluated(f"images={path}", *data, cwd=tmp_path, out=tmp_path / "a.json")["scores"])
    assert scores[0] == scores[1]
    assert "fd" in scores[0]


def test_copies_of_training_images_are_told(cwd: Path, tmp_path: Path) -> None:
    held_out, copies = digits(split="test").samples[:100].numpy(), digits().samples[50:150].numpy()
    found = {}
    for name, images in (("new", held_out), ("copies", copies)):
        path = npz(tmp_path / f"{name}.npz", images=images)
        found[name] = evaluated(f"images={path}", "dataset=digits", cwd=cwd, out=tmp_path / "a.json")["scores"]
    assert found["copies"]["authentic"] == 0.0
    assert found["copies"]["nearest_train_ratio"] == 0.0
    assert found["new"]["authentic"] > 0.4
    assert found["new"]["nearest_train_ratio"] == pytest.approx(1, abs=0.3)
    assert found["copies"]["fd"] < 500  # good by the distance: only memorisation tells


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_perfect_points(tmp_path: Path, suffix: str) -> None:
    points = gaussian_ring(seed=1, num_points=2600).samples.double().numpy()
    path = tmp_path / f"points{suffix}"
    if suffix == ".npz":
        npz(path, points=points)
    else:
        np.save(path, points)
    found = evaluated(f"images={path}", "dataset=gaussian_ring", cwd=tmp_path, out=tmp_path / "a.json")
    scores, floor = found["scores"], found["floor"]
    assert scores["modes_covered"] == 8
    assert scores["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)
    assert scores["mode_kl"] < 0.01
    assert scores["sliced_wasserstein"] < 3 * floor["sliced_wasserstein"]
    assert scores["coverage"] > 0.9
    assert found["card"]["num_fake"] == 2500  # the protocol's number
    assert found["card"]["scored"] == f"2500 of 2600 in {path}"
    assert "fd" not in scores
    collapsed = np.repeat(points[:1], 2600, axis=0)
    path = npz(tmp_path / "collapsed.npz", points=collapsed)
    worse = evaluated(f"images={path}", "dataset=gaussian_ring", cwd=tmp_path, out=tmp_path / "b.json")
    assert worse["scores"]["modes_covered"] <= 1
    assert worse["scores"]["sliced_wasserstein"] > 10 * scores["sliced_wasserstein"]
    assert worse["card_id"] == found["card_id"]


# ---------------------------------------------------------------------- refusals


def refused(result: Result, code: int, start: str) -> None:
    """One message, no traceback, nothing on standard output."""
    assert (result.code, result.out) == (code, ""), result.err
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {start}")
    assert "unexpected" not in line


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        ("", 2, "give one of run=DIR (or run=latest) and images=PATH dataset=NAME"),
        ("run=images images=fakes.npz dataset=digits", 2, "give one of run=DIR (or run=latest) and images=PATH"),
        ("images=fakes.npz", 2, "dataset must be given: gan-lab evaluate images=PATH dataset=fashion_mnist"),
        ("run=nowhere", 2, "run=nowhere: there is no such directory "),
        ("run=images nmu=3", 2, "nmu: unknown key; "),
        ("run=images num=0", 2, "num=0: expected an integer at least 1"),
        ("run=images weights=first", 2, "weights=first: expected one of ema, raw, best"),
        ("run=images evaluation.num_sample=3", 2, "evaluation.num_sample: unknown key; did you mean evaluation.num_"),
        ("run=images evaluation=quick", 2, "evaluation=quick: no such option; "),
        ("run=images evaluation=none", 2, "evaluation=none: there is nothing to measure; use evaluation=full or "),
        ("images=fakes.npz dataset=digits evaluation=none", 2, "evaluation=none: there is nothing to measure; "),
        ("images=fakes.npz dataset=digits seed=0", 2, "seed=0 says what a run draws, and images are there already; l"),
        ("images=fakes.npz dataset=digits weights=raw", 2, "weights=raw says what a run draws, and images are there "),
        ("images=fakes.npz dataset=digit", 2, "dataset=digit: no such option; did you mean digits?"),
        ("images=fakes.npz dataset=digits dataset.splits=test", 2, "dataset.splits: unknown key; did you mean "),
        ("images=fakes.npz dataset=digits nmu=3", 2, "nmu: unknown key; did you mean num?"),
        ("images=fakes.npz dataset=digits model.width=8", 2, "model.width: unknown key; "),
        ("images=fakes.npz dataset=digits optimizer=adam", 2, "optimizer: unknown key; "),
        ("images=missing.npz dataset=digits", 2, "images=missing.npz: there is no such file or folder (/"),
        ("images=float.npz dataset=digits", 2, "images=float.npz: values are float32; give uint8 from 0 to 255, "),
        ("images=colour.npz dataset=digits", 2, "images=colour.npz: shape (60, 8, 8, 3), expected (N, H, W, 1) like "),
        ("images=flat.npy dataset=digits", 2, "images=flat.npy: shape (60, 64), expected (N, H, W, 1) like the data"),
        ("images=two.npz dataset=digits", 2, "images=two.npz holds the arrays a, b; expected one, or one called im"),
        ("images=few.npz dataset=digits", 1, "images=few.npz: 31 samples are too few to score; give at least 32"),
        ("images=folder dataset=coupled_digits", 2, "images=folder: a folder holds pictures, and the samples have 2 "),
        ("images=folder dataset=gaussian_ring", 2, "images=folder: a folder holds pictures, and the data set has po"),
        ("images=fakes.npz dataset=gaussian_ring", 2, "images=fakes.npz: shape (80, 8, 8, 1), expected points (N, 2)"),
        ("images=folder dataset=digits", 1, "No image in /"),
        ("images=empty.npz dataset=digits", 1, "images=empty.npz cannot be read as .npz or .npy: "),
        ("images=text.npz dataset=digits", 1, "images=text.npz cannot be read as .npz or .npy: "),
        ("images=cut.npy dataset=digits", 1, "images=cut.npy cannot be read as .npz or .npy: "),
        ("images=fakes.npz dataset=digits evaluation.extractor=cnn dataset=gaussian_ring", 2, "images=fakes.npz: "),
    ],
)
def test_refusals(cwd: Path, tmp_path: Path, arguments: str, code: int, start: str) -> None:
    files(cwd, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(called("evaluate", *arguments.split(), "out=a.json", cwd=tmp_path), code, start)
    assert sorted(tmp_path.rglob("*")) == before


def files(cwd: Path, folder: Path) -> None:
    """Runs and files that are refused, by name."""
    for name in ("images", "points", "fakes.npz"):
        (folder / name).symlink_to(cwd / name)
    (folder / "folder").mkdir()
    good = np.zeros((60, 8, 8, 1), np.uint8)
    npz(folder / "float.npz", images=good.astype(np.float32))
    npz(folder / "colour.npz", images=good.repeat(3, axis=3))
    npz(folder / "two.npz", a=good, b=good)
    npz(folder / "few.npz", images=good[:31])
    np.save(folder / "flat.npy", good.reshape(60, 64))
    np.save(folder / "cut.npy", good)
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:1000])
    (folder / "empty.npz").touch()
    (folder / "text.npz").write_text("no archive")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_pickled_code_is_not_run(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trap{suffix}"
    array = np.array([Trap(tmp_path / "sprung")] * 60, dtype=object)
    if suffix == ".npz":
        npz(path, images=array)
    else:
        np.save(path, array, allow_pickle=True)
    result = called("evaluate", f"images={path}", "dataset=digits", cwd=tmp_path)
    refused(result, 1, f"images={path} cannot be read as .npz or .npy: Object arrays cannot be loaded")
    assert not (tmp_path / "sprung").exists()
    np.load(path, allow_pickle=True)["images" if suffix == ".npz" else ...]
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "changed", "changed and compressed"])
def test_damaged_archive(tmp_path: Path, damage: str) -> None:
    save = np.savez_compressed if damage == "changed and compressed" else np.savez
    save(tmp_path / "a.npz", images=np.zeros((60, 8, 8), np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[60:70] = b"\xff" * 10
        content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    result = called("evaluate", "images=a.npz", "dataset=digits", cwd=tmp_path)
    refused(result, 1, "images=a.npz cannot be read as .npz or .npy: ")


@pytest.mark.parametrize(("dtype", "dataset"), [("<U3", "digits"), ("S3", "digits"), ("<U3", "gaussian_ring")])
def test_arrays_of_texts(tmp_path: Path, dtype: str, dataset: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((60, 2), dtype))
    result = called("evaluate", "images=a.npy", f"dataset={dataset}", cwd=tmp_path)
    refused(result, 2, "images=a.npy: ")


def test_big_endian_points(tmp_path: Path) -> None:
    points = gaussian_ring(seed=1, num_points=100).samples.numpy()
    found = []
    for name, dtype in (("own.npy", "<f8"), ("other.npy", ">f8")):
        np.save(tmp_path / name, points.astype(dtype))
        given = [f"images={name}", "dataset=gaussian_ring", "evaluation=fast"]
        found.append(evaluated(*given, cwd=tmp_path, out=tmp_path / "a.json"))
    assert found[0]["scores"] == found[1]["scores"]


@pytest.mark.parametrize(("run", "dataset"), [("images", "gaussian_ring"), ("points", "digits")])
def test_run_against_data_of_another_shape(cwd: Path, run: str, dataset: str) -> None:
    result = called("evaluate", f"run={run}", f"dataset={dataset}", "num=100", cwd=cwd)
    assert (result.code, result.out) == (2, ""), result.err
    assert "unexpected" not in result.err


@pytest.mark.parametrize("num", [1, 5, 9])
def test_a_run_is_not_scored_by_a_handful_either(cwd: Path, num: int) -> None:
    result = called("evaluate", "run=images", f"num={num}", cwd=cwd)
    assert result.code in (1, 2)
    assert "unexpected" not in result.err


def test_infinite_scores_are_legal_json(cwd: Path, tmp_path: Path) -> None:
    """mode_kl is inf where no point is of high quality, as in an untrained run."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    done("evaluate", "run=points", "num=60", f"out={tmp_path / 'a.json'}", cwd=cwd)
    for path in (tmp_path / "a.json", cwd / "points" / "run.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_two_seeds_do_not_share_a_file(cwd: Path) -> None:
    paths = {done("evaluate", "run=points", "num=60", f"seed={seed}", cwd=cwd).out.splitlines()[-1] for seed in (1, 2)}
    assert len(paths) == 2


def test_resized_pictures_of_a_folder_are_noted(cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    for index in range(60):
        Image.fromarray(np.full((20, 16), 4 * index, np.uint8)).save(tmp_path / "fakes" / f"{index}.png")
    given = [f"images={tmp_path / 'fakes'}", "dataset=digits", "evaluation=fast"]
    assert ", resized from " in evaluated(*given, cwd=cwd, out=tmp_path / "a.json")["card"]["scored"]


def test_other_metrics_than_the_objective(cwd: Path, tmp_path: Path) -> None:
    """What decided in training need not be measured again."""
    done("train", *SMALL, "dataset=gaussian_ring", "objective=high_quality", "hydra.run.dir=run", cwd=tmp_path)
    done("evaluate", "run=run", "evaluation.metrics=[sliced_wasserstein]", "num=60", cwd=tmp_path)


def test_run_without_a_best_checkpoint(tmp_path: Path) -> None:
    small = [text for text in SMALL if not text.startswith("evaluation.")]
    done("train", *small, "evaluation=none", "hydra.run.dir=run", cwd=tmp_path)
    for verb, more in (("evaluate", []), ("sample", ["out=a.npz"])):
        result = called(verb, "run=run", "weights=best", *more, cwd=tmp_path)
        message = "there is no run/checkpoints/best.ckpt: the run has not been evaluated yet, or was started with "
        refused(result, 1, message)
    assert not (tmp_path / "a.npz").exists()
    done(
        "evaluate", "run=run", "evaluation=fast", "num=60", cwd=tmp_path
    )  # the last weights can be scored all the same


def test_run_without_a_checkpoint(cwd: Path, tmp_path: Path) -> None:
    shutil.copytree(cwd / "images" / ".hydra", tmp_path / "run" / ".hydra")
    result = called("evaluate", "run=run", "num=60", cwd=tmp_path)
    refused(result, 1, "there is no checkpoint run/checkpoints/last.ckpt")
    (tmp_path / "empty").mkdir()
    refused(called("evaluate", "run=empty", cwd=tmp_path), 2, "run=empty is not the directory of a run: it has no ")


def test_place_that_cannot_be_written(cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "a.json"
    result = called("evaluate", "run=points", "num=60", f"out={out}", cwd=cwd)
    assert result.code == 1
    assert result.err.startswith(f"error: cannot write {out}")
    assert len(result.err.splitlines()) == 1


# ---------------------------------------------------------------------- evaluation=inception


class SmallNetwork(nn.Module):
    """In Inception's place: uint8 images (N, 1, 8, 8) -> 16 features, 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Linear(64, 16).requires_grad_(False)
            self.head = nn.Linear(16, 10).requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.body(images.flatten(1).float() / 255)
        return vectors, 5 * self.head(vectors)


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    def inception(*, weights: str | None = None) -> Extractor:
        return Extractor("inception-v3-compat", SmallNetwork(), {"num_features": 16}, published=True)

    monkeypatch.setattr(gan_lab.evaluation, "inception", inception)


@pytest.mark.usefixtures("small_inception")
def test_published_protocol(tmp_path: Path) -> None:
    done("train", *SMALL, "evaluation=inception", "hydra.run.dir=run", cwd=tmp_path)
    row = rows_of(tmp_path / "run")[-1]
    names = ["fid", "kid", "inception_score", "precision", "recall", "density", "coverage"]
    assert all(np.isfinite(float(row[name])) for name in names)
    assert not {"fd", "kd", "class_score"} & set(row)
    best: Any = record_of(tmp_path / "run")["best"]
    assert (best["metric"], best["value"]) == ("fid", float(row["fid"]))
    result = done("evaluate", "run=run", "evaluation=inception", f"num={NUM}", cwd=tmp_path)
    (path,) = (tmp_path / "run" / "evaluations").iterdir()
    found = json.loads(path.read_text())
    assert list(found["scores"]) == names
    assert found["scores"] == {name: float(row[name]) for name in names}
    assert found["card_id"] == row["card"]
    assert found["card"]["extractor_name"] == "inception-v3-compat"
    assert 1 <= found["scores"]["inception_score"] <= 10
    assert result.err == ""


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity is installed, its weights are not there and cannot be got."""
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed: pip install 'gan_lab[inception]'")

    def fail(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("gan_lab.features.inception.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("verb", ["train", "evaluate run", "evaluate images"])
def test_weights_that_cannot_be_got(cwd: Path, tmp_path: Path, verb: str) -> None:
    arguments = {
        "train": ["train", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"],
        "evaluate run": ["evaluate", "run=images", "num=60"],
        "evaluate images": ["evaluate", "images=fakes.npz", "dataset=digits"],
    }[verb]
    result = called(*arguments, "evaluation=inception", cwd=cwd)
    assert (result.code, result.out) == (1, "")
    message = result.err[result.err.index("error: ") :]
    assert message.startswith("error: Inception's weights are not in ")
    assert "no network" in message
    assert "set evaluation.inception_weights=PATH" in message
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    if verb == "train":
        assert record_of(tmp_path / "run")["status"] == "failed"


@pytest.mark.usefixtures("no_network")
def test_missing_weights_are_found_before_training(tmp_path: Path) -> None:
    """Not at the first evaluation, a million images later."""
    called("train", *SMALL, "evaluation=inception", "hydra.run.dir=run", cwd=tmp_path)
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert not (tmp_path / "run" / "samples").exists()


def test_the_extractor_by_torch_fidelity_is_evaluated(
    cwd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts that `inception` itself gives suffice for the card and its warning."""
    torch_fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")

    class Stub(nn.Module):
        def __init__(self, *arguments: object, **options: object):
            super().__init__()
            self.small = SmallNetwork()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.small(images[:, :1])

    monkeypatch.setattr(torch_fidelity, "FeatureExtractorInceptionV3", Stub)
    torch.save({"some": torch.zeros(1)}, tmp_path / "weights.pth")
    given = ["evaluation=inception", f"evaluation.inception_weights={tmp_path / 'weights.pth'}", "num=60"]
    result = called("evaluate", "run=images", *given, f"out={tmp_path / 'a.json'}", cwd=cwd)
    assert result.code == 0, result.err
    assert "fid" in json.loads((tmp_path / "a.json").read_text())["scores"]


def test_a_run_is_scored_with_its_own_model(cwd: Path) -> None:
    refused(called("evaluate", "run=images", "model.width=64", cwd=cwd), 2, "model.width: unknown key; ")
