"""Tables that people send: read as text, each cell traceable to its line in the file."""

import csv
import gzip
import io
import re
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from components.scorer import storage
from components.scorer.quoting import shown
from components.scorer.redaction import redacted

_DELIMITERS = ",\t;"  # the last is what Excel writes where the comma is the decimal sign
_DECLARED = re.compile(r'\s*"?sep=(?P<sign>[^\s"]|\t)"?(?P=sign)*[ \t]*\r?\n', re.IGNORECASE)  # Excel's own first line

_HEADER = 100_000  # characters in which the header surely ends


@dataclass(frozen=True)
class Sheet:
    """The rows of a file.

    Attributes:
        uri: the file.
        rows: one column a field, categories of text (numbers, where the file itself tells them from text).
            The index counts the rows in the file from 0, a line break inside a cell as a row; rows without any content
            are not here.
        first: the number that the file gives its first row.
        unit: what a row is in the file: "line" or "item".
        decimal: the sign before the decimals.
    """

    uri: str
    rows: pd.DataFrame
    first: int
    unit: str = "line"
    decimal: str = "."
    _read: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)  # see numbers

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def numbered(self, rows: np.ndarray) -> np.ndarray:
        """The numbers in the file (int [n]) of rows given by their position here."""
        return self.first + self.rows.index.to_numpy()[rows]

    def place(self, row: int) -> str:
        """Where a row stands, e.g. ``ratings.csv line 17``."""
        return self.places(np.array([row]))[0]

    def places(self, rows: np.ndarray) -> list[str]:
        """As `place`, of several rows."""
        return [f"{self.name} {self.unit} {number}" for number in self.numbered(rows)]

    def error(self, row: int, message: str) -> ValueError:
        """An error that names file and line before its message, in which a photo's name has no place."""
        return ValueError(f"{self.uri}, {self.unit} {self.numbered(np.array([row]))[0]}: {redacted(message)}")

    def texts(self, column: str) -> pd.Categorical:
        """A column's cells without surrounding blanks; an empty cell is ``""``."""
        cells = self.rows[column].astype("category").cat
        stripped, texts = pd.factorize(cells.categories.astype(str).str.strip())
        return pd.Categorical.from_codes(stripped[cells.codes.to_numpy()], texts)

    def numbers(self, column: str) -> np.ndarray:
        """A column's cells as float [n], NaN where a cell is empty.

        Raises:
            ValueError: a cell is not a finite number; the message names file, line and cell.
        """
        if column not in self._read:
            self._read[column] = self._numbers(column)
        return self._read[column].copy()

    def _numbers(self, column: str) -> np.ndarray:
        if pd.api.types.is_numeric_dtype(self.rows[column].dtype):
            values = self.rows[column].to_numpy(float)
            for row in np.flatnonzero(~np.isfinite(values))[:1]:
                raise self.error(row, f"expected a number in {column}, got {values[row]}; correct it")
            return values
        texts = self.texts(column)
        cells = texts.categories.astype(str)
        dotted = cells.str.replace(self.decimal, ".", regex=False)
        values = pd.to_numeric(dotted, errors="coerce").to_numpy(float)
        wrong = ~np.isfinite(values) & (cells != "")
        if wrong.any():
            row = int(np.flatnonzero(wrong[texts.codes])[0])
            raise self.error(
                row, f"expected a number in column {shown(column)}, got {shown(texts[row])}; correct the cell"
            )
        return values[texts.codes]

    def is_numeric(self, column: str) -> bool:
        """Whether a column holds numbers and empty cells alone."""
        try:
            self.numbers(column)
        except ValueError:
            return False
        return True

    def distinct(self) -> "tuple[Sheet, int]":
        """The sheet without the rows that repeat an earlier one word for word, and how many these are."""
        repeated = self.rows.duplicated().to_numpy()
        return replace(self, rows=self.rows[~repeated]), int(repeated.sum())


def read_text(uri: str) -> str:
    """The text of a file, unpacked when it is gzipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty or not UTF-8; the message names the file and the line.
    """
    data = storage.read_bytes(uri)
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{uri}, line {line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}; "
            "save the file as CSV in UTF-8"
        ) from None
    if not text.strip():
        raise ValueError(f"{uri}: expected a table, got an empty file")
    return text


def read_table(uri: str, text: str) -> Sheet:
    """A table with a header and commas, tabs or semicolons between the cells, quoted where need be.

    Excel's first line ``sep=;`` names the sign between the cells, whichever it is.

    Raises:
        ValueError: a column has no distinct name, a line has more cells than the header, a quote does not
            end, or there are no rows; the message names file and line.
    """
    start = text[:_HEADER]
    if declared := _DECLARED.match(start):
        delimiter = declared["sign"]
    else:
        delimiter = max(_DELIMITERS, key=lambda sign: len(_header(uri, io.StringIO(start, newline=""), sign)[0]))
    stream = io.StringIO(text, newline="")
    stream.seek(declared.end() if declared else 0)
    header, above = _header(uri, stream, delimiter)
    above += declared[0].count("\n") if declared else 0
    named = [cell for cell in header if cell]
    if repeated := sorted({cell for cell in named if named.count(cell) > 1}):
        raise ValueError(f"{uri}, line 1: expected distinct column names, got {shown(repeated[0])} twice; rename one")
    # A column without a name is what pandas writes for an index; it says nothing about a photo.
    names = [cell or f"\0{number}" for number, cell in enumerate(header)]
    rows = _parsed(uri, stream, above, names, sep=delimiter)
    rows = rows.drop(columns=[name for name in names if name.startswith("\0")])
    return Sheet(uri, _filled(uri, rows), above + 1, decimal="," if delimiter == ";" else ".")


def read_columns(uri: str, text: str, names: list[str]) -> Sheet:
    """A table without a header whose cells are parted by blanks.

    Raises:
        ValueError: as for `read_table`.
    """
    return Sheet(uri, _filled(uri, _parsed(uri, io.StringIO(text), 0, names, sep=r"\s+")), 1)


def _header(uri: str, stream: io.StringIO, delimiter: str) -> tuple[list[str], int]:
    """The cells of the first line with any, and the number of lines down to its end."""
    reader = csv.reader(stream, delimiter=delimiter)
    try:
        header = next((cells for cells in reader if any(cell.strip() for cell in cells)), None)
    except csv.Error as error:
        raise ValueError(f"{uri}, line 1: expected column names, got no table ({error})") from None
    if header is None:
        raise ValueError(f"{uri}: expected column names, got none")
    return [cell.strip() for cell in header], reader.line_num


def _parsed(uri: str, stream: io.StringIO, above: int, names: list[str], **options: Any) -> pd.DataFrame:
    """What stands in the stream; `above` lines of the file were read before."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                stream, header=None, names=names, index_col=False, dtype=str, na_filter=False,
                skip_blank_lines=False, **options,
            )  # fmt: skip
            return rows.astype("category")  # read as such, 007 would become 7
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=names, dtype="category")
    except pd.errors.ParserWarning:
        problem = f"line {above + 1}: expected {len(names)} cells, got more"
    except pd.errors.ParserError as error:
        problem = _explained(str(error), above, len(names))
    raise ValueError(f"{uri}, {problem}; check the delimiters and quotes there") from None


def _explained(message: str, above: int, cells: int) -> str:
    if found := re.search(r"in line (\d+), saw (\d+)", message):
        return f"line {above + int(found[1])}: expected {cells} cells, got {found[2]}"
    if found := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"line {above + int(found[1]) + 1}: expected a quoted cell to end, got the end of the file"
    return f"expected a table, got {shown(message.strip())}"


def _filled(uri: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with any content, numbered from 0 by the line on which each begins."""
    empty, breaks = np.ones(len(rows), bool), np.zeros(len(rows), int)
    for _, cells in rows.items():
        codes = cells.cat.codes.to_numpy()
        blank = np.array([not str(cell).strip() for cell in cells.cat.categories], bool)
        empty &= blank[codes] if len(blank) else True
        inside = np.array([str(cell).count("\n") for cell in cells.cat.categories], int)
        if inside.any():  # a quoted cell over several lines moves the rows below down the file
            breaks += inside[codes]
    if empty.all():
        raise ValueError(f"{uri}: expected rows below the header, got none")
    return rows.set_axis(np.arange(len(rows)) + np.cumsum(breaks) - breaks)[~empty]
