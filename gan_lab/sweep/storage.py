"""Where a search keeps its study: study.db in the sweep's directory, or a database that several machines share."""

import random
import sqlite3
import time
from pathlib import Path
from typing import Any

from gan_lab.errors import ConfigError

ATTEMPTS = 5
SECONDS_UNTIL_LOCKED = 60.0
"""How long a process waits for the others' writing to study.db."""


def storage_errors() -> tuple[type[Exception], ...]:
    """What a storage raises when it is busy or out of reach."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def open_storage(sweep_dir: Path, url: str | None) -> Any:
    """Optuna's storage of a database's URL, or of study.db in the sweep's directory; ConfigError where it cannot be."""
    import optuna
    import sqlalchemy

    path = sweep_dir / "study.db"
    is_sqlite = url is None or url.startswith("sqlite")
    if url is None:
        url = "sqlite:///study.db"  # only for its kind: paths may hold what a URL or Optuna's template cannot
        options: dict[str, Any] = {"creator": lambda: _connected(path.resolve())}
    elif is_sqlite:
        options = {"connect_args": {"timeout": SECONDS_UNTIL_LOCKED, "isolation_level": None}}  # as _connected
    else:
        options = {"pool_pre_ping": True}  # a database may have been restarted
    name = f"hydra.sweeper.storage={without_password(url)}"
    for attempt in range(ATTEMPTS):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            break
        except ImportError as error:
            raise ConfigError(
                f"{name}: its driver is not installed; for PostgreSQL: pip install 'psycopg[binary]', and "
                "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from error
        except (sqlalchemy.exc.ArgumentError, RuntimeError) as error:  # no URL; made by another version of Optuna
            raise ConfigError(f"{name}: {first_line(error)}") from error
        except storage_errors() as error:  # another command makes the tables right now, or nobody is there
            if attempt == ATTEMPTS - 1:
                raise ConfigError(f"{name} cannot be opened: {first_line(error)}") from error
            time.sleep(random.uniform(0.2, 1.0))
    if is_sqlite:
        # SQLite knows no SELECT ... FOR UPDATE, by which a waiting trial is given to one worker alone, and lets two
        # readers that want to write wait for each other: every transaction takes the lock for writing at its start.
        storage.engine.dispose()
        sqlalchemy.event.listen(storage.engine, "begin", lambda one: one.exec_driver_sql("BEGIN IMMEDIATE"))
    return optuna.storages.get_storage(storage)


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that leaves the beginning of transactions to us."""
    connection = sqlite3.connect(path, timeout=SECONDS_UNTIL_LOCKED, isolation_level=None, check_same_thread=False)
    # A rollback journal that stays: three times as fast as one that is deleted each time. WAL is a bit faster yet, but
    # needs memory shared by all who write, which machines that share a drive do not have.
    connection.execute("PRAGMA journal_mode=PERSIST")
    return connection


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
