"""The two errors a user may cause, whose text the command line prints without a traceback; and what else ends a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ConfigError(ValueError):
    """The configuration is wrong: every problem found, one sentence each (exit code 2)."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self):  # survives the way back from a worker process
        return type(self), (self.problems,), self.__dict__


class RunError(RuntimeError):
    """The run cannot go on: what happened, where, and what to do about it (exit code 1)."""


class Interrupted(KeyboardInterrupt):
    """A run or a sweep was asked to stop by a signal, and its state is saved (exit code 128 + the signal)."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def debugging(is_asked_for: bool) -> Iterator[None]:
    """Errors inside are marked for the command line to show their traceback, where the configuration asks for it."""
    try:
        yield
    except Exception as error:
        error.debug = is_asked_for  # type: ignore[attr-defined]
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or this process, had no memory left."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


OUT_OF_MEMORY = "the device ran out of memory; lower batch_size or model.width, or raise optimizer.accumulate"


def unexpected(error: BaseException) -> str:
    """An error that is nobody's mistake but the program's, in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first}"
