import math

import pytest
from made_runs import CARD, CARDS, FLOOR, OTHER_CARD, seeds, write_run, write_sweep, write_trial

from gan_lab.report.leaderboard import Spread, boards, dominates, spread, standard_errors, unlike
from gan_lab.report.runs import find
from gan_lab.report.summary import apart, best_commands, summarise, verdict


def boards_of(*folders):
    return boards(find(folders).runs)


def labels(board):
    return [board.row_label(row) for row in board.rows]


def test_seeds_are_taken_together_and_configurations_ordered_by_their_mean(tmp_path):
    (board,) = boards_of(seeds(tmp_path, vanilla=[3.0, 5.0, 7.0], hinge=[4.0, 4.5], lsgan=[4.4]))

    assert labels(board) == ["loss=hinge", "loss=lsgan", "loss=vanilla"]
    assert [row.rank for row in board.rows] == [1, 2, 3]
    hinge, lsgan, vanilla = [row.values["fd"] for row in board.rows]
    assert hinge == (4.25, pytest.approx(math.sqrt(2 * 0.25**2)), 2)
    assert lsgan == (4.4, None, 1)
    assert vanilla == (5.0, 2.0, 3)
    assert board.ratio(vanilla.mean, "fd") == 5.0 / FLOOR
    assert [run.seed for run in board.rows[2].runs] == [1, 2, 3]


def test_larger_is_better_for_some_metrics(tmp_path):
    for name, recall in (("a", 0.4), ("b", 0.6)):
        write_run(tmp_path / name, [3.0], recall=[recall], settings={"loss": name}, objective="recall")

    (board,) = boards_of(tmp_path)

    assert board.objectives == {"recall": "maximize"}
    assert labels(board) == ["loss=b", "loss=a"]


def test_other_metrics_are_those_of_the_best_generator(tmp_path):
    write_run(tmp_path / "a", [5.0, 3.0, 4.0], recall=[0.1, 0.3, 0.9])

    (board,) = boards_of(tmp_path)

    assert board.metrics == ["recall"]
    assert board.rows[0].values["recall"].mean == 0.3


def test_unlike_cards_are_never_on_one_board(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"loss": "hinge"})
    write_run(tmp_path / "b", [2.0], settings={"loss": "hinge"}, card=OTHER_CARD)
    write_run(tmp_path / "c", [1.0], settings={"loss": "wgan"}, card=OTHER_CARD)

    summary = summarise(find([tmp_path]))

    assert [(board.card_id, labels(board)) for board in summary.boards] == [
        (OTHER_CARD, ["loss=wgan", "loss=hinge"]),
        (CARD, ["digits-mlp"]),
    ]
    assert [[row.rank for row in board.rows] for board in summary.boards] == [[1, 2], [1]]
    reason = apart(summary)
    assert "measured in 2 ways" in reason
    assert "They differ in num_fake and num_real." in reason


def test_cards_differ_in_how_not_in_what_was_measured():
    other = {**CARDS[CARD], "noise_seed": 99, "weights": "raw", "num_fake": 100}

    assert unlike([("a", CARDS[CARD]), ("b", other)]) == {"num_fake": {"a": 500, "b": 100}}


def test_only_runs_that_came_to_their_end_are_ranked(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"loss": "a"})
    write_run(tmp_path / "b", [1.0], settings={"loss": "b"}, status="pruned")
    write_run(tmp_path / "c", [2.0], settings={"loss": "c"}, status="running")
    write_run(tmp_path / "d", settings={"loss": "d"}, status="failed")

    (board,) = boards_of(tmp_path)

    assert labels(board) == ["loss=a", "loss=b", "loss=c", "loss=d"]
    assert [row.rank for row in board.rows] == [1, None, None, None]
    assert board.rows[1].values["fd"].mean == 1.0


def test_a_lost_seed_is_not_averaged_but_counted(tmp_path):
    seeds(tmp_path, vanilla=[3.0, 5.0])
    write_run(tmp_path / "lost", [1.0], seed=3, settings={"loss": "vanilla"}, status="failed")

    (board,) = boards_of(tmp_path)

    (row,) = board.rows
    assert row.values["fd"] == (4.0, pytest.approx(math.sqrt(2)), 2)
    assert row.statuses == {"finished": 2, "failed": 1}
    assert row.runs[-1].status == "failed"
    assert verdict(board)[-1] == "Of the best configuration's 3 runs, 1 failed."


def test_a_seed_counts_once_in_its_configuration(tmp_path):
    seeds(tmp_path, vanilla=[3.0, 5.0])
    #   "a" comes first by its name and is better; both are repetitions nevertheless
    write_run(tmp_path / "a", [1.0], seed=1, settings={"loss": "vanilla"}, repeats="vanilla-1", ended="2026-01-01")
    write_run(tmp_path / "late", [4.0], seed=2, settings={"loss": "vanilla"}, ended="2026-01-03T00:00:00+00:00")
    write_run(tmp_path / "early", [6.0], seed=2, settings={"loss": "vanilla"}, ended="2026-01-02T00:00:00+00:00")

    (board,) = boards_of(tmp_path)

    (row,) = board.rows
    assert [run.name for run in row.counted] == ["vanilla-1", "early"]
    assert row.values["fd"] == (4.5, pytest.approx(math.sqrt(4.5)), 2)
    assert row.best_run.name == "vanilla-1"
    assert [run.name for run in row.runs[2:]] == ["a", "late", "vanilla-2"]
    assert verdict(board) == [
        "Best: digits-mlp with fd 4.5 ± 2.1 over 2 seeds, 2.25x the floor (2).",
        "Each seed of a configuration counts once. Left out, as another run has the same one: a, late and vanilla-2.",
    ]


def test_a_repetition_counts_where_its_original_is_not_there(tmp_path):
    write_run(tmp_path / "again", [3.0], seed=1, repeats="elsewhere")

    (board,) = boards_of(tmp_path)

    assert [run.name for run in board.rows[0].counted] == ["again"]
    assert board.rows[0].repetitions == []


def test_runs_without_a_score_join_their_configuration_or_the_only_card(tmp_path):
    seeds(tmp_path / "seeds", hinge=[3.0])
    write_run(tmp_path / "lost", seed=2, settings={"loss": "hinge"}, status="failed")
    write_run(tmp_path / "other", seed=2, settings={"loss": "wgan"}, status="failed")

    (board,) = boards_of(tmp_path)
    assert [len(row.runs) for row in board.rows] == [2, 1]

    write_run(tmp_path / "unlike", [3.0], settings={"loss": "lsgan"}, card=OTHER_CARD)
    first, second, left = boards_of(tmp_path)
    assert [board.card_id for board in (first, second, left)] == [CARD, OTHER_CARD, None]
    assert [run.name for run in first.runs] == ["seeds/hinge-1", "lost"]
    assert [run.name for run in left.runs] == ["other"]
    assert verdict(left) == ["Runs without a score are listed, not ranked."]


def test_without_an_objective_the_usual_metric_orders_and_says_so(tmp_path):
    for name, value in (("a", 4.0), ("b", 3.0)):
        write_run(tmp_path / name, [value], settings={"loss": name}, best=None)

    (board,) = boards_of(tmp_path)

    assert (board.card_id, board.objectives, board.is_chosen) == (CARD, {"fd": "minimize"}, False)
    assert labels(board) == ["loss=b", "loss=a"]
    assert verdict(board)[0] == "No objective was set (objective=null); the order is that of fd."


def test_a_metric_of_training_ranks_runs_that_were_not_evaluated(tmp_path):
    for name, speed in (("a", 100.0), ("b", 200.0)):
        settings = {"loss": name, "objective": "images_per_second"}
        write_run(tmp_path / name, settings=settings, metrics={"images_per_second": speed})

    (board,) = boards_of(tmp_path)

    assert (board.card_id, board.objectives) == (None, {"images_per_second": "maximize"})
    assert labels(board) == ["loss=b", "loss=a"]
    assert [row.rank for row in board.rows] == [1, 2]


def pareto(folder, points, **content):
    sweep = write_sweep(folder, objectives={"fd": "minimize", "recall": "maximize"}, **content)
    for number, (fd, recall) in enumerate(points):
        choice = {"batch_size": 10 + number}
        trial = {"params": choice, "values": {"fd": fd, "recall": recall}}
        write_run(sweep / str(number), [fd], recall=[recall], settings=choice, trial=trial)
    return sweep


def test_several_objectives_make_fronts(tmp_path):
    #   0 and 1 are on the front; 2 is beaten by 0, 3 by 2 as well
    (board,) = boards_of(pareto(tmp_path / "sweep", [(2.0, 0.5), (4.0, 0.9), (3.0, 0.5), (5.0, 0.4)]))

    assert [(row.front, row.best_run.number) for row in board.rows] == [(1, 0), (1, 1), (2, 2), (3, 3)]
    first, *others = verdict(board)
    assert first.startswith("2 configurations on the Pareto front of fd and recall")
    assert others == [
        "Best in fd: batch_size=10 with fd 2, 1.00x the floor (2).",
        "Best in recall: batch_size=11 with recall 0.9, 1.12x the floor (0.8).",
    ]


def test_a_trial_counts_with_its_own_value(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    write_run(sweep / "0", [3.0], settings={"loss": "a"}, trial={"params": {"loss": "a"}, "values": {"fd": 9.0}})
    write_run(sweep / "1", [4.0], settings={"loss": "b"}, trial={"params": {"loss": "b"}, "values": {"fd": 4.0}})

    (board,) = boards_of(sweep)

    assert labels(board) == ["loss=b", "loss=a"]
    assert board.rows[1].values["fd"].mean == 9.0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1, 2), (2, 1), False),
        ((1, 1), (1, 2), True),
        ((1, 1), (1, 1), False),
        ((2, 2), (1, 1), False),
    ],
)
def test_one_point_dominates_another(one, other, expected):
    assert dominates(one, other) is expected


def test_standard_errors_of_a_difference():
    # sqrt(3^2 / 9 + 4^2 / 16) = sqrt(2)
    assert standard_errors(Spread(10.0, 3.0, 9), Spread(14.0, 4.0, 16)) == pytest.approx(4 / math.sqrt(2))
    assert standard_errors(Spread(10.0, None, 1), Spread(14.0, 4.0, 16)) is None
    assert standard_errors(Spread(1.0, 0.0, 2), Spread(2.0, 0.0, 2)) == math.inf
    assert spread([]) is None


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([6.0, 6.1, 6.2], "clear of the spread over seeds"),
        ([3.2, 3.3, 3.4], "it may be chance; more seeds would tell"),
        ([6.0], "run the best ones with several seeds"),
    ],
)
def test_the_verdict_says_how_sure_it_is(tmp_path, second, words):
    (board,) = boards_of(seeds(tmp_path, vanilla=[3.0, 3.1, 3.2], hinge=second))

    best, following, sureness = verdict(board)[:3]

    assert best == "Best: loss=vanilla with fd 3.1 ± 0.1 over 3 seeds, 1.55x the floor (2)."
    assert following.startswith("Next: loss=hinge with fd ")
    assert words in sureness


def test_a_best_single_run_of_another_configuration_is_named(tmp_path):
    summary = summarise(find([seeds(tmp_path, vanilla=[3.0, 3.2], hinge=[2.5, 9.0])]))

    (board,) = summary.boards
    assert labels(board) == ["loss=vanilla", "loss=hinge"]
    assert "The best single run is another configuration's: hinge-1 (loss=hinge, seed 1) with 2.5." in verdict(board)
    assert [(what, command) for what, command, _ in best_commands(summary)] == [
        ("The best configuration again (run vanilla-1)", "gan-lab train loss=vanilla seed=1"),
        ("The best single run again (run hinge-1)", "gan-lab train loss=hinge seed=1"),
    ]


def test_nothing_finished_is_nothing_ranked(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    for number in range(2):
        write_trial(sweep / str(number), {"status": "failed", "kind": "crashed", "params": {"loss": f"l{number}"}})

    (board,) = boards_of(sweep)

    assert board.card_id is None
    assert [row.rank for row in board.rows] == [None, None]
    assert verdict(board) == ["No run has come to its end with a score yet: nothing is ranked."]
