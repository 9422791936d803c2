"""JSON in one canonical form, and the checks of values that come from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from szn_runtime.errors import BundleError

__all__ = ["dump", "is_int", "is_number", "plain", "refuse_constant", "require", "require_text"]


def dump(document: object, *, indent: int | None = None) -> str:
    """JSON in one canonical form: sorted keys, no NaN, text as it is."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        document,
        indent=indent,
        sort_keys=True,
        allow_nan=False,
        ensure_ascii=False,
        separators=separators,
    )


def plain(values: object, name: str) -> dict[str, Any]:
    """A copy that holds what JSON would give back, so that writing and reading are inverse."""
    require(isinstance(values, Mapping), name, values, "an object")
    try:
        text = dump(dict(values))  # type: ignore[call-overload]
        copy: dict[str, Any] = json.loads(text.encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{name} of the manifest cannot be written as JSON", got=error) from error
    return copy


def refuse_constant(constant: str) -> float:
    """For `parse_constant` of `json.loads`: NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is no JSON number")


def is_int(value: object) -> bool:
    """Whether it is an integer, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number, and not a truth value."""
    # the comparison also serves integers that no float can hold, and refuses NaN
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def require_text(value: object, name: str) -> None:
    """Refuse what is not one line of text."""
    good = isinstance(value, str) and value == value.strip() and len(value.splitlines()) == 1
    # a lone surrogate, as undecodable arguments of a command hold it, has no UTF-8 form
    good = good and not any("\ud800" <= letter <= "\udfff" for letter in str(value))
    require(good, name, repr(value), "one line of text")


def require(holds: bool, name: str, got: object, expected: object) -> None:
    """Raise a BundleError about the field `name` unless `holds`."""
    if not holds:
        raise BundleError(f"{name} of the manifest is out of range", got=got, expected=expected)
