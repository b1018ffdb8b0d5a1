"""Where the time of a training step goes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import NonNegativeInt, PositiveInt
from gan_lab.files import replacing

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)

OUTSIDE = "data and Trainer"
CALLBACKS = "callbacks: metrics, pictures, evaluation, checkpoints"
REST = "rest of the step"


class Stopwatch:
    """Seconds by name; what a timed call spends inside another timed call counts for the inner one alone."""

    def __init__(self, wait: Callable[[], None]):
        self.wait = wait  # for the device, whose work would otherwise be counted later
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0

    def switch(self, name: str | None) -> None:
        """Books the time since the last switch on the name on top; then `name` is on top, None takes the top away."""
        self.wait()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now
        if name is None:
            self._stack.pop()
        else:
            self._stack.append(name)

    def timed(self, name: str | Callable[[], str], call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its time booked on `name`."""

        def timed_call(*arguments: Any, **keywords: Any) -> Any:
            self.switch(name if isinstance(name, str) else name())
            try:
                return call(*arguments, **keywords)
            finally:
                self.switch(None)

        return timed_call


class Profile(Callback):
    """Measures `num_cycles` cycles after the first `skip`, and as many again with torch's profiler.

    Writes profile/summary.txt (each part's share of a cycle, then the operators that take most) and profile/trace.json
    (every operator of the last cycles, for ui.perfetto.dev or chrome://tracing), and logs the shares. Training is not
    changed, only slowed while it is measured: on a GPU by waiting for it at every part. In one cycle of each
    `gan_lab.run.CYCLES_AT_ONCE` what the data take counts as the rest of the step.
    """

    def __init__(self, *, skip: NonNegativeInt = 20, num_cycles: PositiveInt = 50, num_operators: PositiveInt = 15):
        self.skip = skip
        self.num_cycles = num_cycles
        self.num_operators = num_operators
        self._cycles = 0
        self._summary = ""
        self._watch: Stopwatch | None = None
        self._profiler: torch.profiler.profile | None = None
        self._untimed: list[tuple[Any, str, Any]] = []

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero:
            return
        self._cycles += 1
        done = self._cycles - self.skip
        if self._watch is not None:
            self._watch.switch(None)
            self._watch.switch(OUTSIDE)
        if done == 0:
            self._start(gan)
        elif done == self.num_cycles:
            self._stop()
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would chat on stderr
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gan.device.type == "cuda" else [])]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif done == 2 * self.num_cycles:
            self._write(Path(trainer.default_root_dir, "profile"), gan)

    def _start(self, gan: GAN) -> None:
        """Puts a stopwatch around everything that a cycle calls."""
        wait = torch.cuda.synchronize if gan.device.type == "cuda" else lambda: None
        self._watch = watch = Stopwatch(wait)

        def time_attribute(owner: Any, attribute: str, name: str | Callable[[], str]) -> None:
            self._untimed.append((owner, attribute, owner.__dict__.get(attribute)))
            setattr(owner, attribute, watch.timed(name, getattr(owner, attribute)))

        def fakes() -> str:
            return "G: fakes" if torch.is_grad_enabled() else "D: fakes"

        self._untimed.append((gan, "calls", gan.calls))
        gan.calls = gan.calls._replace(
            generate=watch.timed(fakes, gan.calls.generate),
            judge=watch.timed("D: logits", gan.calls.judge),
            judge_frozen=watch.timed("G: logits", gan.calls.judge_frozen),
        )
        time_attribute(gan, "training_step", REST)
        time_attribute(gan, "penalty", "D: penalties")
        time_attribute(gan, "draw_latents", "noise")
        time_attribute(gan, "record", "records")
        time_attribute(gan.average, "update", "averaged generator")
        for letter, player in (("D", gan.discriminator_player), ("G", gan.generator_player)):
            time_attribute(player, "backward", f"{letter}: backward")
            time_attribute(player, "step", f"{letter}: optimizer")
        step = gan.training_step

        def then_callbacks(*arguments: Any) -> None:
            watch.switch(None)  # OUTSIDE ends here
            step(*arguments)
            watch.switch(CALLBACKS)

        gan.training_step = then_callbacks  # type: ignore[assignment,method-assign]
        watch.switch(OUTSIDE)

    def _stop(self) -> None:
        """Takes the stopwatch away."""
        assert self._watch is not None
        for owner, attribute, before in reversed(self._untimed):
            if before is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, before)
        seconds, self._watch = self._watch.seconds, None
        whole = sum(seconds.values())
        lines = [f"a cycle takes {1000 * whole / self.num_cycles:.2f} ms, mean of {self.num_cycles}:"]
        for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
            lines.append(f"  {value / whole:6.1%}  {1000 * value / self.num_cycles:9.3f} ms  {name}")
        self._summary = "\n".join(lines)
        log.info(self._summary)

    def _write(self, folder: Path, gan: GAN) -> None:
        assert self._profiler is not None
        self._profiler.stop()
        order = "self_cuda_time_total" if gan.device.type == "cuda" else "self_cpu_time_total"
        table = self._profiler.key_averages().table(sort_by=order, row_limit=self.num_operators)
        with replacing(folder / "summary.txt") as file:
            file.write(f"{self._summary}\n\n{table}\n".encode())
        self._profiler.export_chrome_trace(str(folder / "trace.json"))
        log.info(f"profile: {folder / 'summary.txt'}; every operator, for ui.perfetto.dev: {folder / 'trace.json'}")
        self._profiler = None

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        needed = self.skip + 2 * self.num_cycles
        if trainer.is_global_zero and self._cycles < needed:
            log.warning(
                f"no profile: the run ended after {self._cycles} cycles, callbacks.profile needs {needed}; raise "
                "budget.kimg, or lower callbacks.profile.skip or callbacks.profile.num_cycles"
            )
