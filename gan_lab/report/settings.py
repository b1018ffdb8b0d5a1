"""What the runs of a report differ in, what they are called by, and the commands that repeat them."""

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gan_lab.compose import train_command
from gan_lab.config import TECHNICAL
from gan_lab.report.runs import Run, Sweep

TECHNICAL_GROUPS = ("accelerator", "callbacks", "evaluation", "logger")  # compared only where a sweep chose them
MOST_LABEL_CHARACTERS = 90


def is_setting(key: str) -> bool:
    """Whether runs are compared by a leaf; seeds are apart, as runs that differ in nothing else are repetitions."""
    return key != "seed" and not key.startswith(TECHNICAL)


def identity(run: Run) -> tuple[tuple[str, str], ...]:
    """Equal for runs that differ in nothing but their seed."""
    leaves = {key: value for key, value in run.settings.items() if is_setting(key) and value is not None}
    if not leaves:  # its configuration is not known
        leaves = {"": run.name} if not run.params else {}
    swept = {key: value for key, value in run.params.items() if key != "seed"}
    return tuple(sorted((key, repr(value)) for key, value in {**leaves, **swept}.items()))


def setting(run: Run, key: str) -> Any:
    """The value of a leaf, or the option of a group; None where it is not set or not known."""
    for values in (run.settings, run.choices, run.params):
        if values.get(key) is not None:
            return values[key]
    return None


def shown(key: str, value: Any) -> str:
    """A value as it would be typed; of what a `_target_` names, the last part."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(shown('', item) for item in value)}]"
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys by which the runs are told apart, in the order in which they were chosen.

    These are the groups and the keys that somebody chose and that differ. What follows from them (an interpolation, the
    defaults of a group's option) is left out; what differs beside them, by another version's defaults, say, is not.
    """
    all_groups = [key for key in _in_order(run.choices for run in runs) if key not in TECHNICAL_GROUPS]
    groups = [key for key in all_groups if len(_options(runs, key)) > 1]
    swept = _in_order(run.params for run in runs)
    typed = [key for key in [*swept, *_in_order(map(typed_keys, runs))] if key not in TECHNICAL_GROUPS]
    keys = [key for key in typed if key not in all_groups]
    leaves = _in_order(run.settings for run in runs)
    chosen = [
        leaf
        for key in keys
        for leaf in [key, *[leaf for leaf in leaves if leaf.startswith(f"{key}.")]]
        if (is_setting(leaf) or (leaf in swept and leaf != "seed")) and _differs(runs, leaf)
    ]
    columns = [key for key in typed if key in groups or key in chosen]
    columns = list(dict.fromkeys([*columns, *groups, *chosen]))
    known = [tuple(shown(key, setting(run, key)) for key in columns) for run in runs]
    for leaf in leaves:
        if not is_setting(leaf) or leaf in columns or not _differs(runs, leaf):
            continue
        values: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for run, others in zip(runs, known, strict=True):
            if run.settings:
                values[others].add(shown(leaf, setting(run, leaf)))
        if any(len(found) > 1 for found in values.values()):
            columns.append(leaf)
            known = [(*others, shown(leaf, setting(run, leaf))) for run, others in zip(runs, known, strict=True)]
    return columns


def _options(runs: Sequence[Run], group: str) -> set[str]:
    """The options of a group that are in use, as far as it is known."""
    return {shown(group, run.choices[group]) for run in runs if group in run.choices}


def _differs(runs: Sequence[Run], leaf: str) -> bool:
    return len({shown(leaf, setting(run, leaf)) for run in runs if run.settings or run.params}) > 1


def _in_order(keys: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(key for some in keys for key in some))


def typed_keys(run: Run) -> list[str]:
    """The keys and groups of its overrides."""
    return [text.partition("=")[0].lstrip("+~") for text in run.overrides if not text.startswith("hydra.")]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key by as few of its last parts as tell it from the others."""
    short = {}
    for key in keys:
        parts = [part for part in key.split(".") if part != "_target_"]
        for num in range(1, len(parts) + 1):
            short[key] = ".".join(parts[-num:])
            if sum(("." + other.removesuffix("._target_")).endswith("." + short[key]) for other in keys) == 1:
                break
    return short


def label(run: Run, keys: Sequence[str]) -> str:
    """What a configuration is called: loss=hinge, lr=0.0003; the run's name where nothing differs."""
    short = short_keys(keys)
    parts = [f"{short[key]}={value}" for key in keys if (value := shown(key, setting(run, key)))]
    text = ", ".join(parts) or str(run.record.get("name") or run.settings.get("name") or run.name)
    return text if len(text) <= MOST_LABEL_CHARACTERS else text[: MOST_LABEL_CHARACTERS - 1] + "…"


# ---------------------------------------------------------------------- commands


def repeat_command(run: Run) -> str | None:
    """The command that trains this run again, elsewhere; None where nobody wrote down how it was started."""
    told = run.record.get("command")
    words = [str(word) for word in told] if isinstance(told, list) else []
    verb = next((index for index, word in enumerate(words) if Path(word).stem == "train"), None)  # or scripts/train.py
    if verb is not None:
        typed = [word for word in words[verb + 1 :] if not word.startswith("hydra.run.dir=")]
        return shlex.join(train_command(typed, None))
    if not run.overrides:
        return None
    return shlex.join(train_command(run.overrides, None if run.sweep is None else run.sweep.content.get("config_dir")))


def best_experiment(sweep: Sweep) -> tuple[str, str, str] | None:
    """(where to put it, command, text of the file) of the best configuration that a sweep has written as an experiment.

    It may choose from the user's own groups, and there is one --config-dir.
    """
    folder = sweep.path / "conf"
    try:
        text = (folder / "experiment" / "best.yaml").read_text()
    except (OSError, ValueError):
        return None
    config_dir = sweep.content.get("config_dir")
    place = "" if config_dir is None else f"; put it into {config_dir}/experiment"
    return place, shlex.join(train_command(["experiment=best"], config_dir or str(folder))), text
