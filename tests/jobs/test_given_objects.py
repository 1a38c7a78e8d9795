"""A network and images of a program's own: certified, attacked and reported; the folder opened again without them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import medrobust as mr
from medrobust.cli import app
from medrobust.errors import ConfigError, RunError

EXPERIMENT = mr.Experiment(
    defences=(mr.Choice(defence="undefended"),),
    attack=mr.AttackSettings(attacks=("pgd",), eps=(8 / 255,)),
    certify=mr.CertifySettings(draws=200, radii=(0.25,), batch=50),
)
AUDIT = mr.AuditSettings(attacks=2, redraws=1, border=0, steps=2, draws=4, judge=50, reference=100)


def given(slope: float = 10.0) -> mr.Given:
    """A network that compares the mean of red with that of green, and images of a margin of 200/255 between them."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[slope, 0, 0], [0, slope, 0]]))
    model = mr.wrap(network.eval(), classes=["red", "green"], preprocess=16, name="colour means")
    items = [(Image.new("RGB", (16, 16), colour), colour[1] > 0) for colour in [(200, 0, 0), (0, 200, 0)] * 2]
    return mr.Given(model, mr.Dataset.of([(image, int(label)) for image, label in items], ["red", "green"],
                                         preprocess=model.preprocess))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("given") / "run"
    own = given()
    summary = mr.run(EXPERIMENT, str(out), model=own.model, data=own.data)
    assert summary.images == 4
    assert summary.levels[0].certified_accuracy["undefended"][0.25].value == 1  # l2 distance to the border: 8.9
    assert summary.attacked.robust_accuracy["undefended"]["pgd linf 8/255"].value == 1  # linf distance: 100/255
    return out


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_run_says_what_it_was_made_from(folder: Path) -> None:
    kept = mr.load_experiment(folder / "experiment.yaml")
    assert (kept.model, kept.data) == ("from Python: colour means", "from Python: list from Python")
    recorded = json.loads((folder / "environment.json").read_text())["model"]
    assert recorded["sha256"] == given().model.sha256
    assert "<dt>licence</dt><dd>not stated</dd>" in (folder / "report.html").read_text()


def test_the_report_needs_neither_network_nor_images(folder: Path) -> None:
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert invoke("report", folder).exit_code == 0
    assert (folder / "report.html").read_bytes() == page


def test_what_needs_them_says_what_to_pass(folder: Path) -> None:
    rows = (folder / "certified.jsonl").read_bytes()
    for words in (["audit", folder], ["resume", folder]):
        done = invoke(*words)
        assert done.exit_code == 2
        line = done.stderr.splitlines()[-1]
        assert "colour means, was held by a Python program" in line
        assert "given=mr.Given(model=..)" in line
    with pytest.raises(ConfigError, match=r"the data of this run, list from Python, .* data="):
        mr.run(mr.load_experiment(folder / "experiment.yaml"), folder, model=given().model)
    assert (folder / "certified.jsonl").read_bytes() == rows


def test_an_audit_with_them_finds_nothing(folder: Path) -> None:
    found = mr.audit(folder, AUDIT, given=given())
    assert found.findings == ()
    assert {row["check"] for row in map(json.loads, (folder / "audited.jsonl").read_text().splitlines())} == {
        "record", "attack", "redraw",
    }  # fmt: skip


def test_the_same_call_goes_on_and_another_network_is_refused(folder: Path) -> None:
    rows = (folder / "certified.jsonl").read_bytes()
    (folder / "certified.jsonl").write_bytes(rows[: rows.index(b"\n") + 9])
    same, other = given(), given(slope=9.0)
    mr.run(EXPERIMENT, folder, model=same.model, data=same.data)
    assert (folder / "certified.jsonl").read_bytes() == rows
    with pytest.raises(RunError, match="begun with model sha256"):
        mr.run(EXPERIMENT, folder, model=other.model, data=other.data)


def test_a_limit_on_given_images_is_refused(tmp_path: Path) -> None:
    own = given()
    with pytest.raises(ConfigError, match=r"limit is 2, and data= is given; pass data\.subset"):
        mr.run(EXPERIMENT.model_copy(update={"limit": 2}), tmp_path, model=own.model, data=own.data)
