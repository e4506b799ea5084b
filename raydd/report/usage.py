"""How the set of a run is used, in a few lines to copy."""

from dataclasses import dataclass
from shlex import quote

from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder


@dataclass(frozen=True)
class Usage:
    """Lines to copy."""

    python: str
    exporting: str
    """A command."""


def usage_of(folder: Folder, synthetic: SyntheticSet) -> Usage:
    """How to load the set of a run's folder, train a network on it, and hand it on."""
    channels, height, width = synthetic.images.shape[1:]
    values, where = channels * height * width, folder.uri
    python = "\n".join(
        (
            "import raydd, torch",
            "",
            f"dataset = raydd.load({where!r})  # {len(synthetic)} images with labels, preprocessing and recipe",
            f"network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear({values}, {synthetic.num_classes}))"
            "  # or any of yours",
            "dataset.train(network)",
            f"print(dataset.accuracy(network, {where!r}))  # of the run's test images",
        )
    )
    return Usage(python, f"raydd export {quote(where)} --format imagefolder --to my-set")
