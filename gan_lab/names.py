"""Names in messages: the nearest known one to a mistyped one."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them where none is near."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    # `lr` should lead to `optimizer.lr`, which no string distance finds.
    matches = matches or [other for other in known if other.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    if matches:
        return f"did you mean {matches[0]}?"
    shown = [other for other in known if "." not in other] or list(known)
    return f"known: {', '.join(shown)}" if shown else "there is nothing to choose from"
