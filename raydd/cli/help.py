"""Help on the fields of a config: the few that matter for its method, those of one section, or all.

What a field means is said by the text below it in its class; here it is found, and set in lines.
"""

import argparse
import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NoReturn

WIDTH: Final = 100
_IN_FILES: Final = "in a file alone"
ALL: Final = "all"
_IMPORTANT: Final = (
    *("out", "seed", "data.source", "data.root", "data.image_size", "network.width", "network.depth"),
    *("method.name", "method.images_per_class", "method.iterations", "method.image_lr", "method.initial_images"),
    *("evaluate.num_students", "evaluate.recipe.epochs", "evaluate.recipe.lr", "cluster.num_workers"),
)
_OF_INGREDIENTS: Final = {
    "experts": ("experts.count", "experts.training.epochs", "experts.training.lr"),
    "teacher": ("teacher.training.epochs", "teacher.training.lr"),
}
"""By what a method needs made first."""


@dataclass(frozen=True)
class Field:
    """A field of a config, as a flag sets it."""

    path: str
    """Dotted, such as `method.image_lr`."""
    kind: str
    """What it takes, in words."""
    text: str
    value: Any

    @property
    def is_flag(self) -> bool:
        """Whether it can be typed after a command."""
        return self.kind != _IN_FILES

    @property
    def flag(self) -> str:
        """As it is typed, or what a file calls it where there is no flag."""
        return "--" + self.path.replace("_", "-") if self.is_flag else f"{self.path}:"

    def lines(self) -> list[str]:
        """Flag, what it takes and its value; then what it means."""
        indent = " " * 8
        wrapped = textwrap.wrap(self.text, WIDTH, initial_indent=indent, subsequent_indent=indent)
        return [f"  {self.flag} {self.kind} (default {shown(self.value)})", *wrapped]


def page(config: Any, section: str | None, where: str) -> str:
    """The help on a config's fields.

    Args:
        config: whose values are shown.
        section: of the config, such as `method` or `evaluate.recipe`; `all`; None for what matters most.
        where: what has these values, in words.

    Returns:
        Lines of at most `WIDTH` characters, as far as names and values allow.

    Raises:
        KeyError: there is no such section.
    """
    known = list(fields_of(config))
    if section is None:
        named = _important(config)
        chosen = sorted((one for one in known if one.path in named), key=lambda one: named.index(one.path))
        head = f"The fields that matter most for {config.method.name}, with the values of {where}:"
    else:
        chosen = [one for one in known if section == ALL or f"{one.path}.".startswith(f"{section}.")]
        head = f"All fields{'' if section == ALL else f' of {section}'}, with the values of {where}:"
    if not chosen:
        raise KeyError(section)
    tail = f"More: --help SECTION, of {', '.join(sections(config))}; --help all lists all {len(known)} fields."
    lines = (line for one in chosen for line in one.lines())
    return "\n".join([*textwrap.wrap(head, WIDTH), *lines, "", *textwrap.wrap(tail, WIDTH)])


def listed(config: Any) -> str:
    """All fields of a config, as flags of their own."""
    return "\n".join(line for one in fields_of(config) for line in one.lines())


class FieldsHelp(argparse.Action):
    """A command's options, and the fields that follow as flags: `of` says whose, by the arguments before."""

    def __init__(self, option_strings: Sequence[str], dest: str, of: Callable[[argparse.Namespace], Any]) -> None:
        """An option without a value."""
        super().__init__(option_strings, dest, nargs=0, help="this help")
        self._of = of

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> NoReturn:
        """Print them."""
        config = self._of(namespace)
        print(parser.format_help() + ("" if config is None else f"\n{listed(config)}"))
        sys.exit(0)


def sections(config: Any) -> list[str]:
    """The parts of a config."""
    return [item.name for item in fields(config) if is_dataclass(getattr(config, item.name))]


def fields_of(config: Any, prefix: str = "") -> Iterator[Field]:
    """All leaves of a config, in its order."""
    texts, kinds = _texts(type(config)), typing.get_type_hints(type(config), include_extras=True)
    for item in fields(config):
        value, path = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from fields_of(value, f"{path}.")
        else:
            yield Field(path, taken(kinds[item.name]), texts.get(item.name, ""), value)


def taken(kind: Any) -> str:
    """What a flag of a type takes, in a word; parts with fields of their own are written in files."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return "JSON" if _has_fields(inner[0]) else taken(inner[0])
    if _has_fields(kind):
        return _IN_FILES
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys("none" if one is type(None) else taken(one) for one in inner))
    if origin in (tuple, list):
        return f"{taken(inner[0])} ..."
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}.get(kind, "VALUE")


def _has_fields(kind: Any) -> bool:
    inner = typing.get_args(kind)
    is_mapping = inspect.isclass(origin := typing.get_origin(kind)) and issubclass(origin, Mapping)
    return is_dataclass(kind) or is_mapping or any(map(_has_fields, inner))


def shown(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value)) or "nothing"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _important(config: Any) -> Sequence[str]:
    """At most twenty."""
    own = [path for kind in config.method.made_first for path in _OF_INGREDIENTS.get(kind, ())]
    place = _IMPORTANT.index("method.name")
    return (*_IMPORTANT[:place], *own, *_IMPORTANT[place:])


def _texts(kind: type) -> dict[str, str]:
    """The texts below the fields of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not is_dataclass(each):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for pair in pairwise(tree.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found
