"""An evaluation attacks and certifies the same images into one folder, tells both at once, and can be resumed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import medrobust.jobs.certify as certifying
from medrobust.attacks import ATTACKS
from medrobust.attacks.pgd import Pgd
from medrobust.cli import app
from medrobust.jobs.attack import work
from medrobust.results import read_rows
from medrobust.results.rows.attacked import read_attacked
from medrobust.smoothing.bounds import Interval
from medrobust.words import percent

FILES = ("attacked.jsonl", "certified.jsonl", "summary.json", "results.md", "report.html", "experiment.yaml")


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS, "pgd", ATTACKS["pgd"]._replace(default=Pgd(steps=20)))
        yield


@pytest.fixture(scope="module")
def words(taught_checkpoint: Path, picture_folder: Path, task_file: Path) -> list[object]:
    given = ["--model", taught_checkpoint, "--data", picture_folder, "--task", task_file, "--limit", 3, "--threads", 1]
    given += ["--attack", "pgd", "--eps", "56/255", "--eps", "12/255", "--attack-batch", 2]
    return [*given, "--sigma", 0.1, "--draws", 32, "--n0", 8, "--radii", "0,0.05", "--batch", 8]


@pytest.fixture(scope="module")
def finished(words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = evaluate(words, out)
    assert done.exit_code == 0, done.output
    return out


def evaluate(words: list[object], out: Path, *more: object) -> Result:
    defences = ["--defence", "zero-shot", "--defence", "vote"]
    return CliRunner().invoke(app, ["evaluate", *map(str, [*words, *defences, "--out", out, *more])])


def test_one_table_says_what_both_halves_found(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    text = (finished / "results.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert text.startswith("**Clean, attacked and certified**: pgd, noise σ = 0.1, 3 images\n")
    heads = ["robust linf 12/255", "robust linf 56/255", "certified r = 0", "certified r = 0.05"]
    assert lines[0] == ["defence", "scope", "clean", *heads, "abstained"]
    for name, line in zip(("zero-shot", "vote"), lines[2:4], strict=True):
        robust, certified = summary["robust_accuracy"][name], summary["certified_accuracy"][name]
        shares = [robust["pgd linf 12/255"], robust["pgd linf 56/255"], certified["0"], certified["0.05"]]
        shares = [summary["clean_accuracy"][name], *shares, summary["abstained"][name]]
        assert line == [name, "model", *(percent(Interval(**share)) for share in shares)]
    attacked, certificates = read_attacked(finished / "attacked.jsonl"), read_rows(finished / "certified.jsonl")
    assert {row.id for row in attacked} == {row.id for row in certificates}
    assert {(row.id, row.defence, row.clean) for row in attacked} == {
        (row.id, row.defence, row.clean) for row in certificates
    }
    settings = yaml.safe_load((finished / "experiment.yaml").read_text())
    assert [settings[part]["batch"] for part in ("attack", "certify")] == [2, 8]
    assert '<section id="together">' in (finished / "report.html").read_text()


@pytest.mark.parametrize(("module", "name", "call"), [(work, "attack_batch", 3), (certifying, "certify_image", 2)])
def test_interrupted_in_either_half_it_goes_on(
    words: list[object], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    module: Any, name: str, call: int,
) -> None:  # fmt: skip
    real, calls = getattr(module, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
    done = evaluate(words, tmp_path / "run")
    assert done.exit_code == 130, done.output
    assert "the same command goes on" in done.stderr
    monkeypatch.undo()
    done = evaluate(words, tmp_path / "run")
    assert done.exit_code == 0, done.output
    for file in FILES:
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes(), file


def test_the_first_line_says_what_is_done(finished: Path, words: list[object]) -> None:
    done = evaluate(words, finished, "--json")
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("evaluate zero-shot, vote with ")
    assert "attacked by pgd in linf 12/255, 56/255, then certified at sigma 0.1 with at most 40 noisy copies" in first
    assert second.startswith("attack 3 images of ")
    assert "at most 792 encoder passes (132 an image and defence)" in second
    assert json.loads(done.stdout) == json.loads((finished / "summary.json").read_text())


def test_a_prompt_tuned_on_the_input_is_attacked_as_tuned_at_the_first_sigma(
    words: list[object], tmp_path: Path
) -> None:
    done = evaluate(words, tmp_path / "run", "--defence", "promptsmooth:zero-shot", "--sigma", 0.2, "--limit", 1)
    assert done.exit_code == 0, done.output
    rows = read_attacked(tmp_path / "run" / "attacked.jsonl")
    assert {row.sigma for row in rows if row.scope != "model"} == {0.1}
    assert {row.sigma for row in read_rows(tmp_path / "run" / "certified.jsonl")} == {0.1, 0.2}
    assert "| promptsmooth:zero-shot † | tuned on input |" in (tmp_path / "run" / "results.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--eps", 8], "did you mean 8/255?"),
        (["--draws", 64], "holds a run with draws = 32, asked for 64"),
        (["--attack", "cw"], "holds a run with attacks ="),
        (["--set", "steps=9"], "holds a run with pgd.steps = its usual value, asked for 9"),
        (["--set", "pdg.steps=9"], "none of pgd has a setting 'pdg.steps' (did you mean 'pgd.steps'?)"),
        (["--radii", "0;1"], "radii.0: Input should be a valid number"),
    ],
)
def test_another_evaluation_is_refused_before_any_work(
    words: list[object], finished: Path, change: list[object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medrobust.jobs.bench.load", lambda *_args, **_named: pytest.fail("the model was loaded"))
    before = {file: (finished / file).read_bytes() for file in FILES}
    done = evaluate(words, finished, *change)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert {file: (finished / file).read_bytes() for file in FILES} == before
