"""What the workers of a sweep share: read from sweep.json and from the settings of the command that launched them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from omegaconf import DictConfig, OmegaConf

from gan_lab.compose import Composer, parsed
from gan_lab.config import Given, check, check_against, device_type, plain, save
from gan_lab.constraints import NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.errors import ConfigError
from gan_lab.names import nearest
from gan_lab.objectives import Direction
from gan_lab.sweep.devices import threads_per_run
from gan_lab.sweep.space import Parameter, grid, overrides_of, parse_space
from gan_lab.sweep.suggest import need_optuna
from gan_lab.sweep.trials import Trial

MOST_COMBINATIONS = 16
"""A sweep with at most so many combinations has each checked before the first run; a larger one, each choice alone."""


@dataclass
class Settings:
    """The keys of hydra.sweeper, which conf/hydra/sweeper/*.yaml explain; those from num_trials on are a search's."""

    n_jobs: PositiveInt | None = None
    runs_per_gpu: PositiveInt = 1
    num_retries: NonNegativeInt = 0
    timeout_minutes: PositiveFloat | None = None
    objectives: dict[str, Direction] | None = None
    params: dict[str, Any] | None = field(default_factory=dict)
    when: dict[str, Any] | None = field(default_factory=dict)
    num_trials: PositiveInt | None = None
    seed: NonNegativeInt = 0
    storage: str | None = None
    study_name: str | None = None
    sampler: Annotated[dict[str, Any], Given()] | None = None
    pruner: Annotated[dict[str, Any], Given(("budget_images",))] | None = None


def settings_of(sweeper: DictConfig) -> Settings:
    """hydra.sweeper, checked."""
    if not is_grid(sweeper):
        need_optuna()
    values = {key: value for key, value in plain(sweeper).items() if not key.startswith("_")}
    objectives = values.get("objectives")
    problems = [
        f"hydra.sweeper.objectives.{name}={way}: no such direction; {nearest(str(way), get_args(Direction))}"
        for name, way in (objectives.items() if isinstance(objectives, dict) else ())
        if way not in get_args(Direction)
    ]
    if not is_grid(sweeper) and values.get("sampler") is None:
        problems.append("hydra.sweeper.sampler=null: a search needs one, such as hydra/sweeper/sampler=tpe")
    return check_against(Settings, values, problems, key="hydra.sweeper")


@dataclass(frozen=True)
class Plan:
    """A sweep as its workers see it: what is run, and with what of the machine."""

    sweep_dir: Path
    kind: Literal["grid", "optuna"]
    fixed: list[str]
    parameters: list[Parameter]
    objectives: dict[str, Direction]
    num_trials: int
    budget_images: int
    config_dir: str | None
    settings: Settings
    runs_per_machine: int
    """How many runs share a machine's cores; 1 where the engine gives each worker cores of its own."""

    @cached_property
    def threads(self) -> int:
        """CPU threads of each run on this machine."""
        return threads_per_run(self.runs_per_machine)

    @cached_property
    def _composer(self) -> Composer:
        return Composer(self.config_dir)

    def overrides(self, trial: Trial) -> list[str]:
        """All overrides of a trial, as one would type them."""
        return [*self.fixed, *trial.overrides]

    def freeze(self, trial: Trial, run_dir: Path) -> tuple[int, bool]:
        """Writes the trial's configuration into its directory, unless it lies there from an earlier attempt.

        Returns the number of processes that it trains in, and whether on GPUs; ConfigError where it is wrong.
        """
        folder = run_dir / ".hydra"
        if (folder / "config.yaml").is_file():
            config = check(cast("DictConfig", OmegaConf.load(folder / "config.yaml")))
        else:
            cfg = self._composer.compose([*map(self._composer.forced, self.overrides(trial))])
            config = check(cfg)
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.create(self.overrides(trial)), folder / "overrides.yaml")
            save(cfg, config.name, run_dir)
        return config.accelerator.num_processes, device_type(config) == "cuda"

    def content(self) -> dict[str, Any]:
        """For a file; `from_content` reads it."""
        return {
            "kind": self.kind,
            "fixed": self.fixed,
            "space": [asdict(parameter) for parameter in self.parameters],
            "objectives": self.objectives,
            "num_trials": self.num_trials,
            "budget_images": self.budget_images,
            "config_dir": self.config_dir,
            "settings": asdict(self.settings),
            "runs_per_machine": self.runs_per_machine,
        }

    @classmethod
    def from_content(cls, sweep_dir: Path, content: Mapping[str, Any]) -> "Plan":
        return cls(
            sweep_dir,
            content["kind"],
            content["fixed"],
            [_parameter(entry) for entry in content["space"]],
            content["objectives"],
            content["num_trials"],
            content["budget_images"],
            content["config_dir"],
            Settings(**content["settings"]),
            content["runs_per_machine"],
        )


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    tuples = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
    return Parameter(**{**entry, **tuples})


def grid_choices(parameters: Sequence[Parameter]) -> list[tuple[list[str], dict[str, Any]]]:
    """(override texts, typed values) of all combinations, the last parameter varying fastest."""
    return [
        (overrides_of(parameters, values), {key: parsed(f"x={text}").value() for key, text in values.items()})
        for values in grid(parameters)
    ]


def representative_choices(swept: list[str], sweeper: DictConfig) -> Iterable[list[str]]:
    """Choices that stand for all of a sweep: every combination where they are few, else each choice beside the others'
    first one; of an interval, its ends."""
    settings = settings_of(sweeper)
    fixed, parameters = parse_space(swept, settings.params or {}, settings.when or {})
    if is_grid(sweeper):
        grid(parameters)  # an interval is refused
    ends = {
        parameter.key: list(parameter.values)
        if parameter.values is not None
        else [_text(parameter, parameter.low), _text(parameter, parameter.high)]
        for parameter in parameters
    }
    few = len(list(islice(product(*ends.values()), MOST_COMBINATIONS + 1))) <= MOST_COMBINATIONS
    if few:
        combinations = [dict(zip(ends, values, strict=True)) for values in product(*ends.values())]
    else:
        first = {key: values[0] for key, values in ends.items()}
        combinations = [first]
        for parameter in parameters:
            # Where it is searched at all, that is where its conditions hold.
            around = first | {
                key: allowed.split(",")[0] for key, _, allowed in (c.partition("=") for c in parameter.when)
            }
            combinations += [{**around, parameter.key: other} for other in ends[parameter.key]]
    seen: list[list[str]] = []
    for combination in combinations:
        chosen = [*fixed, *overrides_of(parameters, combination)]
        if chosen not in seen:
            seen.append(chosen)
    return seen


def _text(parameter: Parameter, value: float | None) -> str:
    assert value is not None
    return str(int(value)) if parameter.integer else repr(float(value))


def is_grid(sweeper: DictConfig) -> bool:
    """Whether all combinations are run."""
    return not str(sweeper._target_).endswith("OptunaSweeper")


def refuse_unmeasured(objectives: Mapping[str, str], measured: Sequence[str]) -> None:
    """ConfigError for an objective that the runs do not measure."""
    known = (*measured, "wall_seconds")
    problems = [
        f"hydra.sweeper.objectives.{name}: the runs do not measure this; {nearest(name, known)}"
        for name in objectives
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
