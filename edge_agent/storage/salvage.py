"""What can still be read of the ledger in damaged spools that were set aside; they are left as they are."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edge_agent.storage import aside
from edge_agent.storage.journal import Row, is_row

_IMAGE_DIGITS = 64


def ledger_rows(directory: Path, name: str) -> Iterator[Row]:
    """Rows of the ledgers in the files `name` in quarantine below `directory`, newest last; what is unreadable is left out."""
    for folder in aside.folders(directory):
        path = folder / name
        if path.is_file():
            # Without the log at least what had reached the file, should the log be what is damaged.
            for how in ("mode=ro", "mode=ro&immutable=1"):
                yield from _readable(f"file:{path.resolve()}?{how}")


def _readable(uri: str) -> Iterator[Row]:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute(
            "PRAGMA writable_schema = ON"
        )  # so that a file that was cut short is read as far as it goes
        connection.text_factory = lambda content: content.decode(errors="replace")
        # From both ends, for what is damaged may lie in between.
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.Error):
                cursor = connection.execute(f"SELECT * FROM ledger ORDER BY image {order}, release {order}")  # noqa: S608
                names = [column[0] for column in cursor.description]
                for values in cursor:
                    row = dict(zip(names, values, strict=True))
                    row.pop("restored", None)
                    if is_row(row) and len(str(row["image"])) == _IMAGE_DIGITS:
                        yield row
