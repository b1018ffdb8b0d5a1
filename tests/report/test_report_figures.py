from pathlib import Path

import pytest
from made_runs import FLOOR, seeds, write_run, write_sweep
from PIL import Image

from gan_lab.report import figures, pictures
from gan_lab.report.figures import styles
from gan_lab.report.leaderboard import boards
from gan_lab.report.pictures import in_order, of_best
from gan_lab.report.runs import find, read_run
from gan_lab.report.summary import summarise


def search(folder: Path) -> Path:
    """Two objectives, a log parameter, a choice with a name to escape, and every status."""
    space = [{"key": "optimizer.lr", "low": 1e-5, "high": 1e-2, "log": True, "when": []}]
    sweep = write_sweep(folder, kind="optuna", objectives={"fd": "minimize", "recall": "maximize"}, space=space)
    for number in range(12):
        status = {9: "pruned", 10: "failed", 11: "running"}.get(number, "finished")
        params = {"optimizer.lr": 10.0 ** -(2 + number % 4), "loss": "<b>" if number % 2 else "hinge", "seed": number}
        fd, recall = 1.0 + 7 * number % 12, 0.1 + 0.05 * number
        trial = {"params": params, "values": {} if status == "failed" else {"fd": fd, "recall": recall}}
        write_run(folder / str(number), [30.0, fd], recall=[0.1, recall], status=status, trial=trial)
    return sweep


def study_figures(folder):
    summary = summarise(find([search(folder)]))
    return figures.study_figures(summary.studies[0], 0, summary.keys)


def test_every_figure_is_one_that_plotly_accepts(tmp_path):
    from plotly.graph_objects import Figure

    made = study_figures(tmp_path / "sweep")
    summary = summarise(find([seeds(tmp_path / "runs", vanilla=[3.0, 4.0], hinge=[90.0])]))
    style_of = {run.name: styles(["x"])[0] for run in summary.runs}
    made.append(figures.seeds_figure(summary.boards[0], 0, style_of))

    for figure in made:
        Figure(figure.data, figure.layout)
    assert [figure.name for figure in made] == [
        "pareto-0",
        "importances-0",
        "history-0-fd",
        "history-0-recall",
        "slices-0-fd",
        "slices-0-recall",
        "seeds-0",
    ]


def by_name(figure):
    return {trace.get("name"): trace for trace in figure.data}


def test_history_has_the_best_so_far_and_marks_what_did_not_finish(tmp_path):
    found = {figure.name: figure for figure in study_figures(tmp_path / "sweep")}

    traces = by_name(found["history-0-fd"])
    assert list(traces) == ["finished", "running", "pruned", "best so far", "failed"]
    assert traces["finished"]["x"] == list(range(9))
    assert traces["finished"]["y"] == [1, 8, 3, 10, 5, 12, 7, 2, 9]
    assert traces["best so far"]["y"] == [1] * 9
    assert by_name(found["history-0-recall"])["best so far"]["y"] == pytest.approx([0.1 + 0.05 * n for n in range(9)])
    assert (traces["pruned"]["x"], traces["pruned"]["y"], traces["failed"]["x"]) == ([9], [4.0], [10])


def test_the_pareto_front_is_that_of_the_finished_trials(tmp_path):
    (figure,) = [figure for figure in study_figures(tmp_path / "sweep") if figure.name == "pareto-0"]

    front = by_name(figure)["Pareto front"]
    points = sorted(zip(front["x"], front["y"], strict=True))
    assert points == [(1.0, pytest.approx(0.1)), (2.0, pytest.approx(0.45)), (9.0, pytest.approx(0.5))]


def test_slices_take_the_scale_of_their_parameter(tmp_path):
    (figure,) = [figure for figure in study_figures(tmp_path / "sweep") if figure.name == "slices-0-fd"]

    axes = {figure.layout[f"xaxis{n}"]["title"]["text"]: figure.layout[f"xaxis{n}"] for n in ("", 2, 3)}
    assert axes["optimizer.lr"]["type"] == "log"
    assert axes["loss"]["type"] == axes["seed"]["type"] == "category"
    assert axes["optimizer.lr"]["ticktext"] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert sum(len(trace["x"]) for trace in figure.data) == 3 * 11  # all but the failed one
    texts = [text for trace in figure.data for text in trace["text"]]
    assert any("loss=&lt;b&gt;" in text for text in texts)
    assert not any("<b>" in text for text in texts)


def test_seeds_are_dots_beside_their_mean_and_the_floor(tmp_path):
    (board,) = boards(find([seeds(tmp_path, vanilla=[3.0, 4.0], hinge=[5.0])]).runs)
    style_of = dict(zip([run.name for run in board.runs], styles(["a", "b", "c"]), strict=True))

    figure = figures.seeds_figure(board, 0, style_of)

    assert [trace["x"] for trace in figure.data] == [[3.0, 4.0], [5.0], [3.5, 5.0]]
    assert figure.layout["shapes"][0]["x0"] == FLOOR
    (far,) = boards(find([seeds(tmp_path / "far", vanilla=[30.0, 40.0])]).runs)
    style_of |= dict.fromkeys([run.name for run in far.runs], styles(["d"])[0])
    assert figures.seeds_figure(far, 0, style_of).layout["shapes"] == []
    (single,) = boards(find([seeds(tmp_path / "single", vanilla=[3.0], hinge=[5.0])]).runs)
    assert figures.seeds_figure(single, 0, style_of) is None


def test_many_configurations_are_drawn_alike_after_the_first_thirty():
    made = styles([f"c{index}" for index in range(40)])

    assert len({(style.colour, style.dash) for style in made[:30]}) == 30
    assert {(style.colour, style.is_own) for style in made[30:]} == {(figures.OTHERS, False)}


def test_curves_are_in_kimg_by_the_runs_card_and_thinned_to_their_last_point(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_NUMBERS", 0)  # leaves the least, 25 points
    values = [100.0 - index for index in range(60)]
    run = read_run(write_run(tmp_path / "run", values), "run")

    drawn = figures.curves([run], ["recall"])

    assert drawn["scores"] == ["recall", "fd"]
    assert drawn["training"] == ["loss/discriminator", "loss/generator"]
    (found,) = drawn["runs"]
    place, y = found["series"]["fd"]
    assert found["kimg"][place] == [float(kimg) for kimg in range(30, 601, 30)]
    assert y == values[2::3]
    assert found["floor"] == {"fd": FLOOR, "recall": 0.8}
    assert len(found["kimg"]) == 2  # shared by what was measured together


def test_more_runs_than_can_be_drawn_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_CURVES", 2)
    runs = find([seeds(tmp_path, vanilla=[3.0, 4.0, 5.0])]).runs

    drawn = figures.curves(runs, [])

    assert (len(drawn["runs"]), drawn["left_out"]) == (2, 1)


# ---------------------------------------------------------------------- pictures


def test_the_picture_is_the_one_nearest_to_the_best_generator(tmp_path):
    best_is_second = write_run(tmp_path / "a", [5.0, 3.0, 4.0], pictures=[0, 8000, 18_000, 30_000])
    no_best = write_run(tmp_path / "b", pictures=[0, 8000, 18_000])
    untrained = write_run(tmp_path / "c", pictures=[0])

    assert of_best(read_run(best_is_second, "a"))[1] == 18_000
    assert of_best(read_run(no_best, "b"))[1] == 18_000
    assert of_best(read_run(untrained, "c")) is None


def test_real_data_are_shown_once_and_broken_pictures_not_at_all(tmp_path):
    for index, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / name, [3.0 + index], settings={"loss": name}, pictures=[10_000])
    (tmp_path / "b" / "samples" / "000010000.png").write_bytes(b"\x89PNG half of it")

    real, fakes, left_out = pictures.pictures(boards(find([tmp_path]).runs))

    assert [picture.names for picture in real] == [("a", "b", "c")]
    assert [picture.run.name for picture in fakes] == ["a", "c"]
    assert left_out == 1
    assert fakes[0].source.startswith("data:image/png;base64,iVBOR")


def test_the_best_of_each_configuration_come_first_where_not_all_have_room(tmp_path, monkeypatch):
    for loss, seed, value in [("a", 1, 3.0), ("a", 2, 2.0), ("b", 1, 1.0), ("b", 2, 9.0)]:
        write_run(tmp_path / f"{loss}{seed}", [value], seed=seed, settings={"loss": loss}, pictures=[10_000])
    found = boards(find([tmp_path]).runs)
    assert [run.name for run in in_order(found)] == ["a2", "b1", "a1", "b2"]

    _, all_of_them, none_left = pictures.pictures(found)
    monkeypatch.setattr(pictures, "MOST_PICTURES", 3)
    _, few, left_out = pictures.pictures(found)

    assert [picture.run.name for picture in all_of_them] == ["a2", "a1", "b1", "b2"]
    assert [picture.run.name for picture in few] == ["a2", "b1", "a1"]
    assert (none_left, left_out) == (0, 1)


def test_large_pictures_are_reduced_until_they_have_room(tmp_path, monkeypatch):
    import base64
    import io
    import random

    write_run(tmp_path / "run", [3.0], pictures=[10_000])
    noise = random.Random(0).randbytes(800 * 800)
    Image.frombytes("L", (800, 800), noise).save(tmp_path / "run" / "samples" / "000010000.png")
    monkeypatch.setattr(pictures, "MOST_BYTES", 350_000)

    _, (picture,), left_out = pictures.pictures(boards(find([tmp_path]).runs))

    assert (picture.width, picture.height, picture.reduced_from, left_out) == (440, 440, 800, 0)
    content = base64.b64decode(picture.source.split(",")[1])
    assert Image.open(io.BytesIO(content)).size == (440, 440)
    assert len(content) <= 350_000
