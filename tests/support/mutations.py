"""Configurations with something wrong in them: drawn from good ones, as text, as people and programs spoil them."""

import copy
import datetime
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from raydd import config as configs
from tests.support import small

Tree = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

_TEACHER: Tree = {
    "network": {"width": 4, "depth": 2, "norm": "batch"},
    "teacher": {"training": {"epochs": 1, "lr": 0.1}},
    "evaluate.recipe": {"epochs": 2, "lr": 0.01, "batch_size": 16, "augmentation": "none", "views": {}},
}
_DELT = {"name": "delt", "images_per_class": 2, "iterations": 4, "round_iterations": 2, "batch_size": 10}
_SWEEP = {"parameters": {"method.image_lr": [0.5, 1.0], "experts.training.lr": {"low": 0.1, "high": 0.3}}}
_CHANGES: tuple[Tree, ...] = (
    {},
    {"sweep": {**_SWEEP, "search": "random", "num_samples": 2}, "evaluate.networks": [{"name": "mlp"}]},
    {
        "stages": {"count": 2, "pool_size": 2, "epochs": 2, "overrides": {1: {"iterations": 4}}},
        "data.preprocess": "zca",
        "data.validation_fraction": 0.1,
    },
    {
        "method": {**small.COMMON, "name": "mtt", "max_start_epoch": 1},
        "stages": {"count": 2, "conditioning": "none", "filter": {"policy": "forgetting_min", "least": [0, 1]}},
    },
    {**_TEACHER, "method": _DELT, "evaluate.labels": ["online", "replayed"], "evaluate.label_epochs": 2},
    {**_TEACHER, "method": {"name": "rded", "images_per_class": 1}, "stages": {"count": 2, "conditioning": "none"}},
    {"method": {"name": "idc", "images_per_class": 1}, "evaluate.recipe.lr": 0.01},
    {"method": {"name": "dm", "images_per_class": 1}, "evaluate.recipe.lr": 0.01, "data.source": "cifar10"},
)


def _base(changes: Tree) -> Tree:
    values = copy.deepcopy(small.CONFIG)
    for path, value in changes.items():
        *parents, name = path.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = value
    return configs.to_mapping(configs.from_mapping(values))


BASES = [_base(changes) for changes in _CHANGES]
"""Whole trees, with every default, of runs that are fine."""


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a tree, inner ones too."""
    found = [path] if path else []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [below for name, part in inner for below in leaves(part, (*path, name))]


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


_SEEN = sorted({".".join(map(str, path)) for base in BASES for path in leaves(base)})
_NAMES = sorted({str(path[-1]) for base in BASES for path in leaves(base)})
_NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 7, 100, 10**6, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, -(10**30), 10**4400),
    *(0.0, -0.0, 0.5, 1.5, -1e-9, 1e-30, 1e30, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
]
_TEXTS = [
    *(
        "",
        " ",
        "auto",
        "none",
        "null",
        "~",
        "0",
        "1e5",
        "True",
        "convnet",
        "zca",
        "batch",
        "imagefolder",
        "datm",
        "hard",
    ),
    *("\0", "a\0b", "\x1b[31m", "[red]x[/]", "[/]", "{0}", "%s", "é\u202eü", "\ud800", "🂡", "x" * 5000, "a/b", "a.b"),
    *(
        "..",
        "/",
        "/dev/null",
        "/dev/null/x",
        "~nobody-at-all/x",
        "http://[::1",
        "file:///",
        "://",
        "ftp://x/y",
        "s3://",
    ),
    *("\n", "- a\n- b", "!!python/object:os.system", "-" * 300, "/" + "a" * 300, "medmnist:", "medmnist:x", "idc:"),
]
_ODD: list[Any] = [
    *(None, True, False, [], {}, [None], [[]], {"": ""}, {1: 2}, {None: None}, [1, "a", {}], b"\0\xff", {"a", "b"}),
    *(datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12), [0] * 1000, {str(n): n for n in range(300)}),
]
_VALUES = st.one_of(st.sampled_from(_NUMBERS), st.sampled_from(_TEXTS), st.sampled_from(_ODD), st.text(max_size=12))


def _other(tree: Tree, draw: Draw) -> Tree:
    """One part has a value of another type or size."""
    return replaced(tree, _part(tree, draw), draw(_VALUES))


def _foreign(tree: Tree, draw: Draw) -> Tree:
    """One part is as another good configuration has it: what does not go together."""
    base = draw(st.sampled_from(BASES))
    path = draw(st.sampled_from([path for path in leaves(base) if all(isinstance(name, str) for name in path)]))
    tree = copy.deepcopy(tree)
    part = tree
    for name in path[:-1]:
        part = part.setdefault(name, {}) if isinstance(part, dict) else {}
    if isinstance(part, dict):
        part[path[-1]] = copy.deepcopy(at(base, path))
    return tree


def _deleted(tree: Tree, draw: Draw) -> Tree:
    """One part is not there."""
    path = _part(tree, draw)
    tree = copy.deepcopy(tree)
    del at(tree, path[:-1])[path[-1]]
    return tree


def _renamed(tree: Tree, draw: Draw) -> Tree:
    """One part has another name, of another field or of none."""
    path = _part(tree, draw)
    tree = copy.deepcopy(tree)
    parent = at(tree, path[:-1])
    odd = st.sampled_from([0, None, 1.5, True, "", ".", "a.b", "\0", "\ud800", "[red]", 10**4400, str(path[-1]) + "s"])
    name = draw(st.one_of(st.sampled_from(_NAMES), odd))
    value = parent.pop(path[-1])
    if isinstance(parent, dict):
        parent[name] = value
    return tree


def _nested(tree: Tree, draw: Draw) -> Tree:
    """One part is one level deeper, or one level up, or a list."""
    path = _part(tree, draw)
    value = at(tree, path)
    wrapped = [{path[-1]: value}, [value], {"name": value}, list(value) if isinstance(value, dict) else {"0": value}]
    if isinstance(value, dict) and len(path) > 1 and draw(st.booleans()):
        return {**copy.deepcopy(tree), **copy.deepcopy(value)}
    return replaced(tree, path, draw(st.sampled_from(wrapped)))


def _swapped(tree: Tree, draw: Draw) -> Tree:
    """Two parts have each other's values."""
    one, other = _part(tree, draw), _part(tree, draw)
    if one == other[: len(one)] or other == one[: len(other)]:
        return tree
    first, second = at(tree, one), at(tree, other)
    return replaced(replaced(tree, one, second), other, first)


def _part(tree: Tree, draw: Draw) -> tuple[Any, ...]:
    return draw(st.sampled_from(leaves(tree) or [()])) if tree else ()


def replaced(tree: Tree, path: tuple[Any, ...], value: Any) -> Tree:
    tree, value = copy.deepcopy(tree), copy.deepcopy(value)
    if path:
        at(tree, path[:-1])[path[-1]] = value
    return tree


_OF_TREES = (_other, _other, _other, _foreign, _foreign, _deleted, _renamed, _nested, _swapped)

_ALIASES = b"\nsweep: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 10)) for name in b"bcdefgh"
)
"""A hundred million values in a few lines."""
_JUNK = [
    *(b"\t", b"\0", b"\xff\xfe", b"\xc3\x28", b"\xef\xbb\xbf", b"\r", b"\x85", b"%YAML 9.9\n---\n", b"---\n", b"...\n"),
    *(
        b"&a [*a]",
        b"&a {b: *a}",
        b"*nowhere",
        b"<<: *a",
        b"!!python/object/apply:os.getcwd []",
        b"!!set {a}",
        b"? [a]\n: b\n",
    ),
    *(
        b"!!int x",
        b"!!float x",
        b"!!timestamp x",
        b"!!binary \xc3\xa9",
        b"!!bool x",
        b"!!null x",
        b"2026-13-45",
        b"!unknown x",
    ),
    *(
        b"[" * 2000,
        b"{a: " * 1000,
        b"- " * 1500,
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"1:99:99",
        b"'",
        b'"\\ud800"',
        b"|\n",
        b"- a\n",
    ),
    *(
        b"\nseed: 1\nseed: 2\n",
        b"\nmethod: {name: datm}\n",
        b"\nmethod:\n",
        b"{{ x }}",
        b"${HOME}",
        b"@",
        b"`",
        b"!",
        b"? ",
    ),
    _ALIASES,
]


def _spliced(text: bytes, draw: Draw) -> bytes:
    """Junk in place of a piece of the text."""
    first = draw(st.integers(0, len(text)))
    return text[:first] + draw(st.sampled_from(_JUNK)) + text[first + draw(st.sampled_from([0, 0, 1, 5, 40])) :]


def _as_value(text: bytes, draw: Draw) -> bytes:
    """Junk for the value of a line."""
    lines = text.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = lines[number].partition(b":")[0] + b": " + draw(st.sampled_from(_JUNK))
    return b"\n".join(lines)


def _cut(text: bytes, draw: Draw) -> bytes:
    return text[: draw(st.integers(0, len(text)))]


def _shuffled(text: bytes, draw: Draw) -> bytes:
    """A line again, somewhere else."""
    lines = text.split(b"\n")
    lines.insert(draw(st.integers(0, len(lines))), lines[draw(st.integers(0, len(lines) - 1))])
    return b"\n".join(lines)


def _indented(text: bytes, draw: Draw) -> bytes:
    lines = text.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = draw(st.sampled_from([b" ", b"  ", b"\t", b"- "])) + lines[number]
    return b"\n".join(lines)


_OF_TEXTS = (_spliced, _as_value, _cut, _shuffled, _indented)


@st.composite
def spoilt(draw: Draw) -> bytes:
    """A configuration file after one to three changes, some of which may leave it as good as it was."""
    tree = draw(st.sampled_from(BASES))
    for change in draw(st.lists(st.sampled_from(_OF_TREES), max_size=2)):
        tree = change(tree, draw)
    text = _written(tree)
    for change in draw(st.lists(st.sampled_from(_OF_TEXTS), max_size=1)):
        text = change(text, draw)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes large integers, which Python does not turn into digits."""


_Dumper.add_representer(int, lambda dumper, n: dumper.represent_scalar("tag:yaml.org,2002:int", f"{n:#x}"))


def _written(tree: Tree) -> bytes:
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=False)
    return text.encode(errors="surrogatepass")
