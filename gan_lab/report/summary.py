"""What the report says in words and figures, for the page and the text alike."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from gan_lab.report.leaderboard import CLEAR, Board, Configuration, Spread, boards, standard_errors, unlike
from gan_lab.report.runs import STATUSES, Found, Run, Sweep
from gan_lab.report.settings import (
    TECHNICAL_GROUPS,
    best_experiment,
    differing,
    is_setting,
    repeat_command,
    setting,
    shown,
    typed_keys,
)
from gan_lab.report.study import Study, study
from gan_lab.tolerant import mapping

PACKAGES = ("gan_lab", "python", "torch")
"""Versions that are shown at once; the others on demand."""

MOST_NAMED = 3
MOST_FACTS = 6


@dataclass
class Summary:
    """Everything that is shown. keys: the settings that differ among all runs, by which they are called."""

    title: str
    found: Found
    boards: list[Board]
    studies: list[Study]
    keys: list[str]
    made: datetime

    @property
    def runs(self) -> list[Run]:
        return self.found.runs

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.status == "failed" or run.problems]

    @property
    def with_findings(self) -> list[Run]:
        return [run for run in self.runs if run.health]


def summarise(found: Found) -> Summary:
    made_boards = boards(found.runs)
    objectives = {run.name: board.objectives for board in made_boards for run in board.runs}
    studies = []
    for sweep in found.whole:
        own = [run for run in found.runs if run.sweep is not None and run.sweep.path.resolve() == sweep.path.resolve()]
        chosen = sweep.objectives or next((objectives[run.name] for run in own if objectives[run.name]), {})
        made = study(sweep, own, chosen)
        if made is not None:
            studies.append(made)
    return Summary(_title(found), found, made_boards, studies, differing(found.runs), datetime.now(timezone.utc))


def _title(found: Found) -> str:
    names = [str(sweep.content.get("name") or sweep.path.resolve().name) for sweep in found.whole]
    if not names:
        names = list(dict.fromkeys(str(run.record.get("name") or run.name) for run in found.runs))
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------------- figures as text


def figure(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def with_spread(value: Spread | None) -> str:
    """3.21 ± 0.12."""
    if value is None:
        return ""
    return figure(value.mean) + ("" if value.std is None else f" ± {figure(value.std, 2)}")


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x" if ratio < 100 else f"{ratio:,.0f}x"


def duration(seconds: float | None) -> str:
    """7.8 s, 2 min 18 s, 3 h 05 min, 2 d 04 h."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def count(num: int, one: str, many: str | None = None) -> str:
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def moment(text: Any) -> str:
    """2026-11-24 15:32 UTC, of an ISO time; as it is where it is none."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    return f"{time:%Y-%m-%d %H:%M}" + (" UTC" if time.utcoffset() is not None and not time.utcoffset() else "")


def machine_of(run: Run) -> str:
    """Where a run computed: node3, NVIDIA H100, 4 threads."""
    machine = run.machine
    device = machine.get("gpu") or run.trial.get("device") or machine.get("device")
    threads = machine.get("threads") or run.trial.get("threads")
    parts = [run.trial.get("host"), device, None if threads is None else count(threads, "thread")]
    return ", ".join(str(part) for part in parts if part)


# ---------------------------------------------------------------------- the head


def status_counts(runs: Sequence[Run]) -> dict[str, int]:
    counts = Counter(run.status for run in runs)
    known = [status for status in STATUSES if counts[status]]
    return {status: counts[status] for status in [*known, *sorted(set(counts) - set(STATUSES))]}


def not_started(sweep: Sweep, runs: Sequence[Run]) -> int:
    """Trials of a sweep that have no directory yet."""
    planned = sweep.content.get("num_trials")
    own = [run for run in runs if run.sweep is not None and run.sweep.path.resolve() == sweep.path.resolve()]
    return max(0, planned - len(own)) if isinstance(planned, int) else 0


def facts(summary: Summary) -> list[tuple[str, str]]:
    """(what, text) of the head."""
    runs, whole = summary.runs, summary.found.whole
    num_configurations = len({id(row) for board in summary.boards for row in board.rows})
    of = [count(len(runs), "run"), f"{count(num_configurations, 'configuration')} apart from the seed"]
    if whole:
        of.insert(0, count(len(whole), "sweep"))
    found = [("compared", ", ".join(of))]
    found.append(("all with", ", ".join(common(runs, summary.keys))))
    waiting = sum(not_started(sweep, runs) for sweep in whole)
    statuses = [f"{num} {status}" for status, num in status_counts(runs).items()]
    found.append(("status", ", ".join([*statuses, *([f"{waiting} not started"] if waiting else [])])))
    found.append(("to go on", "; ".join(resume_commands(runs))))
    seconds = [run.seconds for run in runs if run.seconds is not None]
    time = f"{duration(sum(seconds))} of training in all" if seconds else ""
    spans = [span for sweep in whole if (span := elapsed(sweep)) is not None]
    if spans:
        time += f", {duration(sum(spans))} from start to end"
    found.append(("time", time.lstrip(", ")))
    starts = sorted(str(run.record["started"]) for run in runs if run.record.get("started"))
    if starts:
        found.append(("started", moment(starts[0]) + (f" to {moment(starts[-1])}" if len(starts) > 1 else "")))
    found.append(("machine", "; ".join(machines(runs))))
    found.append(("versions", "; ".join(versions(runs, PACKAGES))))
    found.append(("code", "; ".join(commits(runs))))
    return [(name, text) for name, text in found if text]


def resume_commands(runs: Sequence[Run]) -> list[str]:
    """What continues the runs that were stopped before their end: a trial goes on with its sweep."""
    stopped = [run for run in runs if run.status in ("interrupted", "killed")]
    places = dict.fromkeys(f"run={run.path}" if run.sweep is None else f"sweep={run.sweep.path}" for run in stopped)
    commands = [shlex.join(["gan-lab", "resume", place]) for place in places]
    more = len(commands) - MOST_NAMED
    return [*commands[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]


def elapsed(sweep: Sweep) -> float | None:
    """Seconds from a sweep's start to its end."""
    try:
        start, end = (datetime.fromisoformat(str(sweep.content.get(name))) for name in ("started", "ended"))
        return max(0.0, (end - start).total_seconds())
    except (ValueError, TypeError):
        return None


def machines(runs: Sequence[Run]) -> list[str]:
    """Each kind of machine, with the names of those and the number of its runs where there are several."""
    seen: Counter[str] = Counter()
    hosts: dict[str, dict[str, None]] = {}
    for run in runs:
        machine = run.machine
        cores = machine.get("cores")
        parts = [machine.get("gpu") or machine.get("device"), count(cores, "core") if isinstance(cores, int) else None]
        text = ", ".join(str(part) for part in [*parts, machine.get("system")] if part)
        if text:
            seen[text] += 1
            hosts.setdefault(text, {})[str(run.trial.get("host") or "")] = None
    found = []
    for text, num in seen.most_common():
        names = [name for name in hosts[text] if name]
        shown_names = [*names[:MOST_FACTS], *(["more"] if len(names) > MOST_FACTS else [])]
        found.append(
            (f"{_listed(shown_names)}: " if names else "") + text + (f" ({count(num, 'run')})" if len(seen) > 1 else "")
        )
    return found


def common(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """What all runs were told alike: options of groups as far as they are known, and typed keys."""
    known = [run for run in runs if run.settings]
    told = dict.fromkeys(name for run in known for name in [*run.choices, *typed_keys(run)])
    found = []
    for key in told:
        values = {shown(key, setting(run, key)) for run in known if setting(run, key) is not None}
        if key not in keys and key not in TECHNICAL_GROUPS and is_setting(key) and len(values) == 1:
            found.append(f"{key}={next(iter(values))}")
    return found


def versions(runs: Sequence[Run], packages: Sequence[str]) -> list[str]:
    """Each set of versions that runs were made with."""
    seen: Counter[str] = Counter()
    for run in runs:
        words = [f"{name} {run.versions[name]}" for name in packages if name in run.versions]
        if words:
            seen[", ".join(words)] += 1
    return _counted(seen)


def commits(runs: Sequence[Run]) -> list[str]:
    seen: Counter[str] = Counter()
    for run in runs:
        git = mapping(run.record.get("git"))
        if git.get("commit"):
            seen[f"commit {str(git['commit'])[:12]}" + (", with changes" if git.get("changed") else "")] += 1
    return _counted(seen)


def _listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def _counted(seen: Counter[str]) -> list[str]:
    return list(seen) if len(seen) < 2 else [f"{text} ({count(num, 'run')})" for text, num in seen.most_common()]


# ---------------------------------------------------------------------- what won, and why


def verdict(board: Board) -> list[str]:
    """What is best on a board and how sure that is, a sentence each. Configurations are judged by their mean."""
    if not board.objectives and board.card_id is None:
        return ["Runs without a score are listed, not ranked."]
    if not board.objectives:
        return ["These runs have no objective: they are listed, not ranked."]
    if not board.ranked:
        return ["No run has come to its end with a score yet: nothing is ranked."]
    lead = (
        [] if board.is_chosen else [f"No objective was set (objective=null); the order is that of {board.objective}."]
    )
    if len(board.objectives) > 1:
        return [*lead, *_front(board), *_repetitions(board)]
    metric = board.objective
    assert metric is not None
    first, *others = board.ranked
    sentences = [f"Best: {_scored(board, first, metric)}."]
    if others:
        second = others[0]
        sentences.append(f"Next: {_scored(board, second, metric)}.")
        sentences.append(_sureness(first, second, metric))
    single = best_single(board)
    if single is not None and single not in first.runs:
        row = next(row for row in board.ranked if single in row.runs)
        value = figure(single.value(metric))
        where = ", ".join(part for part in (board.row_label(row), single.seed_text) if part)
        sentences.append(f"The best single run is another configuration's: {single.name} ({where}) with {value}.")
    statuses = first.statuses
    if len(statuses) > 1:
        lost = ", ".join(f"{num} {status}" for status, num in statuses.items() if status != "finished")
        sentences.append(f"Of the best configuration's {count(len(first.runs), 'run')}, {lost}.")
    return [*lead, *sentences, *_repetitions(board)]


def _repetitions(board: Board) -> list[str]:
    """Which runs are in no mean, as their configuration has another one of the same seed."""
    names = [run.name for row in board.rows for run in row.repetitions]
    if not names:
        return []
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    named = _listed([*names[:MOST_NAMED], *more])
    return [f"Each seed of a configuration counts once. Left out, as another run has the same one: {named}."]


def best_single(board: Board) -> Run | None:
    """The run with the best value, whatever its configuration's mean."""
    metric = board.objective
    runs = [run for row in board.ranked for run in row.counted]
    if metric is None or not runs:
        return None
    pick = max if board.objectives[metric] == "maximize" else min
    return pick(runs, key=lambda run: run.value(metric) or 0.0)


def _scored(board: Board, row: Configuration, metric: str) -> str:
    value = row.values[metric]
    over = f" over {count(value.num, 'seed')}" if value.num > 1 else ""
    ratio = board.ratio(value.mean, metric)
    floor = "" if ratio is None else f", {times(ratio)} the floor ({figure(board.floor[metric])})"
    return f"{board.row_label(row)} with {metric} {with_spread(value)}{over}{floor}"


def _sureness(first: Configuration, second: Configuration, metric: str) -> str:
    one, other = first.values[metric], second.values[metric]
    errors = standard_errors(one, other)
    difference = figure(abs(one.mean - other.mean), 3)
    if errors is None:
        return (
            f"The difference is {difference}. At least one of the two has a single seed, so it cannot be said whether "
            "that is more than chance: run the best ones with several seeds (seed=1,2,3)."
        )
    size = "no" if errors == 0 else "many" if errors > 99 else f"{errors:.1f}"
    if errors >= CLEAR:
        return f"The difference, {difference}, is {size} standard errors: clear of the spread over seeds."
    return f"The difference, {difference}, is {size} standard errors: it may be chance; more seeds would tell."


def _front(board: Board) -> list[str]:
    front = [row for row in board.ranked if row.front == 1]
    names = " and ".join(board.objectives)
    said = [f"{count(len(front), 'configuration')} on the Pareto front of {names}: no other is better in one of them "
            "without being worse in another."]  # fmt: skip
    for metric, way in board.objectives.items():
        pick = max if way == "maximize" else min
        best = pick(front, key=lambda row: row.values[metric].mean)
        said.append(f"Best in {metric}: {_scored(board, best, metric)}.")
    return said


def best_commands(summary: Summary) -> list[tuple[str, str, str | None]]:
    """(what it is, command, text of the file that it needs) of all that repeats the best ones."""
    found: list[tuple[str, str, str | None]] = []
    for board in summary.boards:
        where = f"card {board.card_id}, " if len(summary.boards) > 1 and board.card_id is not None else ""
        runs = [board.ranked[0].best_run] if board.ranked else []
        single = best_single(board) if len(board.objectives) == 1 else None
        if single is not None and single not in board.ranked[0].runs:
            runs.append(single)
        for what, run in zip(("The best configuration", "The best single run"), runs, strict=False):
            command = repeat_command(run)
            if command is not None:
                found.append((f"{what} again ({where}run {run.name})", command, None))
    for sweep in summary.found.whole:
        experiment = best_experiment(sweep)
        if experiment is not None:
            place, command, text = experiment
            what = f"What the sweep wrote as its best trial, an experiment (conf/experiment/best.yaml{place})"
            found.append((what, command, text))
    return found


def mattered(study: Study) -> str | None:
    """The parameters that explain most of the objective, in a sentence."""
    if not study.importances:
        return None
    parts = []
    for objective, shares in study.importances.items():
        top = [f"{key} {share:.0%}" for key, share in list(shares.items())[:MOST_NAMED] if share >= 0.01]
        name = f"log {objective}" if objective in study.by_log else objective
        parts.append(f"of {name}: {', '.join(top)}")
    return f"What mattered, by share of the variance {'; '.join(parts)} ({len(study.finished)} finished trials)."


def apart(summary: Summary) -> str | None:
    """Why there are several leaderboards; None where there is one card."""
    cards = [(board.card_id, board.card) for board in summary.boards if board.card_id is not None]
    if len(cards) < 2:
        return None
    facts_apart = unlike(cards)
    words = list(facts_apart)
    if len(words) > MOST_FACTS:
        words = [*words[:MOST_FACTS], "more"]
    named = f" They differ in {_listed(words)}." if words else ""
    return (
        f"These runs were measured in {len(cards)} ways, each with its own metric card. Figures of unlike cards cannot "
        f"be compared, so each card has its own leaderboard.{named}"
    )


def card_facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """(fact, value) of a card, without what was scored."""
    from gan_lab.evaluation import WHAT_WAS_SCORED

    def text(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return "none" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)

    return [(str(fact), text(value)) for fact, value in card.items() if fact not in WHAT_WAS_SCORED]


def card_name(board: Board) -> str:
    """How a board's figures were measured, in a line."""
    card = board.card
    if board.card_id is None:
        return "no metric card"
    words = []
    if card.get("extractor_name"):
        words.append(f"features of {card['extractor_name']} {card.get('extractor_hash', '')}".strip())
    if card.get("num_fake"):
        split = card.get("split") or "real samples"
        words.append(f"{card['num_fake']:,} fakes against {card.get('num_real', card['num_fake']):,} of {split}")
    return ", ".join(words) or "its facts are not known"
