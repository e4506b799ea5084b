"""How much work a run is, as far as that can be known without reading its data."""

from raydd.core.errors import UserError
from raydd.data import prepared, size_of
from raydd.data.facts import DataFacts
from raydd.data.prepared import PreparedData
from raydd.pipeline.runs.run import Run
from raydd.plan import make_plan


def counted(data: PreparedData) -> DataFacts:
    """The size of data that are there."""
    held_out = 0 if data.validation is None else len(data.validation)
    return DataFacts(len(data.train), len(data.test), data.shape, data.num_classes, held_out)


def planned_flops(run: Run) -> dict[str, int]:
    """The floating-point operations of each work of a run's plan, by its name; none where nobody knows its data's size.

    Data without a name of their own are not read for it: they count where the run has them open, or prepared.
    """
    try:
        there = run.data if "data" in vars(run) else prepared.open_saved(run.work / "data", run.data_key)
        facts = size_of(run.config.data) if there is None else counted(there)
        return {} if facts is None else {step.work: step.flops for step in make_plan(run.config, facts).steps}
    except UserError:
        return {}
