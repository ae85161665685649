"""Reads a recipe's settings from a file, so that a training run can be repeated."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, Final

from striate.errors import RunError, did_you_mean, readable
from striate.training.recipe import Recipe

#: Short names, as in the program's options.
_ALIASES: Final = {"lr": "learning_rate"}
_NEEDED: Final = 'needed lines such as epochs = 20, data = "digits"'


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a file: TOML with the names of :class:`Recipe`'s fields, or the ``settings.json`` of a run.

    Names may have hyphens, as the program's options do. The folder in a run's settings is ignored, so that another run
    with the same settings gets a folder of its own.

    Args:
        path: the file, ``.toml`` or ``.json``.

    Raises:
        RunError: no such file, no TOML or JSON, an unknown setting.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        found = json.loads(content) if path.suffix == ".json" else tomllib.loads(content.decode())
    except OSError as error:
        raise RunError(readable(path), f"can't be read ({error.strerror})", "needed a file of settings") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise RunError(readable(path), f"is no {kind} ({error})", _NEEDED) from error
    if isinstance(found, dict) and isinstance(found.get("recipe"), dict):
        recipe = {name: value for name, value in found["recipe"].items() if name != "out"}
        found = recipe | ({"data": found["source"]} if "source" in found else {})
    if not isinstance(found, dict):
        raise RunError(readable(path), "holds no settings", _NEEDED)
    if isinstance(found.get("train"), dict):  # a file with a table of settings for each command
        found = found["train"]
    named = {_ALIASES.get(name, name.replace("-", "_")): value for name, value in found.items()}
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in named:
        if name not in known:
            remedy = did_you_mean(name, known, "striate train --help lists them")
            raise RunError(readable(path), f"unknown setting {name}", "", remedy)
    if named.get("image_size") is not None:
        named["image_size"] = parse_size(named["image_size"])
    return named


def parse_size(given: object, where: str = "image size") -> tuple[int, int]:
    """Parses an image's (height, width); ``where`` is its name in errors.

    Raises:
        RunError: something else.

    >>> parse_size("28"), parse_size("28x32"), parse_size(28), parse_size([28, 32])
    ((28, 28), (28, 32), (28, 28), (28, 32))
    """
    sides = list(given) if isinstance(given, list | tuple) else str(given).lower().split("x")
    if len(sides) not in (1, 2) or not all(str(side).isdecimal() and int(side) for side in sides):
        raise RunError(where, f"got {given!r}", "needed pixels, as 28 or (height x width) 28x32")
    return int(sides[0]), int(sides[-1])
