"""Reads what may be half-written, damaged, of another version or changed by hand: nothing raises."""

import json
import math
from pathlib import Path
from typing import Any


def read_mapping(path: Path) -> tuple[dict[str, Any], str | None]:
    """(content of a JSON file, what is wrong with it); nothing where there is no such file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        return {}, f"{path.name} cannot be read: {error.strerror}"
    except ValueError as error:
        return {}, f"{path.name} is damaged: {error}"
    return (content, None) if isinstance(content, dict) else ({}, f"{path.name} is damaged: it holds no keys")


def mapping(value: Any) -> dict[str, Any]:
    """`value` where it is one, else an empty one."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def finite(*candidates: Any) -> float | None:
    """The first that is a finite number, None where none is."""
    return next((float(value) for value in candidates if is_number(value)), None)
