"""The states of an experiment's defences as a job: rows, files, resuming, and what its other parts make of them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from medrobust.defences.adaptation import digest
from medrobust.defences.state import load_state
from medrobust.errors import CancelledError, ConfigError
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fit import FIT, chains, fit_into
from medrobust.jobs.job import carry_out
from medrobust.jobs.parts import CertifySettings
from medrobust.jobs.run import run
from medrobust.results.journal import read_journal
from medrobust.results.rows.learned import LEARNED
from medrobust.tell import Tell

QUICK = {"shots": 1, "epochs": 1}
DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="coop", settings=QUICK),
    Choice(defence="coop", name="again", from_="coop"),
    Choice(defence="promptsmooth", settings={"mode": "few-shot", **QUICK}),
)


@pytest.fixture
def experiment(checkpoint: Path, picture_folder: Path, task_file: Path) -> Experiment:
    return Experiment(
        model=str(checkpoint), data=str(picture_folder), task=str(task_file), defences=DEFENCES, threads=1, limit=2,
        certify=CertifySettings(sigmas=(0.25,), selection=4, draws=16, look=8, batch=8),
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_rows_are_the_states_that_are_kept_and_the_run_learns_nothing_more(
    experiment: Experiment, tmp_path: Path
) -> None:
    rows = carry_out(FIT, experiment, tmp_path, execute=here)
    assert [row.name for row in rows] == ["zero-shot", "coop", "again", "promptsmooth:few-shot"]
    assert rows == read_journal(tmp_path / "states.jsonl", LEARNED)
    for row, name in ((rows[1], "coop"), (rows[3], "promptsmooth-few-shot")):
        state, header = load_state(tmp_path / "states" / f"{name}.safetensors")
        assert row.sha256 == digest(state)
        assert asdict(row) | header.model_dump() == asdict(row)
    assert rows[2].sha256 == rows[1].sha256 != rows[3].sha256
    assert rows[0].sha256 == digest({})
    said: list[str] = []
    kept = files(tmp_path / "states")
    run(experiment, tmp_path, tell=Tell(said.append))
    assert not [text for text in said if text.startswith("fit ")]
    assert files(tmp_path / "states") == kept


def test_a_fit_that_is_cut_off_goes_on_to_the_same_bytes(experiment: Experiment, tmp_path: Path) -> None:
    carry_out(FIT, experiment, tmp_path / "whole", execute=here)
    with pytest.raises(CancelledError):
        carry_out(FIT, experiment, tmp_path / "cut", execute=here, tell=Tell(cancelled=lambda: True))
    assert len(read_journal(tmp_path / "cut" / "states.jsonl", LEARNED)) == 1
    learned: list[str] = []
    carry_out(FIT, experiment, tmp_path / "cut", execute=here, tell=Tell(learned.append))
    assert [text.split(":")[0] for text in learned] == ["fit coop", "fit promptsmooth"]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_one_state_alone_is_learned_from_the_images_of_its_split(experiment: Experiment, tmp_path: Path) -> None:
    alone = experiment.model_copy(update={"defences": DEFENCES[1:2]})
    row = fit_into(tmp_path / "one", alone)
    carry_out(FIT, alone, tmp_path / "run", execute=here)
    state, _ = load_state(tmp_path / "one" / "state.safetensors")
    assert row.sha256 == digest(state)
    assert (tmp_path / "one" / "state.safetensors").read_bytes() == (
        tmp_path / "run" / "states" / "coop.safetensors"
    ).read_bytes()
    other = fit_into(tmp_path / "one", alone.model_copy(update={"seed": 1}))  # takes the place of the first
    assert (other.seed, other.sha256 == row.sha256) == (1, False)


def test_a_defence_and_what_builds_on_it_are_one_unit() -> None:
    later = [Choice(defence="coop", name="b", base="a"), Choice(defence="tecoa", name="a"), Choice(defence="vote")]
    assert chains(later) == [[0], [1], [2]]  # the first names one that comes later, which is refused when it is learned
    assert chains([later[1], later[2], later[0], Choice(defence="coop", name="c", from_="b")]) == [[0, 2, 3], [1]]


def test_the_state_of_a_later_defence_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    wrong = experiment.model_copy(update={"defences": (DEFENCES[2], DEFENCES[1])})
    with pytest.raises(ConfigError, match="again takes the state of 'coop', which no earlier defence is called"):
        carry_out(FIT, wrong, tmp_path, execute=here)
