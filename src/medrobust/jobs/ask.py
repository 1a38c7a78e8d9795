"""Questions about images, answered by a model's frozen towers under several recipes, on clean and on attacked images.

Reference: Han et al., Findings of EMNLP 2024, arXiv 2407.02716 (the downstream task of RAN).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medrobust.defences.adaptation import digest
from medrobust.files import replace_text
from medrobust.jobs.bench import model_record
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Done, Kind, Opening, Unit, Work
from medrobust.machine import describe
from medrobust.results.journal import read_journal
from medrobust.results.shares import share_of
from medrobust.results.values import write_sorted
from medrobust.tell import Tell
from medrobust.vqa.answer import Learned, answer_batch, learn_or_load_answers
from medrobust.vqa.bench import QuestionBench, open_questions, vqa_announcement
from medrobust.vqa.learn import Asked
from medrobust.vqa.questions import majority
from medrobust.vqa.recipes import Settings, make_recipe
from medrobust.vqa.rows import ANSWERED, AnsweredKey, AnsweredRow
from medrobust.vqa.settings import VqaSettings
from medrobust.vqa.summary import AskedAttack, AskedModel, QuestionsUsed, VqaSummary, answers_table, summarise_answers

BLIND = "blind"


class Asking(NamedTuple):
    """Model, images and questions, and the learned recipes."""

    settings: VqaSettings
    bench: QuestionBench
    learned: Sequence[Learned]


def check_vqa(settings: VqaSettings) -> None:
    """Check the settings before anything is loaded. Raises MedrobustError."""
    _ = _recipes(settings), settings.balls


def _recipes(settings: VqaSettings) -> dict[str, Settings]:
    return {name: make_recipe(name, chosen) for name, chosen in settings.recipes.items()}


def open_vqa(opening: Opening[VqaSettings]) -> Asking:
    """Load model, images and questions, and learn the recipes. Raises MedrobustError."""
    settings, tell = opening.settings, opening.tell
    bench = open_questions(settings)
    if opening.learn:
        for line in vqa_announcement(settings, bench):
            tell.say(line)
    learned = learn_all(settings, _recipes(settings), bench, opening.folder.path, tell, learn=opening.learn)
    return Asking(settings, bench, learned)


def ask_units(opened: Asking) -> list[Unit]:
    """A unit a block of questions, with a row for each question and recipe."""
    questions, size = opened.bench.test.questions, opened.settings.batch
    units = []
    for start in range(0, len(questions), size):
        block = questions[start : start + size]
        keys = tuple(AnsweredKey(question.id, one.name) for question in block for one in opened.learned)
        units.append(Unit(keys, (start, start + len(block))))
    return units


def ask_work(opened: Asking) -> Work[AnsweredRow]:
    """Answers a block of questions under every recipe; rounding depends on the batch, so a unit is whole."""
    settings, bench, learned = opened

    def work(unit: Unit) -> Done[AnsweredRow]:
        part = slice(int(unit.what[0]), int(unit.what[1]))
        return Done([
            row
            for one in learned
            for row in answer_batch(
                bench.model, one, bench.test.questions[part], part, bench.vocabulary,
                () if one.name == BLIND else settings.balls,
                norm=settings.norm, steps=settings.attack_steps, seed=settings.seed,
            )
        ])  # fmt: skip

    return work


def learn_all(
    asking: VqaSettings, settings: dict[str, Settings], bench: QuestionBench, out: Path, tell: Tell, *, learn: bool
) -> list[Learned]:
    """Every recipe, learned or loaded, and before them the blind one, which has the settings of the first."""
    fit, test = (Asked.of(bench.model, gallery, bench.vocabulary) for gallery in (bench.fit, bench.test))
    origin = f"{', '.join(asking.questions)} ({asking.fit_split}): {len(bench.fit.questions)} questions"
    first = "linear" if "linear" in settings else next(iter(settings))
    todo = [(BLIND, first, fit.blind(), test.blind()), *((name, name, fit, test) for name in settings)]
    return [
        learn_or_load_answers(
            bench.model, Learned(name, recipe, settings[recipe], seen, {}), taught, bench.vocabulary,
            out / "states" / f"{name}.safetensors", data=origin, seed=asking.seed, tell=tell, learn=learn,
        )
        for name, recipe, taught, seen in todo
    ]  # fmt: skip


def publish_answers(folder: RunFolder, opened: Asking, _tell: Tell) -> VqaSummary:
    """Write vqa.json and vqa.md from the rows. Raises RunError."""
    (asking, bench, _), out = opened, folder.path
    rows, taught, asked = read_journal(out / "answered.jsonl", ANSWERED), bench.fit.questions, bench.test.questions
    found, often = summarise_answers(rows), majority(taught)
    blind = {part: values.clean for part, values in found.pop(BLIND).items()}
    kinds = {part: [one for one in asked if part in (one.kind, "all")] for part in blind}
    result = VqaSummary(
        model=AskedModel(bench.model.name, bench.model.sha256),
        data=asking.data,
        split=asking.split,
        attack=AskedAttack("pgd", asking.attack_steps, tuple(str(ball) for ball in asking.balls)),
        recipes=found,
        blind=blind,
        majority={
            part: share_of(one.truth == often.get(one.kind) for one in members) for part, members in kinds.items()
        },
        majority_answers=dict(often.items()),
        answers=len(bench.vocabulary.answers),
        out_of_vocabulary={
            part: share_of(bench.vocabulary.index_of(one.answer) is None for one in members)
            for part, members in kinds.items()
        },
        learned=QuestionsUsed(asking.fit_split, len(taught), len(bench.fit.images)),
        asked=QuestionsUsed(asking.split, len(asked), len(bench.test.images)),
        images_learned_and_asked=bench.shared,
        other_language=bench.read.other_language,
        kind_guessed=bench.read.guessed,
        skipped=tuple(bench.skipped),
    )
    write_sorted(out / "vqa.json", result.to_json())
    replace_text(out / "vqa.md", answers_table(result))
    return result


def _environment(opened: Asking) -> dict[str, Any]:
    model = opened.bench.model
    return {
        "environment": describe(model.device, threads=torch.get_num_threads()),
        "model": model_record(model),
        "states": {one.name: digest(one.state) for one in opened.learned},
    }


VQA: Kind[VqaSettings, Asking, AnsweredRow, VqaSummary] = Kind(
    name="vqa",
    settings=VqaSettings,
    settings_file="vqa.yaml",
    rows_file="answered.jsonl",
    form=ANSWERED,
    check=check_vqa,
    open=open_vqa,
    units=ask_units,
    work=ask_work,
    environment=_environment,
    publish=publish_answers,
)
