"""Messages to the terminal (standard error) and to run.log in the run directory."""

import logging
import sys
import warnings
from pathlib import Path


def configure_logging(run_dir: Path | None, quiet: bool = False, terminal: bool = True) -> None:
    """Plain sentences on the terminal (warnings only if `quiet`), with time and source in run.log."""
    handlers: list[logging.Handler] = []
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[0].setFormatter(logging.Formatter("%(message)s"))
        handlers[0].setLevel(logging.WARNING if quiet else logging.INFO)
    if run_dir is not None and not quiet:
        run_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(run_dir / "run.log", delay=True))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)


def quieten_lightning() -> None:
    """Leaves out what Lightning says at every start: the hardware it sees, tips, and one deprecation inside itself."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        for logger in (name, f"{name}.utilities.rank_zero"):
            logging.getLogger(logger).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
