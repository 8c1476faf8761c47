"""Rows out of the files of a folder: CSV or lines of JSON. Pure."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trunkline.errors import InvalidInputError

ROW_BYTES_MAX = 64 * 2**20


def text_of(parts: Iterable[bytes], path: str) -> Iterator[str]:
    """Lines with their ends.

    :raises InvalidInputError: ``bad_rows``.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    try:
        for part in parts:
            *lines, rest = (rest + decoder.decode(part)).split("\n")
            yield from (line + "\n" for line in lines)
            if len(rest) > ROW_BYTES_MAX:
                raise InvalidInputError(
                    f"{path}: a line is longer than {ROW_BYTES_MAX} bytes", kind="bad_rows"
                )
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: it is not UTF-8 text", kind="bad_rows") from error
    if rest:
        yield rest


def csv_rows(lines: Iterable[str], path: str, columns: Sequence[str]) -> Iterator[list[str | None]]:
    """Rows in the order of ``columns``. The first line is a header if all its fields are names among them; else, and without
    one, fields are in that order. An empty field is NULL."""
    order: list[int | None] = []
    reader = csv.reader(lines, strict=True)
    try:
        for fields in reader:
            if not fields:
                continue
            if not order:
                is_header = len(set(fields)) == len(fields) and set(fields) <= set(columns)
                names = fields if is_header else list(columns)
                order = [names.index(name) if name in names else None for name in columns]
                expected = len(names)
                if is_header:
                    continue
            if len(fields) != expected:
                raise InvalidInputError(
                    f"{path}, line {reader.line_num}: it has {len(fields)} fields, not {expected} "
                    f"({', '.join(columns)})",
                    kind="bad_rows",
                )
            yield [None if at is None else (fields[at] or None) for at in order]
    except csv.Error as error:
        raise InvalidInputError(f"{path}, line {reader.line_num}: {error}", kind="bad_rows") from error


def json_objects(lines: Iterable[str], path: str) -> Iterator[dict[str, Any]]:
    """One object on each line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(
                f"{path}, line {number}: it is not JSON: {error}", kind="bad_rows"
            ) from error
        if not isinstance(found, dict):
            raise InvalidInputError(f"{path}, line {number}: it is not a JSON object", kind="bad_rows")
        yield found


def json_rows(lines: Iterable[str], path: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Rows in the order of ``columns``; a key that is missing is NULL, one that is no column is an error."""
    for found in json_objects(lines, path):
        strange = next((key for key in found if key not in columns), None)
        if strange is not None:
            raise InvalidInputError(
                f"{path}: key {strange!r} is no column of the table ({', '.join(columns)})", kind="bad_rows"
            )
        yield [_plain(found.get(name)) for name in columns]


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
