"""How well networks do that are trained on what an export holds: on 8-bit images where it holds these.

Rounding and clipping to 8 bit costs accuracy where images were optimised freely, so that what a run has measured does
not hold for pictures that are made of its set.
"""

from dataclasses import replace
from statistics import fmean, stdev

from raydd import config as configs
from raydd.core.errors import UserError
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.prepared import apply
from raydd.evaluation.students.of_set import recipe_of, tested_students
from raydd.evaluation.students.trials import SETS
from raydd.evaluation.tables.summary import SummaryRow
from raydd.exchange.source import ExportSource, WrittenAccuracy
from raydd.storage import Folder

_CONFIG = "config.yaml"


def written_accuracy(
    source: ExportSource, folder: Folder, *, quantised: bool, measure: bool, progress: Progress
) -> WrittenAccuracy:
    """What the run's students reached where the files hold the same as they saw; else what new ones reach.

    Args:
        source: what is exported.
        folder: the run's, with the config that names data and network.
        quantised: whether images are written as 8-bit pixels.
        measure: whether students are trained where that is needed.
        progress: is told after every epoch.
    """
    labels = "hard" if source.synthetic.soft_labels is None else "stored"
    quantised = quantised and not source.quantisation.exact
    unknown = WrittenAccuracy(mean=None, labels=labels, quantised=quantised)
    if not quantised and (row := _exact_row(source)) is not None:
        return replace(unknown, mean=row.mean, std=row.std, students=row.n, network=row.network)
    if not measure:
        return replace(unknown, reason="it was asked not to measure it")
    try:
        return _measured(source, folder, unknown, progress)
    except UserError as error:
        return replace(unknown, reason=str(error).splitlines()[0])


def _measured(source: ExportSource, folder: Folder, unknown: WrittenAccuracy, progress: Progress) -> WrittenAccuracy:
    """Train and test students of the run's network, as many as it has, by the recipe on the set's card."""
    synthetic = source.synthetic
    if recipe_of(synthetic) is None:
        return replace(unknown, reason="the set does not say how networks are trained on it")
    if not folder.has(_CONFIG):
        return replace(unknown, reason="the set was exported without its run, whose config names the test images")
    config = configs.load(f"{folder.uri}/{_CONFIG}").located()
    shape = tuple(synthetic.images.shape[1:])
    data = apply(config.data, synthetic.preprocessing, shape, synthetic.class_names, Key.root(0))
    if unknown.quantised:
        synthetic = replace(synthetic, images=synthetic.preprocessing.forward(source.pixels))
    network, seeds = (*config.evaluate.networks, config.network)[0], range(config.evaluate.num_students)
    found = tested_students(synthetic, data, network, None, seeds, progress)
    reached = [record.test_accuracy for record in found if record.test_accuracy is not None]
    if not reached:
        return replace(unknown, reason=found[0].error or "no student could be trained")
    return replace(
        unknown,
        mean=fmean(reached),
        std=stdev(reached) if len(reached) > 1 else None,
        students=len(reached),
        network=found[0].network,
    )


def sentence(source: ExportSource, recipe: str = "the recipe below") -> str:
    """What the accuracy of a written set is, for its README; elsewhere its recipe is called otherwise."""
    written, exact = source.written, _accuracy(_exact_row(source))
    if written is None:
        return ""
    beside = f"; with the exact values it is {exact}" if exact else ""
    if written.mean is None:
        what = "these images of 8 bit" if written.quantised else "what is in these files"
        less = ", and clipping costs some of it" if written.quantised and exact else ""
        return (
            f"How accurate networks are that are trained on {what} was not measured ({written.reason}){beside}{less}."
        )
    who = f"{written.students} network{'s' * (written.students != 1)} {written.network}"
    spread = "" if written.std is None else ", mean and sample standard deviation"
    reached = f"are right on {_accuracy(written)} of the test images ({who}{spread})"
    text = f"Networks that are trained on it by {recipe} {reached}"
    if written.quantised:
        text += f". That was measured with the images as they are written here, rounded to 8 bit{beside}"
    return f"{text}."


def _exact_row(source: ExportSource) -> SummaryRow | None:
    """The run's own students under the labels that are written, of the first network."""
    labels = "hard" if source.synthetic.soft_labels is None else "stored"
    rows = (row for row in source.results if row.subject in SETS and row.labels == labels and row.mean is not None)
    return next(rows, None)


def _accuracy(found: SummaryRow | WrittenAccuracy | None) -> str:
    if found is None or found.mean is None:
        return ""
    return f"{100 * found.mean:.1f}" + ("" if found.std is None else f" ± {100 * found.std:.1f}") + " %"
