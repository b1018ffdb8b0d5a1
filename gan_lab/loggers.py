"""Where metrics go: metrics.csv (always), TensorBoard (always), and any Lightning logger of the configuration."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from gan_lab.evaluation import card_id
from gan_lab.files import replacing

WALL_TIME_COLUMNS = ("wall_seconds", "images_per_second")
"""The only columns that differ between two runs of one configuration."""


class MetricsCSV(Logger):
    """metrics.csv: one row per log point, `images_seen` first; a metric not measured there leaves its cell empty.

    A new metric adds its column at the right. Rows are appended and complete once `save` returns; `start_images` drops
    the rows after it, which a resumed run writes again.
    """

    def __init__(self, path: Path, start_images: int = 0):
        super().__init__()
        self.path = path
        self._columns = ["images_seen"]
        self._row: dict[str, str] = {}
        if path.is_file():
            self._take_up(start_images)

    name = "csv"
    version = ""

    def _take_up(self, start_images: int) -> None:
        """Keeps what the run that goes on had written up to its checkpoint; a line cut short by a kill is beyond it."""
        with self.path.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [self._columns]
        self._columns = header
        kept = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= start_images]
        if not kept:
            self._columns = ["images_seen"]
        self._rewrite(kept)

    def _rewrite(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._columns, *rows] if len(self._columns) > 1 else [])
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"images_seen": str(step), **{name: repr(value) for name, value in metrics.items()}}
        if self._row and self._row["images_seen"] != row["images_seen"]:
            self.save()
        self._row |= row

    @rank_zero_only
    def log_card(self, card: dict[str, Any], step: int) -> None:
        """The short name of the card that the row's scores carry; run.json has the whole."""
        assert self._row["images_seen"] == str(step)
        self._row["card"] = card_id(card)

    @rank_zero_only
    def save(self) -> None:
        """Writes the row that is being filled."""
        if not self._row:
            return
        new = [name for name in self._row if name not in self._columns]
        if new:
            rows = []
            if self.path.is_file():
                with self.path.open(newline="") as file:
                    rows = [row + [""] * len(new) for row in list(csv.reader(file))[1:]]
            self._columns += new
            self._rewrite(rows)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([self._row.get(name, "") for name in self._columns])
        with self.path.open("a", newline="") as file:
            file.write(line.getvalue())
        self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration lies beside the file."""


class TensorBoard(TensorBoardLogger):
    """TensorBoard's event files in run_dir/tensorboard; events after `start_images` of earlier files are superseded."""

    def __init__(self, run_dir: Path, start_images: int = 0, **options: Any):
        if start_images > 0:
            options["purge_step"] = start_images + 1
        super().__init__(run_dir, name="tensorboard", version="", default_hp_metric=False, **options)
        self._cards: set[str] = set()

    @rank_zero_only
    def log_card(self, card: dict[str, Any], step: int) -> None:
        """How the scores were measured, as a text, once."""
        if card_id(card) not in self._cards:
            self._cards.add(card_id(card))
            lines = "\n".join(f"| {key} | {value} |" for key, value in card.items())
            self.experiment.add_text("card", f"| | {card_id(card)} |\n|---|---|\n{lines}", step)

    @rank_zero_only
    def save(self) -> None:
        """Puts all events on the disk (and writes no hparams.yaml: the configuration has its own file)."""
        self.experiment.flush()
