"""The plain text tables that come with data sets: one row a line, words between blanks."""

from pathlib import Path

from evaluation.errors import DataError


def read_rows(path: Path) -> list[list[str]]:
    """The words of every line that has any.

    Raises:
        DataError: the file is missing, is no text, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: it comes with the data set, put it there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text ({' '.join(str(error).split())}): fetch it again"
        ) from error
    rows = [line.split() for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{path} is empty: fetch it again")
    return rows


def read_names(path: Path) -> tuple[str, ...]:
    """The names of a table whose rows are a number, counted from 1, and a name.

    Raises:
        DataError: another kind of row, a number out of turn, or a name given twice.
    """
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] != str(number):
            raise DataError(f"{path}, row {number}: expected {number} and a name, found {' '.join(row)!r}")
    names = tuple(name for _, name in rows)
    if len(set(names)) != len(names):
        raise DataError(f"{path} gives a name twice: fetch it again")
    return names
