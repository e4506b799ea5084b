"""What lies between two stages: networks trained on the images so far, and new expert trajectories from there.

Source: PDD (https://arxiv.org/abs/2310.06982), section 4: theta_i = Train(theta_{i-1}, U_i). A network goes through the
union as a student does, by the same recipe and the same trainer.
"""

from collections.abc import Sequence

from raydd.core.progress import Progress, Work
from raydd.evaluation.record import LabelRegime
from raydd.evaluation.students.training import training_on
from raydd.evaluation.students.trials import Trial
from raydd.ingredients import experts
from raydd.ingredients.experts import Origin, expert_key
from raydd.ingredients.network_pool import without_momenta
from raydd.ingredients.setting import build_seeded, setting
from raydd.pipeline.runs.run import Run
from raydd.pipeline.runs.stage import Stage
from raydd.pipeline.work.training_sets import training_set
from raydd.training.fit import Told, fit, loss_curve


def pass_on(run: Run, stage: Stage, numbers: Sequence[int], progress: Progress) -> None:
    """Train some networks of a stage's pool, side by side: through the union of the stage before, from its pool.

    Network k begins where expert k does; one that is there is left alone.
    """
    earlier, recipe = stage.earlier, stage.transition
    missing = sorted({*numbers} & {*stage.pool.missing()})
    if not missing:
        return
    keys = [expert_key(run.config.experts_seed, number).child("transition") for number in missing]
    starts = [expert_key(run.config.experts_seed, number).child("init") for number in missing]
    modules = [build_seeded(run.config.network, run.data, key).to(run.device) for key in starts]
    before = [earlier.pool.state(number) for number in missing] if earlier.number else []
    if not stage.config.carry_momentum:
        before = [without_momenta(state) for state in before]
    learned = training_set(run, _as_student(stage))
    compiles = run.compiles(run.config.network, recipe, len(learned.images))
    training = training_on(learned, recipe, modules, keys, earlier.number, compiles, before)
    tasks = [Work("network", f"{number} through stage {earlier.number}") for number in missing]
    fit(training, told=Told(progress, tasks, numbers=loss_curve))
    for number, state in zip(missing, training.state_dicts(), strict=True):
        stage.pool.write(number, state)


def train_experts(stage: Stage, numbers: Sequence[int], progress: Progress) -> None:
    """Train some trajectories on the stage's real data, side by side, from the networks of its pool."""
    run, missing = stage.run, {*stage.missing_trajectories()}
    experts.train_experts(
        sorted({*numbers} & missing),
        stage.experts,
        setting(run, run.config.network, stage.experts.training, stage.data),
        stage.trajectories,
        run.work / "experts" / stage.pool_key,
        progress,
        stage.epochs_stored,
        Origin(stage=stage.number, pool=stage.pool),
    )


def _as_student(stage: Stage) -> Trial:
    """What a student would be that is trained as the networks of a stage's pool are."""
    config, method = stage.run.config, stage.method
    labels: LabelRegime = "stored" if method.has_soft_labels else "hard"
    if stage.has_teacher and config.evaluate.regimes(method)[0] != "hard":
        labels = "online"
    return Trial(
        subject="synthetic",
        labels=labels,
        network=config.network,
        recipe=stage.transition,
        student_seed=0,
        mode="chain",
        stage=stage.number - 1,
    )
