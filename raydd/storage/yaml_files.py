"""YAML as users and programs write it, read as plain data; refused where it says a thing twice or grows in reading."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from raydd.core.errors import UserError

MOST_PARTS: Final = 100_000
"""Values, lists and mappings of a file, with every alias counted as what it stands for."""
_MOST_LEVELS: Final = 50
_MOST_DIGITS: Final = 300
_MOST_CHARACTERS: Final = 400


def read(text: bytes, where: str) -> Any:
    """What a file says.

    Args:
        text: its content.
        where: what messages call it.

    Raises:
        UserError: it is not YAML, or a mapping has a key twice, a value is none of its type, an integer or the whole is
            too large, or a text holds what is no character.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_bounded(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        problem = str(error)
    except Exception as error:  # of the library's constructors, which do not expect `!!int x` or [[[[...
        problem = f"a value is not what it says it is: {error!r}"
    if len(problem) > _MOST_CHARACTERS:
        problem = f"{problem[:_MOST_CHARACTERS]}..."
    raise UserError(f"{where}: not readable as YAML: {problem}")


class _Loader(yaml.SafeLoader):
    """The safe loader, but for what it lets pass in silence, or takes minutes for."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value with all that is inside it, which is not too deep."""
        self._depth += 1
        if self._depth > _MOST_LEVELS:
            problem = f"more than {_MOST_LEVELS} levels, one inside the other"
            raise yaml.composer.ComposerError(None, None, problem, None)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, in which every key is there once."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refused(f"the key {key.value[:50]!r} is there twice", key)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer that can be printed."""
        digits = self.construct_scalar(node)
        if len(digits) > _MOST_DIGITS:
            raise _refused(f"an integer of {len(digits)} characters", node)
        return int(super().construct_yaml_int(node))

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """A text that can be printed and stored, and may name a file."""
        value = str(super().construct_yaml_str(node))
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise _refused("a text with a null character or half of a surrogate pair", node)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)


def _refused(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _require_bounded(node: yaml.Node) -> None:
    """Raise a YAMLError where aliases make more of a file than anybody would write, or the whole a part of itself."""
    if _parts(node, {}) > MOST_PARTS:
        raise _refused(f"more than {MOST_PARTS:,} values; or aliases without end", node)


def _parts(node: yaml.Node, known: dict[int, float]) -> float:
    """How many parts a node has, itself among them; infinitely many where it is inside itself."""
    number = id(node)
    if number not in known:
        known[number] = float("inf")
        known[number] = 1 + sum(_parts(part, known) for part in _inside(node))
    return known[number]


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
