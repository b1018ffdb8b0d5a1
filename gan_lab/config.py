"""The configuration: its schema, its check (`check`, everything wrong at once) and the only place that instantiates.

Run-level keys are the dataclasses below. Components (networks, data sources, penalties, ...) are nodes with a
`_target_`: the signature of what it names is their schema, ranges included (see `gan_lab.constraints`).
"""

import dataclasses
import importlib
import inspect
import logging
import math
import os
import re
import shutil
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gan_lab.constraints import Decay, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range
from gan_lab.errors import ConfigError, RunError
from gan_lab.names import nearest
from gan_lab.objectives import USUAL_OBJECTIVES

if TYPE_CHECKING:
    from gan_lab.conditioning import Conditioning
    from gan_lab.data import Data, Layout
    from gan_lab.evaluation import Scoring

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """The arguments of a component that the program supplies: `names` itself, `if_absent` unless the user does.

    remedy: of a component that may be null, what to say where keys of it are set and it is not there.
    """

    names: tuple[str, ...] = ()
    if_absent: tuple[str, ...] = ()
    remedy: str = ""


Component = Annotated[dict[str, Any], Given()]
Norm = Literal["none", "batch", "layer", "instance"]


@dataclass
class Budget:
    kimg: PositiveFloat
    minutes: PositiveFloat | None = None


@dataclass
class Model:
    generator: Annotated[dict[str, Any], Given(("sample_shape",))]
    discriminator: Annotated[dict[str, Any], Given(("sample_shape", "num_outputs"))]
    latent_dim: PositiveInt = 100
    latent_distribution: Literal["normal", "uniform"] = "normal"
    width: PositiveInt | None = None
    depth: PositiveInt | None = None
    packing: PositiveInt = 1


@dataclass
class Loss:
    adversarial: Component
    penalty: (
        Annotated[
            dict[str, Any],
            Given(
                ("discriminator", "real", "fake", "uniform"),
                remedy="this loss has no penalty of its own; use loss=wgan_gp, or penalty=r1",
            ),
        ]
        | None
    ) = None
    weight_clip: PositiveFloat | None = None
    num_discriminator_steps: PositiveInt = 1
    warmup_kimg: NonNegativeFloat = 0.0
    share_fakes: bool = False
    discriminator_norm: Norm = "none"


@dataclass
class ClipNorm:
    generator: PositiveFloat | None = None
    discriminator: PositiveFloat | None = None


@dataclass
class Optimizer:
    generator: Annotated[dict[str, Any], Given(("parameters",))]
    discriminator: Annotated[dict[str, Any], Given(("parameters",))]
    lr: PositiveFloat | None = None
    betas: tuple[Decay, Decay] | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    accumulate: PositiveInt = 1
    clip_norm: ClipNorm = field(default_factory=ClipNorm)


@dataclass
class EMA:
    half_life_kimg: NonNegativeFloat = 10.0
    rampup: PositiveFloat | None = 0.05


@dataclass
class Accelerator:
    device: Literal["auto", "cpu", "gpu"] = "auto"
    num_processes: PositiveInt = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_threads: PositiveInt | None = None
    data_gib: NonNegativeFloat = 4.0
    compile: Literal["none", "inductor", "cuda_graphs"] = "none"


@dataclass
class TensorBoardOptions:
    flush_secs: PositiveInt = 30


@dataclass
class Loggers:
    tensorboard: TensorBoardOptions = field(default_factory=TensorBoardOptions)
    extra: dict[str, Annotated[dict[str, Any], Given(if_absent=("save_dir",))]] = field(default_factory=dict)


@dataclass
class RunConfig:
    name: str
    seed: NonNegativeInt
    batch_size: PositiveInt
    budget: Budget
    model: Model
    dataset: Component
    loss: Loss
    optimizer: Optimizer
    ema: EMA
    accelerator: Accelerator
    logger: Loggers
    callbacks: dict[str, Component]
    penalty: dict[str, Annotated[dict[str, Any], Given(("discriminator", "real", "fake", "uniform"))]] = field(
        default_factory=dict
    )
    augment: Component | None = None
    conditioning: Annotated[dict[str, Any], Given(("num_classes", "as_channels"))] | None = None
    schedule: Component | None = None
    num_training_images: PositiveInt | None = None
    evaluation: Component | None = None
    objective: str | None = "auto"
    debug: bool = False


def flat_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def show(value: Any) -> str:
    """A value as the user would type it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------- types


def _expected(kind: Any) -> str:
    """What a type accepts, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        ranges = [str(extra) for extra in arguments[1:] if isinstance(extra, Range)]
        return " ".join([_expected(arguments[0]), *ranges])
    if origin is Literal:
        return "one of " + ", ".join(show(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(argument) for argument in arguments)
    if origin in (tuple, list, Sequence) or kind in (tuple, list):
        if origin is tuple and arguments and Ellipsis not in arguments:
            return f"a list of {len(arguments)} ({_expected(arguments[0])})"
        choices = typing.get_args(arguments[0]) if arguments and typing.get_origin(arguments[0]) is Literal else ()
        return f"a list of {', '.join(map(show, choices))}" if choices else "a list"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null", dict: "keys"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _accepts(kind: Any, value: Any) -> bool:
    """Whether a plain value fits a type; types that are not understood accept everything."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        inside = all(value in extra for extra in arguments[1:] if isinstance(extra, Range)) if _number(value) else True
        return _accepts(arguments[0], value) and inside
    if origin is Literal:
        return value in arguments and not (isinstance(value, bool) ^ any(isinstance(a, bool) for a in arguments))
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(argument, value) for argument in arguments)
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and Ellipsis not in arguments:
            return len(value) == len(arguments) and all(map(_accepts, arguments, value))
        return all(_accepts(arguments[0], item) for item in value) if arguments else True
    if kind is float:
        return _number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------------- the check


def _import(path: str, key: str) -> tuple[Any, str | None]:
    """The object a dotted path names, or the sentence that says why there is none."""
    parts = str(path).split(".")
    start = f"{key}._target_={path} cannot be imported"
    for split in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:split])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module and split > 1:
                continue  # the path may go on inside a class
            name = str(error.name)
            places = f"put {name.replace('.', '/')}.py into the directory where you run gan-lab, or on PYTHONPATH"
            return None, f"{start}: there is no module {name}; {places}, or install its package"
        except Exception as error:  # a module of the user's may fail in any way while it is imported
            return None, f"{start}: {type(error).__name__}: {error}"
        for name in parts[split:]:
            if not hasattr(found, name):
                public = [other for other in vars(found) if not other.startswith("_")]
                return None, f"{start}: {module} has no {name}; {nearest(name, public)}"
            found = getattr(found, name)
        return found, None
    return None, f"{start}: expected a dotted path such as package.module.name"


def _parameters(target: Any) -> tuple[dict[str, Any], set[str], bool]:
    """(argument -> type, required arguments, whether any further keyword is taken) of a callable."""
    signature = inspect.signature(target)
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except Exception:  # annotations of other libraries may not resolve; their names are still checked
        hints = {}
    parameters = {
        name: hints.get(name, Any)
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    required = {name for name in parameters if signature.parameters[name].default is inspect.Parameter.empty}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    return parameters, required, open_ended


def _check_component(node: Any, key: str, given: Given) -> Iterator[str]:
    if not isinstance(node, Mapping):
        yield f"{key}={show(node)}: expected a component, that is keys with _target_"
        return
    if "_target_" not in node:
        missing = f"{key} has no _target_ (the dotted path of what to build)"
        yield f"{key}={show(node)}: {given.remedy}" if given.remedy else missing
        return
    target, problem = _import(node["_target_"], key)
    if problem is not None:
        yield problem
        return
    parameters, required, open_ended = _parameters(target)
    choices = [name for name in parameters if name not in given.names]
    for name, value in node.items():
        if name.startswith("_") and name.endswith("_"):
            continue
        if name in given.names:
            yield f"{key}.{name}={show(value)}: this is set by the program; remove it"
        elif name in parameters:
            yield from _check(parameters[name], value, f"{key}.{name}")
        elif not open_ended:
            yield f"{key}.{name}: unknown key; {nearest(f'{key}.{name}', [f'{key}.{choice}' for choice in choices])}"
    for name in sorted(required - set(node) - {*given.names, *given.if_absent}):
        yield f"{key}.{name} is required by {node['_target_']}"


def _check_dataclass(schema: Any, node: Any, key: str, all_keys: Sequence[str]) -> Iterator[str]:
    hints = typing.get_type_hints(schema, include_extras=True)
    if not isinstance(node, Mapping):
        yield f"{key}={show(node)}: expected the keys {', '.join(f'{key}.{name}' for name in hints)}"
        return
    prefix = f"{key}." if key else ""
    for name, value in node.items():
        if name in hints:
            yield from _check(hints[name], value, f"{prefix}{name}", all_keys)
        else:
            known = [f"{prefix}{hint}" for hint in hints] + [other for other in all_keys if "." in other]
            below = [other for other in known if other.startswith(prefix) and other.endswith(f".{name}")]
            yield f"{prefix}{name}: unknown key; {nearest(f'{prefix}{name}', below or known)}"
    for item in dataclasses.fields(schema):
        if item.name not in node and item.default is item.default_factory is dataclasses.MISSING:
            yield f"{prefix}{item.name} is missing"


def _check(kind: Any, value: Any, key: str, all_keys: Sequence[str] = ()) -> Iterator[str]:
    """Everything wrong with one value, one sentence each."""
    if value == "???":
        yield f"{key} must be given: {key}=..."
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    options = arguments if origin in (typing.Union, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return
    for option in options:
        if dataclasses.is_dataclass(option):
            yield from _check_dataclass(option, value, key, all_keys)
            return
        extras = typing.get_args(option)[1:] if typing.get_origin(option) is Annotated else ()
        given = next((extra for extra in extras if isinstance(extra, Given)), None)
        if given is not None:
            yield from _check_component(value, key, given)
            return
    if origin is dict:
        if not isinstance(value, Mapping):
            yield f"{key}={show(value)}: expected named components"
            return
        for name, item in value.items():
            if item is not None:
                yield from _check(arguments[1], item, f"{key}.{name}")
    elif not _accepts(kind, value):
        yield f"{key}={show(value)}: expected {_expected(kind)}"


def _penalties(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(key, node) of every penalty in use."""
    nodes = [("loss.penalty", config["loss"].get("penalty"))]
    nodes += [(f"penalty.{name}", node) for name, node in (config.get("penalty") or {}).items()]
    return [(key, node) for key, node in nodes if node]


PLAYERS = ("generator", "discriminator")
FEWEST_SCORED = 32
"""Samples a side with which neighbours and distances begin to mean something."""

TRAINING_METRICS = ("loss/discriminator", "loss/generator", "discriminator/accuracy", "images_per_second")


def _argument(node: Mapping[str, Any], key: str, name: str) -> Any:
    """What a component gets for an argument: the key of that name, else the default; None where it takes none."""
    parameter = inspect.signature(_import(node["_target_"], key)[0]).parameters.get(name)
    return None if parameter is None else node.get(name, parameter.default)


def _layout(dataset: Mapping[str, Any]) -> "Layout":
    """What the samples of a data source hold, as it declares (see `gan_lab.data`): images, where it says nothing."""
    return getattr(_import(dataset["_target_"], "dataset")[0], "layout", "images")


def _num_classes(dataset: Mapping[str, Any]) -> int | None:
    """How many classes the labels of a data source name, 0 without labels; None where only the data tell."""
    return getattr(_import(dataset["_target_"], "dataset")[0], "num_classes", None)


def _conditioning(config: Mapping[str, Any]) -> "type[Conditioning]":
    """The class of conditioning that is configured."""
    from gan_lab.conditioning import Conditioning

    node = config.get("conditioning")
    found = Conditioning if node is None else _import(node["_target_"], "conditioning")[0]
    return found if inspect.isclass(found) and issubclass(found, Conditioning) else Conditioning


def _evaluated(config: Mapping[str, Any], data: "Data | None" = None) -> list[str]:
    """The metrics that the evaluation writes; without the data, as far as their source says what they are."""
    from gan_lab.evaluation import Facts, knows_modes, metric_names
    from gan_lab.reading import names_read

    evaluation, dataset = config.get("evaluation"), config["dataset"]
    if evaluation is None:
        return []
    conditioning = _conditioning(config)
    if data is None:
        layout, num_classes = _layout(dataset), _num_classes(dataset)
        modes = num_classes != 0 or layout == "coupled"  # whose parts have labels
    else:
        layout, num_classes = data.layout, 0 if data.labels is None else len(data.classes or ())
        modes = knows_modes(data)
    facts = Facts(
        layout,
        evaluation.get("extractor", "auto"),
        conditioning.gives_labels,
        modes,
        has_held_out=_argument(dataset, "dataset", "split") == "train",
    )
    num_categories = None
    if conditioning.reads == "categories":
        num_categories = _argument(config["conditioning"], "conditioning", "num_categories")
    names = metric_names(evaluation.get("metrics", ()), facts)
    return names + names_read(conditioning.reads, num_categories, num_classes)


def measured(config: RunConfig, data: "Data | None" = None) -> tuple[str, ...]:
    """The metrics that a run with this configuration ends with; without the data, as far as their source tells."""
    return (*TRAINING_METRICS, *_evaluated(asdict(config), data))


def deciding_metric(config: RunConfig) -> str | None:
    """The metric that `train` returns and that decides which generator is the best; auto: the distance to the data."""
    if config.objective != "auto":
        return config.objective
    names = _evaluated(asdict(config))
    return next((name for name in USUAL_OBJECTIVES if name in names), None)


TECHNICAL = ("name", "debug", "objective", "accelerator.", "callbacks.", "evaluation.", "logger.")
"""How the keys begin that say where a run computes and what it writes, not what it is."""


def hyperparameters(config: RunConfig) -> dict[str, Any]:
    """Every leaf that runs are compared by: not where the run computes, what it writes, or what is not set."""
    leaves = flat_keys(asdict(config))
    return {key: value for key, value in leaves if value is not None and not key.startswith(TECHNICAL)}


def _reads_classes(conditioning: "type[Conditioning]") -> bool:
    """Whether D, not an encoder, tells classes or categories apart, and their logits can be had."""
    from gan_lab.conditioning import Conditioning

    has_logits = conditioning.class_logits is not Conditioning.class_logits
    return conditioning.reads is not None and not conditioning.has_encoder and has_logits


def _check_combinations(config: Mapping[str, Any]) -> Iterator[str]:
    """What no single value shows; called when every value is right by itself."""
    discriminator, loss, accelerator = config["model"]["discriminator"], config["loss"], config["accelerator"]
    images = _layout(config["dataset"]) != "points"
    conditioning = _conditioning(config)
    for key, node in _penalties(config):
        name = node["_target_"].rsplit(".", 1)[-1]
        penalty, _ = _import(node["_target_"], key)
        if discriminator.get("norm") == "batch" and getattr(penalty, "takes_gradients", True):
            yield (
                f"model.discriminator.norm=batch with {key} ({name}): BatchNorm mixes the samples whose gradients the "
                f"penalty takes one by one; use model.discriminator.norm={_other_norms(discriminator)}"
            )
        if node.get("every", 1) > 1 and not images:
            yield f"{key}.every={node['every']}: on 2-D points {name} is needed at every step; use {key}.every=1"
        if getattr(penalty, "images_only", False) and not images:
            yield f"{key} ({name}) is for images, and the data set has points; use penalty=none"
        if getattr(penalty, "needs_classes", False) and not _reads_classes(conditioning):
            yield (
                f"{key} ({name}) compares the classes that D reads in images, and this D reads none; use "
                "conditioning=infogan (categories), acgan or semi_supervised, or leave the penalty out"
            )
    processes, accumulate = accelerator["num_processes"], config["optimizer"].get("accumulate", 1)
    packing = config["model"].get("packing", 1)
    share = processes * accumulate * packing
    if config["batch_size"] % share != 0:
        packs = f" times model.packing={packing}" if packing > 1 else ""
        yield (
            f"batch_size={config['batch_size']} cannot be shared equally by accelerator.num_processes={processes} "
            f"times optimizer.accumulate={accumulate}{packs}; use a multiple of {share}"
        )
    elif (size := config["batch_size"]) == share:
        if "batch" in (discriminator.get("norm"), config["model"]["generator"].get("norm")):
            yield f"batch_size={size}: BatchNorm needs at least two samples in each pass; use a larger one"
        if discriminator.get("minibatch_std", 0) > 0:
            yield (
                f"batch_size={size} gives D one sample in each pass, and "
                f"model.discriminator.minibatch_std={discriminator['minibatch_std']} needs a group; use a larger one"
            )
    if loss.get("weight_clip") and loss.get("penalty"):
        yield f"loss.weight_clip={loss['weight_clip']} beside loss.penalty: use one of them; set the other to null"
    try:
        adversarial = _instantiate(loss["adversarial"], "loss.adversarial")
    except ConfigError as error:
        yield from error.problems
    else:
        yield from _check_loss(config, adversarial, processes * accumulate)
        yield from _check_augment(config, adversarial, images)
    yield from _check_conditioning(config, packing)
    yield from _check_domains(config, packing)
    kimg, batch_size = config["budget"]["kimg"], config["batch_size"]
    if round(kimg * 1000) == 0:
        yield f"budget.kimg={kimg}: that is no image, and at least one batch is needed; use {batch_size / 1000} or more"
    elif loss.get("warmup_kimg", 0) >= kimg:
        yield f"loss.warmup_kimg={loss['warmup_kimg']} leaves nothing of budget.kimg={kimg} to G; use a smaller one"
    betas = [name for name in ("beta1", "beta2") if (config.get("schedule") or {}).get(name) is not None]
    if betas:
        optimizers = [_import(config["optimizer"][player]["_target_"], f"optimizer.{player}")[0] for player in PLAYERS]
        without = [one.__name__ for one in optimizers if "betas" not in inspect.signature(one).parameters]
        if without:
            yield f"schedule.{betas[0]} with an optimizer ({without[0]}) that has no betas; use optimizer=adam"
    health = config["callbacks"].get("health") or {}
    if health.get("action") == "roll_back" and processes > 1:
        yield (
            f"callbacks.health.action=roll_back with accelerator.num_processes={processes}: only a run of one process "
            "is rolled back; use callbacks.health.action=stop"
        )
    num_scored = (config.get("evaluation") or {}).get("num_samples", FEWEST_SCORED)
    if _number(num_scored) and num_scored < FEWEST_SCORED:
        yield f"evaluation.num_samples={num_scored}: too few to score; use {FEWEST_SCORED} or more, or evaluation=none"
    yield from _check_device(accelerator)
    for player in PLAYERS:
        network, _ = _import(config["model"][player]["_target_"], player)
        if getattr(network, "images_only", False) and not images:
            yield (
                f"model.{player} ({config['model'][player]['_target_']}) is for images, and the data set "
                f"({config['dataset']['_target_'].rsplit('.', 1)[-1]}) has points; use model=mlp"
            )
    for name in ("lr", "betas"):
        value = config["optimizer"].get(name)
        if value is not None and all(config["optimizer"][player].get(name) != value for player in PLAYERS):
            own = " and ".join(
                f"optimizer.{player}.{name}" for player in PLAYERS if name in config["optimizer"][player]
            )
            yield f"optimizer.{name}={show(value)} reaches neither player; {f'set {own}' if own else 'leave it out'}"
    yield from _check_objective(config)


def _check_objective(config: Mapping[str, Any], data: "Data | None" = None) -> Iterator[str]:
    """Whether the objective is measured; without the data, as far as their source tells."""
    from gan_lab.evaluation import MEASURES

    objective = config.get("objective")
    names = ("auto", "null", *TRAINING_METRICS, *_evaluated(config, data))
    if objective is not None and objective not in names:
        yield f"objective={objective} is not measured by this run; {nearest(objective, names)}"
    elif objective in MEASURES["memorisation"].larger_is_better:
        yield (
            f"objective={objective} tells copies of training images from other fakes, and is best for noise; "
            "use a distance, or objective=auto"
        )


def _other_norms(discriminator: Mapping[str, Any]) -> str:
    """What D takes in place of BatchNorm: layer, instance or none."""
    network, _ = _import(discriminator["_target_"], "model.discriminator")
    hint = typing.get_type_hints(network.__init__).get("norm")
    names = [name for name in reversed(typing.get_args(hint) or ("none", "layer")) if name != "batch"]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _check_loss(config: Mapping[str, Any], loss: Any, num_parts: int) -> Iterator[str]:
    """Whether the loss fits D, and batches that are divided into so many parts."""
    discriminator = config["model"]["discriminator"]
    name = config["loss"]["adversarial"]["_target_"].rsplit(".", 1)[-1]
    if getattr(loss, "whole_batch", False) and num_parts > 1:
        yield (
            f"loss.adversarial ({name}) compares each sample with its whole batch, which optimizer.accumulate and "
            "accelerator.num_processes divide; use 1 for both, or another loss"
        )
    network, _ = _import(discriminator["_target_"], "model.discriminator")
    gives_energy = getattr(network, "gives_energy", False)
    if gives_energy and getattr(loss, "needs", "any") != "energy":
        yield (
            f"model.discriminator ({discriminator['_target_']}) gives energies, which loss.adversarial ({name}) cannot "
            "tell apart from logits; use loss=energy or loss=began, or another model"
        )
    if not gives_energy and getattr(loss, "needs", "any") == "energy":
        yield f"loss.adversarial ({name}) needs a discriminator that is an autoencoder; use model=autoencoder"


def _check_augment(config: Mapping[str, Any], loss: Any, images: bool) -> Iterator[str]:
    """Whether the augmentation fits the data and the loss."""
    node = config.get("augment")
    if node is None:
        return
    augment, _ = _import(node["_target_"], "augment")
    name = node["_target_"].rsplit(".", 1)[-1]
    if getattr(augment, "images_only", False) and not images:
        yield f"augment ({name}) is for images, and the data set has points; use augment=none or instance_noise"
    if getattr(augment, "reads_signs", False) and not getattr(loss, "tells_by_sign", True):
        yield (
            f"augment ({name}) reads D's verdict from the sign of its logits, which loss.adversarial "
            f"({config['loss']['adversarial']['_target_'].rsplit('.', 1)[-1]}) gives no meaning; use augment=ramp, or "
            "loss=vanilla"
        )


def _check_domains(config: Mapping[str, Any], packing: int) -> Iterator[str]:
    """What a D that judges two domains apart does not bear."""
    target = config["model"]["discriminator"]["_target_"]
    if not getattr(_import(target, "model.discriminator")[0], "couples_domains", False):
        return
    if packing > 1:
        yield f"model.packing={packing} with model.discriminator ({target}) would mix its domains; use model.packing=1"
    for key, node in _penalties(config):
        name = node["_target_"].rsplit(".", 1)[-1]
        if name == "wgan_gp" or (name == "gradient" and node.get("target", 1) > 0):
            yield (
                f"{key} ({name}) asks for a length of D's gradient, and {target} has one for each of its domains; use "
                "penalty=r1 or r1_r2"
            )


def _check_conditioning(config: Mapping[str, Any], packing: int) -> Iterator[str]:
    """Whether data, D and G can be conditioned as is asked for."""
    conditioning = _conditioning(config)
    if config.get("conditioning") is None:
        return
    if conditioning.__name__ == "Conditioning":
        target = config["conditioning"]["_target_"]
        yield f"conditioning._target_={target}: use a class that is derived from gan_lab.conditioning.Conditioning"
        return
    name, model = conditioning.__name__, config["model"]
    if conditioning.needs_labels and _num_classes(config["dataset"]) == 0:
        yield f"conditioning ({name}) needs labels, and the data set has none; use conditioning=none or another dataset"
    if packing > 1:
        yield f"model.packing={packing} with conditioning ({name}): a pack has no label; use model.packing=1"
    target = model["discriminator"]["_target_"]
    network, _ = _import(target, "model.discriminator")
    if "num_outputs" not in inspect.signature(network).parameters:
        yield f"model.discriminator ({target}) takes no num_outputs, which conditioning ({name}) needs; use another one"
    if "latent_dim" not in inspect.signature(_import(model["generator"]["_target_"], "model.generator")[0]).parameters:
        yield (
            f"model.generator ({model['generator']['_target_']}) takes no latent_dim, so it cannot be given codes; use "
            "another model, or conditioning=none"
        )


def _check_device(accelerator: Mapping[str, Any]) -> Iterator[str]:
    import torch

    device, processes = accelerator["device"], accelerator["num_processes"]
    num_gpus = torch.cuda.device_count()
    if device == "gpu" and num_gpus == 0 and not torch.backends.mps.is_available():
        yield "accelerator.device=gpu: torch sees no GPU on this machine; use accelerator=cpu, or accelerator=auto"
    elif device == "gpu" and processes > max(num_gpus, 1):
        yield f"accelerator.num_processes={processes}: torch sees {num_gpus} GPU(s); use at most as many"
    compiled = accelerator.get("compile", "none")
    if compiled == "cuda_graphs" and (num_gpus == 0 or device == "cpu"):
        yield "accelerator.compile=cuda_graphs: needs one of NVIDIA's GPUs; use accelerator.compile=inductor or none"
    elif compiled != "none" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))):
        yield f"accelerator.compile={compiled}: no C++ compiler was found; install g++, or use accelerator.compile=none"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved; ConfigError where one cannot be."""
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(content, dict)
    for name in ("augment", "conditioning", "schedule", "evaluation"):
        node = content.get(name)
        if isinstance(node, dict) and node.get("_target_", "") is None:  # augment=none, ...
            content[name] = None
    return typing.cast("dict[str, Any]", content)


def problems_of(cfg: DictConfig) -> list[str]:
    """Every problem of the configuration, one sentence each; empty when it can be built."""
    try:
        config = plain(cfg)
    except ConfigError as error:
        return error.problems
    problems = list(_check_dataclass(RunConfig, config, "", ()))
    unknown = tuple(f"{text.split(':')[0]}." for text in problems if ": unknown key; " in text)
    if unknown:  # once more, to name the nearest of the keys that are known
        all_keys = [key for key, _ in flat_keys(config) if not f"{key}.".startswith(unknown)]
        problems = list(_check_dataclass(RunConfig, config, "", all_keys))
    # A wrong value that others take over by interpolation is one mistake, not three.
    original = [text for text in problems if not _is_interpolated(cfg, re.split("[=: ]", text)[0])]
    return original or problems or list(_check_combinations(config))


def _is_interpolated(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)


def _typed(schema: Any, node: Mapping[str, Any]) -> Any:
    """The dataclass that a checked node stands for; components stay plain."""
    hints = typing.get_type_hints(schema)
    values = {}
    for name, value in node.items():
        values[name] = _typed(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
    return schema(**values)


def check_against(schema: Any, values: Mapping[str, Any], problems: Sequence[str] = (), key: str = "") -> Any:
    """`schema` (a dataclass) made of plain values of the node `key`; ConfigError with the given problems and everything
    wrong."""
    found = [*problems, *_check_dataclass(schema, values, key, ())]
    if found:
        raise ConfigError(found)
    return schema(**values)


def check(cfg: DictConfig) -> RunConfig:
    """The typed configuration; ConfigError with every problem when there is any. Nothing is built."""
    problems = problems_of(cfg)
    if problems:
        raise ConfigError(problems)
    return _typed(RunConfig, plain(cfg))


PATHS = ("dataset.root", "dataset.cache_dir", "evaluation.cache_dir", "evaluation.inception_weights")
"""The keys whose values are files or folders."""


def _frozen(cfg: DictConfig, name: str) -> DictConfig:
    """The configuration of a run with that name. Paths are absolute, so that it is gone on with from any directory."""
    frozen = cfg.copy()
    OmegaConf.set_struct(frozen, False)
    frozen.name = name
    for key in PATHS:
        path = OmegaConf.select(frozen, key)
        if isinstance(path, str) and "://" not in path and not _is_interpolated(frozen, key):
            OmegaConf.update(frozen, key, str(Path(path).expanduser().absolute()))
    return frozen


def resolved(cfg: DictConfig, name: str) -> str:
    """What `save` writes to resolved.yaml."""
    return OmegaConf.to_yaml(_frozen(cfg, name), resolve=True)


def save(cfg: DictConfig, name: str, run_dir: Path) -> None:
    """.hydra/config.yaml with its interpolations, so that a later override reaches all it should; and resolved.yaml."""
    folder = run_dir / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(_frozen(cfg, name), folder / "config.yaml")
    (folder / "resolved.yaml").write_text(resolved(cfg, name), encoding="utf-8")


# ---------------------------------------------------------------------- building


def _instantiate(node: Mapping[str, Any], key: str, **given: Any) -> Any:
    """What a checked component names, called with its arguments; its ValueError becomes a ConfigError with the key."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(node), **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError) and not isinstance(cause, ConfigError):
            raise ConfigError(f"{key}: {cause}") from cause
        raise (cause if cause is not None else error) from None


def build_data(config: RunConfig) -> Any:
    """The data set (gan_lab.data.Data)."""
    return _instantiate(config.dataset, "dataset")


def check_data(config: RunConfig, data: "Data") -> None:
    """ConfigError where the data are not what their source says, on which `check` relied, or where the objective cannot
    be measured of them."""
    name, declared = config.dataset["_target_"].rsplit(".", 1)[-1], _layout(config.dataset)
    if data.layout != declared:
        raise ConfigError(
            f"dataset ({name}) gives {data.layout} and is taken for {declared}; "
            f'write {name}.layout = "{data.layout}" below it'
        )
    problems = list(_check_objective(asdict(config), data))
    if problems:
        raise ConfigError(problems)


def split_of(config: RunConfig) -> str | None:
    """Which part of the data set is trained on, where it has parts."""
    return _argument(config.dataset, "dataset", "split")


def build_held_out(config: RunConfig) -> Any:
    """The test part of the data set, None where there is none, or where its files are not there."""
    if split_of(config) != "train":
        return None
    try:
        return _instantiate({**config.dataset, "split": "test"}, "dataset")
    except RunError as error:
        log.warning(f"no held-out data: {error}")
        return None


def autocast_dtype(config: RunConfig, sample_shape: tuple[int, ...], device_type: str) -> Any:
    """The networks' lower precision, or None for float32.

    auto: bfloat16 for images where the hardware computes in it (`native_bfloat16`), float32 for points, whose modes may
    be narrower than bfloat16's steps, and everywhere else.
    """
    import torch

    from gan_lab.precision import native_bfloat16

    precision = config.accelerator.precision
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp32" or len(sample_shape) != 3:
        return None
    return torch.bfloat16 if native_bfloat16(device_type) else None


def device_type(config: RunConfig) -> Literal["cpu", "cuda", "mps"]:
    """Where this run computes."""
    import torch

    if config.accelerator.device != "cpu":
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available() and config.accelerator.num_processes == 1:
            return "mps"
    return "cpu"


def build_conditioning(node: Mapping[str, Any] | None, model: Model, label_shares: Any) -> Any:
    """The conditioning (gan_lab.conditioning.Conditioning), told what it has to know of the data and of D.

    label_shares: how often each class occurs in the data, a tensor (num_classes,); None where there are no labels.
    """
    from gan_lab.conditioning import Conditioning

    if node is None:
        return Conditioning()
    target, _ = _import(node["_target_"], "conditioning")
    takes = inspect.signature(target).parameters
    num_classes = 0 if label_shares is None else len(label_shares)
    if "num_classes" in takes and num_classes == 0:
        raise ConfigError(
            f"conditioning ({node['_target_'].rsplit('.', 1)[-1]}) needs labels, and the data set has none; use "
            "conditioning=none, or another dataset"
        )
    discriminator, _ = _import(model.discriminator["_target_"], "model.discriminator")
    known = {"num_classes": num_classes, "as_channels": getattr(discriminator, "images_only", False)}
    return _instantiate(node, "conditioning", **{name: value for name, value in known.items() if name in takes})


def build_generator(model: Model, sample_shape: tuple[int, ...], num_codes: int = 0) -> Any:
    """G for latents of latent_dim values and so many codes."""
    node = model.generator if num_codes == 0 else {**model.generator, "latent_dim": model.latent_dim + num_codes}
    return _instantiate(node, "model.generator", sample_shape=sample_shape)


def build_discriminator(model: Model, sample_shape: tuple[int, ...], num_outputs: int = 1) -> Any:
    given = {} if num_outputs == 1 else {"num_outputs": num_outputs}
    return _instantiate(model.discriminator, "model.discriminator", sample_shape=sample_shape, **given)


def build_gan(config: RunConfig, sample_shape: tuple[int, ...], label_shares: Any = None) -> Any:
    """The GAN module (gan_lab.module.GAN), initialised from the seed's own stream for each network.

    label_shares: how often each class occurs in the data, a tensor (num_classes,); None where there are no labels.
    """
    import torch

    from gan_lab.module import GAN, Optimization
    from gan_lab.streams import stream_seed

    model = config.model
    conditioning = build_conditioning(config.conditioning, model, label_shares)
    torch.manual_seed(stream_seed(config.seed, "initialisation/generator"))
    generator = build_generator(model, sample_shape, conditioning.num_codes)
    torch.manual_seed(stream_seed(config.seed, "initialisation/discriminator"))
    packed_shape = (sample_shape[0] * model.packing, *sample_shape[1:])
    judged_shape = conditioning.discriminator_shape(packed_shape)
    discriminator = build_discriminator(model, judged_shape, conditioning.num_outputs)
    encoder = None
    if conditioning.has_encoder:
        torch.manual_seed(stream_seed(config.seed, "initialisation/encoder"))
        encoder = build_discriminator(model, sample_shape, model.latent_dim + conditioning.num_codes)
    _refuse_hidden_batch_norm(config, discriminator)
    for network in (generator, discriminator, *([] if encoder is None else [encoder])):
        network.to(memory_format=torch.channels_last)  # faster convolutions in bfloat16; nothing changes for an mlp
    optimizer = config.optimizer

    def factory(player: str) -> Any:
        node = {**getattr(optimizer, player), "_partial_": True}
        return _instantiate(node, f"optimizer.{player}")

    return GAN(
        generator=generator,
        discriminator=discriminator,
        latent_dim=model.latent_dim,
        latent_distribution=model.latent_distribution,
        conditioning=conditioning,
        label_shares=label_shares,
        encoder=encoder,
        adversarial_loss=_instantiate(config.loss.adversarial, "loss.adversarial"),
        optimization=Optimization(
            factory("generator"),
            factory("discriminator"),
            optimizer.clip_norm.generator,
            optimizer.clip_norm.discriminator,
            optimizer.schedule,
            optimizer.accumulate,
        ),
        penalties={key: _build_penalty(node, key) for key, node in _penalties(asdict(config))},
        augment=None if config.augment is None else _instantiate(config.augment, "augment"),
        packing=model.packing,
        warmup_images=round(config.loss.warmup_kimg * 1000),
        share_fakes=config.loss.share_fakes,
        schedules=None if config.schedule is None else _instantiate(config.schedule, "schedule"),
        weight_clip=config.loss.weight_clip,
        num_discriminator_steps=config.loss.num_discriminator_steps,
        batch_size=config.batch_size,
        budget_images=round(config.budget.kimg * 1000),
        budget_seconds=None if config.budget.minutes is None else 60 * config.budget.minutes,
        ema_half_life_images=config.ema.half_life_kimg * 1000,
        ema_rampup=config.ema.rampup,
        seed=config.seed,
        autocast_dtype=autocast_dtype(config, sample_shape, device_type(config)),
        compile=config.accelerator.compile,
    )


def _refuse_hidden_batch_norm(config: RunConfig, discriminator: Any) -> None:
    """What `_check_combinations` cannot see: BatchNorm that a D of the user's own has without a `norm` to choose it."""
    from torch import nn

    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in discriminator.modules()):
        return
    for key, node in _penalties(asdict(config)):
        penalty, _ = _import(node["_target_"], key)
        if getattr(penalty, "takes_gradients", True):
            target, name = config.model.discriminator["_target_"], node["_target_"].rsplit(".", 1)[-1]
            raise ConfigError(
                f"model.discriminator ({target}) has BatchNorm, which mixes the samples whose gradients {key} ({name}) "
                "takes one by one; use another norm in it, or leave out the penalty"
            )


def _build_penalty(node: Mapping[str, Any], key: str) -> Any:
    """A penalty that is a function waits for its first arguments; one that is a class, with a state, is made."""
    target, _ = _import(node["_target_"], key)
    if inspect.isclass(target):
        return _instantiate(node, key)
    deferred = _instantiate({**node, "_partial_": True}, key)
    # Hydra's own partial decides anew at each call whether it may be called: half a millisecond of every step of D.
    return partial(deferred.func, *deferred.args, **deferred.keywords)


def build_scoring(config: RunConfig) -> "Scoring":
    """How the configured evaluation scores samples, without what says when it does."""
    from gan_lab.evaluation import Scoring

    node = config.evaluation
    assert node is not None
    keys = [field.name for field in dataclasses.fields(Scoring)]
    return Scoring(**{key: node[key] for key in keys if key in node})


def build_callbacks(config: RunConfig) -> list[Any]:
    """The configured callbacks in order: metrics, pictures, evaluation, the user's, health, checkpoint, progress, then
    the profile, which measures all of them."""
    nodes = {f"callbacks.{name}": node for name, node in config.callbacks.items() if node is not None}
    if config.evaluation is not None:
        nodes["evaluation"] = config.evaluation
    # Health sees what the others have measured; the checkpoint comes after everything that writes, then progress.
    rank = {"callbacks.metrics": -2, "callbacks.samples": -1, "callbacks.health": 1, "callbacks.checkpoint": 2}
    rank |= {"callbacks.progress": 3, "callbacks.profile": 4}
    return [_instantiate(nodes[key], key) for key in sorted(nodes, key=lambda key: rank.get(key, 0))]


def build_loggers(config: RunConfig, run_dir: Path, start_images: int) -> list[Any]:
    """metrics.csv and TensorBoard, then the configured extras; extras that take a save_dir get the run's directory."""
    from gan_lab.loggers import MetricsCSV, TensorBoard

    loggers = [
        MetricsCSV(run_dir / "metrics.csv", start_images),
        TensorBoard(run_dir, start_images, **asdict(config.logger.tensorboard)),
    ]
    for name, node in config.logger.extra.items():
        target, _ = _import(node["_target_"], f"logger.extra.{name}")
        takes_dir = "save_dir" in inspect.signature(target).parameters and "save_dir" not in node
        given = {"save_dir": os.fspath(run_dir)} if takes_dir else {}
        loggers.append(_instantiate(node, f"logger.extra.{name}", **given))
    return loggers
