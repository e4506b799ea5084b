"""What IDC and NCFM leave behind: `data.pt`, or `data_20000.pt`, with [images, labels], where an image is a mosaic.

Images are pixels in [0, 1] (the last step may have left them a little beyond), and each is factor x factor training
images. The factor stands in no file: IDC's folders have it in their names (`..._cut_factor2_lr0.005_mix_ipc10`).

Sources: IDC (https://arxiv.org/abs/2205.14959), NCFM (https://arxiv.org/abs/2502.20653).

Letters: N images, C H W.
"""

import re
from pathlib import Path
from typing import Final

from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.data.preprocessing import ZCA
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import load_pt, only, tensor
from raydd.sets.formation import Formation

_NAMED: Final = re.compile(r"factor[_-]?(\d+)")
BEYOND: Final = 0.5
"""How far pixels may lie beyond black and white: the steps are small, and each starts from clamped images."""


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The set of a file, or of the only one in a folder.

    Raises:
        DataError: there is no such file, it is not what it should be, nobody says the factor, or the dataset is
            whitened, where the parts of an image mean nothing.
    """
    file = only(source, "data.pt", "data_*.pt")
    content = load_pt(file)
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise DataError(f"{file}: is not a pair of images and labels, as IDC's and NCFM's files are")
    images, labels = (tensor(value, f"{file}: [{place}]") for place, value in enumerate(content))
    factor = _factor(file, answers)
    if factor > 1 and isinstance(data.preprocessing, ZCA):
        raise DataError(f"{file}: holds mosaics, and parts of whitened images mean nothing: say --preprocess none")
    part = Foreign(
        where=f"{file}: [0]",
        images=data.preprocessing.forward(_pixels(images, f"{file}: [0]")),
        labels=labels,
        labels_where=f"{file}: [1]",
        files=(file,),
        from_pixels=True,
        formation=None if factor == 1 else Formation(factor=factor),
        facts={"factor": factor},
    )
    return [part]


def _factor(file: Path, answers: Answers) -> int:
    """What the user says, or else a folder's name; both must agree."""
    found = next((int(match[1]) for name in reversed(file.parts) if (match := _NAMED.search(name))), None)
    if answers.factor is None and found is None:
        raise DataError(
            f"{file}: does not say how many training images a stored one holds; add --factor: 2 is usual (2 x 2 of "
            "them), 3 at 224 pixels, 1 where images are stored as they are trained on (IDC-I)"
        )
    if answers.factor is not None and found is not None and answers.factor != found:
        raise DataError(f"{file}: its folder's name says factor {found}, --factor says {answers.factor}")
    return answers.factor or found or 1


def _pixels(images_NCHW: Tensor, where: str) -> Tensor:
    """The images, where their values can be pixels in [0, 1]."""
    if not images_NCHW.is_floating_point() or not images_NCHW.numel():
        raise DataError(f"{where}: images are {images_NCHW.dtype} {list(images_NCHW.shape)}, not pixels in [0, 1]")
    low, high = float(images_NCHW.min()), float(images_NCHW.max())
    if low < -BEYOND or high > 1 + BEYOND:
        raise DataError(
            f"{where}: values reach from {low:.3g} to {high:.3g}, and these files hold pixels in [0, 1]; images in the "
            "space of networks are imported with --format pt or res"
        )
    return images_NCHW.float()
