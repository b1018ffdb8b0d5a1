"""What --help prints. Options describe themselves: the first line of each file under conf/ is its description."""

from pathlib import Path

from gan_lab.compose import conf_dir


def overview() -> str:
    return """\
gan-lab: train generative adversarial networks from the command line.

  gan-lab train [overrides]               train one GAN; with -m, one for each combination
  gan-lab resume run=DIR|latest [...]     go on with a stopped run (sweep=DIR: a sweep), or prolong a finished one
  gan-lab sample run=DIR|latest out=PATH  draw from a trained generator
  gan-lab evaluate run=DIR|latest [...]   score a trained generator, or images=PATH of any other program
  gan-lab report runs=DIR|latest          compare runs or a sweep in a page: what has won, and why
  gan-lab reproduce run=DIR|latest        train a run once more and say whether the numbers are the same

  gan-lab VERB --help                     options, keys and examples of a verb
  gan-lab --version

First: gan-lab train experiment=quickstart
Completion of verbs, options and keys: eval "$(gan-lab -sc install=bash)" (or zsh, fish)"""


def _described(folder: Path) -> list[tuple[str, str]]:
    """(option, description) of each file in a group's folder."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        lines = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
        found.append((path.stem, lines[0].lstrip("# ") if lines else ""))
    return found


def train(config_dir: str | None) -> str:
    """config_dir: of the user's own groups."""
    lines = [
        "gan-lab train [overrides] [flags]: train one GAN; with -m, one for each combination.",
        "",
        "Groups (group=option):",
    ]
    defaults = _defaults()
    folders = [conf_dir(), *([] if config_dir is None else [Path(config_dir)])]
    groups = sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()} - {"hydra"})
    groups.sort(key=lambda name: list(defaults).index(name) if name in defaults else len(defaults))
    for group in groups:
        lines.append(f"  {group}")
        for option, text in [item for folder in folders for item in _described(folder / group)]:
            mark = "*" if defaults.get(group) == option else " "
            lines.append(f"   {mark}{option:<16} {text}")
    lines += [
        "  (* is the default)",
        "",
        "Keys (key=value) that most runs set:",
        "  batch_size=64                     real images in one discriminator step",
        "  budget.kimg=1000                  thousands of real images to train on",
        "  budget.minutes=null               or minutes, whichever ends first",
        "  seed=0                            every random number depends on it",
        "  dataset.image_size=32             side in pixels; null: native",
        "  dataset.root=DIR                  where files lie or are downloaded to",
        "  model.width=64  model.depth=null  model.latent_dim=100",
        "  optimizer.lr=0.0002               both players; optimizer.generator.lr, optimizer.discriminator.lr: one",
        "  optimizer.schedule=constant       constant, linear, cosine",
        "  loss.num_discriminator_steps=1    loss.penalty.weight=10 (wgan_gp)",
        "  ema.half_life_kimg=10             averaging of the generator; 0: none",
        "  evaluation.every_kimg=null        how often samples are scored, evaluation.num_samples=10000 of them",
        "  callbacks.health.action=warn      when training goes wrong: warn, stop, roll_back",
        "  hydra.run.dir=DIR                 where the run is written (default: outputs/<date>/<time>-<name>)",
        "  debug=true                        errors show their traceback",
        "All keys of a choice: gan-lab train model=dcgan --cfg job",
        "",
        "Sweeps (with -m):",
        "  hydra/launcher=basic              where: basic (in turn), joblib, ray, submitit_local, submitit_slurm",
        "  hydra/sweeper=optuna              search: optimizer.lr=tag(log,interval(1e-5,1e-2))",
        "  hydra.sweeper.n_jobs=2            runs at a time; a search has num_trials beside it (conf/hydra/sweeper/)",
        "  hydra.sweep.dir=DIR               where the sweep is written; given again, the sweep goes on",
        "",
        "Flags:",
        "  -m, --multirun                    a sweep: -m loss=vanilla,hinge seed=1,2,3",
        "  -c, --cfg job|hydra|all           print the configuration and stop (--resolve: interpolations filled in)",
        "  -cd, --config-dir DIR             a folder of your own groups and experiments beside the shipped ones",
        "  --info searchpath|plugins|...     about Hydra; --hydra-help: its own help",
        "",
        "Examples:",
        "  gan-lab train experiment=quickstart",
        "  gan-lab train model=dcgan dataset=fashion_mnist loss=wgan_gp budget.minutes=20",
        "  gan-lab train -m loss=vanilla,wgan_gp seed=1,2,3 hydra/launcher=joblib",
        "  gan-lab train -m sweep=wgan_gp hydra/launcher=joblib",
        "  gan-lab train dataset=image_folder dataset.root=pictures dataset.image_size=64 model=dcgan",
    ]
    return "\n".join(lines)


def _defaults() -> dict[str, str]:
    """Group -> default option, in the order of conf/train.yaml."""
    import yaml

    entries = yaml.safe_load((conf_dir() / "train.yaml").read_text())["defaults"]
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}


def resume() -> str:
    return """\
gan-lab resume run=DIR|latest [overrides]: go on with a run, in its directory and with its log files.
gan-lab resume sweep=DIR|latest [retry_failed=true]: complete a sweep; what has ended is not run again.

  run=DIR             the run's directory; `latest` is the one in outputs/ that was started or resumed last
  any other override  changes the run's configuration from here on; shown as a diff and recorded in run.json
  sweep=DIR           the sweep's directory; `latest` is the one in outputs/sweeps/ that was started last
  retry_failed=true   runs of a grid that failed are tried again, from their last checkpoints
  hydra/...           of a sweep: another launcher, or other settings of it (hydra.sweeper.n_jobs=2)

What was interrupted, killed or crashed goes on from its last checkpoint as if it had never stopped.
A finished run is prolonged by a larger budget.

Examples:
  gan-lab resume run=latest
  gan-lab resume run=outputs/2026-01-31/12-00-00-quickstart budget.kimg=2000 optimizer.lr=0.0001
  gan-lab resume sweep=latest hydra/launcher=joblib"""


def sample() -> str:
    return """\
gan-lab sample run=DIR|latest out=PATH [key=value ...]: draw from a trained generator.

  run=DIR             the run's directory; `latest` is the one in outputs/ that was started or resumed last
  out=FILE.npz        array `images`: uint8 N x H x W x C (points: float32 N x 2)
  out=FILE.png        one picture: a grid (points: a scatter plot)
  out=DIR             one PNG for each sample
  num=64              how many
  seed=0              which; sample i of a seed is the same whatever num is
  weights=ema         ema (averaged) or raw, of the last checkpoint; best: what scored best (checkpoints/best.ckpt)
  columns=null        of the grid; null: about a square
  batch_size=256      memory against speed
  device=cpu          cpu or gpu
  label=3             of a generator that takes labels (or categories): a name, a number, a list, or all
  codes=[0.5,-1]      of experiment=infogan: the continuous codes
  interpolate=[0,1]   instead of num samples: the way from one seed's sample to the next, a row for each pair
  directions=5        instead: along the latent directions that change G most, a row for each
  strength=3.0        how far, to both sides
  steps=8             samples in each such row, both ends included; 1: the sample itself

Examples:
  gan-lab sample run=latest num=100 out=grid.png
  gan-lab sample run=latest num=10000 out=fakes.npz seed=1
  gan-lab sample run=latest interpolate=[0,1,2,3] steps=10 out=ways.png
  gan-lab sample run=latest label=all num=100 out=classes.png
  gan-lab sample run=latest directions=5 steps=9 out=directions.png"""


def evaluate() -> str:
    return """\
gan-lab evaluate run=DIR|latest [key=value ...]: score a trained generator.
gan-lab evaluate images=PATH dataset=NAME [key=value ...]: score images made by any other program.

  run=DIR             the run's directory; `latest` is the one in outputs/ that was started or resumed last
  images=PATH         a folder of pictures; or FILE.npz, FILE.npy: uint8 N x H x W x C (points: float N x 2)
  dataset=NAME        what images are compared with; dataset.split=test and other keys as in train
  weights=ema         of a run: ema (averaged) or raw, of the last checkpoint; best: what scored best (best.ckpt)
  num=10000           at most so many samples a side; half of the data set where that is less
  evaluation=full     which metrics (fast, full, inception); evaluation.metrics=[frechet,manifold] and other keys
  seed=null           of the latents; null: the run's, as in its own evaluations
  device=cpu          cpu or gpu
  out=FILE.json       where the result is written (run: DIR/evaluations/ by default)
  --config-dir DIR    a folder of your own groups; of a run, by default the one that it was started with

Each figure stands beside its floor: the score of as many other real samples.

Examples:
  gan-lab evaluate run=latest weights=best
  gan-lab evaluate run=latest num=2000 evaluation=fast
  gan-lab evaluate images=fakes.npz dataset=fashion_mnist"""


def report() -> str:
    return """\
gan-lab report runs=DIR|latest [out=DIR]: compare runs in a page that needs no network, in Markdown and in CSV.

  runs=DIR|latest     a run, a sweep, or a folder of runs; several: runs=[DIR,DIR]
  out=DIR             where report.html, report.md and the CSV are written (default: the sweep's own directory, or
                      outputs/reports/<date>_<time>)

Figures that were measured in different ways (metric cards) are never ranked together.

Examples:
  gan-lab report runs=outputs/sweeps/2026-01-31_12-00-00
  gan-lab report runs=[outputs/2026-01-31,outputs/sweeps] out=comparison"""


def reproduce() -> str:
    return """\
gan-lab reproduce run=DIR|latest [out=DIR]: train a run once more and say whether the numbers are the same.

  run=DIR             the run's directory; `latest` is the one in outputs/ that was started or resumed last
  out=DIR             where the repetition is written (default: a new directory in outputs/)

Compared are metrics.csv without wall times, the weights and the best score, to the last bit; where they differ, the
first difference is shown with what differs in versions, machine and threads. Exit code 0: the same; 1: not.

Examples:
  gan-lab reproduce run=latest
  gan-lab reproduce run=outputs/2026-01-31/12-00-00-quickstart"""
