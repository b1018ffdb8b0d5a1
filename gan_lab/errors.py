"""The two errors a user may cause; the command line prints their text without a traceback."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """The configuration is wrong: every problem found, one sentence each (exit code 2)."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self):  # survives the way back from a worker process
        return type(self), (self.problems,), self.__dict__


class RunError(RuntimeError):
    """The run cannot go on: what happened, where, and what to do about it (exit code 1)."""
