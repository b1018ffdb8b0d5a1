"""`gan-lab sample`: what is drawn, in what form, and that nothing is left of what failed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL, called, done

import gan_lab.sample
from gan_lab.files import read_checkpoint

NUM = 300
"""More than one block of latents."""


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs `images` (digits) and `points` (a ring of Gaussians)."""
    cwd = tmp_path_factory.mktemp("runs")
    done("train", *SMALL, "optimizer.lr=0.01", "hydra.run.dir=images", cwd=cwd)
    done("train", *SMALL, "dataset=gaussian_ring", "hydra.run.dir=points", cwd=cwd)
    return cwd


def drawn(cwd: Path, out: Path, *arguments: str, run: str = "images") -> np.ndarray:
    result = done("sample", f"run={run}", f"out={out / 'drawn.npz'}", *arguments, cwd=cwd)
    assert result.out == f"samples: {out / 'drawn.npz'}\n"
    assert [path.name for path in out.iterdir()] == ["drawn.npz"]
    with np.load(out / "drawn.npz") as content:
        assert content.files == ["images"]
        return content["images"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def generated(cwd: Path, weights: str, run: str = "images") -> torch.Tensor:
    """The samples of seed 0 by another way: the checkpoint's weights through plain layers."""
    from gan_lab.models.mlp import Generator
    from gan_lab.streams import Streams

    state = read_checkpoint(cwd / run / "checkpoints" / "last.ckpt")
    generator = Generator(sample_shape=tuple(state["sample_shape"]), latent_dim=4, width=8, depth=1, norm="batch")
    generator.load_state_dict(state[weights])
    with torch.no_grad():
        return generator.eval()(Streams(0).normal((256, 4), "noise/sample", 0))


def test_npz_of_images(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, f"num={NUM}")
    assert images.dtype == np.uint8
    assert images.shape == (NUM, 8, 8, 1)
    expected = ((generated(cwd, "generator_ema") + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(images[:256] - expected).max() <= 0.501  # rounded to nearest
    assert len(np.unique(images[:, 0, 0], axis=0)) > 1


def test_npz_of_points(cwd: Path, tmp_path: Path) -> None:
    points = drawn(cwd, tmp_path, f"num={NUM}", run="points")
    assert points.dtype == np.float32
    assert points.shape == (NUM, 2)
    np.testing.assert_allclose(points[:256], generated(cwd, "generator_ema", run="points"), rtol=1e-5, atol=1e-6)


def test_default_number(cwd: Path, tmp_path: Path) -> None:
    assert len(drawn(cwd, tmp_path)) == 64


def test_sample_i_of_a_seed_is_the_same_whatever_the_number(cwd: Path, tmp_path: Path) -> None:
    many = drawn(cwd, tmp_path, f"num={NUM}", "seed=5", run="points")
    few = drawn(cwd, tmp_path, "num=270", "seed=5", run="points")
    np.testing.assert_allclose(few, many[:270], rtol=1e-5, atol=1e-6)
    batches = drawn(cwd, tmp_path, f"num={NUM}", "seed=5", "batch_size=7", run="points")
    np.testing.assert_allclose(batches, many, rtol=1e-5, atol=1e-6)
    others = drawn(cwd, tmp_path, f"num={NUM}", "seed=6", run="points")
    assert np.abs(others - many).min(axis=1).mean() > 1e-3
    assert np.abs(many[:44] - many[256:]).max() > 1e-3  # blocks differ


def test_the_same_again_is_the_same_file(cwd: Path, tmp_path: Path) -> None:
    drawn(cwd, tmp_path, "num=20", "seed=1")
    first = (tmp_path / "drawn.npz").read_bytes()
    drawn(cwd, tmp_path, "num=20", "seed=1")
    assert (tmp_path / "drawn.npz").read_bytes() == first


def test_raw_and_averaged_weights(cwd: Path, tmp_path: Path) -> None:
    averaged, raw = drawn(cwd, tmp_path, "weights=ema"), drawn(cwd, tmp_path, "weights=raw")
    assert not np.array_equal(averaged, raw)
    assert np.array_equal(averaged, drawn(cwd, tmp_path))
    expected = ((generated(cwd, "generator") + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(raw - expected[:64]).max() <= 0.501


def test_interpolation_leads_from_seed_to_seed(cwd: Path, tmp_path: Path) -> None:
    ends = [drawn(cwd, tmp_path, "num=1", f"seed={seed}", run="points")[0] for seed in (0, 1, 2)]
    ways = drawn(cwd, tmp_path, "interpolate=[0,1,2]", "steps=5", run="points").reshape(2, 5, 2)
    for row, start, stop in ((0, 0, 1), (1, 1, 2)):
        np.testing.assert_allclose(ways[row, 0], ends[start], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ways[row, -1], ends[stop], rtol=1e-4, atol=1e-5)
    assert len(np.unique(ways.reshape(10, 2), axis=0)) >= 9  # seed 1's sample is in both rows


def test_png_is_a_grid(cwd: Path, tmp_path: Path) -> None:
    images = drawn(cwd, tmp_path, "num=10")
    done("sample", "run=images", f"out={tmp_path / 'grid.png'}", "num=10", "columns=5", cwd=cwd)
    picture = pixels(tmp_path / "grid.png")
    assert picture.shape == (2 * (56 + 2) + 2, 5 * (56 + 2) + 2)  # 8 pixels enlarged to 56, lines of 2 between
    for index, image in enumerate(images):
        row, column = divmod(index, 5)
        tile = picture[2 + row * 58 : 58 + row * 58, 2 + column * 58 : 58 + column * 58]
        assert np.array_equal(tile[3::7, 3::7], image[:, :, 0])  # smooth in between


def test_interpolation_has_a_row_for_each_way(cwd: Path, tmp_path: Path) -> None:
    done("sample", "run=images", f"out={tmp_path / 'ways.png'}", "interpolate=[3,4,5,6]", "steps=2", cwd=cwd)
    assert pixels(tmp_path / "ways.png").shape == (3 * 58 + 2, 2 * 58 + 2)


def test_png_of_points_is_a_scatter_plot(cwd: Path, tmp_path: Path) -> None:
    done("sample", "run=points", f"out={tmp_path / 'points.png'}", cwd=cwd)
    picture = pixels(tmp_path / "points.png")
    assert picture.shape == (640, 640, 3)
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {(255, 255, 255), (220, 60, 30)} <= colours


@pytest.mark.parametrize("exists", [False, True])
def test_folder_has_one_picture_each(cwd: Path, tmp_path: Path, exists: bool) -> None:
    images = drawn(cwd, tmp_path, "num=12")
    folder = tmp_path / "pictures"
    if exists:
        folder.mkdir()
    done("sample", "run=images", f"out={folder}", "num=12", "batch_size=5", cwd=cwd)
    assert sorted(path.name for path in folder.iterdir()) == [f"{index:06d}.png" for index in range(12)]
    for index, image in enumerate(images):
        assert np.array_equal(pixels(folder / f"{index:06d}.png"), image[:, :, 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.npz", "pictures"]


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ("out=a.npz num=0", ["num=0: expected an integer at least 1"]),
        ("out=a.npz nmu=3", ["nmu: unknown key; did you mean num?"]),
        ("out=a.npz weights=first", ["weights=first: expected one of ema, raw, best"]),
        ("out=a.npz seed=-1 batch_size=0", ["seed=-1: ", "batch_size=0: "]),
        ("out=a.npz device=tpu", ["device=tpu: expected one of cpu, gpu"]),
        ("out=a.npz seed=1,2", ["seed=1,2 names several values: give one, or a list: seed=[1,2]"]),
        ("out=a.npz interpolate=[0]", ["interpolate needs at least two seeds and two steps: "]),
        ("out=a.npz interpolate=[0,1] steps=1", ["interpolate needs at least two seeds and two steps: "]),
        ("out=a.npz interpolate=3", ["interpolate=3: expected a list or null"]),
        ("out=a.npz num", ["num: expected key=value"]),
        ("out=a.jpg", ["out=a.jpg: expected FILE.npz, FILE.png, or a folder (a name without a suffix)"]),
        ("out=a.png num=10001", ["num=10001: a picture holds at most 10,000 samples; use out=FILE.npz or a folder"]),
        ("num=3", ["out is missing"]),
        ("out=full", ["out=full: the folder is not empty; choose a new one"]),
        ("out=a run=points", ["out=a: points are not pictures; use out=FILE.npz or out=FILE.png (a scatter plot)"]),
        ("out=a.npz run=nowhere", ["run=nowhere: there is no such directory "]),
    ],
)
def test_wrong_arguments(cwd: Path, tmp_path: Path, arguments: str, problems: list[str]) -> None:
    for run in ("images", "points"):
        (tmp_path / run).symlink_to(cwd / run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    before = sorted(tmp_path.rglob("*"))
    given = arguments.split()
    if not any(text.startswith("run=") for text in given):
        given.insert(0, "run=images")
    result = called("sample", *given, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"error: {problem}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["0", "Fotös, März (2)", "a'b", "1e3", "true"])
def test_paths_are_what_was_typed(cwd: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(cwd / "images")
    done("sample", f"run={name}", f"out={name}.npz", "num=2", cwd=tmp_path)
    assert (tmp_path / f"{name}.npz").is_file()


def test_gpu_that_is_not_there(cwd: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = called("sample", "run=images", f"out={tmp_path / 'a.npz'}", "device=gpu", cwd=cwd)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: device=gpu: torch sees no GPU on this machine; use device=cpu\n"


@pytest.mark.parametrize("name", ["a.npz", "a.png", "folder"])
def test_place_that_cannot_be_written(cwd: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    result = called("sample", "run=images", f"out={tmp_path / 'file' / name}", cwd=cwd)
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: cannot write ")
    assert str(tmp_path / "file") in result.err


def test_run_without_a_checkpoint(cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(cwd / "images" / "run.json", tmp_path / "run")
    result = called("sample", "run=run", "out=a.npz", cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: there is no checkpoint run/checkpoints/last.ckpt: the run did not come so far; resume it, or name "
        "another one\n"
    )


@pytest.mark.parametrize("out", ["a.npz", "a.png", "folder"])
def test_nothing_is_left_of_what_failed(cwd: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of drawing, as of a full disk."""
    real, calls = gan_lab.sample.to_uint8, []

    def failing(samples: torch.Tensor) -> torch.Tensor:
        calls.append(samples)
        if len(calls) == 2 or out == "a.png":
            raise OSError(28, "No space left on device", str(tmp_path / out))
        return real(samples)

    monkeypatch.setattr(gan_lab.sample, "to_uint8", failing)
    result = called("sample", "run=images", f"out={tmp_path / out}", "num=20", "batch_size=5", cwd=cwd)
    assert (result.code, result.out) == (1, "")
    assert "No space left on device" in result.err
    assert calls
    assert list(tmp_path.iterdir()) == []


def test_sampling_does_not_touch_the_run(cwd: Path, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (cwd / "images").rglob("*")}
    drawn(cwd, tmp_path, "num=3")
    assert {path: path.stat().st_mtime_ns for path in (cwd / "images").rglob("*")} == files
