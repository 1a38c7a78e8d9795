"""A run carried on from its folder alone: the same bytes, each part at its own number of images."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from medrobust.cli import app

QUICK = ["--stopping", "fixed", "--n", "32", "--n0", "8", "--batch", "8", "--threads", "1"]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def finished(checkpoint: Path, picture_folder: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of five images, attacks at two of them, and an audit."""
    out = tmp_path_factory.mktemp("resume") / "run"
    given = ["--model", checkpoint, "--data", picture_folder, "--task", task_file, "--defence", "vote"]
    for words in (
        ["certify", *given, "--limit", 5, "--out", out, *QUICK],
        ["attack", "--attack", "pgd", "--eps", "1/255", "--limit", 2, "--out", out],
        ["audit", out, "--attacks", 5, "--redraws", 5, "--border", 0, "--steps", 1, "--judge", 20, "--reference", 50],
    ):
        done = invoke(*words)
        assert done.exit_code == 0, done.output
    return out


def cut(path: Path, rows: int) -> bytes:
    """The file's bytes, of which only the first rows are left on disk, and a torn one."""
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:rows]) + lines[rows][:9])
    return whole


def test_every_part_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    attacked, audited = cut(run / "attacked.jsonl", 1), cut(run / "audited.jsonl", 6)
    done = invoke("resume", run, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["images"] == 5
    assert summary["attack"]["images"] == 2
    assert (run / "attacked.jsonl").read_bytes() == attacked
    assert (run / "audited.jsonl").read_bytes() == audited
    for name in ("certified.jsonl", "summary.json", "results.md", "audit.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


def test_certificates_that_were_cut_off_go_on(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("experiment.yaml", "environment.json", "certified.jsonl"):
        shutil.copy(finished / name, run)
    values = yaml.safe_load((run / "experiment.yaml").read_text())
    values = {key: value for key, value in values.items() if key not in ("attack", "audit")} | {"limit": 5}
    (run / "experiment.yaml").write_text(yaml.safe_dump(values))
    whole = cut(run / "certified.jsonl", 2)
    done = invoke("resume", run)
    assert done.exit_code == 0, done.output
    assert "| vote | model |" in done.stdout
    assert (run / "certified.jsonl").read_bytes() == whole


def test_the_recorded_threads_are_used(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    values = yaml.safe_load((run / "experiment.yaml").read_text())
    (run / "experiment.yaml").write_text(yaml.safe_dump(values | {"threads": None}))
    done = invoke("resume", run)  # one thread made its rows; another number would be refused
    assert done.exit_code == 0, done.output


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for folder, parts in (
        (tmp_path / "none", ("none is no run folder", "experiment.yaml", "vqa.yaml", "--out")),
        (tmp_path, ("compares runs", "medrobust probe", "resume one of one-model")),
    ):
        done = invoke("resume", folder)
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert all(part in line for part in parts), line
        (tmp_path / "one-model").mkdir(exist_ok=True)
        (tmp_path / "one-model" / "experiment.yaml").write_text("certify: {}\n")


def test_an_experiment_without_parts_has_nothing_to_resume(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("schema_version: 2\n")
    done = invoke("resume", tmp_path)
    assert done.exit_code == 2
    assert "has no part to carry on" in done.stderr
