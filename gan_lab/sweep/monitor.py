"""What a person sees while a sweep runs, on any launcher: read from the files of its trials alone."""

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from gan_lab.sweep.results import Best, best_of
from gan_lab.tolerant import finite, mapping, read_mapping

SECONDS_BETWEEN_REFRESHES = 0.5
SECONDS_BETWEEN_SUMMARIES = 30.0
"""Where there is no terminal."""
SECONDS_OF_SILENCE = 60.0
"""A running trial that has written nothing for so long may have died, and is not counted on for the time left."""
BAR_WIDTH = 10


@dataclass
class Running:
    """A trial that runs: when it was last heard of, and its share of the budget when this process first saw it."""

    content: dict[str, Any]
    heard_at: float
    live: dict[str, Any] = field(default_factory=dict)
    first_share: float = 0.0
    first_at: float | None = None

    def take(self, live: dict[str, Any]) -> None:
        share, at = finite(live.get("share")), finite(live.get("at"))
        if share is None or at is None:
            return
        if self.first_at is None or share < self.first_share:  # taken over, it starts again from its checkpoint
            self.first_share, self.first_at = share, at
        self.live, self.heard_at = live, max(self.heard_at, at)

    @property
    def share(self) -> float:
        return min(max(finite(self.live.get("share")) or 0.0, 0.0), 1.0)

    def seconds_left(self, now: float) -> float | None:
        """By its speed since this process first saw it; None before there is one."""
        at, whole = finite(self.live.get("at")), self._seconds_at_its_speed()
        return None if at is None or whole is None else max((1 - self.share) * whole - (now - at), 0.0)

    def seconds(self, now: float) -> float | None:
        """That it takes from its beginning, by its speed, and no less than it has taken; None before there is one."""
        whole = self._seconds_at_its_speed()
        return None if whole is None or self.first_at is None else max(whole, now - self.first_at)

    def _seconds_at_its_speed(self) -> float | None:
        at, gained = finite(self.live.get("at")), self.share - self.first_share
        if self.first_at is None or at is None or at - self.first_at < 1 or gained <= 0:
            return None
        return (at - self.first_at) / gained


class Monitor:
    """Shows a sweep while it is entered, and prints `run: DIR` on standard output for each run that finishes.

    On a terminal (standard error): a live line for each running trial and one for the sweep, below all else that is
    printed. Elsewhere: a line for each trial that ends, and one for the sweep every 30 seconds. Trials that had ended
    before are counted, but not said again.
    """

    def __init__(self, sweep_dir: Path, *, screen: TextIO | None = None, out: TextIO | None = None):
        self.sweep_dir = sweep_dir
        self.screen = sys.stderr if screen is None else screen
        self.out = sys.stdout if out is None else out
        self.block = Block(self.screen) if _is_terminal(self.screen) else None
        self.running: dict[int, Running] = {}
        self.counts = dict.fromkeys(("finished", "pruned", "failed"), 0)
        self.best: dict[str, Best] = {}  # by each objective alone
        self._finished: dict[int, dict[str, Any]] = {}
        self._sweep: dict[str, Any] = {}
        self._sweep_stamp: tuple[int, ...] | None = None
        self._stamps: dict[int, tuple[int, ...]] = {}
        self._ended: set[int] = set()
        self._seconds = 0.0  # of all trials that have ended
        self._summarised_at = self._entered_at = time.monotonic()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self.read()
        if self.block is not None:
            self.block.open()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._wake.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # nobody reads any more
            self._say(self.read())
            if self.block is not None:
                self.block.show([])
            self._print(self.summary(final=True))
        if self.block is not None:
            self.block.close()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: the sweep itself goes on
            while not self._wake.wait(SECONDS_BETWEEN_REFRESHES):
                self.refresh()

    def refresh(self) -> None:
        """Reads what is new and shows it."""
        self._say(self.read())
        if self.block is not None:
            self.block.show(self.lines())
        elif time.monotonic() - self._summarised_at > SECONDS_BETWEEN_SUMMARIES:
            self._summarised_at = time.monotonic()
            self._print(self.summary())

    # ------------------------------------------------------------------ reading

    def read(self) -> list[dict[str, Any]]:
        """The trials that have ended since the last time, in the order of their ends. Files may be missing or damaged:
        they are looked at again next time."""
        stamp = _stamp(self.sweep_dir / "sweep.json")
        if stamp != self._sweep_stamp and (content := read_mapping(self.sweep_dir / "sweep.json")[0]):
            self._sweep, self._sweep_stamp = content, stamp
        ended: list[tuple[int, int, dict[str, Any]]] = []
        for number in self._open_numbers():
            run_dir = self.sweep_dir / str(number)
            stamp = _stamp(run_dir / "trial.json")
            if stamp is None:
                self.running.pop(number, None)
                continue
            if stamp != self._stamps.get(number) and (content := read_mapping(run_dir / "trial.json")[0]):
                self._stamps[number] = stamp
                if content.get("status") in self.counts:
                    ended.append((stamp[0], number, content | {"number": number}))
                    continue
                known = self.running.setdefault(number, Running(content, stamp[0] / 1e9))
                known.content, known.heard_at = content, max(known.heard_at, stamp[0] / 1e9)
            if number in self.running and (live := read_mapping(run_dir / ".live.json")[0]):
                self.running[number].take(live)
        ended.sort(key=lambda one: one[:2])
        for _, number, content in ended:
            self._count(number, content)
        if ended:
            self.best = self._best()
        return [content for _, _, content in ended]

    def _open_numbers(self) -> list[int]:
        """Numbers of the trials that have a directory and have not ended."""
        try:
            with os.scandir(self.sweep_dir) as entries:
                numbers = [int(entry.name) for entry in entries if entry.name.isdecimal()]
        except OSError:
            return []
        return sorted(set(numbers) - self._ended)

    def _count(self, number: int, content: dict[str, Any]) -> None:
        self._ended.add(number)
        self.running.pop(number, None)
        self.counts[content["status"]] += 1
        self._seconds += finite(content.get("seconds")) or 0.0
        if content["status"] == "finished":
            told = {name: finite(value) for name, value in mapping(content.get("values")).items()}
            values = {name: value for name, value in told.items() if value is not None}
            self._finished[number] = {**content, "params": mapping(content.get("params")), "values": values}

    def _best(self) -> dict[str, Best]:
        """What the sweep would end with if it ended now, by each objective alone."""
        found: dict[str, Best] = {}
        for name, direction in self.objectives.items():
            having = [trial for _, trial in sorted(self._finished.items()) if name in trial["values"]]
            if having:
                (found[name],) = best_of(having, {name: direction})
        return found

    @property
    def objectives(self) -> dict[str, Any]:
        return dict(mapping(self._sweep.get("objectives")))

    # ------------------------------------------------------------------ texts

    def lines(self) -> list[str]:
        """One for each running trial, and the summary."""
        now = time.time()
        return [self._live_line(number, self.running[number], now) for number in sorted(self.running)] + [
            self.summary()
        ]

    def _live_line(self, number: int, trial: Running, now: float) -> str:
        filled = round(trial.share * BAR_WIDTH)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        parts = [f"#{number:<4}{trial.share:4.0%} [{bar}]"]
        if (images := finite(trial.live.get("images_seen"))) is not None:
            parts.append(f"{images / 1000:,.1f} kimg")
        parts += _values(mapping(trial.live.get("metrics")), self.objectives)
        if now - trial.heard_at > SECONDS_OF_SILENCE:
            parts.append(f"silent for {tqdm.format_interval(now - trial.heard_at)}")
        elif (left := trial.seconds_left(now)) is not None:
            parts.append(f"{tqdm.format_interval(left)} left")
        parts.append(short_overrides(trial.content.get("overrides")))
        return "  ".join(part for part in parts if part)

    def summary(self, final: bool = False) -> str:
        """How many are done and how, the best so far, and the time left or, at the end, the time taken."""
        total = finite(self._sweep.get("num_trials"))
        text = f"{len(self._ended)}{'' if total is None else f' of {total:.0f}'} done"
        others = [f"{self.counts[status]} {status}" for status in ("failed", "pruned") if self.counts[status]]
        parts = [text + (f" ({', '.join(others)})" if others else "")]
        if len(self.objectives) == 1 and self.best:
            ((name, best),) = self.best.items()
            overrides = short_overrides(best.trial.get("overrides"))
            parts.append(
                f"best #{best.trial['number']}: {name} {best.trial['values'][name]:.4g}"
                + (f" ({overrides})" if overrides else "")
                + _mean(best)
            )
        elif self.best:
            each = [
                f"{name} {best.trial['values'][name]:.4g} (#{best.trial['number']}{_mean(best)})"
                for name, best in self.best.items()
            ]
            parts.append(f"best {', '.join(each)}")
        if final:
            parts.append(f"in {tqdm.format_interval(time.monotonic() - self._entered_at)}")
        elif (left := self.seconds_left()) is not None:
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Until all trials have ended: the work left, by the mean of those that have, shared by those that run now."""
        now, total = time.time(), finite(self._sweep.get("num_trials"))
        alive = [trial for trial in self.running.values() if now - trial.heard_at <= SECONDS_OF_SILENCE]
        if total is None or not alive:
            return None
        each = [trial.seconds_left(now) for trial in alive]
        if self._ended and self._seconds > 0:
            mean = self._seconds / len(self._ended)
        elif known := [seconds for trial in alive if (seconds := trial.seconds(now)) is not None]:
            mean = sum(known) / len(known)
        else:
            return None
        rest = [
            mean * (1 - trial.share) if seconds is None else seconds for seconds, trial in zip(each, alive, strict=True)
        ]
        waiting = max(total - len(self._ended) - len(alive), 0)
        return max((sum(rest) + waiting * mean) / len(alive), max(rest))

    def _say(self, ended: Sequence[dict[str, Any]]) -> None:
        """`run: DIR` for what has finished; how each trial ended, where there is no live line or something is wrong."""
        for content in ended:
            if self.block is None or content["status"] == "failed":
                self._print(self._end_line(content))
            if content["status"] == "finished":
                text = f"run: {self.sweep_dir / str(content['number'])}\n"
                # In one write, as other processes may print at the same time.
                (self.out if self.block is None else self.block.above(self.out)).write(text)
                self.out.flush()

    def _end_line(self, content: dict[str, Any]) -> str:
        seconds, status = finite(content.get("seconds")), content["status"]
        text = f"#{content['number']} {status}"
        if seconds is not None:
            text += f" {'in' if status == 'finished' else 'after'} {tqdm.format_interval(seconds)}"
        if status == "failed":
            text += f": {_in_one_line(content.get('reason') or content.get('kind') or 'no reason given')}"
        elif values := _values(mapping(content.get("values")), self.objectives):
            text += f": {', '.join(values)}"
        overrides = short_overrides(content.get("overrides"))
        return text + (f" ({overrides})" if overrides else "")

    def _print(self, text: str) -> None:
        stream = self.screen if self.block is None else self.block.above(self.screen)
        stream.write(text + "\n")
        stream.flush()


def short_overrides(overrides: Any) -> str:
    """`loss=hinge, lr=0.0003` of loss=hinge optimizer.lr=0.0003: last parts of keys, as far as they differ."""
    pairs = [text.lstrip("+").partition("=") for text in overrides or () if isinstance(text, str)]
    last = [key.rsplit(".", 1)[-1] for key, _, _ in pairs]
    shown = []
    for (key, _, value), short in zip(pairs, last, strict=True):
        with contextlib.suppress(ValueError):
            value = value if value.lstrip("-").isdecimal() else f"{float(value):.4g}"
        shown.append(f"{short if last.count(short) == 1 else key}={value}")
    return _in_one_line(", ".join(shown))


def _mean(best: Best) -> str:
    """What a configuration of several seeds was chosen by."""
    (mean,) = best.values.values()
    return "" if best.num_seeds == 1 else f", mean of {best.num_seeds} seeds {mean:.4g}"


def _values(metrics: Mapping[str, Any], names: Mapping[str, Any]) -> list[str]:
    numbers = {name: finite(metrics.get(name)) for name in names}
    return [f"{name} {value:.4g}" for name, value in numbers.items() if value is not None]


def _in_one_line(text: Any) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes whenever the file does; begins with its time in nanoseconds. None: there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# ---------------------------------------------------------------------- a terminal


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Block:
    """Lines that stay at the bottom of a terminal, below all that this process prints while the block is open."""

    def __init__(self, terminal: TextIO):
        self.terminal = terminal
        self._lock = threading.RLock()
        self._lines: list[str] = []  # wanted
        self._drawn: list[str] = []
        self._in_a_line = False  # what was printed last has not ended its line: no place for the block
        self._handlers: list[tuple[Any, TextIO]] = []
        self._streams: dict[str, TextIO] = {}

    def open(self) -> None:
        """Lets print and logging go through `above`."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if _is_terminal(stream):
                self._streams[name] = stream
                setattr(sys, name, self.above(stream))
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in self._streams.values():
                self._handlers.append((handler, handler.stream))
                handler.setStream(self.above(handler.stream))

    def close(self) -> None:
        for handler, stream in self._handlers:
            handler.setStream(stream)
        for name, stream in self._streams.items():
            setattr(sys, name, stream)

    def above(self, stream: TextIO) -> Any:
        """`stream`, with the block moved down before each text; itself where it does not lead to the terminal."""
        return Above(stream, self) if _is_terminal(stream) else stream

    def show(self, lines: Sequence[str]) -> None:
        """Replaces the lines."""
        with self._lock:
            self._lines = list(lines)
            self._erase()
            self._draw()

    def print_above(self, stream: TextIO, text: str) -> int:
        with self._lock:
            self._erase()
            written = stream.write(text)
            stream.flush()
            if text:
                self._in_a_line = not text.endswith("\n")
            self._draw()
            return written

    def _erase(self) -> None:
        if self._drawn:
            width, _ = self._size()
            rows = sum(max(math.ceil(len(line) / width), 1) for line in self._drawn)  # it may be narrower than it was
            self.terminal.write(f"\x1b[{rows}A\r\x1b[J")
            self.terminal.flush()
            self._drawn = []

    def _draw(self) -> None:
        if self._in_a_line:
            return
        width, height = self._size()
        lines = self._lines
        most = max(height - 2, 1)
        if len(lines) > most:
            lines = [*lines[: most - 2], f"... and {len(lines) - most + 1} more", lines[-1]][-most:]
        self._drawn = [line if len(line) < width else line[: width - 2] + "~" for line in lines]
        self.terminal.write("".join(f"{line}\n" for line in self._drawn))
        self.terminal.flush()

    def _size(self) -> tuple[int, int]:
        try:
            width, height = os.get_terminal_size(self.terminal.fileno())
        except (OSError, ValueError):
            width = height = 0
        return max(width or 80, 10), height or 24  # some terminals do not know


class Above:
    """A stream to the terminal whose texts appear above the block."""

    def __init__(self, stream: TextIO, block: Block):
        self._stream, self._block = stream, block

    def write(self, text: str) -> int:
        return self._block.print_above(self._stream, text)

    def writelines(self, lines: Sequence[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
