"""The command line: verbs to functions. Heavy imports wait until a verb needs them."""

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from gan_lab.errors import OUT_OF_MEMORY, ConfigError, RunError, debugging, is_out_of_memory, unexpected

VERBS = ("train", "resume", "sample", "evaluate", "report", "reproduce")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a verb and exits: 0 done, 2 wrong configuration, 1 failed while running, 128 + signal if stopped by one."""
    arguments = [*map(_spelt_as_hydra_does, sys.argv[1:] if arguments is None else arguments)]
    sys.exit(_reporting(lambda: _dispatch(arguments), debug="debug=true" in arguments))


def _spelt_as_hydra_does(argument: str) -> str:
    """debug=yes, debug=True and all else that YAML takes as debug=true; other arguments as they are."""
    if not argument.startswith("debug="):
        return argument
    from yaml import SafeLoader

    value = SafeLoader.bool_values.get(argument.removeprefix("debug=").lower())
    return argument if value is None else f"debug={str(value).lower()}"


def _dispatch(arguments: list[str]) -> None:
    from gan_lab import helptext

    if any(argument in ("-sc", "--shell-completion", "--shell_completion") for argument in arguments[:2]):
        _complete(arguments)
        return
    verb = arguments[0] if arguments else "--help"
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    if verb == "--version":
        from gan_lab import __version__

        print(f"gan_lab {__version__}")
    elif verb in ("-h", "--help", "help"):
        print(helptext.overview())
    elif verb not in VERBS:
        from gan_lab.names import nearest

        raise ConfigError(f"{verb}: unknown verb; {nearest(verb, VERBS)} (gan-lab --help)")
    elif wants_help:
        print(helptext.train(_flags(arguments)[0].config_dir) if verb == "train" else getattr(helptext, verb)())
    else:
        actions = {
            "train": _train,
            "resume": _resume,
            "sample": _sample,
            "evaluate": _evaluate,
            "report": _report_runs,
            "reproduce": _reproduce,
        }
        given = arguments[1:]
        if verb not in ("train", "resume"):  # whose configuration has the key
            given = [text for text in given if text not in ("debug=true", "debug=false")]
        _reach_working_directory()
        actions[verb](given)


def _reach_working_directory() -> None:
    """Lets `_target_` name modules in the working directory, as with python -m; what is installed is found first."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def _reporting(action: Callable[[], None], debug: bool) -> int:
    """Does `action`; says in one message what went wrong, if anything did, and returns the exit code."""
    try:
        action()
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        return 128 + getattr(stop, "signal_number", 2)
    except Exception as error:
        if debug or getattr(error, "debug", False):
            traceback.print_exc()
        return _report(error)


def _report(error: Exception) -> int:
    """Prints what went wrong and returns the exit code."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf", "antlr4"):
        causes = [str(error), str(error.__cause__ or "")]
        text = " ".join(line.strip() for cause in causes for line in cause.splitlines() if "full_key:" not in line)
        print(f"error: {text.strip()}", file=sys.stderr)
        return 2
    if type(error).__module__.split(".")[0] == "yaml":
        mark = getattr(error, "problem_mark", None)
        where = "a YAML file" if mark is None else f"{mark.name}, line {mark.line + 1}"
        print(f"error: {where}: {getattr(error, 'problem', error)}", file=sys.stderr)
        return 2
    if isinstance(error, RunError):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, OSError):
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
    elif is_out_of_memory(error):
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
    else:
        print(f"error: {unexpected(error)} (debug=true shows where)", file=sys.stderr)
    return 1


# ---------------------------------------------------------------------- train


def _flags(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's flags and the overrides of `train`, and what is neither."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_known_intermixed_args(arguments)


def _train(arguments: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException

    from gan_lab.compose import checked_overrides, conf_dir, register_resolvers

    options, unknown = _flags(arguments)
    if unknown:
        raise ConfigError([f"{flag}: unknown flag; gan-lab train --help lists them" for flag in unknown])
    only_shows = options.cfg or options.info or options.hydra_help
    register_resolvers(make=not only_shows)
    overrides = list(options.overrides)
    for override in overrides:
        key, _, place = override.partition("=")
        if key == "hydra.run.dir" and not only_shows and Path(place, "run.json").exists():
            raise ConfigError(  # before Hydra writes its own files there
                f"{override} already holds a run; continue it with `gan-lab resume run={place}`, "
                "or choose another directory"
            )
    if options.multirun and only_shows:
        checked = overrides
    elif options.multirun:
        from gan_lab.sweep.plan import representative_choices
        from gan_lab.sweep.sweeper import unfinished

        checked = checked_overrides(overrides, options.config_dir, representative_choices)
        is_named = any(text.startswith("hydra.sweep.dir=") for text in checked)
        sweep_dir = None if is_named else unfinished(checked, options.config_dir)
        if sweep_dir is not None:
            print(f"going on with {sweep_dir} (another sweep: hydra.sweep.dir=DIR)", file=sys.stderr)
            checked.append(f"hydra.sweep.dir={sweep_dir}")
    else:
        checked = checked_overrides(overrides, options.config_dir, only_shows=bool(only_shows))
    flags = _without(arguments, options.overrides)
    sys.argv = [sys.argv[0], *flags, *checked]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to _reporting as they are
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_task)()
    except _Failed as failed:
        raise failed.error from None
    except (BrokenPipeError, HydraException):  # of which one is an OSError, too: a file of the configuration is missing
        raise
    except OSError as error:
        place = error.filename or "the run"
        key = "hydra.sweep.dir" if options.multirun else "hydra.run.dir"
        raise RunError(f"cannot write {place}: {error.strerror or error}; choose another place: {key}=DIR") from error


class _Failed(BaseException):
    """A failed run on its way past Hydra, which would print a line of its own about it."""

    def __init__(self, error: Exception):
        self.error = error


def _without(arguments: list[str], overrides: list[str]) -> list[str]:
    """The flags among the arguments: all that is not an override, in order."""
    left = list(overrides)
    flags = []
    for argument in arguments:
        if argument in left:
            left.remove(argument)
        else:
            flags.append(argument)
    return flags


def _task(cfg):  # Hydra reads the signature of its task function
    """One run, in the directory Hydra made for it; or a worker of a sweep, which makes its runs itself."""
    from hydra.core.hydra_config import HydraConfig

    _reach_working_directory()  # a worker's process may have been started by others
    if "GAN_LAB_LAUNCHER" in os.environ:
        from gan_lab.sweep.worker import work_in

        work_in(Path(HydraConfig.get().sweep.dir))
        return

    from gan_lab.run import train

    run_dir = _short(Path(HydraConfig.get().runtime.output_dir))
    try:
        with debugging(cfg.get("debug", False)):
            train(cfg, run_dir)
    except Exception as error:
        raise _Failed(error) from error
    print(f"run: {run_dir}", flush=True)


def _short(path: Path) -> Path:
    """Relative to the working directory where the path lies below it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


# ---------------------------------------------------------------------- resume, sample, evaluate


def _split(arguments: list[str], known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The verb's own key=value arguments, and the other ones."""
    own, others = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in known:
            own[key] = value
        else:
            others.append(argument)
    return own, others


def _without_config_dir(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The directory of --config-dir, None without one, and the other arguments."""
    parser = argparse.ArgumentParser(prog="gan-lab", add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", metavar="DIR")
    options, others = parser.parse_known_args(arguments)
    return options.config_dir, others


def _resume(arguments: list[str]) -> None:
    own, overrides = _split(arguments, ("run", "sweep", "retry_failed"))
    if "sweep" in own:
        if "run" in own:
            raise ConfigError(f"run={own['run']} and sweep={own['sweep']}: give one of them")
        _resume_sweep(own, overrides)
        return
    if "run" not in own:
        raise ConfigError("run must be given: gan-lab resume run=DIR, or run=latest (a sweep: sweep=DIR)")
    if "retry_failed" in own:
        raise ConfigError(
            f"retry_failed={own['retry_failed']}: a run has no such key, a sweep has: gan-lab resume sweep=DIR "
            "retry_failed=true"
        )
    from gan_lab.compose import changed_config, register_resolvers
    from gan_lab.record import find_run

    register_resolvers()
    run_dir = find_run(own["run"])
    config_dir, overrides = _without_config_dir(overrides)
    cfg = changed_config(run_dir, overrides, config_dir)

    from gan_lab.logs import configure_logging
    from gan_lab.run import resume

    configure_logging(run_dir)
    with debugging(cfg.get("debug", False)):
        resume(run_dir, cfg)
    print(f"run: {_short(run_dir)}", flush=True)


def _resume_sweep(own: dict[str, str], overrides: list[str]) -> None:
    """Goes on with a sweep; overrides may only say where and how long it runs (hydra/launcher, hydra.sweeper.*)."""
    from gan_lab.compose import checked_arguments
    from gan_lab.record import find_sweep
    from gan_lab.sweep.sweeper import ResumeSweep, to_resume

    request = checked_arguments([f"{key}={value}" for key, value in own.items()], ResumeSweep)
    sweep_dir = find_sweep(request.sweep)
    flags, kept = to_resume(sweep_dir, request.retry_failed)
    _train(["-m", *flags, *kept, *overrides, f"hydra.sweep.dir={sweep_dir}"])


def _sample(arguments: list[str]) -> None:
    from gan_lab.compose import checked_arguments
    from gan_lab.sample import Sampling, sample

    print(f"samples: {sample(checked_arguments(arguments, Sampling))}", flush=True)


def _evaluate(arguments: list[str]) -> None:
    from dataclasses import fields

    from gan_lab.compose import checked_arguments
    from gan_lab.evaluate import Evaluation, evaluate

    config_dir, arguments = _without_config_dir(arguments)
    own, overrides = _split(arguments, [field.name for field in fields(Evaluation)])
    request = checked_arguments([f"{key}={value}" for key, value in own.items()], Evaluation)
    path = evaluate(request, overrides, config_dir)
    if path is not None:
        print(f"evaluation: {_short(path)}", flush=True)


def _report_runs(arguments: list[str]) -> None:
    from gan_lab.compose import checked_arguments
    from gan_lab.report import Report, report

    request = checked_arguments(arguments, Report)
    for path in report([Path(name) for name in request.runs], None if request.out is None else Path(request.out)):
        print(f"report: {_short(path)}", flush=True)


def _reproduce(arguments: list[str]) -> None:
    from gan_lab.compose import checked_arguments
    from gan_lab.reproduce import Reproduction, reproduce

    print(f"run: {_short(reproduce(checked_arguments(arguments, Reproduction)))}", flush=True)


# ---------------------------------------------------------------------- completion


def _complete(arguments: list[str]) -> None:
    """Hydra's shell completion, of verbs first and of the overrides behind `train` or `resume`."""
    from hydra._internal.core_plugins import bash_completion  # noqa: F401  # found by Hydra's plugin scan

    from gan_lab.compose import register_resolvers

    query = next((argument for argument in arguments if argument.startswith("query=")), None)
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if query is not None and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        typed = words[1] if len(words) == 2 else ""
        print(" ".join(verb for verb in VERBS if verb.startswith(typed)))
        return
    if query is not None:
        # What Hydra completes is a line of overrides of the configuration: without the verb and what only resume takes.
        os.environ["COMP_LINE"] = re.sub(r"\srun=\S*(?=\s)", "", re.sub(r"^(\s*\S+)\s+\S+", r"\1", line, count=1))
    register_resolvers()
    import hydra

    from gan_lab.compose import conf_dir

    sys.argv = [sys.argv[0], *[argument for argument in arguments if argument not in VERBS]]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_task)()
