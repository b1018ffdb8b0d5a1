"""From what the user typed to a composed configuration: Hydra's overrides, checked all at once."""

import itertools
import os
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gan_lab.errors import ConfigError
from gan_lab.names import nearest

Combinations = Callable[[list[str], DictConfig], Iterable[list[str]]]
"""(swept overrides, hydra.sweeper) -> choices of runs that stand for all of a sweep, to be checked before the first."""


def conf_dir() -> Path:
    """The folder of the shipped configuration: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def _new_dir(path: str) -> str:
    """Makes and returns the directory `path`, or path-2, path-3, ... where it exists: no two runs share one."""
    for number in itertools.count(1):
        candidate = path if number == 1 else f"{path}-{number}"
        try:
            os.makedirs(candidate)
        except FileExistsError:
            continue
        except OSError:  # reported by Hydra's own attempt, with the path
            pass
        return candidate
    raise AssertionError


def register_resolvers(make: bool = True) -> None:
    """Lets configurations say ${new_dir:PATH}; with `make` false the directory is only named, not made."""
    OmegaConf.register_new_resolver("new_dir", _new_dir if make else str, use_cache=True, replace=True)
    put_conf_first()


def put_conf_first() -> None:
    """conf/hydra/launcher/joblib.yaml and its like take the place of what plugins register under the same name, which
    Hydra would merge with them otherwise."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # they register now
    store = ConfigStore.instance().repo.get("hydra", {})
    for group in ("launcher", "sweeper"):
        for path in (conf_dir() / "hydra" / group).glob("*.yaml"):
            store.get(group, {}).pop(path.name, None)


class Composer:
    """Composes conf/train.yaml with overrides, without running anything."""

    def __init__(self, *config_dirs: str | None):
        """config_dirs: folders of the user's own groups, beside the shipped ones; None is none."""
        from hydra import initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        own = [Path(config_dir) for config_dir in config_dirs if config_dir is not None]
        for folder in own:
            if not folder.is_dir():
                raise ConfigError(f"--config-dir {folder}: there is no such directory")
        GlobalHydra.instance().clear()
        put_conf_first()
        initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="train")
        places = ",".join(quoted(f"file://{folder.resolve()}") for folder in own)
        self.search = [f"hydra.searchpath=[{places}]"] if own else []
        self.loader = GlobalHydra.instance().config_loader()
        self._is_group: dict[str, bool] = {}

    def options(self, group: str) -> list[str]:
        """The names that a group offers, the user's own directory included."""
        from hydra.core.object_type import ObjectType

        return sorted(set(self.loader.get_group_options(group, ObjectType.CONFIG, None, self.search)))

    def groups(self) -> list[str]:
        """The groups at the top of the configuration."""
        from hydra.core.object_type import ObjectType

        found = self.loader.get_group_options("", ObjectType.GROUP, None, self.search)
        return [name for name in found if name != "hydra"]

    def whole(self, overrides: Sequence[str]) -> DictConfig:
        """The composed configuration with Hydra's own part; ${hydra:...} resolves as it will in the run."""
        from hydra import compose
        from hydra.core.hydra_config import HydraConfig

        cfg = compose("train", overrides=[*self.search, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return cfg

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The composed configuration, run-level keys only."""
        own = self.whole(overrides).copy()
        OmegaConf.set_struct(own, False)
        del own["hydra"]
        return own

    def way_out(self, problem: str, cfg: DictConfig, overrides: Sequence[str]) -> str:
        """What to add to a problem whose key only the experiment sets, for other choices than those made, or that is a
        part of an option that was not chosen (penalty.r1 without penalty=r1)."""
        from hydra.errors import HydraException

        key = re.split("[=: ]", problem)[0]
        if key in ("experiment", "sweep"):
            return f" (the file that {key}= chooses must begin with the line: # @package _global_)"
        node = _written(cfg, key)
        experiments = [text for text in overrides if text.startswith("experiment=")]
        if node is not None and experiments:
            others = [text for text in overrides if not text.startswith(("experiment=", "~"))]
            with suppress(HydraException):  # an override may need what the experiment brings
                if _written(self.compose(others), key) is None:
                    return f" ({experiments[-1]} sets it; ~{key} takes it out)"
        group, _, name = key.partition(".")
        if isinstance(node, DictConfig) and "_target_" not in node and name in self.options(group):
            return f" ({group}={name} brings it)"
        return ""

    def forced(self, text: str) -> str:
        """An override that adds its key where conf/ does not have it, so that the check can name all unknown ones."""
        override = parsed(text)
        hydra = override.key_or_group.split(".")[0].split("/")[0] == "hydra"
        return f"++{text}" if _is_plain(override) and not hydra and not self.is_group(override.key_or_group) else text

    def is_group(self, key: str) -> bool:
        if key not in self._is_group:  # looked up on the disk, which each trial of a sweep would do again
            self._is_group[key] = bool(self.options(key)) or key in self.groups()
        return self._is_group[key]


def quoted(text: str) -> str:
    """A value as Hydra's grammar takes it literally."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def parsed(text: str) -> Any:
    """One override by Hydra's grammar, or a ConfigError that shows it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        hint = "expected key=value" if "=" not in text else str(error).splitlines()[0]
        if "token recognition error" in hint:
            key = text.partition("=")[0]
            hint += f"""; a text with such characters needs quotes, and the shell's around them: '{key}="..."'"""
        raise ConfigError(f"{text}: {hint}") from error


def _readable(text: str) -> str:
    """The override with its value in quotes where that is a plain text with letters that Hydra's grammar does not know
    (dataset.root=Fotös)."""
    key, _, value = text.partition("=")
    known = re.fullmatch(r"[\w/\-+.$%*@?|:=\s]*", value, re.ASCII)
    return text if known or re.search(r"""[,'"\\()\[\]{}]""", value) else f"{key}='{value}'"


def _all_parsed(texts: Sequence[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """(text, override) of each that can be parsed, with a text that Hydra reads, and the problems of the others."""
    overrides: list[tuple[str, Any]] = []
    problems: list[str] = []
    for text in map(_readable, texts):
        try:
            overrides.append((text, parsed(text)))
        except ConfigError as error:
            problems += error.problems
    return overrides, problems


def _is_plain(override: Any) -> bool:
    """Whether it is key=value, neither added (+, ++) nor taken out (~)."""
    return override.type is not None and override.type.name == "CHANGE"


def _adding(text: str, override: Any) -> str:
    """The override marked `++` where it sets a mapping, whose keys conf/ does not have (hydra.sweeper.when={...})."""
    return f"++{text}" if _is_plain(override) and isinstance(override.value(), dict) else text


def _values(override: Any) -> list[str]:
    """The values that an override stands for as texts; empty for a sweep over an interval."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []


def _options_of(override: Any) -> list[str]:
    """The options that an override of a group chooses, each one of a list (penalty=[r1,lecam]) by itself."""
    names: list[str] = []
    for text in _values(override):
        value = parsed(f"value={text}").value()
        names += map(str, value) if isinstance(value, list) else [value if isinstance(value, str) else text]
    return names


def _unknown_options(override: Any, known: Sequence[str]) -> list[str]:
    """A sentence for each option of a group that there is not."""
    return [
        f"{override.key_or_group}={name}: no such option; {nearest(name, known)}"
        for name in _options_of(override)
        if name not in known
    ]


def checked_overrides(
    texts: list[str],
    config_dir: str | None = None,
    combinations: Combinations | None = None,
    only_shows: bool = False,
) -> list[str]:
    """The overrides in a form that Hydra accepts, once every one is known to be right; ConfigError with all problems.

    combinations: of a sweep, None for a single run. only_shows: the configuration is not run, so what must be given may
    be missing. A key that is legal but not written in conf/ (an argument with a default) is marked `++`, which Hydra
    asks for.
    """
    from hydra.core.global_hydra import GlobalHydra

    from gan_lab.config import problems_of

    composer = Composer(config_dir)
    groups: list[tuple[str, Any]] = []
    values: list[tuple[str, Any]] = []
    overrides, problems = _all_parsed(texts)
    for text, override in overrides:
        if override.is_sweep_override() and combinations is None:
            problems.append(f"{text} names several values: add -m to run each, or quote it as one")
        elif override.key_or_group == "sweep" and combinations is None and not only_shows:
            problems.append(f"{text} is a search over many runs: add -m to run it (gan-lab train -m {text})")
        elif override.key_or_group.split(".")[0].split("/")[0] == "hydra":
            groups.append((_adding(text, override), override))
        elif override.is_delete():
            values.append((text, override))
        elif composer.is_group(override.key_or_group):
            unknown = _unknown_options(override, composer.options(override.key_or_group))
            problems += unknown
            if not unknown:
                groups.append((text, override))
        else:
            values.append((text, override))

    swept = [text for text, override in [*groups, *values] if override.is_sweep_override()]
    fixed_groups = [text for text, override in groups if not override.is_sweep_override()]
    fixed = fixed_groups + [composer.forced(text) for text, override in values if not override.is_sweep_override()]
    runs = [[]] if combinations is None else combinations(swept, composer.whole(fixed).hydra.sweeper)
    for combination in runs:
        chosen = [*fixed, *map(composer.forced, combination)]
        cfg = composer.compose(chosen)
        found = problems_of(cfg)
        if only_shows:
            missing = OmegaConf.missing_keys(cfg)
            found = [text for text in found if text.split()[0] not in missing]
        if not any(
            composer.is_group(parsed(text).key_or_group) for text in combination
        ):  # else, true of some runs only
            found = [text + composer.way_out(text, cfg, chosen) for text in found]
        suffix = f" (with {' '.join(combination)})" if combination else ""
        problems += [text + suffix for text in found if text not in problems]
    if problems:
        raise ConfigError(problems)
    written = composer.compose(fixed_groups)
    GlobalHydra.instance().clear()  # Hydra itself starts next
    return [text for text, _ in groups] + [
        composer.forced(text) if _written(written, override.key_or_group) is None else text for text, override in values
    ]


def _written(cfg: DictConfig, key: str) -> Any:
    """The node of a dotted key, its interpolations unresolved; None where there is no such key."""
    node: Any = cfg
    for part in key.split("."):
        node = node._get_node(part) if isinstance(node, DictConfig) else None
        if node is None:
            return None
    return node


def given_config_dir(cfg: Any) -> str | None:
    """The absolute path of --config-dir in a configuration with Hydra's own part; None without one."""
    sources = OmegaConf.select(cfg, "hydra.runtime.config_sources", default=[])
    return next((source.path for source in sources if source.provider == "command-line"), None)


def _config_dir_of(run_dir: Path) -> str | None:
    """The --config-dir that a run was started with, as Hydra has written it down, or its sweep; None without one."""
    from gan_lab.files import read_json

    written, sweep = run_dir / ".hydra" / "hydra.yaml", run_dir.absolute().parent / "sweep.json"
    if written.is_file():
        return given_config_dir(OmegaConf.load(written))
    return read_json(sweep).get("config_dir") if sweep.is_file() else None


def train_command(arguments: Sequence[str], config_dir: str | None) -> list[str]:
    """The words of a command, to be shown or written down."""
    flags = [] if config_dir is None else [f"--config-dir={config_dir}"]
    return ["gan-lab", "train", *flags, *arguments]


def changed_config(run_dir: Path, texts: list[str], config_dir: str | None = None) -> DictConfig:
    """The saved configuration of a run with overrides applied; a changed group is composed anew from conf/.

    As in `train`, the order does not matter: groups come first, then the keys in them.
    config_dir: of groups of the user's own; None: the one that the run was started with.
    """
    path = run_dir / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run={run_dir} is not the directory of a run: it has no {path.relative_to(run_dir)}")
    cfg = typing.cast("DictConfig", OmegaConf.load(path))
    if config_dir is None and (known := _config_dir_of(run_dir)) is not None and Path(known).is_dir():
        config_dir = known
    composer = Composer(config_dir)
    overrides, problems = _all_parsed(texts)
    for text, override in sorted(overrides, key=lambda one: not composer.options(one[1].key_or_group)):
        key = override.key_or_group
        if override.is_sweep_override():
            problems.append(f"{text} names several values: a run is resumed with one")
        elif options := composer.options(key):
            unknown = _unknown_options(override, options)
            problems += unknown
            composed = {} if unknown else composer.compose([text])
            if key in composed:
                cfg[key] = composed[key]
            elif not unknown:
                problems.append(
                    f"{text} sets keys of the whole configuration, and this run has its own; name the groups and keys "
                    f"to change, or start a new run: gan-lab train {text}"
                )
        elif override.is_delete():
            problems.append(f"{text}: a key cannot be removed on resume; set it to null")
        else:
            OmegaConf.update(cfg, key, override.value(), force_add=True)
    from gan_lab.config import problems_of

    problems += problems_of(cfg)
    if problems:
        raise ConfigError(problems)
    return cfg


PATHS = ("run", "runs", "sweep", "images", "out")
"""The verbs' own keys that name files and folders."""


def checked_arguments(texts: Sequence[str], schema: Any) -> Any:
    """The key=value arguments of a verb as its checked dataclass.

    A path is what was typed (run=0 of a sweep, out=a,b), except for null, a list, or what is in quotes.
    """
    from gan_lab.config import check_against

    values: dict[str, Any] = {}
    others = []
    for text in texts:
        key, equals, value = text.partition("=")
        if key in PATHS and equals and not re.match(r"""['"\[]|null$""", value):
            values[key] = value
        else:
            others.append(text)
    overrides, problems = _all_parsed(others)
    for text, override in overrides:
        if override.is_sweep_override():
            key, _, value = text.partition("=")
            problems.append(f"{text} names several values: give one, or a list: {key}=[{value}]")
        else:
            values[override.key_or_group] = override.value()
    return check_against(schema, values, problems)


def check_reads_data_only(texts: Sequence[str], own: Sequence[str]) -> None:
    """For a verb with keys of its `own` that reads only `dataset` and `evaluation`: ConfigError for anything else."""
    overrides, problems = _all_parsed(texts)
    for _, override in overrides:
        key = override.key_or_group
        if key.split(".")[0] not in ("dataset", "evaluation"):
            problems.append(f"{key}: unknown key; {nearest(key, [*own, 'dataset', 'evaluation'])}")
    if problems:
        raise ConfigError(problems)


def data_config(texts: list[str], config_dir: str | None = None) -> DictConfig:
    """The default configuration with overrides of `dataset` and `evaluation`."""
    register_resolvers(make=False)
    checked = checked_overrides(texts, config_dir)
    return Composer(config_dir).compose(checked)
