"""What TensorBoard shows: read back from the event files by TensorBoard's own reader."""

import csv
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_cli import SMALL, done

RUN = [
    *SMALL,
    "loss=wgan_gp",
    "budget.kimg=0.8",
    "callbacks.metrics.every_kimg=0.08",
    "callbacks.samples.every_kimg=0.4",
    "evaluation.every_kimg=0.4",
]
STEPS = [80 * number for number in range(1, 11)]
"""Every cycle shows 5 batches of 16."""
SCALARS = {
    *("loss/discriminator", "loss/generator", "loss/penalty", "logits/real", "logits/fake", "discriminator/accuracy"),
    *("gradient_norm/generator", "gradient_norm/discriminator", "images_per_second"),
}


def read(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("tensorboard")
    done("train", *RUN, "hydra.run.dir=run", cwd=cwd)
    return cwd / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    return read(run)


def test_scalars_at_every_log_point_by_images_seen(run: Path, events: EventAccumulator) -> None:
    assert set(events.Tags()["scalars"]) >= SCALARS
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images_seen"]) for row in rows] == STEPS
    for tag in SCALARS:
        assert steps(events, tag) == STEPS
        for event, row in zip(events.Scalars(tag), rows, strict=True):
            assert event.value == pytest.approx(float(row[tag]), rel=1e-6)


def test_scalars_mean_what_they_say(events: EventAccumulator) -> None:
    """Wasserstein: L_D = fake - real, L_G = -fake; an accuracy is a share, a penalty and a norm are not negative."""
    for real, fake, loss in zip(
        *(events.Scalars(tag) for tag in ("logits/real", "logits/fake", "loss/discriminator")), strict=True
    ):
        assert loss.value == pytest.approx(fake.value - real.value, abs=1e-5)
    assert all(0 <= event.value <= 1 for event in events.Scalars("discriminator/accuracy"))
    assert all(event.value >= 0 for event in events.Scalars("loss/penalty"))
    assert all(event.value > 0 for event in events.Scalars("gradient_norm/generator"))
    assert all(event.value > 0 for event in events.Scalars("images_per_second"))


def test_evaluation(events: EventAccumulator) -> None:
    assert steps(events, "sliced_wasserstein") == [400, 800]
    assert steps(events, "sliced_wasserstein/floor") == [400, 800]


def test_no_penalty_where_there_is_none(tmp_path: Path) -> None:
    done("train", *SMALL, "hydra.run.dir=run", cwd=tmp_path)
    tags = read(tmp_path / "run").Tags()["scalars"]
    assert "loss/penalty" not in tags
    assert "loss/discriminator" in tags


def test_pictures_are_those_in_the_folder(run: Path, events: EventAccumulator) -> None:
    images = events.Images("samples")
    assert [image.step for image in images] == [0, 400, 800]
    for image in images:
        assert (image.width, image.height) == (8 * 58 + 2, 1 * 58 + 2)  # 4 digits of 8x8 pixels, 8 columns
        assert (run / "samples" / f"{image.step:09d}.png").is_file()


def test_configuration_as_text(run: Path, events: EventAccumulator) -> None:
    (tag,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("configuration"))
    (event,) = events.Tensors(tag)
    text = event.tensor_proto.string_val[0].decode()
    assert text == f"```yaml\n{(run / '.hydra' / 'resolved.yaml').read_text()}```"


def hparams(events: EventAccumulator) -> dict[str, HParamsPluginData]:
    content = events.PluginTagToContent("hparams")
    return {tag.removeprefix("_hparams_/"): HParamsPluginData.FromString(data) for tag, data in content.items()}


def test_hyperparameters_with_final_metrics(run: Path, events: EventAccumulator) -> None:
    parts = hparams(events)
    assert set(parts) == {"experiment", "session_start_info", "session_end_info"}
    values = parts["session_start_info"].session_start_info.hparams
    assert values["optimizer.lr"].number_value == 0.0002
    assert values["loss.penalty.weight"].number_value == 10
    assert values["model.width"].number_value == 8
    assert values["seed"].number_value == 0
    assert values["loss.adversarial._target_"].string_value == "gan_lab.losses.wasserstein"
    names = [info.name.tag for info in parts["experiment"].experiment.metric_infos]
    assert {"final/loss/generator", "final/sliced_wasserstein"} <= set(names)
    with (run / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    for name in ("loss/generator", "loss/discriminator", "sliced_wasserstein"):
        (event,) = events.Scalars(f"final/{name}")
        assert event.step == 800
        assert event.value == pytest.approx(float(last[name]), rel=1e-6)


def test_no_step_twice_after_a_resume(run: Path, tmp_path: Path) -> None:
    """A run that was killed at 800 images and whose last checkpoint is from 400 writes 480 to 800 again."""
    shutil.copytree(run, tmp_path / "reference")
    half = [text for text in RUN if not text.startswith("budget")] + ["budget.kimg=0.4"]
    done("train", *half, "hydra.run.dir=run", cwd=tmp_path)
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "at_400.ckpt")
    done("resume", "run=run", "budget.kimg=0.8", cwd=tmp_path)
    shutil.copy(tmp_path / "at_400.ckpt", tmp_path / "run" / "checkpoints" / "last.ckpt")
    done("resume", "run=run", cwd=tmp_path)

    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 3
    events, whole = read(tmp_path / "run"), read(tmp_path / "reference")
    for tag in SCALARS:
        assert steps(events, tag) == STEPS, tag
        if tag not in ("images_per_second", "gradient_norm/generator", "gradient_norm/discriminator"):
            values = [[event.value for event in source.Scalars(tag)] for source in (events, whole)]
            assert values[0] == values[1], tag
    assert [image.step for image in events.Images("samples")] == [0, 400, 800]
    assert steps(events, "sliced_wasserstein") == [400, 800]
    assert steps(events, "final/loss/generator")[-1] == 800
