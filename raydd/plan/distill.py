"""The work of distilling, stage by stage: what the method states of each, and the set of all of them."""

from dataclasses import replace

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.size import data_bytes, whitening_bytes
from raydd.methods.cost import CostSetting, DistillCost
from raydd.plan.experts import experts_of
from raydd.plan.sizes import num_synthetic, result_bytes
from raydd.plan.step import Step, together


def setting_of(config: RunConfig, facts: DataFacts, stage: int) -> CostSetting:
    """What a stage is distilled in."""
    stages, cluster = config.stages, config.cluster
    asks = config.uses_pool(stage) and "disagreement" in stages.teacher_conditions
    earlier = sum(method.images_per_class for method in config.methods[:stage])
    return CostSetting(
        facts=facts,
        network=config.network,
        teacher_network=config.teacher_network,
        seed=config.seed,
        data_bytes=data_bytes(config.data, facts),
        whitening_bytes=whitening_bytes(config.data, facts),
        num_experts=experts_of(config, stage).count,
        earlier=earlier if stages.freezes(stage) else 0,
        learns_earlier=stages.frozen_lr_scale > 0,
        conditions=stages.teacher_conditions,
        num_asked=stages.pool_size if asks else 0,
        workers=cluster.min_workers or (1 if cluster.num_workers == "auto" else cluster.num_workers),
        rows_at_once=None if cluster.rows_at_once == "auto" else cluster.rows_at_once,
        kept_steps=0 if cluster.compile == "off" else cluster.kept_steps,
        groups_at_once=cluster.groups_at_once,
    )


def stage_cost(config: RunConfig, facts: DataFacts, stage: int) -> DistillCost:
    """One stage, without what it begins with and without the run's set."""
    return config.methods[stage].cost(setting_of(config, facts, stage))


def distill_stage(config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """One stage, without what it begins with, and with its images as the run's set, as in a run of its own."""
    cost, num_images = stage_cost(config, facts, stage), _num_images(config, facts, stage)
    return Step(
        work="distill",
        makes=f"{cost.makes} ({num_images} images{cost.aside})",
        units=cost.units,
        flops=cost.flops,
        disk_bytes=cost.disk_bytes + result_bytes(config, facts, num_images, cost.whole_pixels),
        working_disk_bytes=2 * cost.checkpoint_bytes,
        peak_tensor_bytes=cost.tensor_bytes,
        peak_memory_bytes=cost.memory_bytes,
        left_out=None if cost.planned else f"the work of {cost.makes}, whose method does not state it",
    )


def distill(config: RunConfig, facts: DataFacts) -> Step:
    """All stages, and the union of what they make."""
    numbers = range(config.stages.count)
    steps = [distill_stage(config, facts, stage) for stage in numbers]
    if len(steps) == 1:
        return steps[0]
    first, num_images = stage_cost(config, facts, 0), num_synthetic(config, facts)
    parts = (result_bytes(config, facts, _num_images(config, facts, n), first.whole_pixels) for n in numbers)
    whole = together(steps, f"{first.makes} in {len(steps)} stages ({num_images} images)")
    union = result_bytes(config, facts, num_images, first.whole_pixels)
    return replace(whole, disk_bytes=whole.disk_bytes - sum(parts) + union)


def _num_images(config: RunConfig, facts: DataFacts, stage: int) -> int:
    """The images that a stage learns: its own, and those of earlier ones where they are learned on."""
    learned = setting_of(config, facts, stage).learned
    return (config.methods[stage].images_per_class + learned) * facts.num_classes
