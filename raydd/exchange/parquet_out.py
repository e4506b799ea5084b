"""Export as Parquet in the layout of the Hugging Face Hub, with a dataset card.

`data/train-*.parquet` hold the images as PNG, for `datasets.load_dataset` and whatever else reads Parquet. The exact
tensors are no column there, which would be several times larger than the images and mean nothing without the set's
preprocessing; they are in `synthetic/`, raydd's own format, so that `raydd.load` takes the folder as it takes a run's.
The Hub downloads `data/` alone for those who ask for the dataset.

Letters: M images, K classes.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raydd.exchange.card import WHITENING, write_readme
from raydd.exchange.licence import UNKNOWN
from raydd.exchange.pictures import picture_files, png
from raydd.exchange.source import ExportSource
from raydd.storage import Folder

FILE_BYTES: Final = 256 * 2**20
"""The most that the pixels and labels of one file take uncompressed."""
_ROW_GROUP: Final = 100
"""Rows that are read together; few, so that one image can be shown without reading many."""


def write_parquet(source: ExportSource, folder: Path) -> None:
    """Write the files, README included."""
    synthetic = source.synthetic
    rows = max(1, FILE_BYTES // (synthetic.images[0].numel() + 4 * synthetic.num_classes))
    count = math.ceil(len(synthetic) / rows)
    (folder / "data").mkdir()
    for number in range(count):
        table = _table(source, slice(number * rows, (number + 1) * rows))
        file = folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet"
        pq.write_table(table, file, row_group_size=_ROW_GROUP, compression="zstd")
    source.stored.save(Folder.at(folder / "synthetic"), source.key)
    front_matter = yaml.safe_dump(_front_matter(source), sort_keys=False, allow_unicode=True)
    write_readme(source, "parquet", folder, whitening=f"synthetic/{WHITENING}", front_matter=front_matter)


def _table(source: ExportSource, rows: slice) -> pa.Table:
    synthetic = source.synthetic
    names = ["/".join(name) for name in picture_files(source.counts)[rows]]
    images = [{"bytes": png(pixels), "path": name} for pixels, name in zip(source.pixels[rows], names, strict=True)]
    columns = {
        "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": pa.array(synthetic.labels[rows].numpy()),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(synthetic.class_names), "_type": "ClassLabel"},
    }
    if synthetic.soft_labels is not None:
        values = pa.array(synthetic.soft_labels[rows].reshape(-1).numpy())
        soft_type = pa.list_(pa.float32(), synthetic.num_classes)
        columns["soft_label"] = pa.FixedSizeListArray.from_arrays(values, type=soft_type)
        value = {"dtype": "float32", "_type": "Value"}
        features["soft_label"] = {"feature": value, "length": synthetic.num_classes, "_type": "Sequence"}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _front_matter(source: ExportSource) -> dict[str, Any]:
    """The metadata of a dataset card (https://huggingface.co/docs/hub/datasets-cards)."""
    names = {str(label): name for label, name in enumerate(source.synthetic.class_names)}
    features: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if source.synthetic.soft_labels is not None:
        features.append({"name": "soft_label", "sequence": "float32", "length": source.synthetic.num_classes})
    return {
        "license": source.license or UNKNOWN,
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(len(source.synthetic))],
        "tags": ["dataset-distillation", "raydd", source.method],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {"features": features},
    }


def _size_category(num_images: int) -> str:
    bounds = {"1K": 1_000, "10K": 10_000, "100K": 100_000, "1M": 1_000_000}
    below = None
    for name, bound in bounds.items():
        if num_images < bound:
            return f"n<{name}" if below is None else f"{below}<n<{name}"
        below = name
    return "1M<n<10M"
