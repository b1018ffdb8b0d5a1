"""The page in headless Chromium, driven through chromedriver's WebDriver protocol."""

import json
import queue
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import CARD, OTHER_CARD, write_run, write_sweep

from gan_lab.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="chromium and chromedriver are not installed (Debian: chromium, chromium-driver)",
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000"),
)


class Browser:
    """A session of Chromium."""

    def __init__(self, address: str, profile: Path):
        self.address = address
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{answer['sessionId']}"

    def _call(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, page: Path) -> None:
        """Loads a page and waits until it has drawn everything; errors of the page before are forgotten."""
        self._call("POST", "/url", {"url": "about:blank"})
        self.errors()
        self._call("POST", "/url", {"url": page.as_uri()})
        assert self.becomes("return document.documentElement.dataset.ready", "true", seconds=30), self.errors()

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function with this body returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def becomes(self, script: str, wanted: Any, seconds: float = 10) -> bool:
        """Whether `script` returns what is wanted, at once or within so many seconds."""
        deadline = time.monotonic() + seconds
        while self.run(script) != wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def emulate(self, scheme: str) -> None:
        """As on a system that prefers light, or dark, pages; the page hears of it with its next frame."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        content = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._call("POST", "/goog/cdp/execute", content)

    def errors(self) -> list[str]:
        """What the page has complained of since the last time."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def quit(self) -> None:
        self._call("DELETE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    driver = subprocess.Popen(
        [str(CHROMEDRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in driver.stdout or ()], daemon=True).start()
    session = None
    try:
        while (found := re.search(r"started successfully on port (\d+)", lines.get(timeout=30))) is None:
            pass
        session = Browser(f"http://127.0.0.1:{found[1]}", tmp_path_factory.mktemp("profile"))
        yield session
    finally:
        if session is not None:
            session.quit()
        driver.terminate()
        driver.wait(30)
        if driver.stdout is not None:
            driver.stdout.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A search of two losses over two batch sizes and seeds, with a pruned and a failed trial; and a run of another
    card."""
    folder = tmp_path_factory.mktemp("page")
    sweep = write_sweep(folder / "sweep", kind="optuna", num_trials=10)
    number = 0
    for loss, base in (("vanilla", 10.0), ("hinge", 9.0)):
        for batch_size in (32, 100):
            for seed in (1, 2):
                value = base + batch_size / 100 + seed / 10
                params = {"loss": loss, "batch_size": batch_size, "seed": seed}
                write_run(
                    sweep / str(number),
                    [20.0, value],
                    recall=[0.1, number / 10],
                    seed=seed,
                    settings={"loss": loss, "batch_size": batch_size},
                    trial={"params": params, "values": {"fd": value}},
                    pictures=[20_000],
                )
                number += 1
    for status in ("pruned", "failed"):
        params = {"loss": "wgan", "batch_size": 32, "seed": 1 if status == "pruned" else 2}
        settings = {"loss": "wgan", "batch_size": 32}
        trial = {"params": params, "values": {"fd": 30.0} if status == "pruned" else {}}
        values = [30.0] if status == "pruned" else []
        write_run(sweep / str(number), values, seed=params["seed"], status=status, settings=settings, trial=trial)
        number += 1
    write_run(folder / "other", [1.0], settings={"loss": "lsgan", "batch_size": 32}, card=OTHER_CARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan_lab.report.listing.NUM_SHOWN", 0)  # else recall alone would not be too much
        return report([folder], folder / "out")[0]


ROWS = """
    const board = document.querySelector(`[data-card="${arguments[0]}"]`);
    return [...board.querySelectorAll("tbody:not([hidden])")].map((group) => {
        const cells = [...group.rows[0].cells].map((cell) => cell.textContent.trim());
        return cells.slice(1, 3).join(" ");
    });"""
CLICK = """
    const board = document.querySelector(`[data-card="${arguments[0]}"]`);
    const header = [...board.querySelectorAll("th[aria-sort]")]
        .find((one) => one.textContent.trim() === arguments[1]);
    header.querySelector("button").click();
    return header.getAttribute("aria-sort");"""
FILTER = """
    const words = document.getElementById("words");
    words.value = arguments[0];
    words.dispatchEvent(new Event("input", { bubbles: true }));
    return document.getElementById("shown").textContent;"""
BEST_FIRST = ["hinge 32", "hinge 100", "vanilla 32", "vanilla 100", "wgan 32"]


def test_the_page_complains_of_nothing_and_loads_nothing(browser, page):
    browser.open(page)

    assert browser.errors() == []
    assert browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []


def test_every_figure_is_drawn(browser, page):
    browser.open(page)

    drawn = browser.run(
        "return [...document.querySelectorAll('.drawing')].map((place) => "
        "[place.dataset.figure ?? place.id, place.querySelectorAll('.main-svg').length > 0, "
        "place.querySelectorAll('.trace').length, place.querySelector('.plotly')?.textContent.includes('NaN')])"
    )
    assert [name for name, *_ in drawn] == [
        *("seeds-0", "curve-scores", "curve-training", "importances-0", "history-0-fd", "slices-0-fd"),
    ]
    assert all(has_drawing and num > 0 and not broken for _, has_drawing, num, broken in drawn), drawn


def test_a_click_sorts_by_a_column_and_another_turns_it_round(browser, page):
    browser.open(page)
    assert browser.run(ROWS, CARD) == BEST_FIRST

    assert browser.run(CLICK, CARD, "batch_size") == "ascending"
    assert [row.split()[1] for row in browser.run(ROWS, CARD)] == ["32", "32", "32", "100", "100"]
    assert browser.run(CLICK, CARD, "batch_size") == "descending"
    assert [row.split()[1] for row in browser.run(ROWS, CARD)] == ["100", "100", "32", "32", "32"]
    assert browser.run(CLICK, CARD, "loss") == "ascending"
    assert [row.split()[0] for row in browser.run(ROWS, CARD)] == ["hinge", "hinge", "vanilla", "vanilla", "wgan"]
    # more recall is better: the largest comes first
    assert browser.run(CLICK, CARD, "recall ↑") == "descending"
    assert browser.run(ROWS, CARD) == ["hinge 100", "wgan 32", "hinge 32", "vanilla 100", "vanilla 32"]
    # what has no number comes last, whichever way
    for _ in range(2):
        browser.run(CLICK, CARD, "#")
        assert browser.run(ROWS, CARD)[-1] == "wgan 32"
    assert browser.run(CLICK, CARD, "fd ↓") == "ascending"
    assert browser.run(ROWS, CARD) == BEST_FIRST
    assert browser.errors() == []


def test_seeds_are_shown_on_demand_and_stay_with_their_configuration(browser, page):
    browser.open(page)
    shown = """
        return [...document.querySelectorAll("tr.child:not([hidden])")].map((row) =>
            [row.closest("tbody").rows[0].cells[1].textContent.trim(), row.textContent.match(/seed \\d/)[0]])"""
    assert browser.run(shown) == []

    browser.run("document.querySelector('.expand').click()")
    browser.run(CLICK, CARD, "batch_size")
    assert browser.run(shown) == [["hinge", "seed 1"], ["hinge", "seed 2"]]
    assert browser.run("return document.querySelectorAll('.expand[aria-expanded=true]').length") == 1
    browser.run("document.querySelector('.expand-all').click()")
    assert len(browser.run(shown)) == 10


def test_words_and_statuses_filter_tables_pictures_and_curves(browser, page):
    browser.open(page)
    lines = "return document.getElementById(arguments[0]).data.filter((trace) => trace.hoverinfo !== 'skip').length"
    seen = "return document.querySelectorAll(arguments[0] + ':not([hidden])').length"
    assert browser.run("return document.getElementById('shown').textContent") == "11 runs"
    assert browser.run(lines, "curve-training") == 10
    assert browser.run(lines, "curve-scores") == 9  # not that of the other card

    assert browser.run(FILTER, "loss=HINGE batch_size=32") == "2 of 11 runs"
    assert browser.run(ROWS, CARD) == ["hinge 32"]
    assert browser.run(ROWS, OTHER_CARD) == []
    assert browser.run(seen, "#runs tbody tr") == 2
    assert browser.run(seen, ".sample") == 3  # and real data
    assert browser.run(lines, "curve-scores") == 2

    assert browser.run(FILTER, "seed=2") == "5 of 11 runs"
    assert browser.run(ROWS, CARD) == BEST_FIRST
    assert browser.run(FILTER, "no such run") == "0 of 11 runs"
    browser.run(FILTER, "")
    browser.run("document.querySelector('#filter [value=finished]').click()")
    assert browser.run("return document.getElementById('shown').textContent") == "2 of 11 runs"
    assert browser.run(ROWS, CARD) == ["wgan 32"]
    assert browser.run(seen, ".failure") == 1
    assert browser.errors() == []


CHOOSE = """
    const select = document.querySelector(arguments[0]);
    select.value = arguments[1];
    select.dispatchEvent(new Event("change", { bubbles: true }));"""


def test_curves_are_chosen_by_metric_and_card_and_switched_off(browser, page):
    browser.open(page)
    title = "return document.getElementById('curve-scores').layout.yaxis.title.text"
    lines = "return document.getElementById('curve-scores').data.filter((trace) => trace.hoverinfo !== 'skip')"
    assert browser.run(title) == "fd"

    browser.run(CHOOSE, "[data-curves=scores]", "recall")
    assert browser.run(title) == "recall"
    browser.run(CHOOSE, "#card", OTHER_CARD)
    (line,) = browser.run(lines)
    assert line["x"] == [10]
    assert line["y"] == [0.5]
    browser.run(CHOOSE, "#card", CARD)
    ends = {line["marker"]["symbol"][-1]: line["y"] for line in browser.run(lines)}
    assert ends["x"] == [0.5]  # the pruned one

    browser.run("document.querySelector('#legend button').click()")
    assert len(browser.run(lines)) == 7
    assert browser.run("return document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
    browser.run("document.querySelector('#legend .every').click()")
    assert len(browser.run(lines)) == 9
    browser.run("document.querySelector('[data-log=scores]').click()")
    assert browser.run("return document.getElementById('curve-scores').layout.yaxis.type") == "log"
    assert browser.errors() == []


def test_a_picture_is_enlarged_and_the_next_one_follows(browser, page):
    browser.open(page)
    caption = "return document.querySelector('dialog[open] figcaption')?.textContent ?? null"
    assert browser.run(caption) is None

    browser.run("document.querySelectorAll('.enlarge')[1].click()")
    first = browser.run(caption)
    browser.run("document.getElementById('next').click()")
    assert "#1 loss=hinge, batch_size=32, seed 1" in first
    assert "#1 loss=hinge, batch_size=32, seed 2" in browser.run(caption)
    assert browser.run("return document.querySelector('dialog img').naturalWidth") == 16
    browser.run("document.querySelector('dialog form button').click()")
    assert browser.run(caption) is None


def test_metrics_on_demand(browser, page):
    browser.open(page)
    visible = "return getComputedStyle(document.querySelector('td.extra')).display"
    assert browser.run(visible) == "none"

    browser.run("document.querySelector('.extra-toggle').click()")

    assert browser.run(visible) == "table-cell"


def test_plots_follow_the_page_into_the_dark(browser, page):
    browser.open(page)
    colours = """
        const font = (name) => document.querySelector(name)._fullLayout.font.color;
        return [font("[data-figure]"), font("#curve-scores"), getComputedStyle(document.body).backgroundColor]"""
    assert browser.run(colours) == ["#1d2430", "#1d2430", "rgb(246, 247, 249)"]

    browser.emulate("dark")
    try:
        assert browser.becomes(colours, ["#e4e8ee", "#e4e8ee", "rgb(20, 24, 31)"]), browser.run(colours)
    finally:
        browser.emulate("light")
