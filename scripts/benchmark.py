"""How fast gan_lab trains, against two loops written by hand, with the same networks, batch and steps.

    python scripts/benchmark.py                             # everything; about half an hour on two cores
    python scripts/benchmark.py training --workloads mlp toy_grid --rounds 5
    python scripts/benchmark.py start sizes folder processes

training   images/s of three programs, each in a process of its own, that take turns: `plain` (the loop that most people
           write: torchvision's data set and transforms, DataLoader, Adam as it comes, float32, .item() every step),
           `tight` (all data on the device, one pass where that is the same, D's gradients only where they are needed,
           fused Adam; no logging, no averaged generator, nothing else) and `gan_lab` (the real command with its
           default logging; evaluation off, and what evaluation, checkpoints and pictures add). In each round every
           program trains about the same number of images in short turns, so that a disturbance of the machine hits
           all three, and comes equally often after each of the others (one that computes less leaves a cooler, faster
           CPU). Figures are medians over the rounds, ratios medians of each round's ratio. G's step goes on with the
           fakes of D's in all three, as `plain` loops do (loss.share_fakes=true). The generator is averaged as often
           as after the first 200 kimg of a run (ema.rampup=null).
start      seconds from the command to the first training step, against `import pytorch_lightning, torchvision`.
sizes      images/s for data sets of 1,000 to 1,000,000 images, and at the end of a log ten times as long.
folder     images/s read from a folder of JPEG files: ImageFolder and DataLoader against the memory-mapped cache.
processes  images/s of two processes (accelerator=ddp) against one process with half of the threads.

Trains on Fashion-MNIST where its files are (outputs/data, or Debian's package), else on noise of the same shape. Writes
one JSON object a measurement to --out, and tables in Markdown to standard output. Memory is the peak of resident memory
(VmHWM); the GEMM peak is that of a 2048 x 2048 product in the precision of the run.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gan_lab.callbacks.base import Callback

if TYPE_CHECKING:
    from loops import Parts

    from gan_lab.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("training", "start", "sizes", "folder", "processes")
PROGRAMS = ("plain", "tight", "gan_lab")


class Workload(NamedTuple):
    """What is trained, as overrides of `gan-lab train`, and how many images each program sees in one round: some
    seconds."""

    overrides: tuple[str, ...]
    images: int


SHARED = "loss.share_fakes=true"

TURNS = tuple({"P": "plain", "T": "tight", "G": "gan_lab"}[letter] for letter in "PTGPGTGTPTPGTGPGPT")
"""Of a round: six of each program, all orders of the three, in a sequence in which each comes three times after each of
the others, also from one round to the next. A turn is at least one cycle (of `plain`: one step of D)."""

WORKLOADS = {
    "article_mlp": Workload(("experiment=article_mlp", "dataset=fashion_mnist", SHARED), 12_800),
    "mlp": Workload(("model=mlp", "dataset=fashion_mnist", SHARED), 9_600),
    "mlp_wgan_gp": Workload(("model=mlp", "dataset=fashion_mnist", "loss=wgan_gp", SHARED), 12_800),
    "upconv_32": Workload(("model=upconv", "dataset=fashion_mnist", "dataset.image_size=32", SHARED), 1_920),
    "dcgan_paper_64": Workload(("experiment=dcgan_paper", "dataset=fashion_mnist", SHARED), 384),
    "quickstart": Workload(("experiment=quickstart", SHARED), 4_800),
    "toy_grid": Workload(("experiment=toy_grid", SHARED), 38_400),
}

CONNECTION: Connection | None = None
"""Of a child process to the benchmark; set in the child."""


# ---------------------------------------------------------------------- the data


def write_idx(path: Path, content: Any) -> None:
    """A uint8 array in the format of MNIST's files."""
    sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, content.ndim]) + sizes + content.tobytes())


def write_fashion_mnist(root: Path, num_images: int | None = None) -> str:
    """Fashion-MNIST's training files where torchvision looks for them under `root`, and what is in them.

    The real images where they are on this machine and `num_images` is not given; else noise.
    """
    import numpy

    from gan_lab.data.torchvision_sets import fashion_mnist
    from gan_lab.errors import RunError

    raw = root / "FashionMNIST" / "raw"
    parts: dict[Literal["train", "test"], str] = {"train": "train", "test": "t10k"}
    sets: dict[str, Any] = {}
    if num_images is None:
        with suppress(RunError):
            sets = {split: fashion_mnist(root="outputs/data", split=split, download=False) for split in parts}
    noise = numpy.random.default_rng(0)
    for split, stem in parts.items():
        if split in sets:
            images, labels = sets[split].samples[:, 0].numpy(), sets[split].labels.numpy().astype("uint8")
        else:
            count = (num_images or 60_000) if split == "train" else 10_000
            images = noise.integers(0, 256, (count, 28, 28), dtype="uint8")
            labels = (numpy.arange(count) % 10).astype("uint8")
        write_idx(raw / f"{stem}-images-idx3-ubyte", images)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", labels)
    return "Fashion-MNIST" if sets else "noise of Fashion-MNIST's shape"


# ---------------------------------------------------------------------- the child processes


def peak_memory() -> int:
    """Bytes of resident memory at their most; -1 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return -1
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def serve(steps: Iterator[int]) -> None:
    """Trains as many images as the benchmark asks for, again and again, and says how long it took."""
    assert CONNECTION is not None
    while (wanted := CONNECTION.recv()) is not None:
        started, images = time.perf_counter(), 0
        while images < wanted:
            images += next(steps)
        wait_for_device()
        CONNECTION.send((images, time.perf_counter() - started))


class Gate(Callback):
    """Makes the real `train` wait for the benchmark's word, as `serve` does for the loops by hand."""

    def __init__(self) -> None:
        self._from = self._until = 0
        self._started = 0.0

    def _wait(self, gan: Any) -> None:
        assert CONNECTION is not None
        wanted = CONNECTION.recv()
        if wanted is None:
            finish({"events": EVENTS, "evaluation_images": EVALUATION_IMAGES})
        self._from, self._until = gan.images_seen, gan.images_seen + wanted
        self._started = time.perf_counter()

    def on_start(self, trainer: Any, gan: Any) -> None:
        self._wait(gan)

    def on_cycle_end(self, trainer: Any, gan: Any) -> None:
        if gan.images_seen >= self._until:
            wait_for_device()
            assert CONNECTION is not None
            CONNECTION.send((gan.images_seen - self._from, time.perf_counter() - self._started))
            self._wait(gan)


EVENTS: dict[str, list[float]] = {}
"""Seconds of every evaluation, checkpoint and picture of a child."""


EVALUATION_IMAGES = 0.0
"""Images between two evaluations where the configuration leaves that to the program."""


def time_events() -> None:
    """Has the callbacks that work now and then say how long they did."""
    from gan_lab.callbacks.checkpoint import Checkpoint
    from gan_lab.callbacks.evaluation import FEWEST_IMAGES_BETWEEN, IMAGES_PER_SAMPLE, Evaluate
    from gan_lab.callbacks.samples import SampleGrid

    def timed(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def call(self: Any, trainer: Any, gan: Any) -> None:
            started, setup = time.perf_counter(), gan.setup_seconds
            method(self, trainer, gan)
            seconds = time.perf_counter() - started - (gan.setup_seconds - setup)
            if gan.due(self.every_images):
                EVENTS.setdefault(name, []).append(seconds)
                if name == "evaluation":
                    global EVALUATION_IMAGES
                    EVALUATION_IMAGES = max(FEWEST_IMAGES_BETWEEN, IMAGES_PER_SAMPLE * self._evaluator.num)

        return call

    kinds: dict[str, Any] = {"evaluation": Evaluate, "checkpoint": Checkpoint, "samples": SampleGrid}
    for name, kind in kinds.items():
        kind.on_cycle_end = timed(name, kind.on_cycle_end)


def finish(report: dict[str, Any]) -> None:
    """Ends a child with its last word."""
    assert CONNECTION is not None
    CONNECTION.send({"peak_bytes": peak_memory(), **report})
    os._exit(0)


def child(program: str, overrides: Sequence[str], threads: int | None, connection: Connection) -> None:
    """The main function of a child process."""
    global CONNECTION
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if program == "gan_lab":
        import benchmark  # what `_target_: benchmark.Gate` names; this process's main module is another copy

        benchmark.CONNECTION = connection
        benchmark.time_events()
        from gan_lab.cli import main

        main(["train", *overrides, "+callbacks.gate={_target_: benchmark.Gate}"])
        raise SystemExit("the run ended before the benchmark did")
    CONNECTION = connection
    from loops import build, plain_steps, tight_steps  # only here: torch's import is part of what `start` measures

    parts = build(overrides, channels_last=program == "tight")
    steps = (plain_steps if program == "plain" else tight_steps)(parts)
    serve(steps)
    report = {"threads": torch.get_num_threads(), "device": parts.device.type}
    peak = peak_memory()
    if program == "tight":
        report |= {"flops_per_image": flops_per_image(steps), "gemm_flops": gemm_flops(parts)}
    finish({**report, "peak_bytes": peak})


def flops_per_image(steps: Iterator[int]) -> float:
    """Operations of matrix products and convolutions in one cycle, by torch's formulas, for each image."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):  # FlopCounterMode also follows modules, which double backward confuses
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
            return result

    with Count() as count:
        images = next(steps)
    return count.total / images


def gemm_flops(parts: "Parts") -> float:
    """Operations a second of a large matrix product in the run's precision, the best of ten."""
    import torch

    from gan_lab.config import autocast_dtype

    dtype = autocast_dtype(parts.config, tuple(parts.samples.shape[1:]), parts.device.type) or torch.float32
    side = 2048
    left, right = (torch.randn(side, side, device=parts.device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        wait_for_device()
        started = time.perf_counter()
        torch.mm(left, right)
        wait_for_device()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


class Child:
    """A process that trains when asked to."""

    def __init__(self, program: str, overrides: Sequence[str], threads: int | None):
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=child, args=(program, overrides, threads, other), daemon=True)
        self.process.start()
        other.close()

    def turn(self, images: int) -> tuple[int, float]:
        """Trains at least this many images: how many it were, and the seconds they took."""
        self.connection.send(images)
        return self.connection.recv()

    def train(self, images: int) -> float:
        """Images a second over at least this many images."""
        done, seconds = self.turn(images)
        return done / seconds

    def stop(self) -> dict[str, Any]:
        """The child's last word."""
        self.connection.send(None)
        report = self.connection.recv()
        self.process.join()
        return report


# ---------------------------------------------------------------------- the parts


def settings_of(overrides: Sequence[str], options: argparse.Namespace, run_dir: Path, data: Path) -> list[str]:
    """A workload's overrides with the data's place, the precision and a budget that does not end."""
    is_fashion = any(text == "dataset=fashion_mnist" for text in overrides)
    return [
        *overrides,
        *([f"dataset.root={data}"] if is_fashion else []),
        *options.overrides,
        "budget.kimg=1000000",
        f"hydra.run.dir={run_dir}",
    ]


def training(options: argparse.Namespace, out: Callable[[dict[str, Any]], None], work: Path, data: Path) -> list[str]:
    """The main table."""
    rows = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        images = max(1, round(workload.images * options.scale))

        def start(program: str, *more: str, name: str = name, workload: Workload = workload) -> Child:
            overrides = (*workload.overrides, "ema.rampup=null")
            settings = settings_of(overrides, options, work / f"{name}-{len(more)}", data)
            return Child(program, [*settings, *more] if program == "gan_lab" else settings[:-1], options.threads)

        children = {"plain": start("plain"), "tight": start("tight")}
        children["gan_lab"] = start("gan_lab", "evaluation=none", "objective=null")
        for one in children.values():
            one.train(images // 2)  # warms up: memory, kernels, files
        rates: dict[str, list[float]] = {program: [] for program in PROGRAMS}
        for _ in range(options.rounds):
            turns: dict[str, list[tuple[int, float]]] = {program: [] for program in PROGRAMS}
            for program in TURNS:
                turns[program].append(children[program].turn(max(1, images // TURNS.count(program))))
            for program, done in turns.items():
                rates[program].append(sum(count for count, _ in done) / sum(seconds for _, seconds in done))
        reports = {program: one.stop() for program, one in children.items()}

        config = composed(workload.overrides)
        events, share = event_costs(start, config, images, statistics.median(rates["gan_lab"]))
        ratio = {other: [c / o for c, o in zip(rates["gan_lab"], rates[other], strict=True)] for other in PROGRAMS[:2]}
        median = {program: statistics.median(values) for program, values in rates.items()}
        tight = reports["tight"]
        cycle = config.batch_size * config.loss.num_discriminator_steps
        result = {
            "part": "training",
            "workload": name,
            "device": tight["device"],
            "threads": tight["threads"],
            "images_per_second": rates,
            "generator_steps_per_second": median["gan_lab"] / cycle,
            "ratio_to_plain": ratio["plain"],
            "ratio_to_tight": ratio["tight"],
            "peak_bytes": {program: report["peak_bytes"] for program, report in reports.items()},
            "share_of_gemm_peak": median["gan_lab"] * tight["flops_per_image"] / tight["gemm_flops"],
            "gemm_flops": tight["gemm_flops"],
            "event_seconds": events,
            "share_of_time": share,
        }
        out(result)
        peaks = ", ".join(f"{reports[one]['peak_bytes'] / 2**20:,.0f}" for one in PROGRAMS)
        cells = [
            f"`{name}`",
            *(spread(rates[program]) for program in PROGRAMS),
            f"{median['gan_lab'] * (1 - sum(share.values())):,.0f}",
            f"{median['gan_lab'] / cycle:,.1f}",
            *(ratio_text(ratio[other]) for other in ("plain", "tight")),
            f"{result['share_of_gemm_peak']:.0%}",
            peaks,
        ]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr)
    return [
        "| workload | plain, images/s | tight | gan_lab | with evaluation | G steps/s | against plain | against tight "
        "| of GEMM peak | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def event_costs(
    start: Callable[..., Child], config: "RunConfig", images: int, rate: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of an evaluation, a checkpoint and a grid of samples, and what share of a run's time they take.

    They are made to happen once a round; the configured intervals then tell how often they would.
    """
    often = [f"{key}.every_kimg={images / 1000}" for key in ("evaluation", "callbacks.checkpoint", "callbacks.samples")]
    one = start("gan_lab", *often)
    for _ in range(2):  # the first warms up
        one.train(images)
    report = one.stop()
    seconds = {name: statistics.median(values[1:] or values) for name, values in report["events"].items()}
    assert config.evaluation is not None
    evaluation_kimg = config.evaluation["every_kimg"]
    every = {
        "evaluation": report["evaluation_images"] if evaluation_kimg is None else 1000 * evaluation_kimg,
        "checkpoint": min(1000 * config.callbacks["checkpoint"]["every_kimg"], 300 * rate),  # or every five minutes
        "samples": 1000 * config.callbacks["samples"]["every_kimg"],
    }
    added = {name: seconds[name] / every[name] for name in seconds}  # seconds an image
    return seconds, {name: value / (1 / rate + sum(added.values())) for name, value in added.items()}


def composed(overrides: Sequence[str]) -> "RunConfig":
    from gan_lab import config as configuration
    from gan_lab.compose import Composer, register_resolvers

    register_resolvers(make=False)
    return configuration.check(Composer().compose(overrides))


def spread(values: Sequence[float]) -> str:
    """Median, and range."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio_text(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def start(options: argparse.Namespace, out: Callable[[dict[str, Any]], None], work: Path, data: Path) -> list[str]:
    """From the command to the first training step, and `gan-lab --help`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}

    def seconds(command: Sequence[str]) -> float:
        begun = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"first step"):
                    break
            else:
                process.wait()
            taken = time.perf_counter() - begun
            process.kill()
        return taken

    commands: dict[str, Callable[[int], list[str]]] = {
        "import pytorch_lightning, torchvision": lambda number: ["-c", "import pytorch_lightning, torchvision"],
        "gan-lab --help": lambda number: ["-m", "gan_lab", "--help"],
    }
    for name, overrides in {"digits": ("model=mlp",), "fashion_mnist": WORKLOADS["mlp"].overrides}.items():
        commands[f"first training step, {name}"] = lambda number, name=name, overrides=overrides: [  # type: ignore[misc]
            *("-m", "gan_lab", "train"),
            *settings_of(overrides, options, work / f"start-{name}-{number}", data),
            "+callbacks.first={_target_: benchmark.FirstStep}",
        ]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.rounds):
        for name, command in commands.items():
            times[name].append(seconds(command(number)))
    imports = times["import pytorch_lightning, torchvision"]
    rows = []
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, imports, strict=True)]
        out({"part": "start", "what": name, "seconds": values, "ratio_to_imports": ratios})
        rows.append(f"| {name} | {ratio_text(values)} | {ratio_text(ratios)} |")
    return ["| from the command to | seconds | against the imports |", "|---|---|---|", *rows]


class FirstStep(Callback):
    """Says when the first cycle is about to begin."""

    def on_cycle_start(self, trainer: Any, gan: Any) -> None:
        print("first step", flush=True)


def sizes(options: argparse.Namespace, out: Callable[[dict[str, Any]], None], work: Path, data: Path) -> list[str]:
    """Whether an image costs more where there are more of them, or where the log is longer."""
    base = (*WORKLOADS["mlp"].overrides, "model.width=64", "evaluation=none", "objective=null")
    children = {}
    for count in (1_000, 100_000, 1_000_000):
        root = work / f"noise-{count}"
        write_fashion_mnist(root, count)
        settings = settings_of(base, options, work / f"sizes-{count}", root)
        children[f"{count:,} images"] = Child("gan_lab", settings, options.threads)
    for often, kimg in {"every 2 kimg": 2, "every 0.2 kimg": 0.2}.items():
        settings = settings_of((*base, f"callbacks.metrics.every_kimg={kimg}"), options, work / f"log-{kimg}", data)
        children[f"metrics {often}"] = Child("gan_lab", settings, options.threads)
    rates: dict[str, list[float]] = {name: [] for name in children}
    images = round(100_000 * options.scale)
    for one in children.values():
        one.train(images // 10)
    for number in range(options.rounds):
        names = list(children)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(children[name].train(images))
    reports = {name: one.stop() for name, one in children.items()}
    for name, values in rates.items():
        out({"part": "sizes", "what": name, "images_per_second": values, "peak_bytes": reports[name]["peak_bytes"]})
    rows = []
    for name, values in rates.items():
        peak = reports[name]["peak_bytes"] / 2**20
        rows.append(f"| {name} | {spread(values)} | {values[0]:,.0f} | {values[-1]:,.0f} | {peak:,.0f} |")
    head = ["| `model=mlp model.width=64` | images/s | first round | last round | peak MiB |", "|---|---|---|---|---|"]
    return [*head, *rows]


def folder(options: argparse.Namespace, out: Callable[[dict[str, Any]], None], work: Path, data: Path) -> list[str]:
    """Reading a folder of pictures again and again."""
    import numpy
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from gan_lab.data.batches import RealBatches
    from gan_lab.data.image_folder import image_folder

    pictures, count, size, batch = work / "pictures", round(4_000 * options.scale), 64, 128
    noise = numpy.random.default_rng(0)
    for number in range(count):  # smooth ones, that compress as photographs do
        coarse = Image.fromarray(noise.integers(0, 256, (12, 10, 3), dtype="uint8"))
        place = pictures / f"class{number % 4}" / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(place, quality=90)
    begun = time.perf_counter()
    image_folder(root=str(pictures), image_size=size, cache_dir=str(work / "cache"))
    decoding = time.perf_counter() - begun
    steps = [transforms.CenterCrop(178), transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    by_hand = DataLoader(
        ImageFolder(str(pictures), transforms.Compose(steps)),
        batch_size=batch,
        shuffle=True,
        num_workers=options.threads or os.cpu_count() or 1,
        persistent_workers=True,
        drop_last=True,
    )
    samples = image_folder(root=str(pictures), image_size=size, cache_dir=str(work / "cache")).samples
    ours = RealBatches(
        samples, batch_size=batch, num_batches=1, start_images=0, seed=0, device=torch.device("cpu"), device_bytes=2**32
    )
    rates: dict[str, list[float]] = {"ImageFolder and DataLoader": [], "memory-mapped cache": []}
    for _ in range(options.rounds):
        begun = time.perf_counter()
        seen = sum(len(images) for images, _ in by_hand)
        rates["ImageFolder and DataLoader"].append(seen / (time.perf_counter() - begun))
        begun, seen = time.perf_counter(), 0
        for images in ours:
            seen += len(images)
            if seen >= 10 * count:
                break
        rates["memory-mapped cache"].append(seen / (time.perf_counter() - begun))
    ratios = [one / other for other, one in zip(*rates.values(), strict=True)]
    out({"part": "folder", "images": count, "decoding_seconds": decoding, "images_per_second": rates, "ratio": ratios})
    rows = [f"| {name} | {spread(values)} |" for name, values in rates.items()]
    rows.append(f"| decoding to the cache, once | {count / decoding:,.0f} |")
    rows.append(f"| cache against ImageFolder | {ratio_text(ratios)} times |")
    return ["| JPEG files of 178x218, read at 64x64 | images/s |", "|---|---|", *rows]


def processes(options: argparse.Namespace, out: Callable[[dict[str, Any]], None], work: Path, data: Path) -> list[str]:
    """Two processes with half of the threads each against one with half of the threads."""
    half = max(1, (options.threads or os.cpu_count() or 2) // 2)
    base = (*WORKLOADS["upconv_32"].overrides, "model.generator.norm=none", "model.discriminator.norm=none")
    kinds = {
        f"one process, {half} thread(s)": ("accelerator=cpu",),
        f"two processes, {half} thread(s) each": ("accelerator=ddp", "accelerator.device=cpu"),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, overrides in kinds.items():
            run = work / f"processes-{number}-{len(overrides)}"
            settings = settings_of((*base, *overrides), options, run, data)
            settings += [f"accelerator.num_threads={half}", "evaluation=none", "objective=null", "budget.kimg=6"]
            settings += ["callbacks.metrics.every_kimg=1"]
            subprocess.run(
                [sys.executable, "-m", "gan_lab", "train", *settings], cwd=ROOT, check=True, capture_output=True
            )
            with (run / "metrics.csv").open() as file:
                read = [float(row["images_per_second"]) for row in csv.DictReader(file)]
            rates[kind].append(statistics.median(read[1:]))
    one, two = rates.values()
    ratios = [b / a for a, b in zip(one, two, strict=True)]
    out({"part": "processes", "images_per_second": rates, "ratio": ratios})
    rows = [f"| {kind} | {spread(values)} |" for kind, values in rates.items()]
    return [
        "| `upconv_32` without norms | images/s |",
        "|---|---|",
        *rows,
        f"| two against one | {ratio_text(ratios)} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="images in a round, as a multiple of the usual number")
    parser.add_argument("--threads", type=int, help="of each program; torch's choice without")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmark.jsonl")
    parser.add_argument(
        "--overrides", nargs="+", default=[], help="for gan_lab and tight, such as accelerator.precision=bf16"
    )
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]}: no such part; {', '.join(PARTS)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gan_lab-benchmark-") as folder_name, options.out.open("a") as file:
        work = Path(folder_name)
        content = write_fashion_mnist(work / "data")

        def out(result: dict[str, Any]) -> None:
            file.write(json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S"), "data": content, **result}) + "\n")
            file.flush()

        print(f"{content}; {os.cpu_count()} CPUs", file=sys.stderr)
        for part in options.parts or PARTS:
            lines = globals()[part](options, out, work, work / "data")
            print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
