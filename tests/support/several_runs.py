"""Small runs of several configurations, made by hand."""

from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from raydd.data.preprocessing import Standardise
from raydd.evaluation import records
from raydd.evaluation.record import Record, record_id
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record

CLASSES = ("circle", "<b>square & $co$</b>", "triangle")
NETWORKS = ("convnet-d1-w8-instance", "mlp-w8")
SIZES = (1, 10)
METHODS = {"datm": ("stored", "hard"), "mtt": ("hard",)}
BYTES_PER_IMAGE = 200


def student(run: str, **changes: object) -> Record:
    """A record whose id follows from the run and everything that is changed."""
    made = make_failure if changes.get("status") == "failed" else make_record
    changes.pop("status", None)
    return made(record_id=record_id({"run": run} | {k: str(v) for k, v in changes.items()}), run=run, **changes)


def accuracy(
    method: str, subject: str, labels: str, network: str, images_per_class: int, seed: int, student_seed: int
) -> float:
    """What a student reached: each of these has a share of its own."""
    subjects = {"synthetic": 0.2, "init": 0.08, "random": 0.1, "full": 0.5}
    size = 0.1 * SIZES.index(images_per_class) if images_per_class in SIZES else 0.0
    best = 0.03 * (method == "datm" and subject == "synthetic")
    shares = (best, subjects[subject], 0.05 * (labels == "stored"), 0.06 * (network == NETWORKS[0]), size)
    return 0.2 + sum(shares) + 0.01 * seed + 0.004 * student_seed


def students(method: str, images_per_class: int, seed: int) -> Iterator[Record]:
    """Those of one run: the set, random images and all the data, under the method's regimes, in all networks."""
    run = f"shapes-{method}-ipc{images_per_class}"
    for labels in METHODS[method]:
        for network in NETWORKS:
            for subject in ("synthetic", "random", *["full"] * (labels == "hard")):
                for student_seed in range(1 if subject == "full" else 2):
                    size = 500 if subject == "full" else images_per_class
                    reached = accuracy(method, subject, labels, network, size, seed, student_seed)
                    yield student(
                        run,
                        method=method,
                        subject=subject,
                        labels=labels,
                        network=network,
                        images_per_class=size,
                        num_images=3 * size,
                        student_seed=student_seed,
                        distill_seed=0 if subject == "random" else seed,
                        test_accuracy=reached,
                        metrics={"ece": reached / 8},
                        class_accuracy=(reached - 0.1, reached, reached + 0.1),
                        bytes_total=3 * size * BYTES_PER_IMAGE,
                        epochs=30 if subject == "full" else 1001,
                        config_key=f"{run}-{seed}",
                    )


def synthetic_set(images_per_class: int, network: str = NETWORKS[0], side: int = 8) -> SyntheticSet:
    generator = torch.Generator().manual_seed(images_per_class)
    labels = torch.arange(3).repeat_interleave(images_per_class)
    return SyntheticSet(
        images=torch.randn(len(labels), 3, side, side, generator=generator),
        labels=labels,
        stage=torch.zeros(len(labels), dtype=torch.int32),
        learned_lr=(0.01,),
        class_names=CLASSES,
        preprocessing=Standardise(torch.full((3,), 0.5), torch.full((3,), 0.2)),
        card={"network": network},
    )


def write_config(run: Folder, name: str, seed: int, method: dict[str, object]) -> None:
    config = {"name": name, "seed": seed, "out": run.uri, "method": method, "cluster": {"num_workers": seed}}
    run.write("config.yaml", yaml.safe_dump(config, sort_keys=False).encode())


def make_runs(root: Path) -> Folder:
    """Every method with every size in two seeds, in folders of runs, one student of which failed."""
    folder = Folder.at(root)
    for method in METHODS:
        for size in SIZES:
            name = f"shapes-{method}-ipc{size}"
            for seed in (0, 1):
                run = folder / name / f"seed-{seed}"
                write_config(run, name, seed, {"name": method, "images_per_class": size})
                synthetic_set(size).save(run / "synthetic", "0" * 16)
                for record in students(method, size, seed):
                    records.write(run / "results", record)
    conditions = {"method": "mtt", "labels": "hard", "images_per_class": 1, "student_seed": 9}
    failed = student("shapes-mtt-ipc1", status="failed", **conditions)
    records.write(folder / "shapes-mtt-ipc1" / "seed-0" / "results", failed)
    return folder
