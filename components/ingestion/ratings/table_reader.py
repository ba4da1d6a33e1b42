"""Reader of delimited text tables. Every cell can be traced to its line in the file."""

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
from components.scorer.quoting import quoted
from components.scorer.redaction import redact

_DELIMITERS = ",\t;"  # Excel writes the semicolon if the comma is the decimal sign
# Excel's first line, which names the delimiter.
_DELIMITER_LINE = re.compile(r'\s*"?sep=(?P<sign>[^\s"]|\t)"?(?P=sign)*[ \t]*\r?\n', re.IGNORECASE)

_MAX_HEADER = 100_000  # characters; the header is assumed to end within them


@dataclass(frozen=True)
class RatingTable:
    """A table with the line numbers of its file.

    Attributes:
        uri: Address of the file.
        rows: One column a field, as categories of text, or as numbers if the file format types them. The index is the
            row's position in the file from 0, counting a line break inside a cell as a row. Rows without content are
            dropped.
        first_row_number: Number that the file gives its first row.
        unit: Name of a row in error messages: "line" or "item".
        decimal: Decimal sign of the numbers.
    """

    uri: str
    rows: pd.DataFrame
    first_row_number: int
    unit: str = "line"
    decimal: str = "."
    # Cache of `numbers`.
    _number_cache: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The file name without its folder."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def row_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the line or item numbers, int [n], of rows given by their positions in `rows`."""
        return self.first_row_number + self.rows.index.to_numpy()[rows]

    def row_location(self, row: int) -> str:
        """Return the location of a row for messages, e.g. ``ratings.csv line 17``."""
        return self.row_locations(np.array([row]))[0]

    def row_locations(self, rows: np.ndarray) -> list[str]:
        """Return the locations of several rows, each as `place` formats it."""
        return [f"{self.name} {self.unit} {number}" for number in self.row_numbers(rows)]

    def error(self, row: int, message: str) -> ValueError:
        """Return a ValueError whose message starts with file and line. Photo names in `message` are redacted."""
        return ValueError(f"{self.uri}, {self.unit} {self.row_numbers(np.array([row]))[0]}: {redact(message)}")

    def texts(self, column: str) -> pd.Categorical:
        """Return a column's cells without surrounding blanks. An empty cell is ``""``."""
        cells = self.rows[column].astype("category").cat
        stripped, texts = pd.factorize(cells.categories.astype(str).str.strip())
        return pd.Categorical.from_codes(stripped[cells.codes.to_numpy()], texts)

    def numbers(self, column: str) -> np.ndarray:
        """Return a column's cells as float [n], NaN for an empty cell.

        Raises:
            ValueError: A cell is not a finite number. The message names file, line and cell.
        """
        if column not in self._number_cache:
            self._number_cache[column] = self._parse_numbers(column)
        return self._number_cache[column].copy()

    def _parse_numbers(self, column: str) -> np.ndarray:
        if pd.api.types.is_numeric_dtype(self.rows[column].dtype):
            values = self.rows[column].to_numpy(float)
            for row in np.flatnonzero(~np.isfinite(values))[:1]:
                raise self.error(row, f"expected a number in {column}, got {values[row]}; correct it")
            return values
        texts = self.texts(column)
        cells = texts.categories.astype(str)
        dotted = cells.str.replace(self.decimal, ".", regex=False)
        values = pd.to_numeric(dotted, errors="coerce").to_numpy(float)
        invalid = ~np.isfinite(values) & (cells != "")
        if invalid.any():
            row = int(np.flatnonzero(invalid[texts.codes])[0])
            raise self.error(
                row, f"expected a number in column {quoted(column)}, got {quoted(texts[row])}; correct the cell"
            )
        return values[texts.codes]

    def is_numeric(self, column: str) -> bool:
        """Return whether every cell of a column is a number or empty."""
        try:
            self.numbers(column)
        except ValueError:
            return False
        return True

    def drop_duplicates(self) -> "tuple[RatingTable, int]":
        """Return the table without rows that repeat an earlier row exactly, and the number of rows dropped."""
        repeated = self.rows.duplicated().to_numpy()
        return replace(self, rows=self.rows[~repeated]), int(repeated.sum())


def read_text(uri: str) -> str:
    """Return the text of a UTF-8 file. A gzip file is decompressed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty or not UTF-8. The message names the file and the line.
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


def read_table(uri: str, text: str) -> RatingTable:
    """Parse a table with a header and commas, tabs or semicolons as delimiters. Cells may be quoted.

    Excel's first line ``sep=;`` sets the delimiter to any sign.

    Raises:
        ValueError: Two columns share a name, a line has more cells than the header, a quote does not end, or there are
            no rows. The message names file and line.
    """
    start = text[:_MAX_HEADER]
    if declared := _DELIMITER_LINE.match(start):
        delimiter = declared["sign"]
    else:
        delimiter = max(_DELIMITERS, key=lambda sign: len(_read_header(uri, io.StringIO(start, newline=""), sign)[0]))
    stream = io.StringIO(text, newline="")
    stream.seek(declared.end() if declared else 0)
    header, lines_above = _read_header(uri, stream, delimiter)
    lines_above += declared[0].count("\n") if declared else 0
    named_cells = [cell for cell in header if cell]
    if repeated := sorted({cell for cell in named_cells if named_cells.count(cell) > 1}):
        raise ValueError(f"{uri}, line 1: expected distinct column names, got {quoted(repeated[0])} twice; rename one")
    # pandas writes its index as a column without a name. Such a column is dropped.
    names = [cell or f"\0{number}" for number, cell in enumerate(header)]
    rows = _parse_rows(uri, stream, lines_above, names, sep=delimiter)
    rows = rows.drop(columns=[name for name in names if name.startswith("\0")])
    return RatingTable(uri, _drop_empty_rows(uri, rows), lines_above + 1, decimal="," if delimiter == ";" else ".")


def read_blank_separated(uri: str, text: str, names: list[str]) -> RatingTable:
    """Parse a table without a header whose cells are separated by blanks.

    Raises:
        ValueError: A line has more cells than `names`, a quote does not end, or there are no rows.
    """
    return RatingTable(uri, _drop_empty_rows(uri, _parse_rows(uri, io.StringIO(text), 0, names, sep=r"\s+")), 1)


def _read_header(uri: str, stream: io.StringIO, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the first non-empty line and the number of lines up to its end."""
    reader = csv.reader(stream, delimiter=delimiter)
    try:
        header = next((cells for cells in reader if any(cell.strip() for cell in cells)), None)
    except csv.Error as error:
        raise ValueError(f"{uri}, line 1: expected column names, got no table ({error})") from None
    if header is None:
        raise ValueError(f"{uri}: expected column names, got none")
    return [cell.strip() for cell in header], reader.line_num


def _parse_rows(uri: str, stream: io.StringIO, lines_above: int, names: list[str], **options: Any) -> pd.DataFrame:
    """Parse the rows in the stream. The file has `lines_above` lines before the stream's position."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                stream, header=None, names=names, index_col=False, dtype=str, na_filter=False,
                skip_blank_lines=False, **options,
            )  # fmt: skip
            return rows.astype("category")  # read_csv(dtype="category") would turn 007 into 7
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=names, dtype="category")
    except pd.errors.ParserWarning:
        problem = f"line {lines_above + 1}: expected {len(names)} cells, got more"
    except pd.errors.ParserError as error:
        problem = _explain_error(str(error), lines_above, len(names))
    raise ValueError(f"{uri}, {problem}; check the delimiters and quotes there") from None


def _explain_error(message: str, lines_above: int, cells: int) -> str:
    """Return the problem of a pandas parser error, with its line number in the file."""
    if match := re.search(r"in line (\d+), saw (\d+)", message):
        return f"line {lines_above + int(match[1])}: expected {cells} cells, got {match[2]}"
    if match := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"line {lines_above + int(match[1]) + 1}: expected a quoted cell to end, got the end of the file"
    return f"expected a table, got {quoted(message.strip())}"


def _drop_empty_rows(uri: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with any content, indexed from 0 by the line on which each row begins."""
    empty, breaks = np.ones(len(rows), bool), np.zeros(len(rows), int)
    for _, cells in rows.items():
        codes = cells.cat.codes.to_numpy()
        blank = np.array([not str(cell).strip() for cell in cells.cat.categories], bool)
        empty &= blank[codes] if len(blank) else True
        line_breaks = np.array([str(cell).count("\n") for cell in cells.cat.categories], int)
        if line_breaks.any():  # a quoted cell with line breaks shifts the rows below it down the file
            breaks += line_breaks[codes]
    if empty.all():
        raise ValueError(f"{uri}: expected rows below the header, got none")
    return rows.set_axis(np.arange(len(rows)) + np.cumsum(breaks) - breaks)[~empty]
