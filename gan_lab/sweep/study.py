"""The ledger of a search: an Optuna study whose sampler chooses the trials and whose pruner ends the poor ones.

All trials are queued in the study when it is made, so a search has exactly as many as were asked for, whatever happens
to its workers. A worker claims one (waiting -> running, which the storage grants once) and only then lets the sampler
choose, with a seed of the trial's own: a search that was killed and continued suggests what a never stopped one would.

A trial whose worker has died is taken over. In the sweep's own directory that shows at once (nobody holds the lock on
the run's directory), and the run is resumed with the same parameters. On another machine, which shares only a database,
it shows by a beat that has stopped; the trial is then closed as "replaced" and queued again with the same parameters.
Every queued trial carries the number of its run (user attribute `run`), which stays when it is replaced.
"""

import copy
import fcntl
import logging
import math
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from gan_lab.errors import ConfigError
from gan_lab.objectives import Direction
from gan_lab.sweep.space import Parameter, overrides_of, value_of
from gan_lab.sweep.storage import close_storage, first_line, open_storage, storage_errors
from gan_lab.sweep.suggest import Suggester, build, need_optuna, quiet
from gan_lab.sweep.trials import Outcome, Trial, read_trial, take_claim

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SECONDS_UNTIL_QUEUED = 3.0
"""How long another command that has made the study is given to queue its trials, before this one does it."""
SECONDS_OF_PATIENCE = 300.0
"""How long a storage may be out of reach before that is an error."""


@dataclass
class _Held:
    """A trial that this process runs."""

    number: int  # of the study; that of the run may be another
    trial_id: int
    claim: IO[str]
    is_over: bool = False  # pruned, or taken over by another machine
    beaten: float = field(default_factory=time.monotonic)


class _Noting:
    """A storage to read from, which keeps what a pruner writes."""

    def __init__(self, storage: Any):
        self._storage = storage
        self.written: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.written[key] = value


class Study:
    """`gan_lab.sweep.trials.Trials` of a search; one object per process, any number of processes.

    sampler, pruner: a component (keys with _target_), None for no pruning. storage: the URL of a database that several
    machines share; None keeps a journal in the sweep's directory. budget_images: of a whole run, for pruners that want
    it. stale_seconds: how long a beat may stop before the trial of another machine counts as dead.
    """

    def __init__(
        self,
        *,
        sweep_dir: Path,
        parameters: Sequence[Parameter],
        objectives: Mapping[str, Direction],
        num_trials: int,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any] | None,
        storage: str | None,
        study_name: str,
        seed: int,
        budget_images: int,
        stale_seconds: float = 120.0,
    ):
        need_optuna()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if not objectives:
            raise ConfigError("hydra/sweeper=optuna needs an objective: objective=fd, or hydra.sweeper.objectives")
        self.sweep_dir = sweep_dir
        self.parameters = list(parameters)
        self.objectives = dict(objectives)
        self.seed = seed
        self.stale_seconds = stale_seconds
        self._is_embedded = storage is None
        self._suggester = Suggester(parameters, sampler, seed, len(objectives))
        self._combinations = self._suggester.combinations
        self.num_trials = num_trials if self._combinations is None else min(num_trials, len(self._combinations))
        self._pruner = optuna.pruners.NopPruner()
        if pruner is not None and len(objectives) == 1:
            with quiet():
                self._pruner = build(pruner, "hydra.sweeper.pruner", {"budget_images": budget_images})
        self._held: dict[int, _Held] = {}
        self._beats: dict[int, tuple[Any, float]] = {}  # of others' trials: the last one, and when it was first seen
        self._missing: tuple[int, float] | None = None  # how many trials are not queued yet, and since when

        with self._locked() as file:
            file.seek(0)
            self._directory = file.read()  # tells this sweep's directory from others that share a database with it
            if not self._directory:
                self._directory = uuid.uuid4().hex
                file.write(self._directory)
            self._storage = open_storage(self.sweep_dir, storage)
            self.name = study_name
            is_new = self._patiently(self._create)
            self.study = self._patiently(self._loaded)
            self._check_is_the_same()
            self._patiently(lambda: self._heads(at_once=is_new or self._is_embedded))

    # ------------------------------------------------------------------ what workers call

    def claim(self) -> Trial | None:
        with self._locked():  # one suggestion at a time: each knows what the others have chosen
            return self._patiently(self._claim)

    def waiting(self) -> bool:
        heads = self._patiently(self._heads)
        free = [run for run, one in heads.items() if run not in self._held and not one.state.is_finished()]
        return bool(free) or len(heads) < self.num_trials

    def report(self, trial: Trial, images_seen: int, values: Mapping[str, float]) -> bool:
        """False ends the trial. A value that is no number is left out; several objectives cannot be pruned by."""
        held = self._held[trial.number]
        value = values.get(next(iter(self.objectives)))
        if len(self.objectives) == 1 and value is not None and math.isfinite(value) and not held.is_over:
            self._patiently(lambda: self._judge(held, images_seen, value))
        return not held.is_over

    def beat(self, trial: Trial) -> None:
        """Only a database needs it; writes at most every 15 seconds, however often it is called."""
        held = self._held.get(trial.number)
        interval = min(15.0, self.stale_seconds / 8)
        if self._is_embedded or held is None or time.monotonic() - held.beaten < interval:
            return
        held.beaten = time.monotonic()
        try:
            with _if_ours(held):
                self._storage.set_trial_user_attr(held.trial_id, "beat", time.time())
        except storage_errors() as error:
            log.debug(f"no beat: {error}")

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        held = self._held[trial.number]
        self._patiently(lambda: self._tell(held, judged(outcome, self.objectives)))
        self.release(trial)

    def release(self, trial: Trial) -> None:
        self._held.pop(trial.number).claim.close()

    # ------------------------------------------------------------------ results

    def counts(self) -> dict[str, int]:
        """How many trials are finished, pruned, failed, running and waiting; together num_trials."""
        names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        found = [names.get(one.state.name, "waiting") for one in self._patiently(self._heads).values()]
        result = {name: found.count(name) for name in (*names.values(), "waiting")}
        return result | {"waiting": result["waiting"] + self.num_trials - len(found)}

    def best(self) -> list[int]:
        """The number of the best finished trial; of several objectives, all that no other beats in every one."""
        numbers = sorted(one.user_attrs["run"] for one in self.study.best_trials if "run" in one.user_attrs)
        return numbers[:1] if len(self.objectives) == 1 else numbers

    def standing(self) -> str:
        """The study on all machines, for people: how its trials ended, and where the best ones are."""
        parts = [", ".join(f"{number} {name}" for name, number in self.counts().items() if number)]
        heads = self._patiently(self._heads)
        for run in self.best():
            one = heads[run]
            worker = one.user_attrs.get("worker", {})
            values = ", ".join(f"{name} {value:.5g}" for name, value in zip(self.objectives, one.values, strict=True))
            overrides = " ".join(overrides_of(self.parameters, one.params))
            parts.append(f"best: {worker.get('host')}:{worker.get('directory')}/{run}: {values} ({overrides})")
        return "; ".join(parts)

    def close(self) -> None:
        for held in self._held.values():
            held.claim.close()
        self._held.clear()
        close_storage(self._storage)

    # ------------------------------------------------------------------ the study

    def _create(self) -> bool:
        """Makes the study unless it is there; whether this has made it."""
        import optuna

        directions = list(self.objectives.values())
        try:
            study = optuna.create_study(storage=self._storage, study_name=self.name, directions=directions)
        except optuna.exceptions.DuplicatedStudyError:
            return False
        with quiet():
            study.set_metric_names(list(self.objectives))
        study.set_user_attr("gan_lab", self._identity())
        return True

    def _identity(self) -> dict[str, Any]:
        space = [
            {**asdict(one), "values": one.values and list(one.values), "when": list(one.when)}
            for one in self.parameters
        ]
        return {"objectives": self.objectives, "space": space}

    def _check_is_the_same(self) -> None:
        """ConfigError where the study of this name searches something else."""
        study = self.study
        theirs = study.user_attrs.get("gan_lab")
        if theirs is None:  # another command has made it just now, or was killed in between
            if [one.name.lower() for one in study.directions] == list(self.objectives.values()):
                study.set_user_attr("gan_lab", self._identity())
                return
            theirs = {}
        for what in ("objectives", "space"):
            if theirs.get(what) != self._identity()[what]:
                raise ConfigError(
                    f"hydra.sweeper.study_name={self.name}: there is a study of this name with another {what}; choose "
                    f"another name, or say the same ({theirs.get(what)})"
                )

    def _loaded(self, sampler: Any = None) -> "optuna.Study":
        import optuna

        return optuna.load_study(
            study_name=self.name,
            storage=self._storage,
            sampler=sampler or optuna.samplers.RandomSampler(),
            pruner=self._pruner,
        )

    def _heads(self, at_once: bool | None = None) -> dict[int, "optuna.trial.FrozenTrial"]:
        """The trial of each run that counts, by the run's number; queues those that are missing.

        Two commands that start at once may both queue a run: the trial with the lowest number counts, so all agree
        without speaking to each other. A replaced trial is followed by the first one queued in its place.
        """
        at_once = self._is_embedded if at_once is None else at_once
        queued: dict[tuple[int, int | None], optuna.trial.FrozenTrial] = {}
        trials = self.study.get_trials(deepcopy=False)
        for one in trials:
            if "run" in one.user_attrs:
                queued.setdefault((one.user_attrs["run"], one.user_attrs.get("replaces")), one)
        heads: dict[int, optuna.trial.FrozenTrial] = {}
        for (run, replaces), one in queued.items():
            if replaces is None:
                while _is_replaced(one) and (run, one.number) in queued:
                    one = queued[run, one.number]
                heads[run] = one
        self.num_trials = max(self.num_trials, 1 + max(heads, default=-1))
        missing = [run for run in range(self.num_trials) if run not in heads or _is_replaced(heads[run])]
        if not missing:
            self._missing = None
        elif at_once or self._are_missing_for_long(len(missing)):
            for run in missing:
                self._queue(run, heads.get(run))
            return self._heads(at_once)
        counted = {one.number for one in heads.values()}
        for one in trials:
            if one.state.name == "WAITING" and "run" in one.user_attrs and one.number not in counted:
                self._fail(one, "surplus", "two commands queued this run at the same time")
        return {run: heads[run] for run in sorted(heads) if run not in missing}

    def _are_missing_for_long(self, num_missing: int) -> bool:
        """Whether nobody has queued any of the missing trials for a while."""
        now = time.monotonic()
        if self._missing is None or self._missing[0] != num_missing:
            self._missing = (num_missing, now)
        return now - self._missing[1] > SECONDS_UNTIL_QUEUED

    def _queue(self, run: int, replaced: "optuna.trial.FrozenTrial | None") -> None:
        fixed: dict[str, Any] = {}
        attributes: dict[str, Any] = {"run": run}
        if replaced is not None:
            fixed, attributes["replaces"] = replaced.params, replaced.number
        elif self._combinations is not None:
            fixed = self._combinations[run]
        self.study.enqueue_trial(fixed, user_attrs=attributes)

    def _fail(self, trial: "optuna.trial.FrozenTrial", kind: str, reason: str) -> bool:
        """Closes a trial that does not count; whether it was this process that did."""
        import optuna

        try:
            self._storage.set_trial_user_attr(trial._trial_id, "kind", kind)
            self._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            return self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    # ------------------------------------------------------------------ claiming

    def _claim(self) -> Trial | None:
        heads = self._heads()
        for run, one in heads.items():
            if one.state.name == "RUNNING" and run not in self._held:
                if self._is_in_this_directory(one):
                    if claim := self._taken(run, one, "RUNNING"):
                        return self._begin(run, one, claim)
                elif self._is_stale(one) and self._fail(one, "replaced", f"no beat for {self.stale_seconds:g} seconds"):
                    host = one.user_attrs.get("worker", {}).get("host", "another machine")
                    log.warning(f"run {run}: its worker on {host} is gone; it is started again")
                    self._queue(run, one)
                    return self._claim()
        for run, one in heads.items():
            if one.state.name == "WAITING" and (claim := self._taken(run, one, "WAITING")):
                return self._begin(run, one, claim)
        return None

    def _is_in_this_directory(self, trial: "optuna.trial.FrozenTrial") -> bool:
        return self._is_embedded or trial.user_attrs.get("worker", {}).get("id") == self._directory

    def _is_stale(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether its beat has stood still for long, by our clock."""
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        seen = self._beats.get(trial.number)
        if seen is None or seen[0] != beat:
            self._beats[trial.number] = seen = (beat, now)
        return now - seen[1] > self.stale_seconds

    def _taken(self, run: int, trial: "optuna.trial.FrozenTrial", state: str) -> IO[str] | None:
        """The lock on the run's directory, if its trial is ours from now on.

        An orphan whose trial.json says how it ended needs no worker any more: that is told to the study.
        """
        import optuna

        run_dir = self.sweep_dir / str(run)
        is_new = not run_dir.exists()
        claim = take_claim(run_dir)
        if claim is None:
            return None
        current = self._storage.get_trial(trial._trial_id)
        ours = current.state.name == state
        if ours and state == "WAITING":
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                ours = self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
        elif ours and (content := read_trial(run_dir)) is not None and content["status"] != "running":
            outcome = Outcome(content["status"], content["values"], content["kind"], content["reason"])
            self._tell(_Held(trial.number, trial._trial_id, claim), judged(outcome, self.objectives))
            ours = False
        if ours:
            return claim
        claim.close()
        if is_new:
            with suppress(OSError):
                (run_dir / ".claim").unlink()
                run_dir.rmdir()
        return None

    def _begin(self, run: int, trial: "optuna.trial.FrozenTrial", claim: IO[str]) -> Trial:
        """The trial with its parameters: those it had, or new ones of the sampler."""
        import optuna

        worker = {"host": socket.gethostname(), "directory": str(self.sweep_dir.resolve()), "id": self._directory}
        self._storage.set_trial_user_attr(trial._trial_id, "worker", worker)
        with quiet():
            mine = optuna.Trial(self._loaded(self._suggester.sampler(run)), trial._trial_id)
            chosen = self._suggester.suggest(mine, run)
        held = self._held[run] = _Held(trial.number, trial._trial_id, claim)
        if verdict := trial.user_attrs.get("verdict"):
            self._carry_out(held, verdict)
        params = {key: value_of(value) if isinstance(value, str) else value for key, value in chosen.items()}
        return Trial(run, overrides_of(self.parameters, chosen), params)

    # ------------------------------------------------------------------ telling

    def _judge(self, held: _Held, step: int, value: float) -> None:
        """Reports a value and asks the pruner, as one: a worker killed in between has either done nothing or all."""
        import optuna

        trial = copy.copy(self._storage.get_trial(held.trial_id))
        if step in trial.intermediate_values:
            return
        trial.intermediate_values = {**trial.intermediate_values, step: value}
        noting: Any = _Noting(self._storage)
        study = optuna.load_study(study_name=self.name, storage=noting, pruner=self._pruner)
        is_over = bool(self._pruner.prune(study, trial))
        verdict = {"step": int(step), "value": float(value), "is_over": is_over, "notes": noting.written}
        with _if_ours(held):
            self._storage.set_trial_user_attr(held.trial_id, "verdict", verdict)
            self._carry_out(held, verdict)

    def _carry_out(self, held: _Held, verdict: Mapping[str, Any]) -> None:
        """Writes what a verdict says where Optuna looks for it; may be done twice."""
        held.is_over = held.is_over or verdict["is_over"]
        with _if_ours(held):
            for key, note in verdict["notes"].items():
                self._storage.set_trial_system_attr(held.trial_id, key, note)
            self._storage.set_trial_intermediate_value(held.trial_id, verdict["step"], verdict["value"])

    def _tell(self, held: _Held, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        values = [outcome.values[name] for name in self.objectives] if outcome.status == "finished" else None
        with _if_ours(held):
            if outcome.status == "failed":
                self._storage.set_trial_user_attr(held.trial_id, "kind", outcome.kind)
                self._storage.set_trial_user_attr(held.trial_id, "reason", outcome.reason)
            self.study.tell(held.number, values, state=states[outcome.status], skip_if_finished=True)

    # ------------------------------------------------------------------ storage

    @contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        """The lock of the sweep's directory, for the workers that share it."""
        self.sweep_dir.mkdir(parents=True, exist_ok=True)
        with (self.sweep_dir / ".study").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _patiently(self, action: Callable[[], Answer]) -> Answer:
        """What `action` returns, tried again while the storage is busy or out of reach; all we do bears repeating."""
        started = time.monotonic()
        pause = 0.1
        while True:
            try:
                return action()
            except storage_errors() as error:
                left = SECONDS_OF_PATIENCE - (time.monotonic() - started)
                if left < 0:
                    raise
                log.warning(f"the study's storage is out of reach: {first_line(error)}; tried again")
                time.sleep(min(pause, left))
                pause = min(2 * pause, 10.0)


def judged(outcome: Outcome, objectives: Mapping[str, str]) -> Outcome:
    """The outcome itself; one that is finished without a number for each objective has diverged."""
    wrong = [name for name in objectives if not math.isfinite(outcome.values.get(name, math.nan))]
    if outcome.status != "finished" or not wrong:
        return outcome
    reasons = [f"objective {name} is {outcome.values.get(name, 'missing')}" for name in wrong]
    return Outcome("failed", {}, "diverged", " and ".join(reasons))


# ---------------------------------------------------------------------- small things


def _is_replaced(trial: "optuna.trial.FrozenTrial") -> bool:
    return trial.state.name == "FAIL" and trial.user_attrs.get("kind") == "replaced"


@contextmanager
def _if_ours(held: _Held) -> Iterator[None]:
    """For what is written to a trial; nothing is, and the trial is over, once another machine has taken it over."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError:
        held.is_over = True
        log.warning("another machine has taken this run over: this worker did not show for too long")
