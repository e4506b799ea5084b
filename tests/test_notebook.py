"""The notebook runs from top to bottom in a real kernel, with progress in one piece of text and pictures."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.small import SmallRun, small_run

nbformat = pytest.importorskip("nbformat", reason="the extra `test` brings it")
nbclient = pytest.importorskip("nbclient", reason="the extra `test` brings it")
pytest.importorskip("ipykernel", reason="the extra `test` brings it")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NOTEBOOK = ROOT / "configs" / "quickstart.ipynb"


def executed(folder: Path, config: Path) -> Any:
    """The notebook after all of its cells have run in a folder, with another config in the place of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("configs/quickstart.yaml", str(config))
    nbclient.NotebookClient(
        notebook, timeout=800, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return notebook


def outputs(notebook: Any, containing: str) -> list[Any]:
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and containing in cell.source)
    return list(cell.outputs)


def require_shown(notebook: Any, run: str) -> None:
    shown, value = outputs(notebook, "raydd.run(")
    assert shown.output_type == "display_data" and "distill: done in" in shown.data["text/plain"]
    assert value.data["text/plain"].startswith(f"DistilledRun({run}: 10 images of digits by datm, test accuracy ")
    (loaded,) = outputs(notebook, "raydd.load(")
    assert "data:image/png;base64," in loaded.data["text/html"]
    for code in ("imshow", "boxplot"):
        assert [len(output.data["image/png"]) > 5000 for output in outputs(notebook, code)] == [True]
    progress, outcome = outputs(notebook, "dataset.train(")
    assert progress.data["text/plain"] == "training: 1 finished"
    assert outcome.data["text/plain"].startswith("TrainingOutcome(")


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small run in the place of the quickstart's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run: SmallRun = small_run(tmp_path)
    require_shown(executed(tmp_path, run.file), str(run.out))


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "configs").mkdir()
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    (tmp_path / "configs" / "quickstart.yaml").write_text(text)
    notebook = executed(tmp_path / "configs", Path("configs/quickstart.yaml"))
    require_shown(notebook, str(tmp_path / "runs" / "quickstart"))


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}
