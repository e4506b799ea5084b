"""The units of work of a run, as whoever executes them calls them: a process alone, an actor, a Train worker, a trial.

Each is idempotent: it finds what is finished, picks up what is not, and writes what it makes into the run's folder.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist

from raydd import experts, process
from raydd.distill import Checkpoints, is_first_worker, run_stage
from raydd.evaluation import records
from raydd.evaluation.students import Provenance, TrainingSet, train_student
from raydd.evaluation.trials import Trial
from raydd.methods import Start
from raydd.methods.initial import class_labels, random_real
from raydd.pipeline import choices
from raydd.pipeline.run import Run, versions
from raydd.progress import Progress
from raydd.storage import Artefact, Folder
from raydd.synthetic import KIND as SYNTHETIC
from raydd.synthetic import SyntheticSet, union


def train_experts(run: Run, numbers: Sequence[int], progress: Progress) -> None:
    """Train some expert trajectories side by side, or complete those that lack epochs."""
    recipe, num_images = run.config.experts.training, len(run.data.train)
    experts.train_experts(
        numbers,
        run.config.experts,
        run.config.network,
        run.data,
        run.trajectories,
        run.work / "experts" / run.experts_key,
        run.device,
        progress,
        experts.epochs_stored(run.config.experts, run.config.method),
        choices.compiles_training(run, run.config.network, recipe, num_images),
    )


def distill(run: Run, progress: Progress) -> None:
    """Walk the stages and write the distilled set; several workers share one run through `torch.distributed`."""
    stages = [_stage(run, 0, progress)]
    for name in run.sets:
        _save(run, run.folder / name, union([stage[name] for stage in stages]))
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
    learned = training_set(run, trial)
    compiles = choices.compiles_training(run, trial.network, trial.recipe, len(learned.images))
    record = train_student(trial, run.data, learned, provenance, record_id, run.device, progress, compiles)
    records.write(run.results, record)
    return record


def training_set(run: Run, trial: Trial) -> TrainingSet:
    """What a trial's student is trained on."""
    synthetic = SyntheticSet.load(run.synthetic)
    lr = synthetic.learned_lr[-1]
    folders = {"synthetic": run.synthetic, "ema": run.average, "init": run.stage(0) / "init"}
    if trial.subject in folders:
        folder = folders[trial.subject]
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
            targets = run.config.method.expert_labels(run.task(), images, targets)
    return TrainingSet(
        images=images,
        targets=targets,
        learned_lr=lr,
        images_per_class=len(images) // run.data.num_classes,
        bytes_total=images.numel() + targets.numel() * targets.element_size(),
    )


def _stage(run: Run, number: int, progress: Progress) -> dict[str, SyntheticSet]:
    """Distil one stage, from its newest checkpoint where there is one; returns `run.sets` by name."""
    folder, key = run.stage(number), run.synthetic_key
    if all(run.has_set(folder / name) for name in run.sets):
        return {name: SyntheticSet.load(folder / name) for name in run.sets}
    task = replace(run.task(), compiled=choices.compiles_matching(run), rows_at_once=choices.rows_at_once(run))
    method = run.config.method.build(task, Start(stage=number), run.key().child("stage", number))
    checkpoints = Checkpoints(run.work / "checkpoints", f"stage-{number:03d}-{key}")
    _save(run, folder / "init", _described(run, method.result()))
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
    found = {"synthetic": method.result(), "ema": method.averaged()}
    made = {name: _described(run, part) for name, part in found.items() if part is not None}
    for name, part in made.items():
        _save(run, folder / name, part)
    if is_first_worker():
        checkpoints.delete()
    return made


def _save(run: Run, folder: Folder, made: SyntheticSet) -> None:
    """Write a set of this run, as the first worker, unless it is there."""
    if is_first_worker() and not run.has_set(folder):
        made.save(folder, run.synthetic_key)


def _described(run: Run, made: SyntheticSet) -> SyntheticSet:
    """A method's set with its card filled in."""
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
    return replace(made, card={**card, **made.card})


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def set_up(run: Run) -> None:
    """Set up the process that is about to compute for the run."""
    process.set_up(run.config.cluster.threads_per_worker)
