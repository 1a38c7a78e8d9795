"""The demo as the README tells it: minutes long, hence behind a marker."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medrobust.cli import app
from medrobust.jobs.experiment import Experiment
from medrobust.settings import parse


def test_the_demo_can_be_copied() -> None:
    import yaml

    shown = CliRunner().invoke(app, ["demo", "--show"])
    experiment = parse(Experiment, yaml.safe_load(shown.stdout), "demo")
    assert experiment.model == "builtin"
    assert experiment.data == "phantom"


@pytest.mark.slow
def test_the_demo_ends_in_a_report(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert list(summary["scope"]) == ["zero-shot", "few-shot", "combined", "pool", "vote", "distill"]
    assert summary["scope"]["combined"] == "tuned on input"
    accuracy = {name: shares["0.25"]["value"] for name, shares in summary["certified_accuracy"].items()}
    assert accuracy["distill"] > accuracy["zero-shot"]
    assert "not a medical device" in (tmp_path / "demo" / "report.html").read_text().lower()
