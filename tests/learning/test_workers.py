"""Two processes on a CPU learn what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fit import fit_into
from medrobust.learning.workers import Workers
from medrobust.models import load
from medrobust.tell import Tell

TRAINING = ["epochs=3", "batch=5", "lr=0.02", "eps=8/255", "attack_step=8/255"]


def test_shares_are_disjoint_and_whole() -> None:
    rows = torch.arange(7)
    shares = [Workers(rank, 3).share(rows).tolist() for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert Workers().share(rows).tolist() == list(range(7))
    assert [Workers(rank, 3).first for rank in range(3)] == [True, False, False]


def fit(out: Path, launcher: list[str], checkpoint: Path, folder: Path, task_file: Path) -> str:
    told = subprocess.run(
        [sys.executable, *launcher, "-m", "medrobust", "fit", "--model", str(checkpoint), "--data", str(folder),
         "--task", str(task_file), "--defence", "tecoa", "--out", str(out), "--threads", "1",
         *(text for one in TRAINING for text in ("--set", one))],
        capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return f"{told.returncode}\n{told.stdout}\n{told.stderr}"


def test_two_processes_learn_what_one_learns(
    tmp_path: Path, checkpoint: Path, picture_folder: Path, task_file: Path
) -> None:
    """Nine images in batches of five: the last batch of four and the shares of three and two are unequal."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = {
        name: fit(tmp_path / name, launcher, checkpoint, picture_folder, task_file)
        for name, launcher in (("one", []), ("two", torchrun))
    }
    assert all(text.startswith("0\n") for text in said.values()), said
    assert said["two"].count("tecoa for") == 1
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    start = dict(load(str(checkpoint)).vision.named_parameters())
    moved = torch.cat([(value - start[key.removeprefix("weight.")]).flatten() for key, value in one.items()])
    apart = torch.cat([(two[key] - value).flatten() for key, value in one.items()])
    assert float(apart.norm()) < 1e-3 * float(moved.norm())
    assert not (tmp_path / "two" / "state.checkpoint.safetensors").exists()


def test_what_one_process_learns_is_refused_to_two(
    tmp_path: Path, checkpoint: Path, picture_folder: Path, task_file: Path
) -> None:
    experiment = Experiment(
        model=str(checkpoint),
        data=str(picture_folder),
        task=str(task_file),
        defences=(Choice(defence="coop"),),
        threads=1,
    )
    with pytest.raises(ConfigError, match="coop is learned by one process; run the command without torchrun"):
        fit_into(tmp_path, experiment, tell=Tell(), workers=Workers(0, 2))
    assert not (tmp_path / "state.safetensors").exists()
