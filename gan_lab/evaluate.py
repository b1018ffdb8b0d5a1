"""`gan-lab evaluate`: scores a trained run, or images made by any other program, against a data set."""

import logging
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gan_lab import config as configuration
from gan_lab.compose import changed_config, check_reads_data_only, data_config, register_resolvers
from gan_lab.config import FEWEST_SCORED, RunConfig
from gan_lab.constraints import NonNegativeInt, PositiveInt
from gan_lab.data import Data, some_of
from gan_lab.data.image_folder import image_files, image_folder
from gan_lab.data.resize import resize_images
from gan_lab.errors import ConfigError, RunError, debugging
from gan_lab.evaluation import Evaluator, card_id, ratio_to_floor, scored_samples
from gan_lab.files import write_json
from gan_lab.images import PICTURE_CHANNELS
from gan_lab.logs import configure_logging
from gan_lab.reading import read_classes
from gan_lab.record import find_run
from gan_lab.streams import Streams
from gan_lab.trained import SavedWeights, device_of, trained_generator, trained_reader

log = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """What to score. num: at most so many samples a side. Of a run alone: weights; seed, null its own."""

    run: str | None = None
    images: str | None = None
    weights: SavedWeights = "ema"
    num: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    out: str | None = None


def evaluate(request: Evaluation, overrides: list[str], config_dir: str | None = None) -> Path | None:
    """Scores what is asked for, prints the figures, and returns the file where they are; None where none was named.

    overrides: of `dataset` and `evaluation` alone; config_dir: of groups of the user's own.
    """
    if (request.run is None) == (request.images is None):
        raise ConfigError("give one of run=DIR (or run=latest) and images=PATH dataset=NAME")
    check_reads_data_only(overrides, [field.name for field in fields(Evaluation)])
    if not any(override.startswith("evaluation=") for override in overrides):
        overrides = ["evaluation=full", *overrides]
    if any(override.startswith("dataset") for override in overrides):
        overrides = [*overrides, "num_training_images=null"]  # the run has learned from none of these
    overrides = [*overrides, "objective=auto"]  # what decided in training need not be measured again
    configure_logging(None)
    out = None if request.out is None else Path(request.out)
    if request.run is not None:
        register_resolvers()
        run_dir = find_run(request.run)
        cfg = changed_config(run_dir, overrides, config_dir)
        with debugging(cfg.get("debug", False)):
            result = evaluate_run(request, configuration.check(cfg), run_dir)
        card = result["card"]
        name = f"{request.weights}-{card['images_seen']:09d}-seed{card['noise_seed']}-{result['card_id']}.json"
        out = out or run_dir / "evaluations" / name
    else:
        if not any(override.startswith("dataset=") for override in overrides):
            raise ConfigError("dataset must be given: gan-lab evaluate images=PATH dataset=fashion_mnist")
        result = evaluate_images(request, configuration.check(data_config(overrides, config_dir)))
    print(table(result))
    if out is not None:
        write_json(out, result)
    return out


def evaluate_run(request: Evaluation, config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Scores of a run's generator; the same latents, and so the same figures, as its evaluations during training."""
    device = device_of(request.device)
    trained = trained_generator(run_dir, request.weights, device)
    data = configuration.build_data(config)
    same_classes = data.classes is not None and list(data.classes) == trained.content.get("classes")
    conditional = trained.space.conditioning.gives_labels and same_classes
    training = some_of(data, config.num_training_images)
    evaluator = _evaluator(request, config, device, data, conditional=conditional, training=training)
    shape, expected = tuple(trained.content["sample_shape"]), tuple(evaluator.data.samples.shape[1:])
    if shape != expected:
        raise ConfigError(f"run={run_dir} makes samples of shape {shape}, and the data set has {expected}")
    seed = trained.content["seed"] if request.seed is None else request.seed
    fake, labels = scored_samples(trained.generator, trained.space, Streams(seed, device), evaluator.num)
    if not conditional:  # what fakes were asked for is no class of this data set
        labels = None
    scored = {"weights": request.weights, "noise_seed": seed, "images_seen": trained.images_seen}
    result = _scored(evaluator, fake, scored, labels)
    if labels is not None:
        result["class_fd"] = evaluator.class_distances(fake, labels)
    reader = trained_reader(trained, device) if same_classes else None
    if reader is not None:
        result["scores"] |= read_classes(reader, trained.space.conditioning, evaluator)
    return result


def evaluate_images(request: Evaluation, config: RunConfig) -> dict[str, Any]:
    """Scores of the images in a folder or an .npz file."""
    given = [] if request.weights == "ema" else [f"weights={request.weights}"]
    given += [] if request.seed is None else [f"seed={request.seed}"]
    if given:
        raise ConfigError([f"{one} says what a run draws, and images are there already; leave it out" for one in given])
    device = device_of(request.device)
    assert request.images is not None
    data = configuration.build_data(config)
    fake, how = read_samples(Path(request.images), data)
    if len(fake) < FEWEST_SCORED:
        raise RunError(
            f"images={request.images}: {len(fake)} samples are too few to score; give at least {FEWEST_SCORED}"
        )
    evaluator = _evaluator(request, config, device, data, most=len(fake))
    chosen = torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))[: evaluator.num]
    return _scored(evaluator, fake[chosen], {"scored": f"{evaluator.num} of {len(fake)} in {request.images}{how}"})


def _evaluator(
    request: Evaluation,
    config: RunConfig,
    device: torch.device,
    data: Data,
    most: int | None = None,
    conditional: bool = False,
    training: Data | None = None,
) -> Evaluator:
    if config.evaluation is None:
        raise ConfigError("evaluation=none: there is nothing to measure; use evaluation=full or evaluation=fast")
    scoring = configuration.build_scoring(config)
    num = min(request.num or scoring.num_samples, most or len(data.samples))
    evaluator = scoring.evaluator(
        data, configuration.build_held_out(config), configuration.split_of(config), device, num, conditional, training
    )
    if evaluator.num < FEWEST_SCORED:
        raise ConfigError(
            f"{evaluator.num} samples a side are too few to score; give num at least {FEWEST_SCORED}, and data"
        )
    if evaluator.num < (request.num or 0):
        log.info(
            f"num={request.num} is more than there is to compare with: {evaluator.num:,} samples a side are scored"
        )
    return evaluator


def _scored(evaluator: Evaluator, fake: Tensor, scored: dict[str, Any], labels: Tensor | None = None) -> dict[str, Any]:
    card = {**evaluator.card, **scored}
    extractor = evaluator.extractor
    if extractor is not None and evaluator.num < extractor.facts["num_features"]:
        log.warning(
            f"warning: {evaluator.num} samples are fewer than the {extractor.facts['num_features']} features: read "
            "distances only beside their floor"
        )
    scores = evaluator.score(fake, labels)
    return {"scores": scores, "floor": evaluator.floor, "card_id": card_id(card), "card": card}


def read_samples(path: Path, data: Data) -> tuple[Tensor, str]:
    """Samples like the data's from a folder of images or an .npz or .npy file, and what was done to them.

    .npz: the array `images`, or the only one: uint8 (N, H, W, C), (N, H, W) or (N, C, H, W); points float (N, 2).
    Images of another size are cropped to squares and resized as the data set's own would be (antialiased bicubic).
    """
    expected = tuple(data.samples.shape[1:])
    if path.is_dir():
        if len(expected) != 3:
            raise ConfigError(f"images={path}: a folder holds pictures, and the data set has points; give an .npz file")
        if expected[0] not in PICTURE_CHANNELS:
            raise ConfigError(
                f"images={path}: a folder holds pictures, and the samples have {expected[0]} channels; give .npz"
            )
        samples = image_folder(root=str(path), image_size=expected[1], channels=expected[0]).samples  # type: ignore[arg-type]
        return samples, _changes_to_files(path, expected)
    samples = torch.from_numpy(_array(path))
    if len(expected) == 1:
        if samples.shape[1:] != expected:
            raise ConfigError(f"images={path}: shape {tuple(samples.shape)}, expected points (N, {expected[0]})")
        return samples.float(), ""
    if samples.dtype != torch.uint8:
        raise ConfigError(
            f"images={path}: values are {str(samples.dtype).removeprefix('torch.')}; give uint8 from 0 to 255, as an "
            "image file holds them"
        )
    if samples.ndim == 3:
        samples = samples.unsqueeze(1)
    elif samples.ndim == 4 and samples.shape[3] == expected[0]:
        samples = samples.permute(0, 3, 1, 2)
    if samples.ndim != 4 or samples.shape[1] != expected[0]:
        raise ConfigError(
            f"images={path}: shape {tuple(samples.shape)}, expected (N, H, W, {expected[0]}) like the data set's images"
        )
    size = tuple(samples.shape[2:])
    how = "" if size == expected[1:] else f", resized from {size[0]}x{size[1]} (antialiased bicubic)"
    return resize_images(samples.contiguous(), expected[1]), how


def _changes_to_files(folder: Path, expected: tuple[int, ...]) -> str:
    """What reading the pictures of a folder did to them, judged by the first."""
    from PIL import Image

    with Image.open(folder / image_files(folder)[0]) as first:
        size, mode = (first.height, first.width), first.mode
    changes = "" if size == expected[1:] else f", resized from {size[0]}x{size[1]} (antialiased bicubic)"
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[expected[0]]
    return changes + ("" if mode == wanted else f", {mode} read as {wanted}")


def _array(path: Path) -> np.ndarray:
    """The array in an .npy or .npz file: numbers in the machine's byte order. Pickled objects are not loaded."""
    if not path.is_file():
        raise ConfigError(f"images={path}: there is no such file or folder ({path.absolute()})")
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            names = [] if isinstance(content, np.ndarray) else list(content.files)
            name = "images" if "images" in names else names[0] if len(names) == 1 else None
            array = content if isinstance(content, np.ndarray) else None if name is None else content[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if "allow_pickle" not in str(error) else "it does not hold plain numbers"
        if "Object arrays" in str(error):
            reason = str(error)
        raise RunError(f"images={path} cannot be read as .npz or .npy: {reason}") from error
    if array is None:
        raise ConfigError(f"images={path} holds the arrays {', '.join(names)}; expected one, or one called images")
    if array.dtype.kind not in "uif":
        raise ConfigError(f"images={path}: values are {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="))


def table(result: dict[str, Any]) -> str:
    """Scores beside their floors, and the card, as lines of text."""
    lines = [f"{'metric':<28}{'value':>12}{'floor':>12}{'ratio':>9}"]
    for name, value in result["scores"].items():
        floor = result["floor"].get(name)
        shown = "" if floor is None else f"{floor:>12.5g}"
        ratio = ratio_to_floor(value, floor)
        share = "" if ratio is None else f"{ratio:>8.2f}x"
        lines.append(f"{name:<28}{value:>12.5g}{shown:>12}{share:>9}")
    lines.append("(floor: as many other real samples, what a perfect generator would get)")
    if result.get("class_fd"):
        each = ", ".join(f"{name} {distance:.5g}" for name, distance in result["class_fd"].items())
        lines.append(f"class_fd of each class: {each}")
    facts = {key: value for key, value in result["card"].items() if key != "metrics"}
    lines.append("; ".join(f"{key} {value}" for key, value in facts.items()))
    return "\n".join(lines)
