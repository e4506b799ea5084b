"""What a run takes, ahead of it: FLOPs, disk and memory.

Nothing is read, trained or allocated: optimiser steps follow from the numbers of images, sizes from the shapes of what
is written, FLOPs and activations from walking one step of each kind on torch's meta device (`raydd.training.cost`).
What a stage of distilling takes its method states (`raydd.methods.cost`); here it is added up.

Letters: N real images, D = C * H * W, T inner steps.
"""

from collections.abc import Mapping
from dataclasses import replace

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.placement import Residence
from raydd.data.size import data_bytes
from raydd.plan import stages
from raydd.plan.distill import distill
from raydd.plan.made_first import made_first
from raydd.plan.step import Plan, Step
from raydd.plan.students import evaluate
from raydd.plan.teacher import relabel

EIGEN_FACTOR = 6
"""D x D float64 matrices that fitting a whitening holds at once (measured 5.3 at D = 3072)."""


def make_plan(config: RunConfig, facts: DataFacts, flops_per_second: Mapping[str, float] | None = None) -> Plan:
    """What each kind of work will take.

    Memory of one process on a CPU is the sum of

    - the prepared data, in full, though processes of one node share the pages that they map; without pixels where
      images are streamed;
    - what is resident: networks and momenta; when distilling by trajectories, T + 1 parameter vectors, five times the
      synthetic set (images and labels, their momenta, both of the last good state, and the gradient), seven with an
      average, and the images of earlier stages; when recovering, the images of a pack of class groups, Adam's moments,
      and the images at the start;
    - what is alive at the peak of one step (when matching, of its double backward) on the meta device, times
      `HEAP_FACTOR` for tensors below `HEAP_LIMIT_BYTES`; or of a prediction, or of saving, where that is more; or of
      putting class groups together, or making views of a set.

    Left out of memory are decoding the source's files, augmentation (below a tenth of a step), pages of trajectories
    that the system may take back, and Ray's own processes; out of FLOPs, augmentation (crops of images to recover: 4 %
    of a ResNet-18's step), the experts' search for starting images, the assigning of labels (one prediction of the set
    in each iteration), and the test by which every process knows the teacher again.

    Args:
        config: the run.
        facts: the dataset's size.
        flops_per_second: measured rates of one process, by `Step.work`; a kind without one gets no `seconds`.

    Raises:
        ConfigError: the images are smaller than a network can pool.
    """
    rates = flops_per_second or {}
    timed = (
        replace(step, seconds=step.flops / rates[step.work]) if step.work in rates else step
        for step in _steps(config, facts)
    )
    return Plan(tuple(timed), facts, Residence.of(config.data, facts))


def _steps(config: RunConfig, facts: DataFacts) -> list[Step]:
    """In order."""
    steps = [_data(config, facts), *made_first(config, facts)]
    if config.stages.filter is not None and config.stages.filter.needs_scores:
        steps.append(stages.forgetting(config, facts))
    if config.uses_pool(config.stages.count - 1):
        steps.append(stages.transition(config, facts))
    steps.append(distill(config, facts))
    if "replayed" in config.evaluate.regimes(config.method):
        steps.append(relabel(config, facts))
    return [*steps, evaluate(config, facts)]


def _data(config: RunConfig, facts: DataFacts) -> Step:
    """Whitening takes the covariance, its eigenvectors (9 D^3, Golub and Van Loan, section 8.3) and three products."""
    size, whitens = facts.values, config.data.preprocess == "zca"
    stored, streamed = data_bytes(config.data, facts), Residence.of(config.data, facts).streamed
    return Step(
        work="data",
        makes=f"prepared images ({config.data.source}, {config.data.preprocess})",
        units=facts.num_images,
        flops=whitens * (13 * size**3 + 2 * size**2 * (facts.num_train + facts.num_images)),
        disk_bytes=0,
        working_disk_bytes=stored,
        peak_tensor_bytes=0,
        peak_memory_bytes=stored + (not streamed) * facts.num_images * size + whitens * EIGEN_FACTOR * 8 * size**2,
    )
