"""Plan files: JSON that is written the same way every time, and read with care.

Writing is deterministic: fields in the order of the records, floats as the records hold them, no time
stamps, and a container on one line wherever it fits, so that one array is one line and a change is a short
diff. What repeats stands there once (`autoshard.plan_folding`). The file is replaced in one step, so a reader
never meets half of it.

The form has a version and a revision (as lock files do): a newer *version* is refused, a newer *revision*
is read with a warning and what it adds is ignored, an older form is read and held in the current one.
"""

from __future__ import annotations

import json
import os
import secrets
import warnings
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from autoshard.errors import PlanError
from autoshard.plan_folding import fold_plan, unfold_plan
from autoshard.plan_records import SchemaRecord
from autoshard.record import Record

_LINE_WIDTH = 110
_CURRENT = SchemaRecord()
_NEWEST_REVISION = {1: 0, 2: _CURRENT.revision}

R = TypeVar("R", bound=Record)


def format_record(record: Record) -> str:
    """Return the text of the file that holds `record`, a plan.

    Raises:
        PlanError: the record holds a value that could not be read back.
    """
    plain = msgspec.to_builtins(record)
    try:
        msgspec.convert(plain, type(record))
    except msgspec.ValidationError as error:
        raise PlanError(f"The plan cannot be written: {error}. It would not load again.") from None
    try:
        folded = fold_plan(plain)
    except PlanError as error:
        raise PlanError(f"The plan cannot be written: {error}.") from None
    return _format(folded, indent=0, room=_LINE_WIDTH) + "\n"


def parse_record(text: str | bytes, kind: type[R], *, source: str) -> R:
    """Return the record that the text of a file holds.

    Args:
        text: content of the file.
        kind: type of the record: the plan.
        source: name of the file, for the errors.

    Raises:
        PlanError: the text is damaged, of another kind, or of a newer version.
    """
    plain = _parse_json(text, source)
    schema = _schema(plain, source)
    try:
        plain = unfold_plan(plain, version=schema.version)
    except PlanError as error:
        raise PlanError(f"{source}: not a sound plan: {error}. Make it again: `autoshard tune`.") from None
    if schema.revision > _NEWEST_REVISION[schema.version]:
        warnings.warn(
            f"{source}: made by {_author(plain)} in a newer revision of schema {schema.version}: "
            "what this autoshard does not know in it is ignored.",
            stacklevel=2,
        )
        plain = _prune(plain, inspect.type_info(kind))
    plain["schema"] |= msgspec.to_builtins(_CURRENT)
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"{source}: not a sound plan: {error}. Make it again: `autoshard tune`.") from None


def load_record(path: str | os.PathLike[str], kind: type[R]) -> R:
    """Return the record that the file at `path` holds; raises `PlanError` where it cannot be read."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise PlanError(f"{os.fspath(path)}: no such plan file: `autoshard tune` makes it.") from None
    except OSError as error:
        raise PlanError(f"{os.fspath(path)}: cannot be read: {error.strerror}.") from None
    return parse_record(content, kind, source=os.fspath(path))


def save_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Write `record` to `path` in one step, making its directory; raises `PlanError` where it cannot."""
    text = format_record(record)
    check_writable(path)
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(scratch, target)
    except OSError as error:
        _refuse(target, error.strerror or str(error))
    finally:
        scratch.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `PlanError` where a plan cannot be written to `path`: ask before a long search, not after it."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        _refuse(target, "it is a directory; name a file in it")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        _refuse(target, f"`{existing}` is a file, not a directory; choose a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        _refuse(target, f"you may not write to `{existing}`; change its permissions")


def _refuse(target: Path, reason: str) -> NoReturn:
    raise PlanError(
        f"The plan cannot be written to `{target.name}` in directory `{target.parent}`: {reason}, "
        "or choose another place for the plan."
    )


def _parse_json(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        plain = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise PlanError(
            f"{source}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}): the file is "
            "truncated or damaged. Restore it from version control or make it again with `autoshard tune`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source}: not a plan: {error}.") from None
    if not isinstance(plain, dict):
        raise PlanError(f"{source}: not a plan: expected a JSON object, found {type(plain).__name__}.")
    return plain


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON number")


def _schema(plain: dict[str, Any], source: str) -> SchemaRecord:
    schema = plain.get("schema")
    version = schema.get("version") if isinstance(schema, dict) else None
    revision = schema.get("revision", 0) if isinstance(schema, dict) else None
    if not isinstance(version, int) or not isinstance(revision, int):
        raise PlanError(f'{source}: not a plan: expected `"schema": {{"version": 2, "revision": 0}}`.')
    if version not in _NEWEST_REVISION:
        remedy = "upgrade autoshard" if version > _CURRENT.version else "make the plan again"
        raise PlanError(
            f"{source}: made by {_author(plain)}, schema {version}; this autoshard reads schema "
            f"{' and '.join(map(str, _NEWEST_REVISION))}: {remedy}."
        )
    return SchemaRecord(version=version, revision=revision)


def _author(plain: dict[str, Any]) -> str:
    return str(plain.get("created_by", "an unknown program"))


def _prune(plain: Any, kind: inspect.Type) -> Any:
    """Drop the object fields that `kind` does not know."""
    if isinstance(kind, inspect.UnionType):
        structs = [each for each in kind.types if isinstance(each, inspect.StructType)]
        return _prune(plain, structs[0]) if structs else plain
    if isinstance(kind, inspect.StructType) and isinstance(plain, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        return {name: _prune(value, fields[name]) for name, value in plain.items() if name in fields}
    if isinstance(kind, inspect.DictType) and isinstance(plain, dict):
        return {key: _prune(value, kind.value_type) for key, value in plain.items()}
    if isinstance(kind, inspect.VarTupleType) and isinstance(plain, list):
        return [_prune(value, kind.item_type) for value in plain]
    return plain


def _format(value: Any, indent: int, room: int) -> str:
    """Return `value` as JSON: on one line where that fits into `room` columns, else one member per line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(line) <= room or not value or not isinstance(value, dict | list | tuple):
        return line
    inner = indent + 2
    if isinstance(value, dict):
        keys = [json.dumps(key, ensure_ascii=False) + ": " for key in value]
        members, brackets = list(value.values()), "{}"
    else:
        keys, members, brackets = [""] * len(value), list(value), "[]"
    lines = [
        " " * inner + key + _format(member, inner, _LINE_WIDTH - inner - len(key) - 1)
        for key, member in zip(keys, members, strict=True)
    ]
    return brackets[0] + "\n" + ",\n".join(lines) + "\n" + " " * indent + brackets[1]
