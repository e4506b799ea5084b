"""The shipped configurations, and the sizes of the datasets that they are for."""

from dataclasses import replace
from functools import cache

from raydd import config as configs
from raydd.config import RunConfig
from raydd.pipeline.runs.resolved import resolved
from raydd.plan import DataFacts, Plan, make_plan
from tests.support import ROOT

FOLDER = ROOT / "configs"
PRESETS = sorted(str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.yaml") if file.parent.name != "kubernetes")
FACTS = {
    "digits": DataFacts(1_501, 296, (1, 8, 8), 10),
    "cifar10": DataFacts(50_000, 10_000, (3, 32, 32), 10),
    "cifar100": DataFacts(50_000, 10_000, (3, 32, 32), 100),
    "tiny-imagenet": DataFacts(100_000, 10_000, (3, 64, 64), 200),
    "imagenette": DataFacts(9_469, 3_925, (3, 224, 224), 10),
    "imagenet-100": DataFacts(126_689, 5_000, (3, 224, 224), 100),
    "own-images": DataFacts(1_440, 400, (3, 32, 32), 5, 160),
    "imagenet": DataFacts(1_281_167, 50_000, (3, 224, 224), 1_000),
}


def preset(name: str) -> RunConfig:
    return configs.load(str(FOLDER / name))


def facts(config: RunConfig) -> DataFacts:
    """Of folders of images, by the preset's name."""
    side, source = config.data.image_size, config.data.source
    found = FACTS[config.name.partition("-delt")[0] if source == "imagefolder" else source]
    return replace(found, shape=(3, side, side)) if side else found


@cache
def planned(config: RunConfig) -> Plan:
    return make_plan(resolved(config), facts(config))


def header_of(name: str) -> str:
    lines = (FOLDER / name).read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
