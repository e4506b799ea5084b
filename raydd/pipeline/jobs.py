"""The units of work of a run, as whoever executes them calls them: a process alone, an actor, a Train worker, a trial.

Each is idempotent: it finds what is finished, picks up what is not, and writes what it makes into the run's folder.
"""

from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist

from raydd import experts, process
from raydd.distill import Checkpoints, is_first_worker, run_stage
from raydd.evaluation import records
from raydd.evaluation.students import Provenance, TrainingSet, train_student
from raydd.evaluation.trials import Trial
from raydd.methods import Method, Start
from raydd.methods.initial import class_labels, masked_mean_logits, random_real
from raydd.pipeline.run import Run, versions
from raydd.progress import Progress
from raydd.storage import Artefact, Folder
from raydd.synthetic import KIND as SYNTHETIC
from raydd.synthetic import SyntheticSet, union


def train_expert(run: Run, number: int, progress: Progress) -> None:
    """Train one expert trajectory."""
    experts.train_expert(
        number,
        run.config.experts,
        run.config.network,
        run.data,
        run.trajectories,
        run.work / "experts" / run.experts_key,
        run.device,
        progress,
    )


def distill(run: Run, progress: Progress) -> None:
    """Walk the stages and write the distilled set; several workers share one run through `torch.distributed`."""
    parts = [_stage(run, 0, progress)]
    if is_first_worker() and not run.has_synthetic():
        union(parts).save(run.synthetic, run.synthetic_key)
    _barrier()


def evaluate(run: Run, trial: Trial, progress: Progress) -> records.Record:
    """Train one student, or return its record where it has one that is not a failure."""
    record_id = run.record_id(trial)
    found = records.find(run.results, record_id)
    if found is not None and found.status == "ok":
        return found
    provenance = Provenance(
        run=run.config.name,
        method=run.config.method.name,
        dataset=run.data.name,
        recipe_name=run.config.evaluate.recipe_name,
        distill_seed=run.config.seed,
        config_key=run.synthetic_key,
    )
    record = train_student(trial, run.data, training_set(run, trial), provenance, record_id, run.device, progress)
    records.write(run.results, record)
    return record


def training_set(run: Run, trial: Trial) -> TrainingSet:
    """What a trial's student is trained on."""
    synthetic = SyntheticSet.load(run.synthetic)
    lr = synthetic.learned_lr[-1]
    if trial.subject in ("synthetic", "init"):
        folder = run.synthetic if trial.subject == "synthetic" else run.stage(0) / "init"
        chosen = SyntheticSet.load(folder)
        artefact = Artefact.find(folder, SYNTHETIC)
        size = sum(entry.size for entry in artefact.manifest.files.values()) if artefact else 0
        return TrainingSet(
            images=chosen.images,
            targets=chosen.targets,
            learned_lr=chosen.learned_lr[-1],
            images_per_class=chosen.images_per_class,
            bytes_total=size,
        )
    images, targets = run.data.train.images, run.data.train.labels
    if trial.subject == "random":
        key = run.key().child("random", trial.draw)
        rows = random_real(run.data, synthetic.images_per_class, key)
        images, targets = images[rows], class_labels(run.data.num_classes, synthetic.images_per_class)
        if trial.labels == "stored":
            targets = masked_mean_logits(run.task(), images, targets)
    return TrainingSet(
        images=images,
        targets=targets,
        learned_lr=lr,
        images_per_class=len(images) // run.data.num_classes,
        bytes_total=images.numel() + targets.numel() * targets.element_size(),
    )


def _stage(run: Run, number: int, progress: Progress) -> SyntheticSet:
    """Distil one stage, from its newest checkpoint where there is one."""
    folder, key = run.stage(number), run.synthetic_key
    if _is_made(folder / "synthetic", key):
        return SyntheticSet.load(folder / "synthetic")
    method = run.config.method.build(run.task(), Start(stage=number), run.key().child("stage", number))
    checkpoints = Checkpoints(run.work / "checkpoints", f"stage-{number:03d}-{key}")
    if is_first_worker() and not _is_made(folder / "init", key):
        _described(run, method).save(folder / "init", key)
    _barrier()
    run_stage(
        method,
        run.config.method.iterations,
        checkpoints,
        run.config.cluster.checkpoint_iterations,
        run.metrics,
        f"distill-{number:03d}.jsonl",
        progress,
    )
    result = _described(run, method)
    if is_first_worker():
        result.save(folder / "synthetic", key)
        checkpoints.delete()
    return result


def _is_made(folder: Folder, key: str) -> bool:
    """Whether a set was finished under this key."""
    artefact = Artefact.find(folder, SYNTHETIC)
    return artefact is not None and artefact.manifest.key == key


def _described(run: Run, method: Method) -> SyntheticSet:
    """The method's set with its card filled in."""
    card: dict[str, Any] = {
        "dataset": run.data.name,
        "dataset_fingerprint": run.data.fingerprint,
        "method": asdict(run.config.method),
        "network": run.config.network.label,
        "recipe": asdict(run.config.evaluate.recipe),
        "run": run.config.name,
        "seeds": {"distill": run.config.seed, "experts": run.config.experts_seed},
        "versions": versions(),
    }
    return replace(method.result(), card=card)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def set_up(run: Run) -> None:
    """Set up the process that is about to compute for the run."""
    process.set_up(run.config.cluster.threads_per_worker)
