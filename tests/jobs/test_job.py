"""The engine of jobs: bytes that do not depend on who executes, one writer at a time, cancelling, a claimed folder."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from medrobust.errors import CancelledError, ConfigError, RunError
from medrobust.jobs import KINDS, kind_of
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fitting import fit_all, state_files
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Done, Unit, Work
from medrobust.jobs.parts import AttackSettings, AuditSettings
from medrobust.jobs.run import run
from medrobust.results import read_rows
from medrobust.tell import Tell

DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="promptsmooth", name="few-shot", settings={"mode": "few-shot", "shots": 2, "epochs": 2, "batch": 6}),
    Choice(defence="promptsmooth", name="tuned", settings={"mode": "zero-shot", "draws": 4, "tune_lr": 0.05}),
)
ROWS = ("certified.jsonl", "attacked.jsonl", "audited.jsonl")
FILES = (*ROWS, "attacked.json", "audit.json", "summary.json", "report.html", "environment.json", "experiment.yaml")

OPENED: list[Work[Any]] = []  # in a process of its own


def begin(open_work: Callable[[], Work[Any]]) -> None:
    import torch

    torch.set_num_threads(1)
    OPENED.append(open_work())


def do(unit: Unit) -> Done[Any]:
    return OPENED[0](unit)


def in_two_processes(open_work: Callable[[], Work[Any]], units: Sequence[Unit]) -> Iterator[Done[Any]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, begin, (open_work,)) as pool:
        yield from pool.map(do, units)


@pytest.fixture(scope="module")
def experiment(taught_checkpoint: Path, picture_folder: Path, task_file: Path) -> Experiment:
    return Experiment.model_validate({
        "model": str(taught_checkpoint), "data": str(picture_folder), "task": str(task_file), "defences": DEFENCES,
        "threads": 1, "limit": 2,
        "certify": {"sigmas": (0.1, 0.25), "selection": 8, "draws": 32, "batch": 8, "radii": (0.0, 0.05), "look": 8},
        "attack": {"attacks": ("pgd",), "settings": {"pgd": {"steps": 4}}, "eps": ("28/255", "56/255"), "batch": 2},
        "audit": {"attacks": 1, "redraws": 2, "border": 0, "steps": 2, "draws": 4, "judge": 32, "reference": 64},
    })  # fmt: skip


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "here"
    run(experiment, out)
    return out


def test_all_parts_of_an_experiment_are_carried_out(finished: Path, experiment: Experiment) -> None:
    assert list(experiment.parts) == ["attack", "certify", "audit"]
    assert {path.name for path in finished.iterdir()} >= set(FILES)
    assert json.loads((finished / "audit.json").read_text())["complete"]


def test_two_spawned_processes_write_the_same_bytes(finished: Path, experiment: Experiment, tmp_path: Path) -> None:
    run(experiment.model_copy(update={"audit": None}), tmp_path / "run", execute=in_two_processes)
    for name in ("certified.jsonl", "attacked.jsonl", "attacked.json", "summary.json", "environment.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes(), name


def test_cancelled_between_units_it_goes_on_to_the_same_bytes(
    finished: Path, experiment: Experiment, tmp_path: Path
) -> None:
    out, asked = tmp_path / "run", [0]
    for most in (2, 4, 5):  # in the attack, in the certificates, in the audit

        def cancelled(most: int = most) -> bool:
            asked[0] += 1
            return asked[0] >= most

        asked[0] = 0
        with pytest.raises(CancelledError, match="goes on from there"):
            run(experiment, out, tell=Tell(cancelled=cancelled))
    run(experiment, out)
    for name in FILES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_an_audit_that_was_killed_ends_with_the_same_bytes(
    finished: Path, experiment: Experiment, tmp_path: Path
) -> None:
    import shutil

    rows = (finished / "audited.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, len(read_rows(finished / "certified.jsonl")) + 1):
        out = shutil.copytree(finished, tmp_path / str(kept))
        (out / "audited.jsonl").write_bytes(b"".join(rows[:kept]) + rows[kept][:20])
        run(experiment, out)
        for name in ("audited.jsonl", "audit.json", "report.html"):
            assert (out / name).read_bytes() == (finished / name).read_bytes(), (kept, name)


def test_an_audit_of_other_settings_or_certificates_begins_anew(
    finished: Path, experiment: Experiment, tmp_path: Path
) -> None:
    import shutil

    from medrobust.jobs.audit import audit

    out = shutil.copytree(finished, tmp_path / "run")
    before = (out / "audited.jsonl").read_bytes()
    again = audit(out, experiment.audit)
    assert (out / "audited.jsonl").read_bytes() == before
    alone = AuditSettings(records_only=True)
    found = audit(out, alone)
    assert found.records is not None
    assert found.attacks is None
    assert found.records == again.records
    text = (out / "certified.jsonl").read_text()
    (out / "certified.jsonl").write_text(text.replace('"radius": 0.05', '"radius": 0.2', 1))
    assert text != (out / "certified.jsonl").read_text()
    spoiled = audit(out, alone)
    assert spoiled.findings
    assert not found.findings


def test_every_kind_is_found_by_its_name() -> None:
    for name in KINDS:
        assert kind_of(name).name == name


HOLD = """
import sys, time
from pathlib import Path
from medrobust.jobs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_until_the_first_has_died(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    said = rf"is being written by process {holder.pid} on {socket.gethostname()}; wait for it or use another --out"
    with pytest.raises(RunError, match=said), folder.held():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with folder.held():
        assert str(os.getpid()) in (folder.path / ".lock").read_text()
        with pytest.raises(RunError, match=f"process {os.getpid()} "), RunFolder(folder.path).held():
            pass
    assert list(folder.path.iterdir()) == []


def test_many_writers_one_after_another_are_never_two(tmp_path: Path) -> None:
    """Each adds one to a number that is read and written under the lock."""
    body = """
import sys, time
from pathlib import Path
from medrobust.errors import RunError
from medrobust.jobs.folder import RunFolder
path, done = Path(sys.argv[1]) / "count", 0
while done < 20:
    try:
        with RunFolder(Path(sys.argv[1])).held():
            number = int(path.read_text()) if path.exists() else 0
            time.sleep(0.002)
            path.write_text(str(number + 1))
        done += 1
    except RunError:
        time.sleep(0.001)
"""
    workers = [subprocess.Popen([sys.executable, "-c", body, str(tmp_path)]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"


def test_a_run_holds_its_folder(experiment: Experiment, tmp_path: Path) -> None:
    said: list[str] = []

    def look(text: str) -> None:
        said.append(text)
        with pytest.raises(RunError, match="is being written by"), RunFolder(tmp_path / "run").held():
            pass

    run(experiment.model_copy(update={"attack": None, "audit": None, "defences": DEFENCES[:1], "limit": 1}),
        tmp_path / "run", tell=Tell(look))  # fmt: skip
    assert said


def test_defences_that_would_share_a_state_file_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    two = [Choice(defence="promptsmooth", name=name, settings=DEFENCES[1].settings) for name in ("lr 0.1", "lr-0.1")]
    with pytest.raises(ConfigError, match=r"'lr 0.1' and 'lr-0.1' would both keep their state in states/lr-0.1.saf"):
        run(experiment.model_copy(update={"defences": tuple(two), "attack": None}), tmp_path / "run")
    with pytest.raises(ConfigError, match="'A' and 'a' would both"):
        state_files(["A", "b", "a"], tmp_path)
    assert not (tmp_path / "run" / "states").exists()


def test_what_must_not_learn_never_learns(
    finished: Path, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrobust.defences.state import load_state, save_state
    from medrobust.jobs import fitting
    from medrobust.jobs.bench import prepare_bench

    bench, path = prepare_bench(experiment), tmp_path / "states" / "few-shot.safetensors"
    monkeypatch.setattr(fitting, "fit_defence", lambda *_, **__: pytest.fail("something was learned"))
    few = bench.experiment.model_copy(update={"defences": DEFENCES[1:2]})
    with pytest.raises(RunError, match=r"few-shot\.safetensors is missing"):
        fit_all(prepare_bench(few), tmp_path, learn=False)
    state, header = load_state(finished / "states" / "few-shot.safetensors")
    save_state(path, state, header.model_copy(update={"seed": 7}))
    before = path.read_bytes()
    with pytest.raises(RunError, match="was learned with another seed"):
        fit_all(prepare_bench(few), tmp_path, learn=False)
    assert path.read_bytes() == before


def test_a_folder_keeps_the_parts_that_are_not_asked_for(
    finished: Path, experiment: Experiment, tmp_path: Path
) -> None:
    import shutil

    out = shutil.copytree(finished, tmp_path / "run")
    settings = (out / "experiment.yaml").read_bytes()
    run(experiment.model_copy(update={"attack": None, "audit": None}), out)
    assert (out / "experiment.yaml").read_bytes() == settings
    other = AttackSettings(attacks=("cw",), eps=("28/255", "56/255"), batch=2, sigma=0.1)
    with pytest.raises(RunError, match="holds a run with attacks = "):
        run(experiment.model_copy(update={"attack": other, "certify": None, "audit": None}), out)
    assert (out / "experiment.yaml").read_bytes() == settings


def test_an_interrupted_process_leaves_no_lock_and_whole_rows(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    from medrobust.settings import to_yaml

    file, out = tmp_path / "experiment.yaml", tmp_path / "run"
    file.write_text(to_yaml(experiment.model_copy(update={"audit": None})))
    command = [sys.executable, "-m", "medrobust", "run", str(file), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not ((out / "attacked.jsonl").exists() and (out / "attacked.jsonl").read_bytes()):
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    assert not (out / ".lock").exists()
    assert (finished / "attacked.jsonl").read_bytes().startswith((out / "attacked.jsonl").read_bytes())
