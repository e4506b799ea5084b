"""Sets and expert trajectories in the files of other code, and the data that they belong to.

Letters: M synthetic images, N real images, K classes, C H W.
"""

import argparse
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from raydd import networks
from raydd.cli import imports
from raydd.core.keyed_random import Key
from raydd.data import DataConfig
from raydd.data.prepared import LabelledImages, PreparedData, prepare
from raydd.data.preprocessing import Standardise
from raydd.networks.config import NetworkConfig

CONFIG: dict[str, Any] = {
    "data": {"source": "digits", "preprocess": "standardise", "statistics": "computed", "train_limit_per_class": 12},
    "network": {"width": 8, "depth": 2},
    "evaluate": {"num_students": 1, "random_draws": 1, "full_epochs": 1, "full_lr": 0.05},
}
NETWORK = NetworkConfig(width=8, depth=2)
CLASSES = 10


@cache
def digits() -> PreparedData:
    """The data of `CONFIG`."""
    return prepare(DataConfig(**CONFIG["data"]), Key.root(0))


@cache
def pictures() -> PreparedData:
    """Noise in the shape of CIFAR-10, in a standardised space; no class has the name of a number."""
    draw = torch.Generator().manual_seed(0)
    preprocessing = Standardise(torch.full((3,), 0.5).double(), torch.full((3,), 0.25).double())
    names = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def split(count: int) -> LabelledImages:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
        return LabelledImages(preprocessing.forward(pixels), torch.arange(count) % CLASSES)

    return PreparedData("pictures", names, "0" * 64, preprocessing, train=split(40), test=split(20))


def images(data: PreparedData, per_class: int = 2, seed: int = 1) -> Tensor:
    """Class-major images [M, C, H, W] that stray from the real ones as distilled images do."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.cat([(data.train.labels == k).nonzero()[:per_class, 0] for k in range(CLASSES)])
    real = data.train.images[rows]
    return 1.3 * real + 0.5 * torch.randn(real.shape, generator=draw)


def classes(per_class: int = 2) -> Tensor:
    """int64 [M]."""
    return torch.arange(CLASSES).repeat_interleave(per_class)


def logits(per_class: int = 2, seed: int = 2) -> Tensor:
    """Learned label logits [M, K] whose largest is that of the class."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(CLASSES * per_class, CLASSES, generator=draw) + 6 * F.one_hot(classes(per_class), CLASSES)


def centred(per_class: int = 2, seed: int = 2) -> Tensor:
    """KIP's labels [M, K]: one-hot less 1/K, moved a little."""
    draw = torch.Generator().manual_seed(seed)
    hot = F.one_hot(classes(per_class), CLASSES).float() - 1 / CLASSES
    return hot + 0.05 * torch.randn(hot.shape, generator=draw)


def write_triple(
    folder: Path,
    images_MCHW: Tensor,
    labels: Tensor,
    lr: float | None = None,
    ending: str = "best",
    lr_name: str = "lr",
) -> Path:
    """`images_best.pt`, `labels_best.pt` and, where there is a step size, `lr_best.pt`."""
    folder.mkdir(parents=True, exist_ok=True)
    tail = f"_{ending}.pt" if ending else ".pt"
    torch.save(images_MCHW, folder / f"images{tail}")
    torch.save(labels, folder / f"labels{tail}")
    if lr is not None:
        torch.save(torch.tensor(lr), folder / f"{lr_name}{tail}")
    return folder


def write_res(file: Path, experiments: Sequence[tuple[Tensor, Tensor]], numpy_1: bool = False) -> Path:
    """DC's file, whose accuracies are NumPy's numbers; `numpy_1` names these as NumPy 1 did."""
    content = {"data": [list(pair) for pair in experiments], "accs_all_exps": {"ConvNet": [np.float64(0.5)] * 3}}
    torch.save(content, file)
    if numpy_1:
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return file


def write_npz(file: Path, images_MCHW: Tensor, labels: Tensor) -> Path:
    """KIP's file."""
    np.savez(file, images=images_MCHW.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    return file


def write_hdf5(file: Path, images_MCHW: Tensor, labels: Tensor | None = None) -> Path:
    """RaT-BPTT's file."""
    with h5py.File(file, "w") as content:
        content.create_dataset("data", data=images_MCHW.flatten(1).numpy())
        content.create_dataset("epoch", data=17)
        if labels is not None:
            content.create_dataset("label", data=labels.numpy())
    return file


def write_class_folders(folder: Path, pixels_MCHW: Tensor, names: Sequence[str], file: str = "{:05d}.png") -> Path:
    """Image files of class-major pixels, a folder for each class."""
    per_class = len(pixels_MCHW) // len(names)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = pixels_MCHW[label * per_class + number].permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            image.save(folder / name / file.format(number, label=label))
    return folder


def write_stages(
    folder: Path, parts: Sequence[tuple[Tensor, Tensor]], lr: float = 0.02, cumulative: bool = True
) -> Path:
    """PDD's folders, more of them than sort as text."""
    for number in range(len(parts)):
        shown = parts[: number + 1] if cumulative else parts[number : number + 1]
        found = [torch.cat(column) for column in zip(*shown, strict=True)]
        stage = folder / f"interval{number + 1}_epoch{5 * number + 1}-{5 * number + 5}"
        write_triple(stage, *found, lr=lr * (number + 1), lr_name="syn_lr")
    return folder


def trajectory(seed: int, epochs: int, copied: bool = True) -> list[list[Tensor]]:
    """A network's parameters before and after each epoch of plain SGD on the data of `CONFIG`."""
    data = digits()
    torch.manual_seed(seed)
    module = networks.build(NETWORK, data.shape, CLASSES)
    optimizer = torch.optim.SGD(module.parameters(), 0.3)

    def kept() -> list[Tensor]:
        return [p.detach().clone() if copied else p.detach() for p in module.parameters()]

    found = [kept()]
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train)).split(8):
            loss = F.cross_entropy(module(data.train.images[rows]), data.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(kept())
    return found


def run_import(source: Path, form: str, to: Path, *flags: object, config: dict[str, Any] | None = None) -> Path:
    """Import from a configuration (`CONFIG` by default) and return the one that is ready to run."""
    file = to.with_name(f"{to.name}.yaml")
    file.write_text(yaml.safe_dump(CONFIG if config is None else config))
    parser = argparse.ArgumentParser()
    imports.arguments(parser)
    said = [str(source), "--format", form, "--to", str(to), "--config", str(file), *map(str, flags)]
    assert imports.import_(parser.parse_args(said), Console(quiet=True)) == 0
    return to / "import.yaml"


def taught_digits() -> dict[str, Tensor]:
    """The state of a ConvNet of width 8, depth 2 and batch norms that knows most digits."""
    data, network = digits(), NetworkConfig(width=8, depth=2, norm="batch")
    torch.manual_seed(0)
    module = networks.build(network, data.shape, 10)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(module(data.train.images[:]), data.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.state_dict()
