"""The command line: each command makes what it says, and a mistake ends with one message and nothing written."""

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

import raydd as package
from raydd import config as configs
from raydd.core.progress import Numbers, Progress, Work
from raydd.evaluation import records
from raydd.pipeline import execution
from raydd.storage import Folder, self_checked
from raydd.storage.lock import locked
from tests.report.test_stages import WAYS, add_students
from tests.support import runs
from tests.support.small import (
    CONFIG,
    STUDENTS,
    UPDATES,
    SmallRun,
    State,
    finished_run,
    flip,
    image_folder,
    raydd,
    small_run,
    state,
    truncate,
    without_curves,
)

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fresh(tmp_path: Path) -> SmallRun:
    return small_run(tmp_path)


@pytest.fixture
def done(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def require_refusal(folder: Path, captured: Captured, command: Callable[[], int], *words: str) -> None:
    """Fail unless a command ends with exit code 2 and one message with these words, and leaves the folder alone."""
    before = state(folder)
    captured.readouterr()
    code = command()
    printed = captured.readouterr()
    require_message(printed.err, *words)
    assert code == 2 and printed.out == ""
    assert state(folder) == before


def require_message(printed: str, *words: str) -> None:
    """Fail unless one message and no traceback is printed, with these words in it (past line breaks and frames)."""
    assert "Traceback" not in printed
    assert len(re.findall("error:|For full helptext", printed)) == 1, printed
    message = " ".join(re.sub("[│╭╮╰╯─]|--+ ", " ", printed).split())
    for word in words:
        assert word in message, message


MISTAKES = {
    "unknown key": ({"method.image_lrr": 1}, "method.image_lrr: there is no such field; did you mean method.image_lr?"),
    "unknown part": ({"metod": {"name": "mtt"}}, "metod: there is no such field; did you mean method?"),
    "field of another method": ({"method": {"name": "mtt", "label_lr": 1.0}}, "method.label_lr: there is no such"),
    "wrong type": ({"method.iterations": "many"}, "method.iterations:", "integer", "'many'"),
    "value for a part": ({"data": 3}, "data:", "got 3"),
    "unknown method": (
        {"method.name": "dream"},
        "method.name: must be one of mtt, ftd, datm, delt, cda, sre2l, rded, fadrm, wmdd, dc, dsa, dm, idc, frepo, "
        "coreset, imported, is dream",
    ),
    "no method": (
        {"method": {"image_lr": 1.0}},
        "method.name: must be one of mtt, ftd, datm, delt, cda, sre2l, rded, fadrm, wmdd, dc, dsa, dm, idc, frepo, "
        "coreset, imported, is missing",
    ),
    "not finite": ({"method.image_lr": float("nan")}, "method.image_lr:", "finite"),
    "too large a seed": ({"seed": 2**70}, "seed: must fit into 64 bits"),
    "recipe": ({"evaluate.recipe.epochs": 0}, "evaluate.recipe.epochs: must be at least 1, is 0"),
    "augmentation": ({"method.augmentation": "blur"}, "method.augmentation: 'blur' is neither none, dsa, nor"),
    "batch statistics": ({"network.norm": "batch"}, "network.norm:", "takes instance or none"),
    "segments beyond the trajectories": ({"method.max_start_epoch": 4}, "method.max_start_epoch:", "experts.training"),
    "more images than a class has": ({"method.images_per_class": 13}, "method.images_per_class: 13", "only 12 images"),
    "network too deep": ({"network.depth": 4}, "network.depth: 4 blocks", "8x8", "at most 3"),
    "student too deep": ({"evaluate.networks": [{"depth": 4}]}, "evaluate.networks.0.depth: 4 blocks", "at most 3"),
    "wide student": ({"evaluate.networks": [{"width": 0}]}, "evaluate.networks.0.width: must be at least 1"),
    "more workers than one process is": ({"cluster.num_workers": 2}, "cluster.num_workers: 2", "--no-ray"),
    "unknown source": ({"data.source": "emnist"}, "data.source: 'emnist' is not one of digits, cifar10"),
    "no data": ({"data.source": "imagefolder", "data.root": "/nowhere"}, "data.root", "there is no folder /nowhere"),
    "unknown store": ({"experts.store": "ftp://host/experts"}, "ftp://host", "s3://"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_file(mistake: str, tmp_path: Path, capsys: Captured) -> None:
    changes, *words = MISTAKES[mistake]
    assert isinstance(changes, dict)
    run = small_run(tmp_path, changes)
    require_refusal(tmp_path, capsys, lambda: run.does("run"), *words)


FLAGS = {
    "unknown flag": (["--method.imagelr", "1"], "--method.imagelr", "--method.image-lr"),
    "flag of nothing": (["--frobnicate"], "--frobnicate"),
    "wrong type": (["--method.iterations", "many"], "--method.iterations", "'many'"),
    "wrong choice": (["--data.preprocess", "wash"], "--data.preprocess", "'wash'", "'zca'"),
    "no value": (["--seed"], "--seed"),
    "value out of range": (["--evaluate.recipe.epochs", "0"], "evaluate.recipe: epochs: must be at least 1"),
    "not finite": (["--method.image-lr", "inf"], "method.image_lr:", "finite"),
    "combination": (["--method.max-start-epoch", "4"], "method.max_start_epoch", "experts.training.epochs"),
    "images": (["--method.images-per-class", "13"], "method.images_per_class: 13", "only 12 images"),
    "second file": (["other.yaml"], "other.yaml"),
}


@pytest.mark.parametrize("mistake", FLAGS)
def test_mistakes_in_the_flags(mistake: str, fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    flags, *words = FLAGS[mistake]
    require_refusal(tmp_path, capsys, lambda: fresh.does("run", *flags), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such configuration file"),
        (b"data: [1\nseed: 2\n", "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"name: \x80", "not readable as YAML"),
        (b"- run\n", "expected `key: value` lines"),
        (b"", "expected `key: value` lines"),
    ],
    ids=["missing", "broken", "binary", "latin", "list", "empty"],
)
def test_files_that_are_no_config(content: bytes | None, words: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_bytes(content)
    require_refusal(tmp_path, capsys, lambda: raydd("run", file, "--no-ray"), f"{file}: {words}")


@pytest.mark.parametrize("path", ["{}", "{}/", ""])
def test_paths_that_are_no_file(path: str, tmp_path: Path, capsys: Captured) -> None:
    require_refusal(tmp_path, capsys, lambda: raydd("run", path.format(tmp_path), "--no-ray"), "no such configuration")


def test_a_hidden_config_file_is_a_config_file(fresh: SmallRun, capsys: Captured) -> None:
    hidden = fresh.file.rename(fresh.file.with_name(".hidden.yaml"))
    assert raydd("experts", hidden, "--no-ray", "--quiet", "--experts.training.epochs", "4") == 0


@pytest.mark.parametrize(
    "arguments", [[], ["frob"], ["run"], ["verify"], ["verify", "a", "b"]], ids=lambda arguments: " ".join(arguments)
)
def test_commands_that_are_none(arguments: list[str], tmp_path: Path, capsys: Captured) -> None:
    require_refusal(tmp_path, capsys, lambda: raydd(*arguments), "raydd" if len(arguments) < 3 else "verify")


def images(run: SmallRun, root: Path) -> list[object]:
    return ["--data.source", "imagefolder", "--data.root", root, "--data.train-limit-per-class", "None"]


def test_a_class_without_images(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    root = image_folder(tmp_path / "data", 2, 1)
    (root / "train" / "dots").mkdir()
    (root / "test" / "dots").mkdir()
    require_refusal(
        tmp_path, capsys, lambda: fresh.does("run", *images(fresh, root)), f"{root}/train: no image of class dots"
    )


def test_an_unreadable_image_among_good_ones(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    root = image_folder(tmp_path / "data", 3, 1)
    bad = root / "train" / "rows" / "001.png"
    truncate(bad)
    assert fresh.does("run", *images(fresh, root)) == 2
    listed, said = fresh.out / "work" / "problems.csv", capsys.readouterr().err
    for words in ("cannot decode 1 image(s), replace or remove them", str(bad), f"all are in {listed}"):
        assert words in said
    assert [path for path in fresh.out.rglob("*") if path.is_file()] == [listed]
    skipping = (*images(fresh, root), "--data.on-error", "skip")
    assert raydd("experts", fresh.file, "--no-ray", *skipping) == 0
    assert f"images left out, changed, or read with a warning: 1/1, listed in {listed}" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 2, 2], [-1, 0, 1]])
def test_labels_that_are_not_0_to_k(labels: list[int], fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    root = tmp_path / "data"
    root.mkdir()
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    rows = [{"image": {"bytes": png.getvalue(), "path": None}, "label": label} for label in labels]
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), root / f"{split}.parquet")
    flags = ["--data.source", "parquet", "--data.root", root]
    require_refusal(tmp_path, capsys, lambda: fresh.does("run", *flags), f"train.parquet in {root}: ", "labels")


def test_out_below_a_regular_file(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    out = fresh.file / "below" / "run"
    require_refusal(tmp_path, capsys, lambda: fresh.does("run", "--out", out), f"{fresh.file} is a file, not a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_where_nothing_may_be_written(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "locked").mkdir(0o500)
    out = tmp_path / "locked" / "run"
    require_refusal(tmp_path, capsys, lambda: fresh.does("run", "--out", out), str(out), "permission")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--network.width", "4"], "made for another network"),
        (["--data.preprocess", "none"], "made for another preprocessing"),
        (["--data.train-limit-per-class", "11"], "made for another fingerprint"),
        (["--experts.training.lr", "0.1"], "made for another recipe"),
        (["--seed", "1"], "made for another seed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_trajectories_of_something_else(
    flags: list[str], words: str, done: SmallRun, tmp_path: Path, capsys: Captured
) -> None:
    store = done.out / "experts"
    flags = [*flags, "--experts.store", str(store), "--out", str(tmp_path / "other")]
    require_refusal(
        tmp_path, capsys, lambda: done.does("run", *flags), f"{store}: these trajectories were {words}", "experts.store"
    )


def test_a_store_that_holds_something_else(done: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    flags = "--experts.store", done.out / "synthetic", "--out", tmp_path / "other"
    words = f"{done.out}/synthetic: holds an artefact of kind synthetic, not experts"
    require_refusal(tmp_path, capsys, lambda: done.does("run", *flags), words)


UNFINISHED = {
    "distill": ("synthetic", "stages", "results"),
    "evaluate": ("results",),
    "run": (),
}
"""What is deleted so that a command has to go on from there."""


@pytest.mark.parametrize(
    ("command", "name", "flags"),
    [
        ("distill", "experts/expert-00001.arrow", []),
        ("distill", "experts/expert-00000.json", []),
        ("distill", "experts/manifest.json", []),
        ("distill", "work/data/data.safetensors", []),
        ("evaluate", "synthetic/images-00000.parquet", []),
        ("evaluate", "synthetic/manifest.json", []),
        ("evaluate", "stages/000/init/images-00000.parquet", []),
        ("evaluate", "experts/expert-00001.arrow", []),
        ("run", "synthetic/images-00000.parquet", []),
        ("run", "synthetic/card.json", []),
        ("run", "stages/000/init/card.json", ["--evaluate.num-students", "2"]),
        ("run", "results/part-*.parquet", []),
    ],
)
@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_artefacts(
    damage: Callable[[Path], None],
    command: str,
    name: str,
    flags: list[str],
    done: SmallRun,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    for part in UNFINISHED[command]:
        shutil.rmtree(done.out / part)
    file = next(done.out.glob(name))
    damage(file)
    advice = "delete it" if file.match("part-*") else "delete the folder"
    require_refusal(tmp_path, capsys, lambda: done.does(command, *flags), str(file), advice)


def test_damaged_trajectories_matter_only_where_they_are_read(done: SmallRun) -> None:
    flip(done.out / "experts" / "expert-00001.arrow")
    assert done.does("evaluate", "--evaluate.num-students", "2", "--evaluate.baselines", "init", "full") == 0


@pytest.mark.parametrize("damage", [truncate, flip])
def test_trajectories_damaged_before_all_are_finished(
    damage: Callable[[Path], None], done: SmallRun, tmp_path: Path, capsys: Captured
) -> None:
    for part in UNFINISHED["distill"]:
        shutil.rmtree(done.out / part)
    (done.out / "experts" / "manifest.json").unlink()
    file = done.out / "experts" / "expert-00000.arrow"
    damage(file)
    capsys.readouterr()
    assert done.does("distill") == 2
    require_message(capsys.readouterr().err, str(file), "delete the expert's two files and run again")
    assert not (done.out / "experts" / "manifest.json").exists()
    for suffix in (".arrow", ".json"):
        file.with_suffix(suffix).unlink()
    assert done.does("distill") == 0


@pytest.mark.parametrize(
    ("flags", "field", "folder"),
    [
        (["--method.image-lr", "2"], "method.image_lr: is 2.0, but", "stages/000/synthetic"),
        (["--method.iterations", "11"], "method.iterations: is 11, but", "stages/000/synthetic"),
        (["--experts.count", "3"], "experts.count: is 3, but", "stages/000/synthetic"),
        (["--network.width", "4"], "network.width: is 4, but", "experts"),
        (["--experts.training.lr", "0.1"], "experts.training.lr: is 0.1, but", "experts"),
        (["--data.preprocess", "zca"], "data.preprocess: is zca, but", "experts"),
        (["--seed", "1"], "seed: is 1, but", "experts"),
        (["--seed", "1", "--experts.seed", "0"], "seed: is ", "stages/000/synthetic"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_config_that_would_replace_what_is_finished(
    flags: list[str], field: str, folder: str, done: SmallRun, tmp_path: Path, capsys: Captured
) -> None:
    words = field, f"{done.out / folder} was made with", "choose another --out, or delete that folder"
    require_refusal(tmp_path, capsys, lambda: done.does("run", *flags), *words)


def test_what_was_deleted_to_be_made_anew_is(done: SmallRun, capsys: Captured) -> None:
    """All folders that stand in the way are named at once."""
    assert done.does("run", "--method.iterations", "11") == 2
    folders = done.out / "stages" / "000" / "synthetic", done.out / "synthetic"
    require_message(capsys.readouterr().err, f"{folders[0]} was made with 10", f"; and likewise {folders[1]}")
    for folder in folders:
        shutil.rmtree(folder)
    old = [file.name for file in (done.out / "results").iterdir()]
    assert done.does("run", "--method.iterations", "11") == 0
    aside = done.out / "work" / "records of other sets"
    assert {file.name for file in aside.iterdir()} <= {*old} and raydd("verify", done.out) == 0
    assert records.read(Folder.at(done.out / "results")).num_rows == STUDENTS


def test_another_method_would_replace_what_is_finished(done: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    method = {name: value for name, value in CONFIG["method"].items() if name in ("iterations", "expert_epochs")}
    small_run(tmp_path, {"method": {**method, "name": "mtt", "max_start_epoch": 2}})
    require_refusal(
        tmp_path, capsys, lambda: done.does("run"), "method.", f"{done.out}/stages/000/synthetic was made with"
    )


def test_other_images_would_replace_what_is_finished(tmp_path: Path, capsys: Captured) -> None:
    root = image_folder(tmp_path / "data", 4, 2)
    run = small_run(tmp_path, {"data.source": "imagefolder", "data.root": str(root), "data.image_size": 16})
    assert run.does("experts") == 0
    Image.new("RGB", (16, 16)).save(root / "train" / "rows" / "000.png")
    require_refusal(tmp_path, capsys, lambda: run.does("run"), f"{run.out}/experts: made from other data files")


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (["--evaluate.num-students", "2"], STUDENTS - 1),
        (["--evaluate.random-draws", "2"], 2),
        (["--evaluate.recipe.epochs", "6"], STUDENTS - 1),
        (["--evaluate.full-epochs", "2"], 1),
        (["--cluster.checkpoint-seconds", "7", "--cluster.num-workers", "1"], 0),
        (["--name", "renamed"], 0),
        (["--experts.test-every", "2"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_may_change_in_a_finished_run(flags: list[str], more: int, done: SmallRun) -> None:
    before = done.artefacts()
    assert done.does("evaluate", *flags) == 0
    after = done.artefacts()
    added = [name for name in after if name not in before and not name.startswith("work/")]
    assert {name: after[name] for name in before} == before
    assert len(added) == more and all(name.startswith("results/part-") for name in added)


def test_more_experts_from_a_shared_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = small_run(tmp_path, {"experts.store": str(store)})
    assert run.does("distill") == 0
    (folder,) = store.iterdir()

    def experts() -> State:
        return {name: seen for name, seen in state(folder).items() if name.startswith("expert-")}

    before = experts()
    assert run.does("distill", "--experts.count", "3", "--out", tmp_path / "larger") == 0
    after = experts()
    assert set(after) - set(before) == {"expert-00002.arrow", "expert-00002.json"}
    assert {name: after[name] for name in before} == before
    assert package.load(run.out).synthetic.images.ne(package.load(tmp_path / "larger").synthetic.images).any()
    artefacts = run.artefacts()
    assert run.does("distill") == 0
    assert run.artefacts() == artefacts and experts() == after


def test_a_second_run_is_told_who_holds_the_folder(done: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    with locked(Folder.at(done.out)):
        require_refusal(
            tmp_path, capsys, lambda: done.does("run"), f"{done.out}/run.lock: held by process {os.getpid()} on "
        )
    assert done.does("distill") == 0


@pytest.mark.slow
def test_two_commands_at_once(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path, {"experts.training.epochs": 100_000})
    command = [sys.executable, "-m", "raydd", "experts", str(run.file), "--no-ray"]
    with runs.started(command, tmp_path / "log") as first:
        first.until(lambda: runs.epochs(run.out))
        assert run.does("run") == 2
        require_message(capsys.readouterr().err, f"run.lock: held by process {first.process.pid} on ", "or stop it")
        assert first.process.poll() is None
    assert run.does("experts", "--experts.training.epochs", "4") == 0


def test_each_command_makes_what_it_says_and_no_more(fresh: SmallRun, capsys: Captured) -> None:
    made: list[set[str]] = []
    before = fresh.artefacts()
    for command in ("experts", "distill", "evaluate", "run"):
        assert fresh.does(command) == 0
        after = fresh.artefacts()
        assert {name: after[name] for name in before} == before, command
        made.append({name for name in set(without_curves(fresh.out)) - set(before) if (fresh.out / name).is_file()})
        before = after
    always = {"config.yaml", "run.lock", "metrics/events.jsonl"}
    expert = {f"experts/expert-{number:05d}.{suffix}" for number in (0, 1) for suffix in ("arrow", "json")}
    assert made[0] == always | expert | {
        *("experts/card.json", "experts/manifest.json", "metrics/experts.jsonl"),
        *("work/data/card.json", "work/data/data.safetensors", "work/data/manifest.json"),
    }
    parts = "card.json", "images-00000.parquet", "manifest.json", "preview.png", "whitening.safetensors"
    folders = "synthetic", "stages/000/init", "stages/000/synthetic"
    sets = {f"{folder}/{part}" for folder in folders for part in parts}
    assert made[1] == always | sets | {"metrics/distill-000.jsonl"}
    looked_at = {name for name in made[2] if re.fullmatch("work/diversity/[0-9a-f]{16}.json", name)}
    assert len(looked_at) == 3  # the distilled, the first and random images
    records = made[2] - always - looked_at
    assert len(records) == STUDENTS and all(re.fullmatch("results/part-[0-9a-f]{16}.parquet", r) for r in records)
    assert made[3] == always | {"report.html", "preview.png"}


def test_the_report_alone(done: SmallRun, capsys: Captured) -> None:
    artefacts = done.artefacts()
    report = (done.out / "report.html").read_text()
    (done.out / "report.html").unlink()
    capsys.readouterr()
    assert done.does("report") == 0
    printed = capsys.readouterr().out
    assert f"report: {done.out}/report.html" in printed and "distilled set" in printed
    again = (done.out / "report.html").read_text()
    where = r"/\S+/run\b"  # the commands to use the set name its folder, which was copied here
    assert "small" in report and re.sub(where, "", again) == re.sub(where, "", report)
    assert f"&#39;{done.out}&#39;" in again
    assert done.artefacts() == artefacts


def test_of_chains_the_table_shows_the_last_stage(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path)
    add_students(Folder.at(run.out))
    assert run.does("report") == 0
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    shown = {(line[2], line[3]): float(line[5]) for line in lines}
    means = {way: pytest.approx(50 * sum(stages[-1])) for way, stages in WAYS.items()}
    assert shown == means and len(lines) == len(WAYS)
    assert "the report has the curve over all stages" in printed


def test_a_report_of_nothing(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    require_refusal(tmp_path, capsys, lambda: fresh.does("report"), f"{fresh.out}: nothing to report", "evaluate first")


def test_a_second_run_makes_nothing_again(done: SmallRun, capsys: Captured) -> None:
    artefacts = done.artefacts()
    assert done.does("run") == 0
    assert done.artefacts() == artefacts
    printed = capsys.readouterr().out
    assert f"report: {done.out}/report.html" in printed
    names = ("distilled set", "starting state", "random real images", "full dataset")
    rows = [len(re.findall(f"│ {name} ", printed)) for name in names]
    assert rows == [2, 2, 2, 1]


def test_work_may_be_deleted(done: SmallRun) -> None:
    shutil.rmtree(done.out / "work")
    artefacts = done.artefacts()
    assert done.does("run") == 0
    assert done.artefacts() == artefacts


def test_show_prints_config_and_plan_and_writes_nothing(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path, {"name": "[red] or [not]", "evaluate.networks": [{"name": "mlp"}]})
    before = state(tmp_path)
    flags = ("--method.iterations", "9", "--seed", "4")
    assert raydd("show", run.file, "--config", *flags) == 0
    printed = capsys.readouterr().out
    assert raydd("show", run.file, *flags) == 0
    plan = capsys.readouterr().out
    wanted = configs.load(str(run.file))
    shown_config = configs.parse(printed.encode(), "printed")
    assert shown_config == replace(wanted, seed=4, method=replace(wanted.method, iterations=9))
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in plan.splitlines() if "│" in line]
    units = {line[0]: line[3] for line in lines if line[0]}
    times = {line[0]: line[2] for line in lines if line[0] not in ("", "data")}
    assert all(re.fullmatch(r"[\d.]+ (s|min|h)", time) for time in times.values())
    assert "on this machine" in plan and "[red] or [not]: " in plan
    assert units == {"data": "416", "experts": "2", "distill": "9", "evaluate": str(STUDENTS), "total": "1"}
    assert state(tmp_path) == before


def test_show_tells_the_time_at_a_rate(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path)
    plan = execution.plan_of(configs.load(str(run.file)))
    rate = plan.total.flops / 9000
    assert raydd("show", run.file, "--rate", f"{rate:.6e}") == 0
    shown_plan = capsys.readouterr().out.partition(" plan, in one process at ")[2]
    assert (
        "2.50 h" in shown_plan and shown_plan.count(" min ") + shown_plan.count(" h ") + shown_plan.count(" s ") == 5
    ), shown_plan
    assert plan.at(rate).total.seconds == pytest.approx(9000)
    for wrong, word in (
        ("-1", "--rate: must be positive"),
        ("nan", "must be positive"),
        ("fast", "must be a number such as 20G or 1.39e13"),
    ):
        require_refusal(tmp_path, capsys, lambda wrong=wrong: raydd("show", run.file, "--rate", wrong), word)


def test_show_of_a_dataset_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    data = {"data.source": "tiny-imagenet", "data.root": str(tmp_path / "data"), "network.depth": 4}
    assert raydd("show", small_run(tmp_path, data).file, "--rate", "1G") == 0
    printed = capsys.readouterr().out
    assert "tiny-imagenet is not here: planned with its published size" in printed
    assert re.search(r"│ data +│ .* │ 12400 │", printed) and "what goes by the data is not checked" in printed


@pytest.mark.parametrize("mistake", MISTAKES)
def test_show_refuses_what_run_refuses(mistake: str, tmp_path: Path, capsys: Captured) -> None:
    changes, *words = MISTAKES[mistake]
    assert isinstance(changes, dict)
    run = small_run(tmp_path, changes)
    require_refusal(tmp_path, capsys, lambda: run.does("show"), *words)


def test_show_refuses_to_replace_what_is_finished(done: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    for flags, word in ((["--method.image-lr", "2"], "method.image_lr: is 2.0, but"), (["--seed", "1"], "seed: is 1")):
        require_refusal(tmp_path, capsys, lambda flags=flags: done.does("show", *flags), word, "choose another --out")
    before = state(tmp_path)
    assert done.does("show", "--rate", "1G") == 0
    assert "there already, and taken as it is: experts" in capsys.readouterr().out
    assert state(tmp_path) == before


def test_show_of_several_is_a_line_each_and_the_total(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(fresh.file.read_text().replace("name: small", "name: other").replace("/run\n", "/other\n"))
    assert raydd("show", fresh.file, other) == 0
    printed = capsys.readouterr().out
    assert "│ small " in printed and "│ other " in printed and "2 runs" in printed and str(STUDENTS) in printed
    assert raydd("show", fresh.file, other, "--seeds", "0", "1", "--method.iterations", "4") == 0
    printed = capsys.readouterr().out
    assert "other, seed 1" in printed and "4 runs" in printed
    for flag, word in ((["--graph"], "--graph: is for one config"), (["--rate", "1G"], "--rate: is for one config")):
        require_refusal(tmp_path, capsys, lambda flag=flag: raydd("show", fresh.file, other, *flag), word)
    same = lambda: raydd("show", fresh.file, other, "--out", tmp_path / "same")  # noqa: E731
    require_refusal(tmp_path, capsys, same, "both write into")
    require_refusal(tmp_path, capsys, lambda: raydd("show", fresh.file, fresh.file), "is named twice")


def test_show_of_a_sweep_is_a_line_each_point(tmp_path: Path, capsys: Captured) -> None:
    space = {"method.image_lr": [0.5, 1.0], "evaluate.recipe.epochs": [2, 4]}
    run = small_run(tmp_path, {"sweep": {"parameters": space}})
    before = state(tmp_path)
    assert raydd("show", run.file) == 0
    printed = capsys.readouterr().out
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if ": epochs " in line
    ]
    points = enumerate([(2, 0.5), (2, 1), (4, 0.5), (4, 1)])
    assert [line[0] for line in lines] == [
        f"{number}: epochs {epochs}, image_lr {lr}" for number, (epochs, lr) in points
    ]
    assert [bool(line[2]) for line in lines] == [True, True, False, False]  # points that share a set make it once
    assert "4 points" in printed and "of them for what points share" in printed
    assert state(tmp_path) == before
    wrong = small_run(tmp_path, {"sweep": {"parameters": {"network.depth": [2, 4]}}})
    require_refusal(tmp_path, capsys, lambda: raydd("show", wrong.file), "network.depth: 4", "of the sweep")


def test_show_of_a_mistake(fresh: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    require_refusal(tmp_path, capsys, lambda: raydd("show", fresh.file, "--network.depth", "4"), "network.depth: 4")


def test_verify(done: SmallRun, capsys: Captured) -> None:
    before = state(done.out)
    assert raydd("verify", done.out) == 0
    folders = "experts", "stages/000/init", "stages/000/synthetic", "synthetic", "work/data"
    counted = f"results, {STUDENTS} records", "work/diversity, 3 parts of unfinished work"
    assert capsys.readouterr().out.splitlines() == [f"intact: {done.out / what}" for what in (*folders, *counted)]
    assert state(done.out) == before


@pytest.mark.parametrize("place", [0.01, 0.5, 0.99])
@pytest.mark.parametrize(
    "name",
    [
        "experts/expert-00000.arrow",
        "experts/expert-00001.json",
        "experts/card.json",
        "synthetic/images-00000.parquet",
        "synthetic/card.json",
        "synthetic/preview.png",
        "synthetic/whitening.safetensors",
        "synthetic/manifest.json",
        "stages/000/init/images-00000.parquet",
        "stages/000/synthetic/card.json",
        "work/data/data.safetensors",
        "results/part-*.parquet",
    ],
)
def test_verify_finds_one_altered_byte(
    name: str, place: float, done: SmallRun, tmp_path: Path, capsys: Captured
) -> None:
    file = next(done.out.glob(name))
    flip(file, place)
    require_refusal(tmp_path, capsys, lambda: raydd("verify", done.out), str(file))


def test_verify_where_there_is_nothing(tmp_path: Path, capsys: Captured) -> None:
    require_refusal(
        tmp_path, capsys, lambda: raydd("verify", tmp_path), "there is nothing here that raydd has made and can check"
    )
    require_refusal(
        tmp_path,
        capsys,
        lambda: raydd("verify", tmp_path / "x"),
        "there is nothing here that raydd has made and can check",
    )


def test_progress_is_told_unless_quiet(fresh: SmallRun, capsys: Captured) -> None:
    assert raydd("experts", fresh.file, "--no-ray") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"raydd {package.__version__}: writes {fresh.out}, in this process, without Ray\n")
    assert [line for line in told.splitlines() if "step" in line] == [
        "step 1 of 2: experts",
        "step 2 of 2: curves of experts",
    ]
    assert raydd("distill", fresh.file, "--no-ray", "--quiet") == 0
    assert capsys.readouterr().out == ""


class Interrupted:
    """A progress that does what Ctrl-C does, after some updates."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


EXPERTS, DISTILLING = UPDATES["expert"], UPDATES["distil"]


def slow(*values: object) -> list[object]:
    """Parameters for the long suite only."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize(
    "updates",
    [
        *(2, EXPERTS + 4, EXPERTS + DISTILLING + 7),
        *slow(0, EXPERTS - 1, EXPERTS, EXPERTS + 1, EXPERTS + DISTILLING - 1, EXPERTS + DISTILLING),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_images(
    updates: int, fresh: SmallRun, done_elsewhere: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    @contextmanager
    def interrupted(console: Console, quiet: bool) -> Iterator[Progress]:
        yield Interrupted(updates)

    with monkeypatch.context() as patched:
        patched.setattr("raydd.cli.steps.shown_progress", interrupted)
        assert fresh.does("evaluate") == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"
    assert len(list(fresh.out.glob("results/*"))) < STUDENTS
    assert fresh.does("evaluate") == 0
    assert runs.made(fresh.out) == runs.made(done_elsewhere.out)
    assert runs.students(fresh.out).equals(runs.students(done_elsewhere.out))


@pytest.fixture
def done_elsewhere(tmp_path: Path) -> SmallRun:
    (tmp_path / "undisturbed").mkdir()
    return finished_run(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experts.training.lr", "1e30"], "stopped: the training loss is nan in epoch"),
        (["--method.image-lr", "1e30", "--method.max-rollbacks", "0"], "after 0 roll-backs; lower method.image_lr"),
        (["--method.threshold", "1e-9"], "nothing is learned: 10 updates in a row were skipped"),
    ],
)
def test_what_is_nobodys_mistake_ends_with_exit_code_1(
    flags: list[str], message: str, fresh: SmallRun, capsys: Captured
) -> None:
    assert fresh.does("run", *flags) == 1
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert not (fresh.out / "synthetic").exists()


def test_the_same_command_goes_on_after_such_an_end_and_not_to_a_useless_set(fresh: SmallRun, capsys: Captured) -> None:
    """Ten iterations, of which nine are kept; then the tenth again, at half the step size."""
    for halvings in (1, 2, 3):
        assert fresh.does("run", "--method.threshold", "1e-9") == 1
        assert "nothing is learned" in capsys.readouterr().err
        assert len((fresh.out / "metrics" / "distill-000.jsonl").read_text().splitlines()) == 9
        (saved,) = (fresh.out / "work" / "checkpoints").iterdir()
        state, _ = self_checked.unpack(saved.read_bytes(), str(saved))
        assert float(state["lr"]) == pytest.approx(0.05 / 2**halvings)
    assert not (fresh.out / "synthetic").exists()


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A small disk of its own below `folder`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, *slow(0.0, 0.02, 0.2, 0.3, 0.4, 0.6, 0.75, 0.9)])
def test_a_full_disk(share: float, tmp_path: Path, done_elsewhere: SmallRun, capsys: Captured) -> None:
    """There is space for so large a share of what a finished run takes, in pages."""
    needed = sum(-(-file.stat().st_size // 4096) * 4096 for file in done_elsewhere.out.rglob("*") if file.is_file())
    with disk(tmp_path / "disk", "16m"):
        run = small_run(tmp_path / "disk")
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(tmp_path / "disk").free - int(share * needed)))
        assert run.does("run") == 2
        require_message(capsys.readouterr().err, str(run.out), "free some space or choose another folder, then run")
        assert not [path for path in run.out.rglob(".*")]
        ballast.unlink()
        assert run.does("evaluate") == 0
        assert runs.made(run.out) == runs.made(done_elsewhere.out)


def test_python_m_raydd(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "argv", ["raydd", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("raydd", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out == f"{package.__version__}\n"


def test_the_program_as_a_process_of_its_own(tmp_path: Path) -> None:
    run = small_run(tmp_path, {"method.image_lrr": 1})
    command = [sys.executable, "-m", "raydd", "run", str(run.file), "--no-ray"]
    done = subprocess.run(command, capture_output=True, text=True)
    require_message(done.stderr, "method.image_lrr: there is no such field")
    assert done.returncode == 2 and not run.out.exists()
    assert done.stdout == f"raydd {package.__version__}: writes {run.out}, in this process, without Ray\n"
