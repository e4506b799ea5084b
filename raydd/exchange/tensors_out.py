"""Export as `.pt` files, as the trajectory-matching papers' code writes and reads them.

`images_best.pt`, `labels_best.pt` and `lr_best.pt` of MTT (https://arxiv.org/abs/2203.11932) and DATM
(https://arxiv.org/abs/2310.05773), which DD-Ranking takes too: images class after class, in the network space of the
test images, soft labels as logits, all readable with `torch.load(..., weights_only=True)`.

Letters: M images, K classes, C H W.
"""

from pathlib import Path

import torch

from raydd.exchange.card import write_readme, write_whitening
from raydd.exchange.source import ExportSource

IMAGES, LABELS, LEARNED_LR = "images_best.pt", "labels_best.pt", "lr_best.pt"


def write_tensors(source: ExportSource, folder: Path) -> None:
    """Write the files, README included.

    Images are float32 [M, C, H, W]; labels float32 [M, K] logits, or int64 [M] where they are hard; the step size is
    float32 [], that of the last stage, and has no file where none was learned.
    """
    synthetic = source.synthetic
    torch.save(synthetic.images.clone(memory_format=torch.contiguous_format), folder / IMAGES)
    torch.save(synthetic.targets.clone(memory_format=torch.contiguous_format), folder / LABELS)
    if source.learned_lr is not None:
        torch.save(torch.tensor(source.learned_lr), folder / LEARNED_LR)
    write_whitening(synthetic.preprocessing, folder)
    write_readme(source, "pt", folder)
