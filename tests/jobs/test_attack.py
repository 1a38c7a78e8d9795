"""An attack on a whole experiment with a tiny model: its rows, its report, what stops it, what it refuses."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toys import one_pixel
from typer.testing import CliRunner, Result

from medrobust.attacks import ATTACKS, AttackError, Ball
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square
from medrobust.cli import app
from medrobust.data.task import Dataset, Task
from medrobust.defences import make_defence
from medrobust.errors import RunError
from medrobust.jobs.attack import keep_notes, look, work
from medrobust.jobs.attack.notes import GatheredNotes
from medrobust.jobs.attack.settings import attacks_of, passes
from medrobust.jobs.attack.work import Attacking, attack_batch, attack_units, attack_work, black_box, read_batch
from medrobust.jobs.bench import Bench, prepare_bench
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fitting import Fitted, fit_all
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.parts import AttackSettings
from medrobust.jobs.run import run
from medrobust.models.clip import Clip
from medrobust.results import Journal, RunSummary
from medrobust.results.rows.attacked import ATTACKED, AttackedKey, AttackedRow, read_attacked
from medrobust.tell import Tell
from medrobust.types import Classifier, Images, Labels

DEFENCES = (
    Choice(defence="zero-shot"),
    Choice(defence="promptsmooth", name="few-shot", settings={"mode": "few-shot", "shots": 2, "epochs": 2, "batch": 6}),
)
TUNED = Choice(defence="promptsmooth", name="tuned", settings={"mode": "zero-shot", "draws": 4, "tune_lr": 0.05})
STRONG = AttackSettings(attacks=("pgd",), eps=56 / 255, batch=2)
GRADED = AttackSettings(attacks=("pgd",), eps=(56 / 255, 28 / 255), batch=2)
FILES = ("attacked.jsonl", "attacked.json", "summary.json", "report.html", "results.md", "experiment.yaml")


def attack(experiment: Experiment, settings: AttackSettings, out: Path, **how: Any) -> RunSummary:
    return run(experiment.model_copy(update={"attack": settings, "certify": None}), out, **how)


@pytest.fixture(scope="module")
def experiment(taught_checkpoint: Path, picture_folder: Path, task_file: Path) -> Experiment:
    return Experiment(
        model=str(taught_checkpoint), data=str(picture_folder), task=str(task_file), defences=DEFENCES, sigmas=(0.1,),
        selection=8, n=32, batch=8, threads=1, limit=5, radii=(0.0, 0.05), look=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    attack(experiment, STRONG, out)
    return out


@pytest.fixture(scope="module")
def graded(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "graded"
    attack(experiment, GRADED, out)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def toy_job(
    model: Clip, *eps: float, order: tuple[int, ...] = (0, 1, 2, 3, 4), batch: int = 64, norm: str = "linf"
) -> Attacking:
    """Images 1, 3, 5 and 7 grey levels from the border of a half space, and one on its wrong side."""
    task = Task("toy", "Toy", ("below", "above"), ((), ()), ("a {}.",))
    away = [1, -3, 5, -7, 2]
    images = torch.full((5, 3, 4, 4), 0.5)
    images[:, 0, 0, 0] += torch.tensor(away) / 255
    labels = [1, 0, 1, 0, 0]
    data = Dataset(
        task, tuple(f"image {i}" for i in order), tuple(labels[i] for i in order),
        lambda i: images[order[i]], "toy", "test",
    )  # fmt: skip
    settings = AttackSettings(attacks=("pgd",), norm=norm, eps=tuple(eps), batch=batch)
    fitted = Fitted("toy", make_defence("zero-shot"), one_pixel(0.5), "none")
    return Attacking(Bench(Experiment(), model, task, data), [fitted], settings, {"pgd": Pgd(steps=20)})


def toy_rows(opened: Attacking) -> dict[AttackedKey, AttackedRow]:
    numbers, size = range(len(opened.bench.data)), opened.settings.batch
    parts = [read_batch(opened.bench, numbers[start : start + size]) for start in numbers[::size]]
    notes = GatheredNotes.empty()
    return {row.key: row for part in parts for row in attack_batch(opened, opened.fitted[0], part, notes)}


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("levels", "kept"), [(2, [1, 2, 3]), (6, [3])])
def test_robust_accuracy_of_a_half_space_is_known(tiny: Clip, levels: int, kept: list[int], norm: str) -> None:
    rows = toy_rows(toy_job(tiny, levels / 255, norm=norm))
    assert [key.id for key, row in rows.items() if row.broken_by is None] == [f"image {i}" for i in kept]
    assert [key.id for key, row in rows.items() if row.broken_by == "clean"] == ["image 4"]
    for row in rows.values():
        assert row.distance <= levels / 255
        assert row.answer == (row.label if row.broken_by is None else 1 - row.label)


def test_neither_order_nor_batch_mates_change_a_row(tiny: Clip) -> None:
    rows = toy_rows(toy_job(tiny, 6 / 255))
    for order, batch in (((4, 2, 0, 3, 1), 64), ((0, 1, 2, 3, 4), 2), ((3, 1), 1)):
        again = toy_rows(toy_job(tiny, 6 / 255, order=order, batch=batch))
        assert len(again) == len(order)
        assert all(rows[key] == row for key, row in again.items())


def test_only_images_still_standing_are_attacked_at_a_larger_eps(tiny: Clip) -> None:
    given: list[int] = []

    @dataclass(frozen=True)
    class Counted(Pgd):
        def __call__(
            self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Any
        ) -> Images:
            given.append(len(images))
            return super().__call__(classifier, images, labels, ball=ball, generator=generator)

    opened = toy_job(tiny, 6 / 255, 2 / 255, 4 / 255)
    rows = toy_rows(opened._replace(attacks={"pgd": Counted(steps=20)}))
    assert set(rows) == {key for unit in attack_units(opened) for key in unit.keys}
    assert given == [4, 3, 2]  # one is wrong from the start; each eps breaks one more


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_of_a_larger_eps_are_carried_over_or_those_of_that_eps_alone(tiny: Clip, norm: str) -> None:
    sizes = [2 / 255, 4 / 255, 6 / 255]
    rows = toy_rows(toy_job(tiny, *sizes, norm=norm))
    assert len(rows) == 15
    for smaller, eps in zip([None, *sizes], sizes, strict=False):
        alone = toy_rows(toy_job(tiny, eps, norm=norm))
        for item in (f"image {i}" for i in range(5)):
            row, before = rows[item, eps, "toy"], smaller and rows[item, smaller, "toy"]
            if before and before.broken_by is not None:
                assert row == replace(before, eps=eps)
            else:
                assert row == alone[item, eps, "toy"]
    standing = [[key.id for key, row in rows.items() if key.eps == eps and row.broken_by is None] for eps in sizes]
    assert standing == [["image 1", "image 2", "image 3"], ["image 2", "image 3"], ["image 3"]]


def test_a_picture_shows_the_smallest_eps_that_broke_its_image(tiny: Clip) -> None:
    opened, notes = toy_job(tiny, 2 / 255, 6 / 255), GatheredNotes.empty()
    attack_batch(opened, opened.fitted[0], read_batch(opened.bench, range(5)), notes)
    shown = {one.id: one.eps for one in notes.pictures["toy"]}
    assert shown == {"image 0": 2 / 255, "image 1": 6 / 255, "image 2": 6 / 255}


def test_several_eps_are_told_side_by_side(graded: Path, finished: Path) -> None:
    rows = read_attacked(graded / "attacked.jsonl")
    sizes = [28 / 255, 56 / 255]
    assert [row.key for row in rows[:8]] == [
        AttackedKey(item, eps, name)
        for name in ("zero-shot", "few-shot")
        for item in (rows[0].id, rows[2].id)
        for eps in sizes
    ]
    summary = json.loads((graded / "summary.json").read_text())
    for name in ("zero-shot", "few-shot"):
        shares = summary["robust_accuracy"][name]
        kept = [shares[f"pgd linf {level}/255"]["hits"] for level in (28, 56)]
        assert kept == [
            sum(row.broken_by is None for row in rows if (row.defence, row.eps) == (name, eps)) for eps in sizes
        ]
        assert kept == sorted(kept, reverse=True)
    assert len({row.broken_by is None for row in rows if row.eps == sizes[0]}) == 2  # something to tell apart
    assert "| robust 28/255 | robust 56/255 | broken by, at 56/255 |" in (graded / "results.md").read_text()
    assert "accuracy under attack" in (graded / "robust_accuracy.svg").read_text()
    assert not (finished / "robust_accuracy.svg").exists()


def test_killed_between_two_eps_it_ends_with_the_same_bytes(
    graded: Path, tmp_path: Path, experiment: Experiment
) -> None:
    folder = shutil.copytree(graded, tmp_path / "run")
    lines = (graded / "attacked.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "attacked.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:30])
    attack(experiment, GRADED, folder)
    for name in (*FILES, "robust_accuracy.svg"):
        assert (folder / name).read_bytes() == (graded / name).read_bytes(), name


def test_settings_with_a_lone_eps_are_understood(folder: Path, experiment: Experiment) -> None:
    before = (folder / "attacked.jsonl").read_bytes()
    values = yaml.safe_load((folder / "experiment.yaml").read_text())
    values["attack"]["eps"] = values["attack"]["eps"][0]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RunError, match="holds a run with eps = 56/255, asked for 28/255, 56/255"):
        attack(experiment, GRADED, folder)
    summary = attack(experiment, STRONG, folder)
    assert (folder / "attacked.jsonl").read_bytes() == before
    assert summary.attacked.eps == (56 / 255,)


def test_a_run_leaves_all_that_a_reader_needs(finished: Path, experiment: Experiment) -> None:
    rows = read_attacked(finished / "attacked.jsonl")
    assert len(rows) == 10
    assert {row.scope for row in rows} == {"model"}
    summary = json.loads((finished / "summary.json").read_text())
    title = "pgd linf 56/255"
    for name in ("zero-shot", "few-shot"):
        members = [row for row in rows if row.defence == name]
        share = summary["robust_accuracy"][name][title]
        assert (share["hits"], share["total"]) == (sum(row.broken_by is None for row in members), 5)
        assert summary["clean_accuracy"][name]["hits"] == sum(row.clean == row.label for row in members)
    assert any(row.broken_by == "pgd" for row in rows)
    page = (finished / "report.html").read_text()
    assert '<section id="attacked">' in page
    assert "not AutoAttack" in page
    assert "What these certificates say" not in page
    assert page.count("<figcaption>change, ") == sum(
        len(shown) for shown in json.loads((finished / "attacked.json").read_text())["pictures"].values()
    )
    assert "An attack that fails proves nothing" in (finished / "results.md").read_text()
    assert not (finished / "certified_accuracy.svg").exists()


def test_rows_can_be_made_again(finished: Path, experiment: Experiment) -> None:
    bench = prepare_bench(experiment)
    fitted = fit_all(bench, finished, Tell(), learn=False)
    opened = Attacking(bench, fitted, STRONG, attacks_of(STRONG, 3))
    made = attack_batch(opened, fitted[1], read_batch(bench, [2, 3]), GatheredNotes.empty())
    rows = {row.key: row for row in read_attacked(finished / "attacked.jsonl")}
    assert [rows[row.key] for row in made] == made


def test_report_alone_makes_the_same_page(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    for name in ("summary.json", "report.html", "results.md"):
        (folder / name).unlink()
    assert invoke("report", folder).exit_code == 0
    assert {name: (folder / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("kept", [0, 3, 4, 10])
def test_killed_after_any_row_it_ends_with_the_same_bytes(
    finished: Path, folder: Path, experiment: Experiment, kept: int
) -> None:
    lines = (finished / "attacked.jsonl").read_bytes().splitlines(keepends=True)
    torn = lines[kept][:30] if kept < 10 else b""
    (folder / "attacked.jsonl").write_bytes(b"".join(lines[:kept]) + torn)
    attack(experiment, STRONG, folder)
    for name in FILES:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_interrupted_by_hand_and_resumed(
    finished: Path, tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = attack_batch, []

    def interrupted(*args: Any) -> list[AttackedRow]:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(work, "attack_batch", interrupted)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        attack(experiment, STRONG, out)
    assert [row.defence for row in read_attacked(out / "attacked.jsonl")] == ["zero-shot"] * 2 + ["few-shot"] * 2 + [
        "zero-shot"
    ] * 2
    monkeypatch.undo()
    attack(experiment, STRONG, out)
    for name in FILES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_larger_limit_goes_on(folder: Path, experiment: Experiment) -> None:
    before = (folder / "attacked.jsonl").read_bytes()
    summary = attack(experiment.changed(**{"limit": 6}), STRONG, folder)
    assert (folder / "attacked.jsonl").read_bytes().startswith(before)
    assert summary.attacked.images == 6
    with pytest.raises(RunError, match="holds 12 rows, asked for its first 10"):
        attack(experiment, STRONG, folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eps": (4 / 255,)}, "holds a run with eps = 56/255, asked for 4/255"),
        ({"norm": "l2"}, "holds a run with norm = linf, asked for l2"),
        ({"attacks": ("cw",)}, "with attacks ="),
        ({"batch": 3}, "with batch = 2, asked for 3"),
    ],
)
def test_another_attack_does_not_fit_into_the_folder(
    folder: Path, experiment: Experiment, change: dict, said: str
) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(RunError, match=said):
        attack(experiment, STRONG.model_copy(update=change), folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_certificates_and_attacks_of_one_experiment_share_a_folder(folder: Path, experiment: Experiment) -> None:
    with pytest.raises(RunError, match="holds a run with seed = 0, asked for 1"):
        run(experiment.changed(**{"seed": 1}), folder)
    page = (folder / "report.html").read_text()
    summary = run(experiment.changed(**{"limit": 2}), folder)
    assert summary.images == 2
    assert summary.attacked.images == 5
    settings = (folder / "experiment.yaml").read_bytes()
    record = (folder / "environment.json").read_bytes()
    both = (folder / "report.html").read_text()
    assert "What these certificates say" in both
    assert '<section id="attacked">' in both
    assert both != page
    plain = experiment.changed(**{"sigmas": (0.5,), "draws": 100})  # how it was certified is nothing to an attack
    attack(plain, STRONG, folder)
    assert (folder / "experiment.yaml").read_bytes() == settings.replace(b"limit: 2", b"limit: 5")
    assert (folder / "environment.json").read_bytes() == record
    limit = '<dt>limit</dt><dd class="code">{}</dd>'
    assert (folder / "report.html").read_text() == both.replace(limit.format(2), limit.format(5))
    recorded = json.loads(record)
    recorded["environment"]["torch"] = "another"
    (folder / "environment.json").write_text(json.dumps(recorded))
    with pytest.raises(RunError, match="begun with environment torch = 'another'"):
        attack(plain, STRONG, folder)


def test_a_prompt_tuned_on_the_input_is_attacked_frozen(experiment: Experiment, tmp_path: Path) -> None:
    tuned = experiment.changed(**{"defences": (TUNED,), "limit": 3})
    with pytest.raises(AttackError, match=r"tuned tunes its prompt or tower on every image under noise. Pass --sigma"):
        attack(tuned, STRONG, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    summary = attack(tuned, STRONG.model_copy(update={"sigma": 0.1}), tmp_path / "run")
    rows = read_attacked(tmp_path / "run" / "attacked.jsonl")
    assert {(row.scope, row.sigma) for row in rows} == {("tuned on input", 0.1)}
    assert summary.attacked.scope == {"tuned": "tuned on input"}
    assert "prompt or tower frozen as tuned on the clean image" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(AttackError, match="leave it out"):
        attack(experiment, STRONG.model_copy(update={"sigma": 0.1}), tmp_path / "other")


def test_the_first_line_says_what_it_costs(folder: Path, experiment: Experiment) -> None:
    said: list[str] = []
    attack(experiment, STRONG, folder, tell=Tell(said.append))
    assert said[0].startswith("attack 5 images of ")
    assert "pgd in linf 56/255, at most 3,060 encoder passes (306 an image and defence)" in said[0]
    assert "answered rightly without an attack: zero-shot " in said[1]
    assert "0 of 10 to do" in said[2]
    asked = 3 + 4  # by the set itself: the images as they are, thrice, and what each attack returned
    standard = attacks_of(AttackSettings(), 9)
    assert passes(standard, 9) == 302 + (1 + 8 * 301) + (1 + 8 * 400 + 5) + 5001 + asked
    assert passes(attacks_of(AttackSettings(), 2), 2) == 302 + 302 + (1 + 400 + 5) + 5001 + asked
    assert ATTACKS["autoattack"].default.cost(9) == passes(standard, 9)


def test_flags_are_said_shown_and_kept(tmp_path: Path, tiny: Clip) -> None:
    stepped = Classifier(
        lambda images: (images.flatten(1) * 51).round() / 51 + 0 * images.flatten(1), one_pixel(0.5).head
    )
    opened = toy_job(tiny, 2 / 255, 6 / 255)
    opened = opened._replace(
        fitted=[opened.fitted[0]._replace(classifier=stepped)],
        attacks={"pgd": Pgd(steps=3), "square": Square(queries=60)},
    )
    plan = [key for unit in attack_units(opened) for key in unit.keys]
    with Journal.open(tmp_path / "attacked.jsonl", plan, ATTACKED) as journal:
        for unit in attack_units(opened):
            done = attack_work(opened)(unit)
            keep_notes(RunFolder(tmp_path), done.notes)
            journal.append(done.rows)
    kept = GatheredNotes.open(tmp_path)
    assert any("gradient by the pixels is zero" in sentence for sentence in kept.flags["toy"])
    rows = [row for row in read_attacked(tmp_path / "attacked.jsonl") if row.eps == 6 / 255]
    broken = sum(row.broken_by == "square" for row in rows)
    assert f"black-box attack square broke {broken} of 5 images" in str(black_box(opened.attacks, rows))


def test_nothing_right_and_answers_by_chance_are_refused(tiny: Clip) -> None:
    opened = toy_job(tiny, 6 / 255, order=(4,))
    with pytest.raises(AttackError, match="clean accuracy is 0: none of 1 images is answered rightly by toy"):
        look(opened)
    dropout = torch.nn.Dropout(0.5)
    random = Classifier(lambda images: dropout(images.flatten(1)), one_pixel(0.5).head)
    opened = toy_job(tiny, 6 / 255)
    opened = opened._replace(fitted=[opened.fitted[0]._replace(classifier=random)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pytest.raises(AttackError, match="dropout or noise is active"):
            look(opened)


def test_a_row_reads_back_and_contradictions_are_refused(finished: Path) -> None:
    line = (finished / "attacked.jsonl").read_text().splitlines(keepends=True)[0]
    row = ATTACKED.from_line(line)
    assert ATTACKED.to_line(row) == line
    assert row.title == f"pgd {Ball('linf', 56 / 255)}"
    for change, said in (
        ({"eps": 0.0}, "eps is 0"), ({"distance": 1.0}, "is outside of"), ({"broken_by": "clean"}, "differ"),
        ({"label": "1"}, "label is '1': "), ({"scope": "other"}, "scope is 'other': "),
        ({"schema_version": 2}, "schema_version is 2"),
        ({"extra": 1}, "keys: extra"), ({"sigma": 0.1}, "with scope model"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ATTACKED.from_line(json.dumps(json.loads(line) | change))


def test_the_command_attacks_and_tells(
    folder: Path, tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--attack", "pgd", "--eps", "56/255", "--batch", 2, "--out", folder]
    done = invoke("attack", *words)  # the run that the folder holds
    assert done.exit_code == 0, done.output
    assert "**pgd linf 56/255**, 5 images" in done.stdout
    assert "leave out --defence" in invoke("attack", *words, "--defence", "coop").stderr
    other = tmp_path / "other"
    given = ["--model", experiment.model, "--data", experiment.data, "--task", experiment.task, "--threads", 1]
    done = invoke(
        "attack", *given, "--limit", 2, "--attack", "pgd", "--norm", "l2", "--eps", 0.5, "--out", other, "--json"
    )
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["robust_accuracy"]["zero-shot"]) == ["pgd l2 0.5"]
    assert yaml.safe_load((other / "experiment.yaml").read_text())["attack"]["batch"] == 64

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "attack_batch", stop)
    done = invoke("attack", *given, "--attack", "pgd", "--out", tmp_path / "third")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr


def test_the_standard_set_is_called_autoattack(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrobust.attacks import suite

    monkeypatch.setattr(suite, "standard_set", lambda _classes: {"apgd-ce": suite.Apgd(steps=3)})
    one = experiment.changed(**{"limit": 3, "defences": DEFENCES[:1]})
    summary = attack(one, AttackSettings(), tmp_path / "run")
    assert list(summary.attacked.robust_accuracy["zero-shot"]) == ["autoattack linf 8/255"]
    assert not summary.attacked.standard  # three classes


def test_settings_reach_the_attacks_and_are_told(experiment: Experiment, tmp_path: Path) -> None:
    out, eps = tmp_path / "run", ["--eps", "56/255", "--batch", 2]
    given = ["--model", experiment.model, "--data", experiment.data, "--task", experiment.task, "--threads", 1]
    given += ["--limit", 2, "--attack", "pgd", "--attack", "apgd-ce", *eps, "--out", out]
    done = invoke("attack", *given, "--set", "steps=3", "--set", "apgd-ce.steps=4", "--set", "step=28/255", "--json")
    assert done.exit_code == 0, done.output
    name = "pgd(steps=3,step=28/255)+apgd-ce(steps=4)"
    assert f"{name} in linf 56/255, at most {2 * (3 + 11 + 14 + 2)} encoder passes" in done.stderr
    assert list(json.loads(done.stdout)["robust_accuracy"]["zero-shot"]) == [f"{name} linf 56/255"]
    assert f"**{name} linf 56/255**, 2 images" in (out / "results.md").read_text()
    kept = yaml.safe_load((out / "experiment.yaml").read_text())["attack"]
    assert kept["settings"] == {"pgd": {"steps": 3, "step": 28 / 255}, "apgd-ce": {"steps": 4}}
    rows = (out / "attacked.jsonl").read_bytes()
    for words, said in (
        (["--set", "steps=3", "--set", "step=28/255"], "a run with apgd-ce.steps = 4, asked for 3"),
        (["--set", "pgd.steps=3", "--set", "apgd-ce.steps=4"], "pgd.step = 0.109803"),
        ([], "pgd.steps = 3, asked for its usual value"),
    ):
        refused = invoke("attack", *given, *words)
        assert refused.exit_code == 2
        assert said in refused.stderr
    assert (out / "attacked.jsonl").read_bytes() == rows


def test_a_longer_attack_by_setting_breaks_what_a_short_one_leaves(tiny: Clip) -> None:
    """A step of one grey level, from a point of the ball: as many grey levels as steps are out of reach."""
    broken = []
    for steps in (1, 30):
        settings = AttackSettings(attacks=("pgd",), settings={"pgd": {"steps": steps, "step": "0.25/255"}})
        opened = toy_job(tiny, 6 / 255)._replace(attacks=attacks_of(settings, 2))
        broken.append(sum(row.broken_by == "pgd" for row in toy_rows(opened).values()))
    assert broken[0] < broken[1] == 3


def test_usual_settings_are_none(finished: Path) -> None:
    assert AttackSettings(attacks=("pgd",), settings={"pgd": {"steps": 100, "step": None}}) == AttackSettings(
        attacks=("pgd",)
    )
    assert yaml.safe_load((finished / "experiment.yaml").read_text())["attack"]["settings"] == {}


@pytest.mark.parametrize(
    ("attacks", "settings", "said"),
    [
        (("pgd",), {"pgd": {"stepz": 3}}, r"^pgd has no setting 'stepz' \(did you mean 'step'\?\); it has steps, "),
        (("pgd",), {"pgd": {"steps": 2.5}}, r"^pgd: steps = 2\.5: input should be a valid integer"),
        (("pgd",), {"pgd": {"steps": 0}}, r"^pgd: 0 steps and 1 restarts were asked for; take at least one each"),
        (("pgd",), {"pgd": {"momentum": -1}}, r"^pgd: momentum = -1: input should be greater than or equal to 0"),
        (("pgd",), {"pgd": {"step": "two"}}, r"^pgd: step = 'two': no number; write it as 8/255"),
        (("cw",), {"cw": {"loss": "ce"}}, "^cw has no setting 'loss'"),
        (("pgd",), {"cw": {"steps": 3}}, r"settings for cw, which is not among the attacks \(pgd\)"),
        (("autoattack",), {"autoattack": {"batch": 3}}, "autoattack has no setting 'batch'; it has none"),
    ],
)
def test_settings_that_cannot_be_meant_are_one_sentence(attacks: tuple, settings: dict, said: str) -> None:
    with pytest.raises(AttackError, match=said):
        AttackSettings(attacks=attacks, settings=settings)


def test_a_member_of_a_set_is_not_weakened_in_silence() -> None:
    chosen = AttackSettings(attacks=("autoattack", "square"), settings={"square": {"queries": 10}})
    with pytest.raises(AttackError, match="square is named with settings of its own and is part of a set too"):
        attacks_of(chosen, 5)
    assert attacks_of(AttackSettings(attacks=("autoattack", "square")), 5) == attacks_of(AttackSettings(), 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--eps", 8], "did you mean 8/255?"),
        (["--eps", "eight"], "write it as 8/255"),
        (["--eps", "1/255", "--eps", 8], "did you mean 8/255?"),
        (["--eps", "1/255", "--eps", "1/255"], "eps 1/255 is given twice"),
        (["--norm", "l3"], "there are linf and l2"),
        (["--attack", "pdg"], "did you mean 'pgd'?"),
        (["--attack", "pgd", "--attack", "pgd"], "named twice"),
        (["--attack", "apgd-t"], "apgd-t needs 4 classes, the task has 3; take another (pgd, cw, apgd-ce, apgd-dlr,"),
        (["--attack", "pgd", "--set", "steps"], "--set takes KEY=VALUE, got 'steps'"),
        (["--attack", "pgd", "--set", "setps=3"], "none of pgd has a setting 'setps' (did you mean 'steps'?)"),
        (["--attack", "pgd", "--set", "steps=many"], "pgd: steps = 'many': input should be a valid integer"),
        (["--defence", "promptsmooth:combined"], "Pass --sigma"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    experiment: Experiment, tmp_path: Path, words: list[object], said: str
) -> None:
    given = ["--model", experiment.model, "--data", experiment.data, "--task", experiment.task, "--threads", 1]
    done = invoke("attack", *given, "--out", tmp_path / "run", *words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not (tmp_path / "run" / "attacked.jsonl").exists()


def test_without_a_run_images_must_be_named(tmp_path: Path, picture_folder: Path) -> None:
    done = invoke("attack", "--out", tmp_path)
    assert done.exit_code == 2
    assert "name images with --data" in done.stderr
    one = shutil.copytree(picture_folder / "test" / "red", tmp_path / "data" / "red").parent
    done = invoke("attack", "--data", one, "--out", tmp_path / "run")
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1


def test_attacks_are_listed() -> None:
    listed = json.loads(invoke("attacks", "--json").stdout)
    assert [one["name"] for one in listed] == list(ATTACKS)
    assert listed[0]["settings"] == {
        "steps": 100, "restarts": 1, "step": None, "momentum": 0.0, "random_start": True,
    }  # fmt: skip
    table = invoke("attacks").stdout
    assert "autoattack" in table
    assert "queries=5000, restarts=1, area=0.8" in table
