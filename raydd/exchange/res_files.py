"""What DC, DSA and DM leave behind: `res_*.pt`, all experiments in one dictionary.

`data` is a list with [images, labels] of each experiment, in the space of the networks; `accs_all_exps` are accuracies
by network.
"""

import re
from pathlib import Path
from typing import Any, Final

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import load_pt, only, tensor

_NAMED: Final = re.compile(r"res_(?P<method>DC|DSA|DM)_")
"""Files say whose they are by their names, and students of the three are not trained alike."""


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The experiment that is asked for, the last by default, of a file, or of the only one in a folder.

    Raises:
        DataError: there is no such file or experiment, or the file is not what it should be.
    """
    file = only(source, "res_*.pt")
    content = load_pt(file)
    experiments = content.get("data") if isinstance(content, dict) else None
    if not isinstance(experiments, list | tuple) or not experiments:
        raise DataError(f"{file}: has no list `data` of experiments, as DC's, DSA's and DM's files have")
    number = len(experiments) - 1 if answers.experiment is None else answers.experiment
    if not 0 <= number < len(experiments):
        raise DataError(f"{file}: data: has experiments 0 to {len(experiments) - 1}; correct --experiment {number}")
    where, pair = f"{file}: data[{number}]", experiments[number]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise DataError(f"{where}: is not a pair of images and labels")
    images, labels = (tensor(value, f"{where}[{place}]") for place, value in enumerate(pair))
    facts: dict[str, Any] = {"experiment": number, "experiments": len(experiments)}
    if (named := _NAMED.match(file.name)) is not None:
        facts["method"] = named["method"].lower()
    part = Foreign(
        where=f"{where}[0]", images=images, labels=labels, labels_where=f"{where}[1]", files=(file,), facts=facts
    )
    return [part]
