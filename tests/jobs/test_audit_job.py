"""An audit of a whole run on a tiny model: what it finds, what it writes, and how it ends."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from medrobust.cli import app
from medrobust.errors import RunError
from medrobust.jobs.audit import audit as carry_out
from medrobust.jobs.audit import audit_forecast, checks, sample
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.parts import AuditSettings
from medrobust.jobs.run import run
from medrobust.results import CertifiedRow, read_rows
from medrobust.results.audit_summary import AuditSummary
from medrobust.results.rows.certified import CERTIFIED
from medrobust.results.values import from_json
from medrobust.tell import Tell

DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="promptsmooth", name="tuned", settings={"mode": "zero-shot", "draws": 4, "tune_lr": 0.05}),
)


def audit(folder: Path, settings: AuditSettings | None = None, **how: Any) -> dict[str, Any]:
    return carry_out(folder, settings, **how).to_json()


SHALLOW = AuditSettings(
    attacks=3, redraws=2, border=1, steps=2, draws=4, restarts=1, judge=300, reference=1000, tries=20
)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    taught_checkpoint: Path,
    picture_folder: Path,
    task_file: Path,
) -> Path:
    experiment = Experiment(
        model=str(taught_checkpoint), data=str(picture_folder), task=str(task_file), defences=DEFENCES, sigmas=(0.1,),
        selection=20, n=200, alpha=0.01, batch=32, threads=1, limit=6, look=40,
        radii=(0.0, 0.05, 0.1),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "run"
    run(experiment, out)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be audited or spoiled."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def spoil(folder: Path, change: Callable[[CertifiedRow], CertifiedRow]) -> None:
    """Change the first certified row."""
    rows = read_rows(folder / "certified.jsonl")
    number = next(number for number, row in enumerate(rows) if row.radius > 0)
    rows[number] = change(rows[number])
    (folder / "certified.jsonl").write_text("".join(map(CERTIFIED.to_line, rows)))


def test_a_sound_run_passes_every_check(folder: Path) -> None:
    said: list[str] = []
    found = audit(folder, SHALLOW, tell=Tell(said.append))
    assert from_json(AuditSummary, found).findings == ()
    assert from_json(AuditSummary, found).to_text() == (folder / "audit.json").read_text()
    assert found["complete"]
    assert json.loads((folder / "audit.json").read_text()) == found
    assert found["settings"] == SHALLOW.model_dump(exclude={"certificates"})
    assert found["records"]["tested"] == found["rows"] == 12
    attacked = found["attacks"]["defences"]
    assert attacked["zero-shot"]["retuned"] is None
    assert attacked["tuned"]["retuned"]["same"]["total"] == attacked["tuned"]["attempts"] == 3
    assert all(part["broken"] == 0 and 0.4 < part["lowest_share"] <= 1 for part in attacked.values())
    for part in found["redraws"]["defences"].values():
        assert part == {"replayed": 2, "differ": 0, "redrawn": 6, "contradicted": 0}
    assert found["borders"]["tested"] == 1
    assert "attack 6 certificates" in said[0]
    assert "encoder passes" in said[0]


def test_the_command_tells_a_table_and_the_report_has_a_section(folder: Path) -> None:
    words = ["--attacks", 2, "--redraws", 0, "--border", 0, "--steps", 2, "--draws", 4]
    before = (folder / "certified.jsonl").read_bytes()
    done = invoke("audit", folder, *words)
    assert done.exit_code == 0, done.output
    assert "Nothing was found" in done.stdout
    assert "SmoothAdv inside the radius, as tuned" in done.stdout
    page = (folder / "report.html").read_text()
    assert '<section id="audit">' in page
    assert "tuned again there" in page
    assert "**Audit** of 12 certificates" in (folder / "results.md").read_text()
    assert invoke("report", folder).exit_code == 0
    assert (folder / "report.html").read_text() == page
    assert (folder / "certified.jsonl").read_bytes() == before


def test_records_alone_need_neither_model_nor_images(folder: Path) -> None:
    settings = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(settings.replace("model: /", "model: /nowhere/"))
    done = invoke("audit", folder, "--records-only")
    assert done.exit_code == 0, done.output
    assert invoke("audit", folder, "--records-only", "--json").stdout == (folder / "audit.json").read_text()
    assert "Records alone were checked" in done.stdout
    assert "attacks" not in json.loads((folder / "audit.json").read_text())


def test_a_changed_record_is_found_and_shown(folder: Path) -> None:
    spoil(folder, lambda row: replace(row, radius=row.radius + 0.03))
    done = invoke("audit", folder, "--records-only")
    assert done.exit_code == 1, done.output
    assert "claims more than its record supports" in done.stdout
    page = (folder / "report.html").read_text()
    assert "claims more than its record supports" in page
    assert 'class="verdict bad"' in page


def test_a_radius_far_too_large_is_broken_and_its_pictures_are_kept(folder: Path) -> None:
    spoil(folder, lambda row: replace(row, radius=15.0))
    deep = SHALLOW.model_copy(update={"attacks": 20, "redraws": 0, "border": 0, "steps": 5, "draws": 8})
    found = audit(folder, deep)
    (broken,) = found["attacks"]["findings"]
    assert "inside its radius 15.0" in broken["sentence"]
    assert set(broken["pictures"]) == {"clean", "attacked", "difference"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64," + broken["pictures"]["attacked"]) == 1
    (row,) = [row for row in read_rows(folder / "certified.jsonl") if row.radius == 15.0]
    assert found["attacks"]["defences"][row.defence]["broken"] == 1


def test_another_radius_than_the_seed_gives_is_found(folder: Path) -> None:
    spoil(folder, lambda row: replace(row, votes=row.votes - 1))
    found = audit(folder, SHALLOW.model_copy(update={"attacks": 0, "redraws": 6, "border": 0}))
    (differs,) = found["redraws"]["findings"]
    assert "drawn again from its own seed it is another: votes" in differs["sentence"]
    assert sum(part["differ"] for part in found["redraws"]["defences"].values()) == 1


def test_what_is_finished_stays_when_it_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks.attempts, "redraw", stop)
    done = invoke("audit", folder, "--attacks", 2, "--steps", 2, "--draws", 4)
    assert done.exit_code == 130
    kept = json.loads((folder / "audit.json").read_text())
    assert not kept["complete"]
    assert kept["attacks"]["tested"] == 4
    assert invoke("report", folder).exit_code == 0
    assert "The audit was interrupted" in (folder / "report.html").read_text()


def test_a_folder_that_is_no_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        audit(tmp_path)
    (folder / "audit.json").write_text("{")
    done = invoke("report", folder)
    assert done.exit_code == 2
    assert "audit.json cannot be read" in done.stderr


def test_samples_are_balanced_and_follow_from_the_seed(finished: Path) -> None:
    rows = read_rows(finished / "certified.jsonl")
    assert sample.certified(rows, 2, 0) == sample.certified(rows, 2, 0)
    assert {len(chosen) for chosen in sample.certified(rows, 2, 0).values()} == {2}
    assert len({str(sample.certified(rows, 2, seed)) for seed in range(5)}) > 1
    assert all(set(there) == {"zero-shot", "tuned"} for there in sample.levels(rows, 4, 0))
    pairs = list(sample.opposed(rows, 0))
    assert all(one.prediction != two.prediction and one.defence == two.defence for one, two in pairs)
    assert pairs[0][0].defence != pairs[1][0].defence


def test_more_work_is_foretold_to_cost_more(finished: Path) -> None:
    rows = read_rows(finished / "certified.jsonl")
    costs = [audit_forecast(rows, SHALLOW.model_copy(update={"judge": judge})).passes for judge in (300, 600)]
    assert costs[0] < costs[1]
    assert audit_forecast(rows, SHALLOW.model_copy(update={"records_only": True})).passes == 0
