"""What an experiment has found, in a form that can be kept as JSON and drawn: tables, charts, pictures, sentences.

The classes refuse NaN, infinities and unknown fields, so an outcome that exists can be read.
"""

from enum import StrEnum
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evaluation.errors import SummaryError
from evaluation.metrics.spread import Spread

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
FORMAT = "collafuse-evaluation-outcome-v1"


class Better(StrEnum):
    """Which way a figure is better."""

    LESS = "less"
    MORE = "more"
    NEITHER = "neither"


@dataclass(frozen=True, config=_STRICT)
class Column:
    """Of a table. decimals: shown of its figures; scale: what they are multiplied by when shown (100 for a share in %)."""

    name: str
    unit: str = ""
    better: Better = Better.NEITHER
    decimals: int = 3
    scale: float = 1.0


Cell = Spread | float | int | str | None
"""A figure with its spread over seeds, a plain number, words, or None where nothing was or could be measured."""


@dataclass(frozen=True, config=_STRICT)
class Table:
    """Rows of cells under columns; the first column names the row. note: what a reader must know to read it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise SummaryError(
                    f"table {self.title!r}: {len(row)} cells under {len(self.columns)} columns"
                )


@dataclass(frozen=True, config=_STRICT)
class Series:
    """A line of a chart: at every x the mean, and the interval low … high around it (both None: no interval)."""

    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True, config=_STRICT)
class Band:
    """A level to read a chart against, such as the real-versus-real floor or chance: from low to high, all along x."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, config=_STRICT)
class Chart:
    """Lines over one quantity. note: what the intervals are."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()
    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True, config=_STRICT)
class PictureRow:
    """Images side by side: PNG data URIs."""

    title: str
    images: tuple[str, ...]


@dataclass(frozen=True, config=_STRICT)
class Pictures:
    """Rows of images under the same column headings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[PictureRow, ...]
    note: str = ""


class Weight(StrEnum):
    """What a finding may be used for."""

    CLAIM = "claim"  # the spread over seeds separates
    UNDECIDED = "undecided"  # it does not
    CONTROL = "control"  # a check of the experiment itself
    FAILED_CONTROL = (
        "failed control"  # which did not come out as it must: read nothing else from the experiment
    )
    FACT = "fact"  # follows from arithmetic or counting, no sampling in it


@dataclass(frozen=True, config=_STRICT)
class Finding:
    """One sentence, and what it rests on."""

    text: str
    weight: Weight


@dataclass(frozen=True, config=_STRICT)
class Outcome:
    """One experiment. question: what it asks; method: how, in a paragraph; limits: what it cannot say; seconds: of measuring."""

    suite: str
    title: str
    question: str
    method: str
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    limits: tuple[str, ...] = ()
    seconds: float = 0.0
    format: str = FORMAT


def series_of(name: str, x: tuple[float, ...], figures: tuple[Spread, ...]) -> Series:
    """A line through the means, with one standard deviation over seeds on both sides."""
    return Series(
        name,
        x,
        tuple(figure.mean for figure in figures),
        tuple(figure.mean - figure.standard_deviation for figure in figures),
        tuple(figure.mean + figure.standard_deviation for figure in figures),
    )


def to_json(outcome: Outcome) -> str:
    """Indented JSON, ending in a newline."""
    return _ADAPTER.dump_json(outcome, indent=1).decode() + "\n"


def read_outcome(path: Path) -> Outcome:
    """Reads what `to_json` made.

    Raises:
        SummaryError: not an outcome, or one of another version.
    """
    try:
        outcome = _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise SummaryError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SummaryError(f"{path}: {place}: {first['msg']}; remove the file and run again") from error
    if outcome.format != FORMAT:
        raise SummaryError(f"{path} is of format {outcome.format!r}: remove the file and run again")
    return outcome


_ADAPTER: TypeAdapter[Outcome] = TypeAdapter(Outcome)
