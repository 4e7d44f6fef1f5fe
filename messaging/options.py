"""Typed option tables: from strings of a URL, an environment or a TOML file, and from keywords, to one frozen Settings.

A driver declares its options as fields of a msgspec struct; this file checks and converts them, and tells a user who
mistyped one what is allowed and what the nearest spelling is. It knows no driver. The same fields give the
documentation, so that the two cannot differ.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from messaging.errors import ConfigError

__all__ = ["OptionInfo", "build_settings", "describe_options", "is_secret", "nearest"]

T = TypeVar("T")
_NOT_OPTIONS = frozenset({"url", "credentials"})
_SWITCHES = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
_SECRETS = ("password", "passwd", "passphrase", "secret", "token", "credential", "key")


class OptionInfo(NamedTuple):
    """One option, as documentation and error messages show it."""

    name: str
    allowed: str
    default: Any
    description: str


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ` - did you mean 'x'?` for the closest known spelling, or nothing."""
    import difflib  # 1 ms that only a mistake costs

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" - did you mean {close[0]!r}?" if close else ""


def is_secret(name: str) -> bool:
    """Whether the value of an option must not be shown, judged by its name; rather one too many."""
    return any(word in name.lower() for word in _SECRETS)


def _unwrap(annotation: Any) -> tuple[Any, msgspec.Meta | None]:
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *notes = typing.get_args(annotation)
        return inner, next((note for note in notes if isinstance(note, msgspec.Meta)), None)
    return annotation, None


def _allowed(annotation: Any, meta: msgspec.Meta | None) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if origin in (typing.Union, types.UnionType):
        parts = (part for part in typing.get_args(annotation) if part is not type(None))
        return " | ".join(_allowed(*_unwrap(part)) for part in parts)
    if annotation is bool:
        return "yes | no"
    name = {int: "a whole number", float: "a number", str: "text"}.get(annotation, str(annotation))
    if meta is None:
        return name
    limits = [
        f"{word} {limit:g}" if isinstance(limit, float) else f"{word} {limit}"
        for word, limit in (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt))
        if limit is not None
    ]
    told = f"{name} {' and '.join(limits)}".strip()
    if meta.pattern is not None and meta.examples:
        told += ", for example " + " or ".join(map(str, meta.examples))
    return told


def describe_options(table: type[Any]) -> Iterator[OptionInfo]:
    """Yield the options of a table in the order of their declaration."""
    hints = typing.get_type_hints(table, include_extras=True)
    for field in msgspec.structs.fields(table):
        if field.name in _NOT_OPTIONS:
            continue
        inner, meta = _unwrap(hints[field.name])
        default = None if field.default is msgspec.NODEFAULT else field.default
        description = (meta.description if meta is not None else None) or ""
        yield OptionInfo(field.name, _allowed(inner, meta), default, description)


def _is_bool(annotation: Any) -> bool:
    inner, _ = _unwrap(annotation)
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        return all(_is_bool(part) for part in typing.get_args(inner) if part is not type(None))
    return inner is bool


def _convert(name: str, value: Any, annotation: Any, info: OptionInfo, origin: str) -> Any:
    if isinstance(value, str) and _is_bool(annotation):
        value = _SWITCHES.get(value.strip().lower(), value)
    try:
        converted = msgspec.convert(value, annotation, strict=False)
        if not isinstance(converted, float) or math.isfinite(converted):
            return converted
    except msgspec.ValidationError:
        # Said below, with the option's name; its own text knows neither that nor how an option is written.
        pass
    shown = "the value given" if is_secret(name) else repr(value)
    raise ConfigError(f"option {name!r} ({origin}) must be {info.allowed}, not {shown}")


def build_settings(table: type[T], layers: Sequence[tuple[str, Mapping[str, Any]]], **fixed: Any) -> T:
    """Make the Settings of a driver from several layers of options, the later ones winning.

    `layers` are pairs (where they come from, the options). Raises ConfigError that names an unknown or bad option, what
    is allowed, and the nearest known name.
    """
    known = {info.name: info for info in describe_options(table)}
    hints = typing.get_type_hints(table, include_extras=True)
    values: dict[str, Any] = {}
    for origin, options in layers:
        for name, value in options.items():
            if name not in known:
                listed = ", ".join(sorted(known)) or "none"
                # Whoever replaces the URL in one place may still have another driver's options in the other.
                whose = f" of {url.kind}://" if (url := fixed.get("url")) is not None else ""
                raise ConfigError(
                    f"unknown option {name!r} ({origin}){nearest(name, list(known))}; options{whose}: {listed}"
                )
            values[name] = _convert(name, value, hints[name], known[name], origin)
    fields: Sequence[Any] = msgspec.structs.fields(cast("type[msgspec.Struct]", table))
    for field in fields:
        if field.required and field.name in known and field.name not in values:
            raise ConfigError(f"option {field.name!r} is required: {known[field.name].allowed}")
    return table(**values, **fixed)
