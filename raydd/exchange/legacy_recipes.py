"""How the papers of the formats train students, and test them at the end.

Sources: MTT, FTD, TESLA (their evaluate_synset: epochs 0 to 1000, batches of 256, learned step size, momentum 0.9,
decay 5e-4, DSA, a tenth and a fresh optimiser after the first half); DATM (the same in batches of 128, soft labels); DC
(step size 0.01, no augmentation, epochs 0 to 300); DSA and DM (0.01, DSA, epochs 0 to 1000); PDD (as MTT, the optimiser
kept); IDC (its method's usual recipe); DC-BENCH (https://arxiv.org/abs/2207.09639: as DSA, which it also takes for
KIP); RethinkDC (https://arxiv.org/abs/2502.06434: its hard-label recipe, AdamW 1e-3 with decay 0.01, cosine, batches of
128, 300 epochs).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from raydd.methods.condensation.idc import IDCConfig
from raydd.training.recipe import Recipe

_MTT: Final = Recipe(
    epochs=1001, lr=None, momentum=0.9, weight_decay=5e-4, batch_size=256, schedule="step", augmentation="dsa"
)
_RETHINKDC: Final = Recipe(
    epochs=300,
    lr=1e-3,
    weight_decay=0.01,
    batch_size=128,
    schedule="cosine",
    augmentation="crop+flip",
    optimizer="adamw",
)
LEGACY: Final[Mapping[str, Recipe]] = {
    "mtt": _MTT,
    "datm": replace(_MTT, batch_size=128),
    "dc": replace(_MTT, epochs=301, lr=0.01, augmentation="none"),
    "dsa": replace(_MTT, lr=0.01),
    "dm": replace(_MTT, lr=0.01),
    "idc": Recipe(**IDCConfig.usual["recipe"]),
    "dc-bench": replace(_MTT, lr=0.01),
    "pdd": replace(_MTT, schedule="step_kept"),
    "rethinkdc": _RETHINKDC,
}
"""By the name that records give them."""
