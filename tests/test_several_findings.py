"""Images with several findings, end to end: one pass over the noise, a part of alpha each, all that follows from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medrobust.cli import app
from medrobust.errors import ConfigError, SmoothingError
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.run import run
from medrobust.results import CertifiedRow, read_rows, recompute
from medrobust.seeds import stream
from medrobust.tell import Tell

NAMES = ("red paint", "green paint", "blue paint")
QUICK = {"shots": 2, "epochs": 2, "batch": 6}
DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="coop", settings=QUICK),
    Choice(defence="promptsmooth", name="combined", settings={"mode": "combined", "draws": 4}, from_="few-shot"),
)
FEW_SHOT = Choice(defence="promptsmooth", name="few-shot", settings={"mode": "few-shot", **QUICK})


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of three findings and an archive of grainy images in which any of the colours may be bright."""
    folder = tmp_path_factory.mktemp("paints")
    (folder / "paints.yaml").write_text(
        "name: paints\ntitle: Paints\nfindings:\n"
        + "".join(f"  - {{name: {name}}}\n" for name in NAMES)
        + 'templates: ["a photo of {}.", "an image that shows {}."]\n'
    )
    arrays = {}
    for split, count in (("train", 16), ("test", 8)):
        masks = np.arange(count) % 8
        noise = torch.rand(count, 16, 16, 3, generator=stream(0, split)).numpy()
        bits = (masks[:, None] >> np.arange(3)) & 1
        arrays[f"{split}_images"] = (255 * (0.25 + 0.1 * noise + 0.5 * bits[:, None, None])).astype(np.uint8)
        arrays[f"{split}_labels"] = bits
    np.savez(folder / "set.npz", **arrays)
    return folder


def experiment(paints: Path, model: Path, **changes: object) -> Experiment:
    given = {
        "model": str(model), "data": str(paints / "set.npz"), "task": str(paints / "paints.yaml"), "selection": 8,
        "n": 96, "look": 8, "batch": 8, "threads": 1, "limit": 3, "alpha": 0.003, "radii": (0.0, 0.1, 0.25),
        "defences": (DEFENCES[0], DEFENCES[1], FEW_SHOT, DEFENCES[2]),
    }  # fmt: skip
    return Experiment.model_validate(given | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, paints: Path, taught_checkpoint: Path) -> tuple[Path, list[str]]:
    out, told = tmp_path_factory.mktemp("findings") / "run", list[str]()
    run(experiment(paints, taught_checkpoint), out, tell=Tell(told.append))
    return out, told


def without_name(row: CertifiedRow) -> dict[str, object]:
    return {key: value for key, value in vars(row).items() if key not in ("finding", "defence")}


def test_each_finding_is_certified_as_if_alone_at_its_part_of_alpha(
    finished: tuple[Path, list[str]], paints: Path, taught_checkpoint: Path, tmp_path: Path
) -> None:
    rows = read_rows(finished[0] / "certified.jsonl")
    assert len(rows) == 3 * 4 * 3
    assert {row.alpha for row in rows} == {0.001}
    assert all(recompute(row) == row.radius for row in rows)
    assert any(row.radius > 0 for row in rows)
    task = f"{paints / 'paints.yaml'}#blue paint"
    run(experiment(paints, taught_checkpoint, task=task, alpha=0.001, limit=8), tmp_path / "alone")
    there = {(row.id, row.defence): row for row in read_rows(tmp_path / "alone" / "certified.jsonl")}
    for row in (row for row in rows if row.finding == "blue paint"):
        assert without_name(row) == without_name(there[row.id, row.defence])


def test_all_findings_share_one_pass_over_the_noise(
    paints: Path, taught_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medrobust.smoothing.sampling as module

    def encoded(task: str, name: str) -> int:
        counted = []

        class Counted(module.Copies):
            def answers(self, draws, running):  # type: ignore[no-untyped-def]
                for found in super().answers(draws, running):
                    counted.append(len(found))  # an entry an encoder
                    yield found

        monkeypatch.setattr("medrobust.smoothing.certify.Copies", Counted)
        rule = {"stopping": "fixed", "defences": (DEFENCES[0],), "alpha": 0.01, "limit": 2}
        run(experiment(paints, taught_checkpoint, task=str(paints / "paints.yaml") + task, **rule), tmp_path / name)
        return sum(counted)

    assert encoded("", "all") == encoded("#red paint", "one") > 0


def test_the_run_tells_what_it_does_and_what_came_out(finished: tuple[Path, list[str]]) -> None:
    out, told = finished
    assert any("3 images, 4 defences of 3 findings each, 1 encoder(s)" in line for line in told)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["defences"] == ["zero-shot", "coop", "few-shot", "combined"]
    assert set(summary["findings"]["coop"]) == set(NAMES)
    assert summary["scope"]["combined"] == "tuned on input"
    assert summary["expected_false_certificates"] == pytest.approx(3 * 0.003)
    assert sorted(path.name for path in (out / "states").iterdir() if "coop" in path.name) == [
        "coop--blue-paint.safetensors", "coop--green-paint.safetensors", "coop--red-paint.safetensors"
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "3 findings" in page
    assert "Each of 3 findings has a certificate of its own at alpha / 3" in page
    assert page.count('<th scope="row">green paint</th>') == 4
    assert "Certified sensitivity at 0.25" in page
    assert "green paint | combined †" in (out / "results.md").read_text()
    examples = json.loads((out / "examples.json").read_text())
    assert [example["label"] for example in examples] == ["no finding", "red paint", "green paint"]


@pytest.mark.parametrize("kept", [0, 5, 12, 20])
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    finished: tuple[Path, list[str]], paints: Path, taught_checkpoint: Path, tmp_path: Path, kept: int
) -> None:
    shutil.copytree(finished[0], tmp_path / "again")
    lines = (finished[0] / "certified.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "again" / "certified.jsonl").write_bytes(b"".join(lines[:kept]))
    run(experiment(paints, taught_checkpoint), tmp_path / "again")
    for name in ("certified.jsonl", "summary.json", "report.html", "results.md"):
        assert (tmp_path / "again" / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_an_audit_finds_its_way(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    from medrobust.jobs.audit import audit
    from medrobust.jobs.parts import AuditSettings

    shutil.copytree(finished[0], tmp_path / "run")
    depth = AuditSettings(
        attacks=1, steps=2, draws=4, restarts=1, judge=64, redraws=2, repeats=1, reference=200, border=0
    )
    found = audit(tmp_path / "run", depth).to_json()
    assert found["complete"]
    assert found["redraws"]["findings"] == []
    assert found["redraws"]["defences"]["coop: red paint"]["replayed"] == 2
    assert found["redraws"]["defences"]["coop: red paint"]["differ"] == 0
    defences = ("zero-shot", "coop", "few-shot", "combined")
    assert set(found["scopes"]) == {f"{name}: {finding}" for name in defences for finding in NAMES}


def test_too_few_draws_for_a_part_of_alpha_are_refused_before_any_work(
    paints: Path, taught_checkpoint: Path, tmp_path: Path
) -> None:
    run(experiment(paints, taught_checkpoint, alpha=0.5, n=3, stopping="fixed", limit=1, defences=(DEFENCES[0],)),
        tmp_path / "enough")  # fmt: skip
    with pytest.raises(SmoothingError, match=r"n = 3 draws can certify nothing at alpha = 0\.1"):
        run(experiment(paints, taught_checkpoint, alpha=0.3, n=3, stopping="fixed", limit=1), tmp_path / "few")
    assert not (tmp_path / "few" / "states").exists()  # nothing was learned before


def test_a_tower_is_learned_on_one_finding_and_used_for_all(
    paints: Path, taught_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"distill would learn 3 vision towers, one a finding.*'#red paint' behind.*transfer"
    ):
        run(experiment(paints, taught_checkpoint, defences=(Choice(defence="distill"),)), tmp_path / "refused")
    cli = CliRunner()
    common = ["--model", str(taught_checkpoint), "--data", str(paints / "set.npz"), "--threads", "1"]
    made = cli.invoke(app, [
        "fit", *common, "--task", f"{paints / 'paints.yaml'}#red paint", "--defence", "distill", "--set", "steps=2",
        "--set", "batch=4", "--set", "images=6", "--out", str(tmp_path / "tower"),
    ])  # fmt: skip
    assert made.exit_code == 0, made.output
    told: list[str] = []
    tower = Choice(defence="distill", from_state=str(tmp_path / "tower" / "state.safetensors"), transfer=True)
    run(experiment(paints, taught_checkpoint, defences=(tower,)), tmp_path / "all", tell=Tell(told.append))
    assert any("1 defences of 3 findings each, 1 encoder(s)" in line for line in told)


def test_an_image_is_answered_finding_by_finding(paints: Path, taught_checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "x.png"
    Image.fromarray(np.load(paints / "set.npz")["test_images"][3]).save(picture)
    common = ["predict", str(picture), "--model", str(taught_checkpoint), "--task", str(paints / "paints.yaml")]
    certify = ["--sigma", "0.25", "--n", "64", "--alpha", "0.03"]
    cli = CliRunner()
    found = json.loads(cli.invoke(app, [*common, *certify, "--json"]).stdout)["images"][0]["findings"]
    assert list(found) == list(NAMES)
    for name, answer in found.items():
        assert answer["class"] in (name, f"no {name}")
        assert answer["certificate"]["alpha"] == pytest.approx(0.01)
        single = json.loads(cli.invoke(app, [
            *common[:-1], f"{common[-1]}#{name}", "--sigma", "0.25", "--n", "64", "--alpha", "0.01", "--json"
        ]).stdout)  # fmt: skip
        assert single["images"][0]["certificate"]["votes"] == answer["certificate"]["votes"]
    lines = cli.invoke(app, [*common, *certify]).stdout.splitlines()
    assert len(lines) == 3
    assert all(str(picture) in line and "smoothed" in line for line in lines)


@pytest.mark.parametrize("command", ["attack", "fit", "evaluate"])
def test_where_an_image_has_one_answer_a_finding_must_be_named(
    paints: Path, taught_checkpoint: Path, tmp_path: Path, command: str
) -> None:
    given = [
        "--model",
        str(taught_checkpoint),
        "--data",
        str(paints / "set.npz"),
        "--task",
        str(paints / "paints.yaml"),
    ]
    found = CliRunner().invoke(app, [command, *given, "--defence", "coop", "--out", str(tmp_path / "out")])
    assert found.exit_code == 2, found.output
    assert "ask for one of them by '#red paint' behind the task's name or file" in " ".join(found.output.split())
