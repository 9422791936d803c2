"""Presets: values of a configuration by name, in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from szn_runtime.errors import UsageError
from szn_train.config import TABLES, check_table
from szn_train.protocol import under_protocol

__all__ = ["load_preset", "load_presets", "preset_names"]


def preset_names() -> tuple[str, ...]:
    """Names that `load_preset` knows."""
    folder = files("szn_train") / "presets"
    return tuple(
        sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
    )


def load_preset(name: str) -> dict[str, Any]:
    """Read a preset of the package by name, or a TOML file by path.

    A preset may name one of the package that it `extends`, and lies above it as in `load_presets`.

    Raises:
        UsageError: If there is none, it is not TOML, or it extends what is not in the package.
    """
    if name in preset_names():
        content = (files("szn_train") / "presets" / f"{name}.toml").read_bytes()
    elif name.endswith(".toml") and Path(name).is_file():
        content = Path(name).read_bytes()
    else:
        raise UsageError(
            f"no preset {name!r}", expected=f"{', '.join(preset_names())}, or a .toml file"
        )
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"preset {name} is not TOML ({error})") from error
    for table in TABLES:
        check_table(table, values.get(table, {}))
    if "extends" not in values:
        return values
    base = values.pop("extends")
    if base not in preset_names():
        raise UsageError(
            f"preset {name} extends no preset", got=base, expected=", ".join(preset_names())
        )
    return _above(load_preset(base), values)


def load_presets(names: str) -> dict[str, Any]:
    """Read several presets, comma separated; what a later one names replaces the earlier ones'.

    So `voc-17-2-2,thesis` is the training of the one with the classes of the other: a preset of
    another protocol drops the recipe of those before it (`szn_train.protocol.under_protocol`).

    Raises:
        UsageError: As `load_preset`.
    """
    values: dict[str, Any] = {}
    for name in names.split(","):
        values = _above(values, load_preset(name.strip()))
    return values


def _above(values: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a preset, and above them those of another; tables key by key.

    So a label that both give words for has those of the other, and `chair = []` takes them away.
    """
    if "protocol" in added:
        values = under_protocol(values, added["protocol"])
    tables = {name: {**values.get(name, {}), **added.get(name, {})} for name in TABLES}
    return {**values, **added, **{name: table for name, table in tables.items() if table}}
