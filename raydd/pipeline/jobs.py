"""The units of work of a run, as whoever executes them calls them: a process alone, an actor, a Train worker, a trial.

Each is idempotent: it finds what is finished, picks up what is not, and writes what it makes into the run's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist

from raydd import datasets, experts, process, teacher
from raydd.checkpoints import Checkpoints, is_first_worker
from raydd.distill import run_stage
from raydd.evaluation import records
from raydd.evaluation.records import Record
from raydd.evaluation.students import Provenance, TrainingSet, train_students
from raydd.evaluation.trials import Trial
from raydd.methods import Method, Start
from raydd.methods.initial import class_labels, random_real
from raydd.pipeline import choices, teaching
from raydd.pipeline.run import Run, versions
from raydd.progress import Progress
from raydd.random import Key
from raydd.ranking import rank_here
from raydd.storage import Folder, stored_bytes
from raydd.synthetic import SyntheticSet, by_class, union


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
        experts.epochs_stored(run.config.experts, run.config.matching),
        choices.compiles_training(run, run.config.network, recipe, num_images),
    )


def teach(run: Run, progress: Progress) -> None:
    """Train the teacher, or take it over from a file; several workers share the work through `torch.distributed`."""
    config, network = replace(run.config.teacher, seed=run.config.teacher_seed), run.config.teacher_network
    checkpoints = Checkpoints(run.work / "checkpoints", f"teacher-{run.teacher_key}")
    if config.weights is not None:
        made = teacher.from_weights(config, network, run.data, run.device)
    else:
        made = teacher.train_teacher(
            config,
            network,
            run.data,
            Key.root(run.config.teacher_seed).child("teacher"),
            run.device,
            checkpoints,
            progress,
            choices.compiles_training(run, network, config.training, len(run.data.train)),
        )
    if is_first_worker():
        made.save(run.teacher_folder, run.teacher_key)
        checkpoints.delete()


def rank(run: Run, progress: Progress) -> None:
    """Rank the training images by the teacher, all in this process."""
    images = datasets.undecoded(run.config.data, run.key())
    found = rank_here(run.teacher, run.data.train, images, run.ranking_parts, progress)
    found.save(run.ranking_folder, run.ranking_key)


def distill(run: Run, progress: Progress) -> None:
    """Walk the stages; several workers share the work through `torch.distributed`. `gather` then joins it."""
    if run.config.method.works_on == "teacher":
        _groups(run, 0, progress)
    else:
        _stage(run, 0, progress)


def gather(run: Run) -> None:
    """Write the distilled set: the union of all stages, and of a stage's class groups."""
    if run.config.method.works_on == "teacher":
        groups = [run.group(0, number) for number in range(run.num_groups)]
        for name in ("init", "synthetic"):
            parts = [SyntheticSet.load(group / name) for group in groups]
            _save(run, run.stage(0) / name, by_class(parts))
    for name in run.sets:
        _save(run, run.folder / name, union([SyntheticSet.load(run.stage(0) / name)]))


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> list[Record]:
    """Train students side by side that differ in their seeds alone, but for those that have a record of success."""
    names = [run.record_id(trial) for trial in trials]
    found = [records.find(run.results, name) for name in names]
    finished = [record for record in found if record is not None and record.status == "ok"]
    done = {record.record_id for record in finished}
    missing = {name: trial for name, trial in zip(names, trials, strict=True) if name not in done}
    return finished + (_train(run, missing, progress) if missing else [])


def _train(run: Run, trials: Mapping[str, Trial], progress: Progress) -> list[Record]:
    """Train the students of some records and write these."""
    config, first = run.config, next(iter(trials.values()))
    provenance = Provenance(
        run=config.name,
        method=config.method.name,
        dataset=run.data.name,
        recipe_name=config.evaluate.protocol or config.evaluate.recipe_name,
        distill_seed=config.seed,
        config_key=run.synthetic_key,
    )
    learned = training_set(run, first)
    compiles = choices.compiles_training(run, first.network, first.recipe, len(learned.images))
    made = train_students(
        list(trials.values()), run.data, learned, provenance, list(trials), run.device, progress, compiles
    )
    for record in made:
        records.write(run.results, record)
    return made


def training_set(run: Run, trial: Trial) -> TrainingSet:
    """What a trial's student is trained on."""
    chosen = _chosen(run, trial)
    if run.config.method.works_on != "teacher":
        return chosen
    return teaching.with_teacher(run, trial, chosen)


def _chosen(run: Run, trial: Trial) -> TrainingSet:
    """Images and targets, without a teacher."""
    folders = {"synthetic": run.synthetic, "ema": run.average, "init": run.stage(0) / "init"}
    if trial.subject in folders:
        folder = folders[trial.subject]
        chosen = SyntheticSet.load(folder)
        return TrainingSet(
            images=chosen.images,
            targets=chosen.targets,
            learned_lr=chosen.learned_lr[-1],
            images_per_class=chosen.images_per_class,
            bytes_total=stored_bytes(folder),
        )
    synthetic = SyntheticSet.load(run.synthetic)
    images, targets = run.data.train.images, run.data.train.labels
    if trial.subject == "random":
        key = run.key().child("random", trial.draw)
        rows = random_real(run.data, synthetic.images_per_class, key)
        images, targets = images[rows], class_labels(run.data.num_classes, synthetic.images_per_class)
        if trial.labels == "stored":
            targets = run.config.matching.expert_labels(run.task(), images, targets)
    return TrainingSet(
        images=images,
        targets=targets,
        learned_lr=synthetic.learned_lr[-1],
        images_per_class=len(images) // run.data.num_classes,
        bytes_total=images.numel() + targets.numel() * targets.element_size(),
    )


def _stage(run: Run, number: int, progress: Progress) -> None:
    """Distil one stage, from its newest checkpoint where there is one."""
    folder, key = run.stage(number), run.synthetic_key
    if all(run.has_set(folder / name) for name in run.sets):
        return
    task = run.task()
    if run.config.method.works_on == "trajectories":
        task = replace(task, compiled=choices.compiles_matching(run), rows_at_once=choices.rows_at_once(run))
    method = run.config.method.build(task, Start(stage=number), run.key().child("stage", number))
    checkpoints = Checkpoints(run.work / "checkpoints", f"stage-{number:03d}-{key}")
    _save(run, folder / "init", _described(run, method.result()))
    _iterate(run, method, checkpoints, f"distill-{number:03d}.jsonl", progress)
    found = {"synthetic": method.result(), "ema": method.averaged()}
    made = {name: _described(run, part) for name, part in found.items() if part is not None}
    for name, part in made.items():
        _save(run, folder / name, part)
    if is_first_worker():
        checkpoints.delete()


def _groups(run: Run, number: int, progress: Progress) -> None:
    """Recover this worker's share of the class groups, a pack at a time; finished ones stay as they are.

    Who has what, and which groups go together, depends on their numbers alone, not on what is finished.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    packs = torch.arange(run.num_groups).split(run.config.cluster.groups_at_once)
    for pack in packs[rank::workers]:
        groups = tuple(pack.tolist())
        if not all(run.has_group(number, group) for group in groups):
            _recover(run, number, groups, progress)


def _recover(run: Run, number: int, groups: tuple[int, ...], progress: Progress) -> None:
    """Recover a pack of class groups and write each."""
    task, key = replace(run.task(), groups=groups), run.key().child("stage", number)
    method = run.config.recovering.build(task, Start(stage=number), key)
    starts = method.results()
    name = f"{number:03d}-{groups[0]:05d}"
    checkpoints = Checkpoints(run.work / "checkpoints", f"groups-{name}-{len(groups)}-{run.synthetic_key}")
    title = f"recover {groups[0] + 1}-{groups[-1] + 1} of {run.num_groups} groups"
    _iterate(run, method, checkpoints, f"recover-{name}.jsonl", progress, title, shared=False)
    for group, start, result in zip(groups, starts, method.results(), strict=True):
        for kind, part in (("init", start), ("synthetic", result)):
            folder = run.group(number, group) / kind
            if not run.has_set(folder):
                _described(run, part).save(folder, run.synthetic_key)
    checkpoints.delete()


def _iterate(
    run: Run,
    method: Method,
    checkpoints: Checkpoints,
    metrics_file: str,
    progress: Progress,
    title: str = "distil",
    *,
    shared: bool = True,
) -> None:
    """`run_stage` with what the config says; `title` is what progress calls it."""
    iterations, every = run.config.method.iterations, run.config.cluster.checkpoint_iterations
    run_stage(method, iterations, checkpoints, every, run.metrics, metrics_file, progress, task=title, shared=shared)


def _save(run: Run, folder: Folder, made: SyntheticSet) -> None:
    """Write a set of this run, as the first worker, unless it is there."""
    if is_first_worker() and not run.has_set(folder):
        made.save(folder, run.synthetic_key)


def _described(run: Run, made: SyntheticSet) -> SyntheticSet:
    """A method's set with its card filled in."""
    config, data = run.config, run.data
    images_per_class = config.method.images_per_class
    recipe = config.evaluate.recipe_for(config.network, images_per_class, data.num_classes, data.name)
    card: dict[str, Any] = {
        "dataset": data.name,
        "dataset_fingerprint": data.fingerprint,
        "method": asdict(config.method),
        "network": config.network.label,
        "recipe": asdict(recipe),
        "run": config.name,
        "seeds": {"distill": config.seed, "experts": config.experts_seed},
        "versions": versions(),
    }
    return replace(made, card={**made.card, **card})


def set_up(run: Run) -> None:
    """Set up the process that is about to compute for the run."""
    process.set_up(run.config.cluster.threads_per_worker)
