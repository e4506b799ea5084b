"""How the pages call classes and what labels say of them.

Letters: K classes.
"""

from collections.abc import Sequence

from torch import Tensor


def class_title(name: str) -> str:
    """A class where its name stands alone: a number is told to be one of a class."""
    return f"class {name}" if name.isdecimal() else name


def in_words(probabilities_K: Tensor, class_names: Sequence[str], count: int = 3) -> str:
    """The most likely classes, such as "cat: 61 %, dog: 20 %, 7: 8 %"; none but the first of less than half a per cent.

    Args:
        probabilities_K: float [K].
        class_names: K names.
        count: at most so many.
    """
    top = probabilities_K.topk(min(count, len(class_names)))
    named = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    said = [(k, share) for place, (k, share) in enumerate(named) if place == 0 or share >= 0.005]
    return ", ".join(f"{class_names[k]}:\N{NO-BREAK SPACE}{100 * share:.0f}\N{NO-BREAK SPACE}%" for k, share in said)
