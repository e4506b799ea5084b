"""Image datasets on disk, small ones in the layouts of the large."""

import hashlib
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from raydd.core.keyed_random import Key
from raydd.data import DataConfig, Splits, load

WNIDS = ("n01443537", "n01629819", "n02085620")


def noise(seed: int, height: int = 6, width: int = 6) -> Image.Image:
    """An RGB image in which no two seeds agree."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def load_from(source: str, root: Path, **fields: Any) -> Splits:
    """The dataset of a source below a root."""
    return load(DataConfig(source=source, root=str(root), **fields), Key.root(0))


def as_tensor(image: Image.Image) -> Tensor:
    """The pixels, uint8 [C, H, W]."""
    return v2.functional.pil_to_tensor(image)


def write_parquet(
    path: Path,
    labels: Sequence[int | None],
    names: list[str] | None = None,
    images: Sequence[bytes | None] | None = None,
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """A file in the layout of the Hugging Face Hub, in row groups of two."""
    image_column, label_column = columns
    images = images if images is not None else [encoded(noise(seed)) for seed in range(len(labels))]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if image is None else {"bytes": image, "path": None} for image in images]
    table = pa.table({image_column: pa.array(cells, image_type), label_column: pa.array(labels, pa.int64())})
    if names is not None:
        features = {image_column: {"_type": "Image"}, label_column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def as_stored(root: Path, images: dict[str, Image.Image | bytes]) -> Splits:
    """The images of a small folder, named split/class/file, at the sizes in which they are: by way of Parquet files."""
    classes = sorted({name.split("/")[1] for name in images})
    for split in ("train", "test"):
        names = sorted(name for name in images if name.startswith(f"{split}/"))
        files = [image if isinstance(image, bytes) else encoded(image) for image in map(images.__getitem__, names)]
        labels = [classes.index(name.split("/")[1]) for name in names]
        write_parquet(root / f"{split}.parquet", labels, classes, files)
    return load_from("parquet", root)


def md5(path: Path) -> str:
    """What a reader checks a file by."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """A file in the layout of MNIST: zero, zero, 8 for bytes, the number of dimensions, their sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def write_folders(root: Path, images: dict[str, Image.Image | bytes]) -> None:
    """Image files by their path below the root."""
    for name, image in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image if isinstance(image, bytes) else encoded(image))


def write_tiny(root: Path, val: str = "images") -> dict[str, Image.Image]:
    """Three classes of two training and two validation images as Tiny-ImageNet is handed out; its images by name.

    `val` says where validation images go: "images" as handed out, in no order, or a folder with {wnid} in it.
    """
    native, images, lines = root / "tiny-imagenet-200", {}, []
    for number, wnid in enumerate(reversed(WNIDS)):
        for index in range(2):
            name, stored = f"{wnid}_{index}.JPEG", noise(10 * number + index, 64, 64)
            stored = stored.convert("L") if index == 1 else stored
            write_folders(native, {f"train/{wnid}/images/{name}": encoded(stored, "JPEG")})
            images[name] = stored
            name = f"val_{2 * index + number}{wnid[-1]}.JPEG"
            images[name] = noise(100 + 10 * number + index, 64, 64)
            folder = f"val/{val.format(wnid=wnid)}"
            write_folders(native, {f"{folder}/{name}": encoded(images[name], "JPEG")})
            lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
        (native / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    write_folders(native, {"test/images/test_0.JPEG": noise(7, 64, 64)})
    (native / "val" / "val_annotations.txt").write_text("".join(lines))
    (native / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    return images
