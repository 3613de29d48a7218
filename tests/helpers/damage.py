"""Nested content with one thing changed, gone or of another type: each in turn."""

import copy
from collections.abc import Iterator
from typing import Any

import torch

Path = tuple[str | int, ...]


def places(n: int) -> list[int]:
    """The first, one in the middle and the last of n."""
    return sorted({0, n // 2, n - 1}) if n else []


def changes_of(content: dict) -> Iterator[tuple[str, str, dict]]:
    """Yield where, how, and the changed copy, for dicts and lists of text, numbers and tensors."""
    for path, value in _inside(content, ()):
        where = ".".join(map(str, path))
        for how, changed in _others(value):
            yield where, how, _with(content, path, changed)
        yield where, "gone", _without(content, path)


def _inside(content: object, path: Path) -> Iterator[tuple[Path, object]]:
    match content:
        case dict():
            keys: list = list(content)
        case list() | tuple():
            keys = places(len(content))
        case _:
            return
    for key in keys:
        yield (*path, key), content[key]
        yield from _inside(content[key], (*path, key))


def _others(value: Any) -> Iterator[tuple[str, object]]:
    yield "another type", 7 if isinstance(value, str) else "seven"
    match value:
        case torch.Tensor():
            for place in places(value.numel()):
                changed = value.clone()
                changed.view(-1)[place] += 1
                yield f"[{place}]", changed
            yield "one shorter", value[:-1].clone()
            yield "other numbers", value.double() if value.is_floating_point() else value.float()
        case str():
            yield "changed", value + "x"
        case bool():
            yield "changed", not value
        case int() | float():
            yield "changed", value + 1


def _with(content: dict, path: Path, value: object) -> dict:
    *above, last = path
    if not above:
        return {**copy.deepcopy(content), last: value}
    inner = copy.deepcopy(_at(content, tuple(above)))
    if isinstance(inner, tuple):
        inner = (*inner[:last], value, *inner[last + 1 :])
    else:
        inner[last] = value
    return _with(content, tuple(above), inner)


def _without(content: dict, path: Path) -> dict:
    *above, last = path
    inner = copy.deepcopy(_at(content, tuple(above)))
    if isinstance(inner, tuple):
        inner = (*inner[:last], *inner[last + 1 :])
    else:
        del inner[last]
    return _with(content, tuple(above), inner) if above else inner


def _at(content: Any, path: Path) -> Any:
    for key in path:
        content = content[key]
    return content
