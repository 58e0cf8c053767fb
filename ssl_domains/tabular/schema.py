"""A table's fitted columns as a file: saved once, checked against other data, used again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import codes, is_date, is_text, numbers, supported, texts, to_seconds
from ssl_domains.tabular.plan import PlanOptions, nearest, require
from ssl_domains.tabular.readers import Reader, is_clock, is_number
from ssl_domains.tabular.spec import UNSEEN, ColumnSpec, TableSpec

FORMAT = "ssl_domains table schema"
VERSION = 1


def write_schema(spec: TableSpec, path: str | Path) -> Path:
    """Writes a spec as JSON, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    path = Path(path)
    text = json.dumps({"format": FORMAT, "version": VERSION, "spec": spec.to_dict()}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            file.write(text + "\n")
        os.replace(file.name, path)
    except OSError as error:
        raise DataError(
            f"the schema {path} cannot be written ({error.strerror}); choose another place"
        ) from None
    return path


def read_schema(path: str | Path) -> TableSpec:
    """A schema that :func:`write_schema` wrote; also that of a run, by its directory.

    Raises:
        DataError: no such file, or it holds no table schema of this version.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        found = [f for f in (where / "encoder" / "config.json", where / "config.json") if f.is_file()]
        if not found:
            raise DataError(
                f"data.schema: {where} is a folder without an encoder; give a schema file or a run"
            )
        where = found[0]
    try:
        values = json.loads(where.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"data.schema: {where} does not exist; write one with ssl-domains inspect FILE --schema {where}"
        ) from None
    except ValueError:
        raise DataError(
            f"data.schema: {where} is no JSON file; write it anew with inspect --schema"
        ) from None
    is_run = isinstance(values, dict) and values.get("domain") == "tabular" and "encoder" in values
    if not isinstance(values, dict) or not (is_run or values.get("format") == FORMAT):
        raise DataError(f"data.schema: {where} holds no table schema; write it anew with inspect --schema")
    if not is_run and values.get("version") != VERSION:
        raise DataError(
            f"data.schema: {where} has version {values.get('version')}, this package reads {VERSION}; "
            "write it anew with inspect --schema"
        )
    try:
        return TableSpec.from_dict(values["spec"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"data.schema: {where} is damaged; write it anew with inspect --schema") from None


def reuse(spec: TableSpec, options: PlanOptions, taken: Sequence[str], where: str) -> TableSpec:
    """The schema under the other options of ``data``: fewer columns, another scaling.

    Args:
        spec: of the schema.
        options: ``include`` and ``exclude`` choose among its columns; ``scaling`` applies (the
            statistics of all scalings are in the schema); ``columns`` must agree with it.
        taken: label, id and split columns, which must not be input.
        where: the schema's file, for messages.

    Raises:
        DataError: a column that the schema does not have, or another kind than its own.
    """
    sources = spec.sources
    for name in options.include or ():
        if name not in sources:
            hint = nearest(name, sources)
            raise DataError(f"data.include: the schema {where} has no column {name!r}{hint}")
    for name in taken:
        if name in sources and name not in options.exclude:
            raise DataError(
                f"column {name!r} is an input in the schema {where}, but data uses it as label, id or split; "
                f"write the schema with label={name}, or set data.exclude: [{name}]"
            )
    for column in spec.columns:
        told, kind = options.columns.get(column.source), "date" if column.part else column.kind
        if told is not None and told != kind:
            raise DataError(
                f"data.columns: {column.source} is {told!r}, but {kind!r} in the schema {where}; "
                "leave it out, or write another schema"
            )
    kept = set(sources if options.include is None else options.include) - set(options.exclude)
    numeric, categorical = (
        tuple(column for column in columns if column.source in kept)
        for columns in (spec.numeric, spec.categorical)
    )
    if not numeric and not categorical:
        raise DataError(f"no column of the schema {where} is left as input; give fewer in data.exclude")
    return replace(spec, numeric=numeric, categorical=categorical, scaling=options.scaling)


def check_schema(spec: TableSpec, reader: Reader, options: PlanOptions, where: str) -> None:
    """Compares a table's columns with a schema, by name and type; texts by their values.

    Raises:
        DataError: a column is missing or holds another kind; names the first that disagrees.
    """
    names = reader.schema.names
    for name in options.exclude:
        require(name, "data.exclude", reader)
    for name in spec.sources:
        if name not in names:
            raise DataError(
                f"{reader.name} has no column {name!r}, which the schema {where} has{nearest(name, names)}"
            )
    textual: dict[str, ColumnSpec] = {}
    for column in spec.columns:
        kind = reader.schema.field(column.source).type
        odd = _disagrees(column, kind)
        if odd:
            raise DataError(
                f"{reader.name}: column {column.source!r} holds {odd} ({kind}), but the schema {where} has "
                f"{_said(column)}; correct the data or the schema"
            )
        if _needs_values(column, kind) and column.source not in options.columns:
            textual[column.source] = column
    if textual:
        _check_texts(textual, reader, where)
    _check_categories(spec, reader, where)


def _said(column: ColumnSpec) -> str:
    return "dates" if column.part else "numbers" if column.kind == "numeric" else "categories"


def _disagrees(column: ColumnSpec, kind: pa.DataType) -> str | None:
    """What a column holds in place of what the schema says, by its type alone."""
    if pa.types.is_null(kind):
        return None  # all missing
    if not supported(kind):
        return "neither numbers nor categories"
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if column.part is not None:
        return None if is_date(plain) or is_text(plain) else "no dates"
    if column.kind == "numeric":
        fits = is_number(plain) or is_clock(plain) or pa.types.is_boolean(plain) or is_text(plain)
        return None if fits else "dates"
    return "dates" if is_date(plain) else None


def _needs_values(column: ColumnSpec, kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_text(plain) and (column.part is not None or column.kind == "numeric")


def _check_texts(columns: dict[str, ColumnSpec], reader: Reader, where: str) -> None:
    """One pass over columns of texts that the schema has as numbers or dates."""
    start = 0
    for batch in reader.batches(list(columns)):
        for name, column in columns.items():
            array = batch.column(name)
            if pa.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            for value in pc.unique(array.drop_null()).to_pylist():
                bad = to_seconds(value) if column.part else numbers(pa.array([value]))[0]
                if bad != bad:
                    row = start + pc.index(array, value).as_py()
                    raise DataError(
                        f"{reader.where(row)}: column {name!r} holds the text {value!r}, but the schema "
                        f"{where} has {_said(column)}; correct it, or set data.columns: "
                        f"{{{name}: {'date' if column.part else 'numeric'}}} to take such texts as missing"
                    )
        start += len(batch)


def _check_categories(spec: TableSpec, reader: Reader, where: str) -> None:
    """A column none of whose values the schema knows is another column; looks at the first batch."""
    for batch in reader.batches([column.source for column in spec.categorical]):
        for column in spec.categorical if len(batch) >= 20 else ():
            found = codes(batch.column(column.source), column)
            if (found == UNSEEN).any() and (found <= UNSEEN).all():
                shown = texts(batch.column(column.source)).drop_null()[0].as_py()
                known = ", ".join(repr(value) for value in column.categories[:3])
                raise DataError(
                    f"{reader.name}: none of the values of column {column.source!r} (such as {shown!r}) is "
                    f"in the schema {where} (such as {known}); correct the data or the schema"
                )
        break
