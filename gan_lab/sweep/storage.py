"""Where a search keeps its study: study.journal in the sweep's directory, or a database that several machines share.

The journal is Optuna's own (any of its tools opens it), with a lock that the system takes back from a process that is
killed. Measured with six processes of which twelve were killed (kill -9) amid 60 trials of ten reports, on two busy
cores, three times: no result was lost or doubled, and no operation took longer than 0.6 s. With Optuna's locks, which
are files, a killed process holds up all others for 30 s and more; SQLite loses nothing either, if every transaction
takes the lock for writing at its start, but takes 15 times as long.
"""

import fcntl
import os
import random
import time
from pathlib import Path
from typing import IO, Any

from gan_lab.errors import ConfigError

JOURNAL = "study.journal"
ATTEMPTS = 5
SECONDS_UNTIL_LOCKED = 60.0
"""How long a process waits for another one's writing to an SQLite database."""


class JournalLock:
    """The lock of a journal for one who appends to it, in the form that Optuna wants; a torn last line is cut off."""

    def __init__(self, path: Path):
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("r+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = self._file.seek(0, os.SEEK_END)
        if end and not self._ends_a_line(end):  # its writer was killed, or the disk was full
            while end and not self._ends_a_line(end):
                end -= 1
            self._file.truncate(end)
        return True

    def _ends_a_line(self, end: int) -> bool:
        assert self._file is not None
        self._file.seek(end - 1)
        return self._file.read(1) == b"\n"

    def release(self) -> None:
        assert self._file is not None
        self._file.close()


def open_storage(sweep_dir: Path, url: str | None) -> Any:
    """Optuna's storage of a database's URL, or of the sweep directory's journal; ConfigError where it cannot be."""
    if url is not None:
        return _database(url)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = (sweep_dir / JOURNAL).resolve()
    lock: Any = JournalLock(path)
    return JournalStorage(JournalFileBackend(str(path), lock))


def close_storage(storage: Any) -> None:
    """Ends the connections to a database."""
    storage.remove_session()
    if (database := getattr(storage, "_backend", None)) is not None and hasattr(database, "engine"):
        database.engine.dispose()


def _database(url: str) -> Any:
    import optuna
    import sqlalchemy

    options: dict[str, Any] = {"pool_pre_ping": True}  # a server may have been restarted
    if is_sqlite := url.startswith("sqlite"):
        options = {"connect_args": {"timeout": SECONDS_UNTIL_LOCKED, "isolation_level": None}}
    name = f"hydra.sweeper.storage={without_password(url)}"
    for attempt in range(ATTEMPTS):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            break
        except ImportError as error:
            raise ConfigError(
                f"{name}: its driver is not installed; for PostgreSQL: pip install 'gan_lab[postgresql]', and "
                "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from error
        except (sqlalchemy.exc.ArgumentError, RuntimeError) as error:  # no URL; made by another version of Optuna
            raise ConfigError(f"{name}: {first_line(error)}") from error
        except storage_errors() as error:  # another command makes the tables right now, or nobody is there
            if attempt == ATTEMPTS - 1:
                raise ConfigError(f"{name} cannot be opened: {first_line(error)}") from error
            time.sleep(random.uniform(0.2, 1.0))
    if is_sqlite:
        # SQLite knows no SELECT ... FOR UPDATE, by which a waiting trial is given to one worker alone.
        storage.engine.dispose()
        sqlalchemy.event.listen(storage.engine, "begin", lambda one: one.exec_driver_sql("BEGIN IMMEDIATE"))
    return optuna.storages.get_storage(storage)


def storage_errors() -> tuple[type[Exception], ...]:
    """What a database raises when it is busy or out of reach."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def without_password(url: str) -> str:
    """A database's URL as it may be shown."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def first_line(error: BaseException) -> str:
    """What an error says, or the one that caused it, in one line."""
    return next(iter(str(error.__cause__ or error).splitlines()), "") or type(error).__name__
