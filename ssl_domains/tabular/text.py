"""CSV and TSV, streamed by pyarrow: 2 million rows a second and the line number of a bad row."""

from __future__ import annotations

import codecs
import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import to_number
from ssl_domains.tabular.readers import check_names, file_mark, promote

BLOCK = 1 << 22
SEPARATORS = ",;\t|"
NULLS = ["", "#N/A", "#NA", "N/A", "NA", "n/a", "NULL", "null", "NaN", "nan", "-nan", "None", "none", "?"]
_BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive or an Excel sheet",
    b"SQLite": "SQLite",
    b"ARROW1": "Arrow",
    b"\xd0\xcf\x11\xe0": "an Excel sheet",
    b"%PDF": "PDF",
    b"\x89PNG": "a PNG image",
}


class TextReader:
    """A CSV or TSV file with a header line.

    Types are those that hold for the WHOLE file: reading starts with the types of the first
    block and widens a column (whole number, number, text) wherever a later row does not fit.
    The row count comes from the same pass.

    Args:
        path: the file, also compressed (``.csv.gz``).
        separator: None: taken from the header line, like the comma of a ``.csv``.
        text_columns: columns to read as text, whatever they look like.
    """

    def __init__(self, path: Path, separator: str | None, text_columns: Sequence[str] = ()) -> None:
        self.path, self.name = path, str(path)
        header = _header(path)
        self.separator = separator if separator == "\t" else _separator(header)
        self._types: dict[str, pa.DataType] = {name: pa.string() for name in text_columns}
        self.schema, self.n_rows = self._settle()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in order, in blocks of about 4 MiB of text."""
        with self._open(columns) as stream:
            yield from stream

    def where(self, row: int) -> str:
        """``line 12 of NAME``; the header is line 1."""
        return f"line {row + 2} of {self.name}"

    def fingerprint(self) -> list[Any] | None:
        """Path, size, time of change."""
        return file_mark(self.path)

    def _open(self, columns: Sequence[str] | None = None, **parse: Any) -> pc.CSVStreamingReader:
        convert = pc.ConvertOptions(
            null_values=NULLS,
            strings_can_be_null=True,
            column_types=self._types,
            include_columns=list(columns) if columns is not None else None,
        )
        return pc.open_csv(
            pa.input_stream(str(self.path), compression="detect"),
            read_options=pc.ReadOptions(block_size=BLOCK),
            parse_options=pc.ParseOptions(delimiter=self.separator, newlines_in_values=True, **parse),
            convert_options=convert,
        )

    def _settle(self) -> tuple[pa.Schema, int]:
        """The final schema and the row count; as many passes as columns need widening."""
        schema: pa.Schema | None = None
        while True:
            try:
                with self._open() as stream:
                    schema = stream.schema
                    check_names(schema.names, self.name)
                    n_rows = sum(len(batch) for batch in stream)
            except pa.ArrowInvalid as error:
                self._widen(str(error), schema)
                continue
            self._refuse_bytes(schema)
            if n_rows == 0:
                raise DataError(f"{self.name} holds a header but no rows; give at least two rows")
            self._types = dict(zip(schema.names, schema.types, strict=True))
            return schema, n_rows

    def _widen(self, message: str, schema: pa.Schema | None) -> None:
        """Widens the column that a later block does not fit.

        Raises:
            DataError: the error is another one.
        """
        odd = re.search(
            r"In CSV column #(\d+): .*conversion error to ([^:]+): invalid value '(.*)'", message, re.S
        )
        if odd is None or schema is None:
            raise self._explain(message) from None
        name = schema.names[int(odd[1])]
        for other in schema.names:  # keep what is known, so that each pass settles something
            self._types.setdefault(other, schema.field(other).type)
        self._types[name] = _wider(self._types[name], odd[3])

    def _explain(self, message: str) -> DataError:
        ragged = re.search(r"Expected (\d+) columns, got (\d+)", message)
        if ragged:
            line = self._ragged_line()
            place = f"line {line} of {self.name}" if line else self.name
            fields = "1 field" if ragged[2] == "1" else f"{ragged[2]} fields"
            return DataError(
                f"{place} has {fields}, the header has {ragged[1]}; correct the line, or quote fields that "
                f"contain {self.separator!r}"
            )
        if "UTF8" in message or "utf8" in message.lower():
            return _not_utf8(self.path)
        return DataError(
            f"{self.name} cannot be read as CSV ({message.splitlines()[0]}); check quotes and separators"
        )

    def _ragged_line(self) -> int | None:
        """Line number of the first bad row; only the single-threaded reader knows it."""
        lines: list[int] = []

        def note(row: pc.InvalidRow) -> str:
            lines.append(row.number)
            return "error"

        with contextlib.suppress(pa.ArrowInvalid):
            pc.read_csv(
                pa.input_stream(str(self.path), compression="detect"),
                read_options=pc.ReadOptions(use_threads=False, block_size=BLOCK),
                parse_options=pc.ParseOptions(
                    delimiter=self.separator, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=pc.ConvertOptions(include_columns=[]),
            )
        return lines[0] if lines else None

    def _refuse_bytes(self, schema: pa.Schema) -> None:
        for field in schema:
            if pa.types.is_binary(field.type):
                raise DataError(
                    f"{self.name}: column {field.name!r} is not UTF-8 text; "
                    "save the file with the encoding UTF-8"
                )


def _wider(kind: pa.DataType, value: str) -> pa.DataType:
    """The next type that may hold ``value``."""
    dated = re.match(r"\d{4}-\d\d-\d\d", value) is not None
    if dated and pa.types.is_timestamp(kind):
        return pa.timestamp("ns") if kind.unit == "s" else pa.string()
    if dated and (pa.types.is_null(kind) or pa.types.is_date(kind)):
        return pa.timestamp("s")
    seen = pa.string() if math.isnan(to_number(value)) else pa.float64()
    wider = promote(kind, seen)
    return pa.string() if wider == kind else wider


def _header(path: Path) -> str:
    """First line.

    Raises:
        DataError: the file is binary, or only white space.
    """
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            head = stream.read(1 << 16)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); check the file") from None
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            raise DataError(f"{path} is named as text but holds {what}; rename it, or export it as CSV")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _not_utf8(path)
    if b"\0" in head:
        raise DataError(f"{path} is named as text but holds binary data; export it as UTF-8 CSV")
    if not head.strip():
        raise DataError(f"{path} is empty; give a file with a header and at least two rows")
    try:  # incremental: the block may end inside a character
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    return text.splitlines()[0]


def _not_utf8(path: Path) -> DataError:
    return DataError(f"{path} is not UTF-8 text; save it with the encoding UTF-8")


def _separator(header: str) -> str:
    """The separator that splits the header into most fields; a comma when none does."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)
