"""Questions about images, answered by a model's frozen towers under several recipes, on clean and on attacked images.

Reference: Han et al., Findings of EMNLP 2024, arXiv 2407.02716 (the downstream task of RAN).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from medrobust.defences.adaptation import digest
from medrobust.errors import RunError
from medrobust.files import replace_text
from medrobust.jobs.bench import check_same, record_of
from medrobust.machine import describe
from medrobust.models.clip import Clip
from medrobust.results import Journal
from medrobust.results.journal import read_journal
from medrobust.results.shares import share_of
from medrobust.results.values import write_sorted
from medrobust.tell import Tell
from medrobust.vqa.answer import Learned, answer_batch, learn_or_load
from medrobust.vqa.learn import Asked
from medrobust.vqa.questions import majority
from medrobust.vqa.recipes import Settings, make_recipe
from medrobust.vqa.rows import ANSWERED, AnsweredKey, AnsweredRow
from medrobust.vqa.settings import Asking, Room, announcement, claim, enter
from medrobust.vqa.summary import AskedAttack, AskedModel, QuestionsUsed, VqaSummary, answers_table, summarise_answers

BLIND = "blind"


def ask(asking: Asking, out: Path, *, reporter: Tell | None = None) -> VqaSummary:
    """Learn the recipes, answer the split's questions clean and attacked; vqa.json and vqa.md are written.

    An interrupted run goes on where it stopped. Raises MedrobustError, with everything already written intact.
    """
    tell = reporter or Tell()
    settings = {name: make_recipe(name, chosen) for name, chosen in asking.recipes.items()}
    claim(out, asking)
    room = enter(asking)
    for line in announcement(asking, room):
        tell.say(line)
    learned = learn_all(asking, settings, room, out, tell)
    keep_environment(out, room.model, learned)
    answer_all(asking, room, learned, out, tell)
    return publish_answers(asking, room, out)


def answer_all(asking: Asking, room: Room, learned: Sequence[Learned], out: Path, tell: Tell) -> None:
    """Append the rows that are not yet there to answered.jsonl, a batch of questions at once.

    A batch that was torn is answered again as a whole, because batch mates decide the last bits. Raises RunError.
    """
    questions = room.test.questions
    plan = [AnsweredKey(question.id, one.name) for question in questions for one in learned]

    def rows_of(part: slice) -> list[AnsweredRow]:
        return [
            row
            for one in learned
            for row in answer_batch(
                room.model, one, questions[part], part, room.vocabulary, () if one.name == BLIND else asking.balls,
                norm=asking.norm, steps=asking.attack_steps, seed=asking.seed,
            )
        ]  # fmt: skip

    with Journal.open(out / "answered.jsonl", plan, ANSWERED) as journal:
        for start in range(0, len(questions), asking.batch):
            part = slice(start, min(start + asking.batch, len(questions)))
            missing = [key for key in plan[start * len(learned) : part.stop * len(learned)] if key not in journal.done]
            if missing:
                rows = {row.key: row for row in rows_of(part)}
                journal.append([rows[key] for key in missing])
            tell.progress("answer", part.stop, len(questions))


def learn_all(asking: Asking, settings: dict[str, Settings], room: Room, out: Path, tell: Tell) -> list[Learned]:
    """Every recipe, learned or loaded, and before them the blind one, which has the settings of the first."""
    fit, test = (Asked.of(room.model, gallery, room.vocabulary) for gallery in (room.fit, room.test))
    origin = f"{', '.join(asking.questions)} ({asking.fit_split}): {len(room.fit.questions)} questions"
    first = "linear" if "linear" in settings else next(iter(settings))
    todo = [(BLIND, first, fit.blind(), test.blind()), *((name, name, fit, test) for name in settings)]
    return [
        learn_or_load(
            room.model, Learned(name, recipe, settings[recipe], seen, {}), taught, room.vocabulary,
            out / "states" / f"{name}.safetensors", data=origin, seed=asking.seed, tell=tell,
        )
        for name, recipe, taught, seen in todo
    ]  # fmt: skip


def publish_answers(asking: Asking, room: Room, out: Path) -> VqaSummary:
    """vqa.json and vqa.md from the rows. Raises RunError."""
    rows, taught, asked = read_journal(out / "answered.jsonl", ANSWERED), room.fit.questions, room.test.questions
    found, often = summarise_answers(rows), majority(taught)
    blind = {part: values.clean for part, values in found.pop(BLIND).items()}
    kinds = {part: [one for one in asked if part in (one.kind, "all")] for part in blind}
    result = VqaSummary(
        model=AskedModel(room.model.name, room.model.sha256),
        data=asking.data,
        split=asking.split,
        attack=AskedAttack("pgd", asking.attack_steps, tuple(str(ball) for ball in asking.balls)),
        recipes=found,
        blind=blind,
        majority={
            part: share_of(one.truth == often.get(one.kind) for one in members) for part, members in kinds.items()
        },
        majority_answers=dict(often.items()),
        answers=len(room.vocabulary.answers),
        out_of_vocabulary={
            part: share_of(room.vocabulary.index_of(one.answer) is None for one in members)
            for part, members in kinds.items()
        },
        learned=QuestionsUsed(asking.fit_split, len(taught), len(room.fit.images)),
        asked=QuestionsUsed(asking.split, len(asked), len(room.test.images)),
        images_learned_and_asked=room.shared,
        other_language=room.read.other_language,
        kind_guessed=room.read.guessed,
        skipped=tuple(room.skipped),
    )
    write_sorted(out / "vqa.json", result.to_json())
    replace_text(out / "vqa.md", answers_table(result))
    return result


def keep_environment(out: Path, model: Clip, learned: Sequence[Learned]) -> None:
    """Write environment.json, or see that a run that goes on has the same one. Raises RunError."""
    path = out / "environment.json"
    found = {
        "environment": describe(model.device, threads=torch.get_num_threads()),
        "model": record_of(model),
        "states": {one.name: digest(one.state) for one in learned},
    }
    if (out / "answered.jsonl").exists():
        try:
            check_same(out, json.loads(path.read_text(encoding="utf-8")), found)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); use another --out") from error
    replace_text(path, json.dumps(found, indent=2) + "\n")
