"""An experiment end to end on a tiny model: what it leaves behind, and that stopping it changes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from medrobust.errors import ConfigError, MedrobustError, RunError, StateError
from medrobust.jobs.bench import prepare_bench
from medrobust.jobs.certify import certify_image, reopen_certified
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fit import fit_into
from medrobust.jobs.run import run
from medrobust.results import read_rows, recompute
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.encoding import BATCHES
from medrobust.tell import Tell

SIGMAS = (0.25, 0.5)
QUICK = {"shots": 2, "epochs": 2, "batch": 6}
DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="promptsmooth", name="few-shot", settings={"mode": "few-shot", **QUICK}),
    Choice(defence="promptsmooth", name="combined", settings={"mode": "combined", "draws": 4}, from_="few-shot"),
    Choice(defence="distill", settings={"steps": 2, "batch": 4, "images": 6}),
    Choice(defence="promptsmooth", name="both", settings={"mode": "few-shot", **QUICK}, base="distill"),
)


@pytest.fixture
def experiment(checkpoint: Path, picture_folder: Path, task_file: Path) -> Experiment:
    return Experiment(
        model=str(checkpoint), data=str(picture_folder), task=str(task_file), defences=DEFENCES, sigmas=SIGMAS,
        selection=8, n=64, look=8, batch=8, threads=1, limit=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, picture_folder: Path, task_file: Path
) -> tuple[Experiment, Path]:
    experiment = Experiment(
        model=str(checkpoint), data=str(picture_folder), task=str(task_file), defences=DEFENCES, sigmas=SIGMAS,
        selection=8, n=64, look=8, batch=8, threads=1, limit=3,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "run"
    run(experiment, out)
    return experiment, out


def test_a_run_leaves_all_that_a_reader_needs(finished: tuple[Experiment, Path]) -> None:
    experiment, out = finished
    rows = read_rows(out / "certified.jsonl")
    assert len(rows) == 3 * len(SIGMAS) * len(DEFENCES)
    assert all(recompute(row) == row.radius for row in rows)
    scopes = {row.defence: row.scope for row in rows}
    assert scopes.pop("combined") == "tuned on input"
    assert set(scopes.values()) == {"model"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["schema_version"] == 1
    assert summary["scope"]["combined"] == "tuned on input"
    environment = json.loads((out / "environment.json").read_text())
    assert environment["environment"]["batch"] == 8
    assert environment["environment"]["threads"] == 1
    assert len(environment["model"]["sha256"]) == 64
    page = (out / "report.html").read_text()
    assert "not a medical device" in page.lower()
    assert all(choice.name in page for choice in experiment.defences)
    assert (out / "certified_accuracy.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("kept", [0, 1, 4, 7, 10, 29, 30])
@pytest.mark.parametrize("torn", [False, True])
def test_a_run_killed_after_any_row_ends_with_the_same_bytes(
    finished: tuple[Experiment, Path], tmp_path: Path, kept: int, torn: bool
) -> None:
    experiment, out = finished
    again = tmp_path / "again"
    shutil.copytree(out, again)
    lines = (out / "certified.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 30
    half = lines[kept][: len(lines[kept]) // 2] if torn and kept < 30 else b""
    (again / "certified.jsonl").write_bytes(b"".join(lines[:kept]) + half)
    for name in ("summary.json", "report.html", "results.md"):
        (again / name).unlink()
    run(experiment, again)
    for name in ("certified.jsonl", "summary.json", "report.html", "results.md", "certified_accuracy.svg"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name


def test_interrupted_by_hand_and_resumed(
    experiment: Experiment, finished: tuple[Experiment, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medrobust.jobs.certify as module

    calls = []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return certify_image(*args, **kwargs)

    monkeypatch.setattr(module, "certify_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "run")
    assert len(read_rows(tmp_path / "run" / "certified.jsonl")) == 3 * len(DEFENCES)
    monkeypatch.undo()
    run(experiment, tmp_path / "run")
    assert (tmp_path / "run" / "certified.jsonl").read_bytes() == (finished[1] / "certified.jsonl").read_bytes()


def test_a_larger_limit_goes_on_and_changes_nothing(finished: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment, out = finished
    longer = tmp_path / "longer"
    shutil.copytree(out, longer)
    run(experiment.changed(**{"limit": 5}), longer)
    before, after = (out / "certified.jsonl").read_bytes(), (longer / "certified.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == 50


def test_other_radii_are_only_another_table_where_they_decide_nothing(experiment: Experiment, tmp_path: Path) -> None:
    fixed = experiment.changed(**{"stopping": "fixed", "draws": 16, "defences": DEFENCES[:1]})
    run(fixed, tmp_path / "run")
    before = (tmp_path / "run" / "certified.jsonl").read_bytes()
    summary = run(fixed.changed(**{"radii": (0.0, 0.3)}), tmp_path / "run")
    assert summary.levels[0].radii == (0.0, 0.3)
    assert (tmp_path / "run" / "certified.jsonl").read_bytes() == before


def test_radii_that_decide_when_to_stop_are_kept(finished: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment, out = finished
    shutil.copytree(out, tmp_path / "run")
    with pytest.raises(RunError, match="holds a run with radii"):
        run(experiment.changed(**{"radii": (0.0, 0.3)}), tmp_path / "run")


@pytest.mark.parametrize("stopping", ["fixed", "anytime"])
def test_every_rule_resumes_to_the_same_bytes(experiment: Experiment, tmp_path: Path, stopping: str) -> None:
    chosen = experiment.changed(**{"stopping": stopping, "defences": DEFENCES[:1]})
    run(chosen, tmp_path / "whole")
    run(chosen.changed(**{"limit": 2}), tmp_path / "parts")
    run(chosen, tmp_path / "parts")
    whole = (tmp_path / "whole" / "certified.jsonl").read_bytes()
    assert (tmp_path / "parts" / "certified.jsonl").read_bytes() == whole
    rows = read_rows(tmp_path / "whole" / "certified.jsonl")
    assert {row.stopping for row in rows} == {stopping}
    assert all(recompute(row) == row.radius for row in rows)


def test_what_was_measured_when_a_run_began_is_kept_when_it_goes_on(experiment: Experiment, tmp_path: Path) -> None:
    open_ = experiment.changed(**{"batch": None, "defences": DEFENCES[:1], "limit": 2})
    run(open_, tmp_path)
    recorded = json.loads((tmp_path / "environment.json").read_text())
    assert recorded["environment"]["batch"] in BATCHES["cpu"]
    assert recorded["environment"]["kernels"] == ["lean ViT, latent noise, oneDNN float32, eager"]
    recorded["environment"]["batch"] = 5
    (tmp_path / "environment.json").write_text(json.dumps(recorded))
    said: list[str] = []
    run(open_.changed(**{"limit": 3}), tmp_path, tell=Tell(said.append))
    assert "batch 5" in said[-1]
    assert json.loads((tmp_path / "environment.json").read_text())["environment"]["batch"] == 5


def test_a_run_without_the_lean_path_says_so_and_is_another_environment(
    experiment: Experiment, finished: tuple[Experiment, Path], tmp_path: Path
) -> None:
    plain = experiment.changed(**{"lean": False, "defences": DEFENCES[:1]})
    run(plain, tmp_path / "plain")
    kernels = json.loads((tmp_path / "plain" / "environment.json").read_text())["environment"]["kernels"]
    assert kernels == ["whole images (the lean path was not asked for)"]
    for key, value in (("batch", 4), ("kernels", ["another"])):
        again = tmp_path / key
        shutil.copytree(finished[1], again)
        recorded = json.loads((again / "environment.json").read_text())
        recorded["environment"][key] = value
        (again / "environment.json").write_text(json.dumps(recorded))
        with pytest.raises(RunError, match=f"begun with environment {key}"):
            run(finished[0], again)


def test_a_run_can_be_reopened_as_it_was(finished: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment, out = finished
    bench, fitted, sampler = reopen_certified(out)
    assert [f.name for f in fitted] == [choice.name for choice in DEFENCES]
    rows = [row for row in read_rows(out / "certified.jsonl") if row.id == bench.data.ids[0] and row.sigma == 0.5]
    image, smoothing = bench.data.read(0), prepare_bench(experiment).levels[1]
    label = bench.data.targets[0]
    assert certify_image(image, bench.data.ids[0], label, fitted, smoothing, sampler, seed=0) == rows
    with pytest.raises(RunError, match="is not a run folder"):
        reopen_certified(tmp_path)
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run" / "states" / "few-shot.safetensors").unlink()
    with pytest.raises(RunError, match=r"few-shot.safetensors is missing; .* learns few-shot again"):
        reopen_certified(tmp_path / "run")


def test_a_changed_base_or_training_set_is_learned_anew(
    finished: tuple[Experiment, Path], tmp_path: Path, flat_folder: Path
) -> None:
    experiment, out = finished
    first = (out / "states" / "both.safetensors").read_bytes()
    for name, change in (
        ("base", {"defences": (DEFENCES[0], DEFENCES[3], DEFENCES[4].model_copy(update={"base": None}))}),
        ("data", {"fit_data": str(flat_folder)}),
    ):
        again = tmp_path / name
        shutil.copytree(out, again)
        (again / "certified.jsonl").unlink()
        run(experiment.changed(**change), again)
        assert (again / "states" / "both.safetensors").read_bytes() != first


def test_vision_changes_are_not_stacked(experiment: Experiment, tmp_path: Path) -> None:
    twice = (DEFENCES[3], Choice(defence="distill", name="again", settings={"steps": 1}, base="distill"))
    with pytest.raises(ConfigError, match="cannot be learned on top of distill"):
        run(experiment.changed(**{"defences": twice}), tmp_path / "run")


def test_the_order_of_images_changes_nothing(finished: tuple[Experiment, Path]) -> None:
    experiment, out = finished
    bench, fitted, sampler = reopen_certified(out)
    expected = {row.key: row for row in read_rows(out / "certified.jsonl")}
    for number in (2, 0):
        item, label = bench.data.ids[number], bench.data.targets[number]
        smoothing = prepare_bench(experiment).levels[1]
        alone = certify_image(bench.data.read(number), item, label, fitted[2:4], smoothing, sampler, seed=0)
        assert [expected[row.key] for row in alone] == alone


def test_defences_of_equal_vision_weights_share_the_encoder(finished: tuple[Experiment, Path]) -> None:
    experiment, out = finished
    from medrobust.jobs.fitting import fit_all
    from medrobust.smoothing.sampling import encoders

    fitted = fit_all(prepare_bench(experiment), out, Tell())
    assert [len(users) for _, users in encoders([f.classifier for f in fitted])] == [3, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "with seed = 0, asked for 1"),
        ({"sigmas": (0.25,)}, "with sigmas"),
        ({"batch": 4}, "environment batch = 8, now it is 4"),
        ({"limit": 2}, "asked for"),
    ],
)
def test_another_experiment_does_not_fit_into_the_folder(
    finished: tuple[Experiment, Path], change: dict, message: str
) -> None:
    experiment, out = finished
    before = (out / "certified.jsonl").read_bytes()
    settings = (out / "experiment.yaml").read_bytes()
    with pytest.raises(RunError, match=message):
        run(experiment.changed(**change), out)
    assert (out / "certified.jsonl").read_bytes() == before
    assert (out / "experiment.yaml").read_bytes() == settings


def test_another_machine_is_not_mixed_in(finished: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment, out = finished
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    environment = json.loads((moved / "environment.json").read_text())
    environment["environment"]["cpu_capability"] = "ANOTHER"
    (moved / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunError, match="was begun with environment cpu_capability = 'ANOTHER'"):
        run(experiment, moved)


def test_images_learned_from_are_not_certified(experiment: Experiment, tmp_path: Path, flat_folder: Path) -> None:
    same = experiment.changed(**{"data": str(flat_folder)})
    with pytest.raises(RunError, match="images that are certified too"):
        run(same, tmp_path / "run")


def test_a_state_from_a_file_is_used_with_its_own_settings(
    experiment: Experiment, finished: tuple[Experiment, Path], tmp_path: Path
) -> None:
    choice = Choice(defence="promptsmooth", settings={"mode": "few-shot", **QUICK})
    path = tmp_path / "state.safetensors"
    row = fit_into(tmp_path, experiment.changed(**{"defences": (choice,), "limit": None}), tell=Tell())
    assert row.settings["epochs"] == 2
    used = (Choice(defence="promptsmooth", name="few-shot", from_state=str(path)),)
    run(experiment.changed(**{"defences": used}), tmp_path / "run")
    rows = {row.key: row for row in read_rows(finished[1] / "certified.jsonl")}
    assert all(rows[row.key] == row for row in read_rows(tmp_path / "run" / "certified.jsonl"))
    wrong = (Choice(defence="coop", from_state=str(path)),)
    with pytest.raises(StateError, match=r"state.safetensors was learned by promptsmooth, asked for coop"):
        run(experiment.changed(**{"defences": wrong}), tmp_path / "other")


def test_the_forecast_says_what_can_be_reached(experiment: Experiment, tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[tuple[str, int, int]] = []
    reporter = Tell(said.append, lambda *step: steps.append(step))
    run(experiment.changed(**{"defences": DEFENCES[:1]}), tmp_path / "run", tell=reporter)
    assert said[0].startswith("certify 3 images of ")
    assert said[0].endswith(": zero-shot")
    assert f"{Smoothing(0.5, 0.001, 8, 64, look=8).largest_radius:.4f}" in said[2]
    assert "3 images, 1 defences, 1 encoder(s) by lean ViT, " in said[-1]
    assert "batch 8: at most 432 encoder passes, at most " in said[-1]
    assert steps[-1] == ("certify", 6, 6)


def test_nothing_heavy_happens_before_settings_are_checked(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medrobust.jobs.bench as module

    monkeypatch.setattr(module, "load", lambda *_a, **_k: pytest.fail("the model was loaded"))
    with pytest.raises(MedrobustError, match=r"take n >= 10"):
        run(experiment.changed(**{"draws": 5}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_threads_of_the_run_are_as_asked(finished: tuple[Experiment, Path]) -> None:
    prepare_bench(finished[0])
    assert torch.get_num_threads() == 1
