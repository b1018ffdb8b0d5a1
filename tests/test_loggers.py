"""metrics.csv as a file: columns, rows, and what a resumed run keeps of it."""

import csv
import os
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_lab.loggers import MetricsCSV, TensorBoard


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def write(path, rows, start_images=0):
    logger = MetricsCSV(path, start_images)
    for step, metrics in rows:
        logger.log_metrics(metrics, step=step)
    logger.finalize("success")


def test_one_row_a_step_with_images_seen_first(path):
    write(path, [(64, {"loss": 0.5, "g_steps": 1}), (128, {"loss": -1e-12, "g_steps": 2})])

    assert path.read_text() == "images_seen,loss,g_steps\n64,0.5,1\n128,-1e-12,2\n"


def test_what_is_logged_at_one_step_is_one_row(path):
    write(path, [(64, {"loss": 0.5}), (64, {"distance": 2.0}), (128, {"loss": 0.25, "distance": 1.0})])

    assert path.read_text() == "images_seen,loss,distance\n64,0.5,2.0\n128,0.25,1.0\n"


def test_a_new_metric_adds_its_column_at_the_right_and_a_missing_one_leaves_its_cell_empty(path):
    write(path, [(64, {"b": 1.0}), (128, {"b": 2.0, "a": 3.0}), (192, {"a": 4.0})])

    assert path.read_text() == "images_seen,b,a\n64,1.0,\n128,2.0,3.0\n192,,4.0\n"


def test_numbers_keep_every_digit_and_names_may_hold_commas(path):
    value = 0.1 + 0.2
    write(path, [(64, {"loss, with penalty": value, "kl": float("inf")})])
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)

    assert float(row["loss, with penalty"]) == value
    assert row["kl"] == "inf"


def test_a_row_is_on_the_disk_once_saved_and_saving_twice_adds_nothing(path):
    logger = MetricsCSV(path)
    logger.log_metrics({"loss": 1.0}, step=64)
    assert not path.exists()
    logger.save()
    logger.save()

    assert path.read_text() == "images_seen,loss\n64,1.0\n"


ROWS = [(1000, {"a": 1.0}), (2000, {"a": 2.0, "b": 0.1}), (3000, {"a": 3.0}), (4000, {"b": 0.2})]


@pytest.mark.parametrize("start", [1000, 2000, 2500, 3000, 4000])
@pytest.mark.parametrize("torn", ["", "5", "5000", "5000,1", "5000,1.0,0.", "\n"])
def test_a_resumed_run_keeps_the_rows_up_to_its_checkpoint_and_goes_on(path, start, torn):
    write(path, ROWS)
    whole = path.read_text()
    with path.open("a") as file:
        file.write(torn)
    write(path, [row for row in ROWS if row[0] > start], start_images=start)

    assert path.read_text() == whole


def test_a_resumed_run_keeps_the_text_of_old_rows(path):
    path.write_text("images_seen,loss\n64,0.50\n128,1e-3\n192,7\n")
    MetricsCSV(path, start_images=128)

    assert path.read_text() == "images_seen,loss\n64,0.50\n128,1e-3\n"


def test_a_run_that_begins_anew_keeps_nothing(path):
    write(path, ROWS)
    write(path, [(64, {"other": 1.0})], start_images=0)

    assert path.read_text() == "images_seen,other\n64,1.0\n"


@pytest.mark.parametrize("content", ["", "images_seen", "images_seen,lo"])
def test_a_file_without_rows_is_begun_anew(path, content):
    path.write_text(content)
    write(path, [(64, {"loss": 1.0})], start_images=0)

    assert path.read_text() == "images_seen,loss\n64,1.0\n"


def test_tensorboard_events_after_the_checkpoint_are_superseded(tmp_path):
    first = TensorBoard(tmp_path)
    for step in (1000, 2000, 3000, 4000):
        first.log_metrics({"loss": step / 1000}, step=step)
    first.save()
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which begin with the second
    resumed = TensorBoard(tmp_path, start_images=2000, filename_suffix=".resumed")
    resumed.log_metrics({"loss": 30.0}, step=3000)
    resumed.finalize("success")

    assert sorted(os.listdir(tmp_path)) == ["tensorboard"]
    assert len(os.listdir(tmp_path / "tensorboard")) == 2
    events = EventAccumulator(os.fspath(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1000, 1.0), (2000, 2.0), (3000, 30.0)]
