import csv
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import CARD, FLOOR, OTHER_CARD, RECALL_FLOOR, seeds, write_run, write_sweep, write_trial

from gan_lab.compose import checked_arguments
from gan_lab.errors import ConfigError
from gan_lab.report import Report, report

EVIL = "<script>alert(1)</script>"


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def markdown_table(text: str, title: str) -> list[dict[str, str]]:
    """The rows of the first table below a heading."""
    lines = text.split(f"## {title}\n", 1)[1].splitlines()
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    header, rule, *body = rows
    assert all(set(cell) == {"-"} for cell in rule)
    return [dict(zip(header, row, strict=True)) for row in body]


class Page(HTMLParser):
    """What a browser would see of a page: text outside scripts, tags with their attributes, and the scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._raw: list[str] | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._raw = self.scripts if tag == "script" else self.styles
            self._raw.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._raw = None

    def handle_data(self, data):
        if self._raw is None:
            self.words.append(data)
        else:
            self._raw[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """(folder of runs, written files) of two losses with three and two seeds, and one that failed."""
    folder = tmp_path_factory.mktemp("seeded")
    seeds(folder / "runs", vanilla=[3.0, 5.0, 7.0], hinge=[4.0, 4.5])
    write_run(
        folder / "runs" / "lost",
        seed=9,
        settings={"loss": "wgan"},
        status="failed",
        error="no memory | was left",
        kind="x",
    )
    return folder / "runs", report([folder / "runs"], folder / "out")


def test_the_files_are_where_they_were_asked_for(seeded):
    folder, files = seeded

    assert files == [folder.parent / "out" / name for name in ("report.html", "report.md", "runs.csv")]
    assert sorted(files[0].parent.iterdir()) == sorted(files)


def test_the_table_has_a_row_a_run_with_its_own_numbers(seeded):
    rows = table(seeded[1][2])

    assert list(rows) == ["hinge-1", "hinge-2", "lost", "vanilla-1", "vanilla-2", "vanilla-3"]
    row = rows["vanilla-3"]
    assert (row["seed"], row["loss"], row["status"], row["card"], row["rank"]) == (
        "3",
        "vanilla",
        "finished",
        CARD,
        "2",
    )
    assert float(row["fd"]) == 7.0
    assert float(row["fd/floor"]) == FLOOR
    assert float(row["floor_ratio"]) == 3.5
    assert (float(row["recall"]), float(row["recall/floor"])) == (0.5, RECALL_FLOOR)
    assert (row["images_seen"], row["wall_seconds"], row["best_images_seen"]) == ("10000", "2.0", "10000")
    assert row["command"] == "gan-lab train loss=vanilla seed=3"
    assert "batch_size" not in row  # the same in all
    assert (rows["lost"]["status"], rows["lost"]["reason"], rows["lost"]["fd"]) == (
        "failed",
        "no memory | was left",
        "",
    )


def test_the_text_has_the_leaderboard_failures_and_commands(seeded):
    text = seeded[1][1].read_text()

    real, hinge, vanilla, lost = markdown_table(text, f"Leaderboard, card {CARD}")
    assert (real["loss"], real["fd ↓"], real["recall ↑"]) == ("real data", "2", "0.8")
    assert (hinge["#"], hinge["fd ↓"], hinge["x floor"], hinge["runs"]) == ("1", "4.25 ± 0.35", "2.12x", "2")
    assert (vanilla["#"], vanilla["fd ↓"], vanilla["status"]) == ("2", "5 ± 2", "3 finished")
    assert (lost["#"], lost["fd ↓"], lost["status"]) == ("", "", "failed")
    (failure,) = markdown_table(text, "Failures")
    assert (failure["run"], failure["kind"], failure["reason"]) == ("lost", "x", "no memory \\| was left")
    assert "gan-lab train loss=vanilla seed=3  # vanilla-3" in text
    assert "- Best: loss=hinge with fd 4.25 ± 0.35 over 2 seeds, 2.12x the floor (2)." in text
    assert "data:image" not in text


def test_text_and_page_show_the_same_metrics_first(tmp_path):
    scores = {"fd": 3.0, "zeta": 1.0, "coverage": 0.5, "eta": 2.0, "recall": 0.4, "kd": 0.1}
    best = {"metric": "fd", "value": 3.0, "images_seen": 10_000, "card_id": CARD, "scores": scores}
    write_run(tmp_path / "runs" / "a", [3.0], best=best)

    page, text, _ = report([tmp_path / "runs"], tmp_path / "out")

    first = ["kd ↓", "recall ↑", "coverage ↑", "zeta ↓"]  # the usual ones, then as they were written
    real, _ = markdown_table(text.read_text(), f"Leaderboard, card {CARD}")
    assert [name for name in real if name[:-2] in scores] == ["fd ↓", *first]
    shown = Page(page).text
    places = [shown.index(f" {name} ") for name in [*first, "eta ↓"]]
    assert places == sorted(places)


def test_the_page_says_the_same(seeded):
    page = Page(seeded[1][0])

    for words in (
        "Best: loss=hinge with fd 4.25 ± 0.35 over 2 seeds, 2.12x the floor (2).",
        "6 runs, 3 configurations apart from the seed",
        "5 finished 1 failed",
        "no memory | was left",
        "gan-lab train loss=vanilla seed=3",
        "2 cores, Linux",
        "gan_lab 0.1.0, python 3.11.7, torch 2.14.1",
        "commit 045b5054f3ea",
        "line 29",  # of run.log
        "extractor_hash e1",
    ):
        assert words in page.text, words


def test_nothing_is_loaded_from_elsewhere(seeded):
    page = Page(seeded[1][0])

    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert "url(" not in (attributes.get("style") or "")
    assert not any("url(" in style or "@import" in style for style in page.styles)
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_a_link_leads_to_its_run(seeded):
    page = Page(seeded[1][0])
    places = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]

    assert len(links) > 10
    assert {link[1:] for link in links} <= places


def test_what_comes_from_runs_is_text_and_never_markup(tmp_path):
    health = [{"problem": EVIL, "images_seen": EVIL, "message": EVIL}]
    sweep = write_sweep(tmp_path / "sweep", name=EVIL, command=EVIL, kind="optuna")
    for number in range(9):
        params = {"loss": EVIL if number % 2 else "hinge", "batch_size": number}
        trial = {"params": params, "host": EVIL, "values": {"fd": 3.0 + number}, "kind": EVIL, "reason": EVIL}
        write_run(
            sweep / str(number),
            [3.0 + number],
            settings={"batch_size": number},
            overrides=[f"loss={EVIL}"],
            status="failed" if number == 8 else "finished",
            trial=trial,
            health=health,
            name=EVIL,
            started=EVIL,
            machine={"device": EVIL, "system": EVIL},
            versions={"torch": EVIL, EVIL: EVIL},
            git={"commit": EVIL},
            cards={CARD: {"extractor_name": EVIL, EVIL: EVIL, "num_fake": 500}},
            command=["gan-lab", "train", EVIL],
        )
    (sweep / "8" / "run.log").write_text(EVIL)
    (sweep / "conf" / "experiment").mkdir(parents=True)
    (sweep / "conf" / "experiment" / "best.yaml").write_text(EVIL)

    page, text, _ = report([sweep])

    scripts = Page(page).scripts
    assert len(scripts) == 3  # data, plotly.js, ours
    assert page.read_text().count(EVIL) == 0
    assert Page(page).text.count(EVIL) > 20
    assert json.loads(scripts[0])["runs"]
    assert not set("<>&") & set(scripts[0])  # nothing that a browser could take for a tag
    assert EVIL not in re.sub(r"```.*?```", "", text.read_text(), flags=re.DOTALL)


def test_a_cell_of_markdown_keeps_its_table(tmp_path):
    for name in ("a|b", "*c*\n`d`"):
        write_run(tmp_path / name.replace("\n", ""), [3.0], settings={"loss": name})
    _, text, _ = report([tmp_path], tmp_path / "out")

    rows = markdown_table(text.read_text(), f"Leaderboard, card {CARD}")
    assert {row["loss"] for row in rows[1:]} == {"a\\|b", "\\*c\\* \\`d\\`"}


def test_unlike_cards_have_their_own_tables(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"loss": "hinge"})
    write_run(tmp_path / "b", [1.0], settings={"loss": "wgan"}, card=OTHER_CARD)
    page, text, csv_file = report([tmp_path], tmp_path / "out")

    for card in (CARD, OTHER_CARD):
        assert len(markdown_table(text.read_text(), f"Leaderboard, card {card}")) == 2
    assert {row["card"]: row["rank"] for row in table(csv_file).values()} == {CARD: "1", OTHER_CARD: "1"}
    boards = [attributes["data-card"] for _, attributes in Page(page).tags if "data-card" in attributes]
    assert sorted(boards) == [CARD, OTHER_CARD]
    assert "Figures of unlike cards cannot be compared" in Page(page).text


# ---------------------------------------------------------------------- where, and what may go wrong


def test_a_sweeps_report_lies_in_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = write_sweep(tmp_path / "sweep", num_trials=3)
    write_run(sweep / "0", [3.0], trial={"values": {"fd": 3.0}})
    (sweep / "conf" / "experiment").mkdir(parents=True)
    (sweep / "conf" / "experiment" / "best.yaml").write_text("# @package _global_\nbatch_size: 32\n")

    files = report([Path("sweep")], None)

    assert files == [Path("sweep") / name for name in ("report.html", "report.md", "trials.csv")]
    words = Page(files[0]).text
    assert "gan-lab train --config-dir=sweep/conf experiment=best" in words
    assert "batch_size: 32" in words
    assert "2 not started" in words
    assert "gan-lab train -m loss=vanilla,hinge" in words
    assert "10 min 00 s from start to end" in words


def test_other_reports_lie_in_outputs_and_never_in_one_anothers_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", [3.0])

    first, second = (report([Path("runs")], None) for _ in range(2))

    assert first[0].parent.parent == Path("outputs/reports")
    assert first[0].parent != second[0].parent
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", first[0].parent.name)
    assert first[2].name == "runs.csv"


def test_a_report_takes_the_place_of_the_one_before(tmp_path):
    write_run(tmp_path / "runs" / "a", [3.0])
    report([tmp_path / "runs"], tmp_path / "out")
    write_run(tmp_path / "runs" / "b", [4.0])
    files = report([tmp_path / "runs"], tmp_path / "out")

    assert list(table(files[2])) == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md", "runs.csv"]


def test_mistakes_are_named(tmp_path):
    write_run(tmp_path / "run", [3.0])
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="there is no such directory"):
        report([tmp_path / "missing"], None)
    with pytest.raises(ConfigError, match="file is a file; give a directory"):
        report([tmp_path / "run"], tmp_path / "file")
    with pytest.raises(ConfigError, match="runs must be given"):
        report([], None)


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_without_a_package_for_the_page_text_and_table_are_written(tmp_path, monkeypatch, package):
    write_run(tmp_path / "run", [3.0])
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.offline", None)

    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'gan_lab\[report\]'"):
        report([tmp_path / "run"], tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.md", "runs.csv"]


def test_the_verbs_arguments_are_checked():
    assert checked_arguments(["runs=[a,b]", "out=c"], Report) == Report(["a", "b"], "c")
    assert checked_arguments(["runs=outputs/sweeps/*"], Report).runs == ["outputs/sweeps/*"]
    with pytest.raises(ConfigError, match="runs is missing"):
        checked_arguments(["out=c"], Report)
    with pytest.raises(ConfigError, match="rnus: unknown key; did you mean runs"):
        checked_arguments(["rnus=a"], Report)


def damaged(run_dir: Path, name: str) -> None:
    (run_dir / name).write_bytes((run_dir / name).read_bytes()[:40])


STATES = {
    "running": lambda run: write_run(run, [3.0], status="running", images_seen=0),
    "before the first evaluation": lambda run: write_run(run, status="failed", error="out of memory"),
    "no metrics.csv": lambda run: (write_run(run, [3.0]) / "metrics.csv").unlink(),
    "half a metrics.csv": lambda run: damaged(write_run(run, [3.0]), "metrics.csv"),
    "half a run.json": lambda run: damaged(write_run(run, [3.0]), "run.json"),
    "no configuration": lambda run: shutil.rmtree(write_run(run, [3.0]) / ".hydra"),
    "half a configuration": lambda run: damaged(write_run(run, [3.0]), ".hydra/resolved.yaml"),
    "no objective": lambda run: write_run(run, [3.0], settings={"objective": None}, best=None, cards=None),
    "not a number": lambda run: write_run(run, [float("nan"), float("inf")], best=None),
    "an unknown card": lambda run: write_run(run, [3.0], cards={}),
    "another version": lambda run: (write_run(run, [3.0]) / "run.json").write_text('{"status": "done", "extra": [1]}'),
    "a trial without a run": lambda run: write_trial(run, {"status": "failed", "kind": "configuration", "reason": "x"}),
    "an empty record": lambda run: (write_run(run) / "run.json").write_text("{}"),
    "resumed": lambda run: write_run(
        run, [3.0], resumed=[{"at": "x", "from_images": 1, "changed": {"batch_size": [1, 2]}}]
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("beside_others", [False, True])
def test_runs_in_any_state_are_reported(tmp_path, state, beside_others):
    STATES[state](tmp_path / "runs" / "7")
    if beside_others:
        seeds(tmp_path / "runs", vanilla=[3.0, 4.0])

    page, text, csv_file = report([tmp_path / "runs"], tmp_path / "out")

    assert "7" in table(csv_file)
    assert len(table(csv_file)) == (3 if beside_others else 1)
    for word in ("nan", "undefined", "None"):
        assert word not in Page(page).text.split(), word
    assert "## Runs" in text.read_text()


def test_points_with_pictures(tmp_path):
    write_run(tmp_path / "ring", [0.5], pictures=[0, 10_000])
    page, _, _ = report([tmp_path / "ring"], tmp_path / "out")

    sources = [attributes["src"] for tag, attributes in Page(page).tags if tag == "img" and attributes.get("src")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
