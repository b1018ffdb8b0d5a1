"""Sample grids for the page: the best runs' pictures, as many as a page can carry."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from gan_lab.report.leaderboard import Board
from gan_lab.report.runs import Run

MOST_PICTURES = 24
MOST_BYTES = 4_500_000
"""Of all pictures together, before they are written as text (4/3 of that)."""
SIDES = (900, 700, 560, 440, 340)
"""Widths to which larger pictures are reduced until all have room."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URL. run: None of real data. images: when it was drawn. reduced_from: its own width."""

    run: Run | None
    source: str
    images: int | None
    width: int
    height: int
    reduced_from: int | None
    names: tuple[str, ...] = ()


def of_best(run: Run) -> tuple[Path, int] | None:
    """(picture, images seen) nearest to the best generator's; the last one where there is no best. Before any training
    there is nothing to see."""
    found = []
    for path in (run.path / "samples").glob("*.png"):
        if path.stem.isdecimal() and int(path.stem) > 0:
            found.append((path, int(path.stem)))
    if not found:
        return None
    wanted = run.best.get("images_seen")
    if isinstance(wanted, int):
        return min(found, key=lambda entry: (abs(entry[1] - wanted), -entry[1]))
    return max(found, key=lambda entry: entry[1])


def in_order(boards: Sequence[Board]) -> list[Run]:
    """All runs: the best of each configuration first, board by board, then the others."""
    first = [row.best_run for board in boards for row in board.rows]
    others = [run for board in boards for row in board.rows for run in row.runs[1:]]
    return [*first, *others]


def pictures(boards: Sequence[Board]) -> tuple[list[Picture], list[Picture], int]:
    """(real data, fakes, number of runs whose picture was left out); each picture of real data once."""
    runs = in_order(boards)
    if len(runs) <= MOST_PICTURES:  # there is room for all: seeds stand side by side
        runs = [run for board in boards for row in board.rows for run in row.runs]
    having = [(run, found) for run in runs if (found := of_best(run)) is not None]
    chosen = having[:MOST_PICTURES]
    reals: dict[str, tuple[Path, list[str]]] = {}
    for run, _ in chosen:
        path = run.path / "samples" / "real.png"
        if path.is_file():
            reals.setdefault(sha256(path.read_bytes()).hexdigest(), (path, []))[1].append(run.name)
    paths = [*[path for path, _ in reals.values()], *[path for _, (path, _) in chosen]]
    side = _side(paths)
    left = MOST_BYTES
    real_pictures = []
    for path, names in reals.values():
        picture = _embedded(path, side, None, None, tuple(names))
        if picture is not None:
            real_pictures.append(picture)
            left -= len(picture.source) * 3 // 4
    fakes: list[Picture] = []
    for run, (path, images) in chosen:
        picture = _embedded(path, side, run, images)
        if picture is None:
            continue
        left -= len(picture.source) * 3 // 4
        if left < 0 and fakes:
            break
        fakes.append(picture)
    return real_pictures, fakes, len(having) - len(fakes)


def _side(paths: Sequence[Path]) -> int | None:
    """The width to which wider pictures are reduced so that all have room; None: they have it as they are."""
    from PIL import Image

    sizes = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.append((path.stat().st_size, max(image.size)))
        except (OSError, ValueError):
            continue
    if sum(size for size, _ in sizes) <= MOST_BYTES:
        return None
    for side in SIDES:
        if sum(size * min(1.0, 1.3 * (side / width) ** 2) for size, width in sizes) <= MOST_BYTES:
            return side
    return SIDES[-1]


def _embedded(
    path: Path, side: int | None, run: Run | None, images: int | None, names: tuple[str, ...] = ()
) -> Picture | None:
    """The picture for the page; None where the file is not one, as after a kill."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            width, height = image.size
            reduced_from = None
            if side is not None and max(width, height) > side:
                reduced_from = width
                factor = side / max(width, height)
                size = (max(1, math.floor(width * factor)), max(1, math.floor(height * factor)))
                small = image.convert("L" if image.mode in ("1", "L", "I", "I;16") else "RGB")
                small = small.resize(size, Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.save(buffer, "PNG")
                content, (width, height) = buffer.getvalue(), size
    except (OSError, ValueError, SyntaxError):
        return None
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return Picture(run, source, images, width, height, reduced_from, names)
