"""A copy of a captioned data set on disk, of which a share is attacked: `medrobust poison`.

The folder holds `images/`, `captions.jsonl` and, once it is finished, `poison.json`. Until then `unfinished.yaml` and
`environment.json` say whose folder it is and `unfinished.jsonl` what has been attacked, so that the same command goes
on and ends with the same bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch

from medrobust.data import load_task, open_dataset, open_image
from medrobust.data.pictures import encoded
from medrobust.data.sources.files import LabelledFile, decodable
from medrobust.errors import DataError
from medrobust.files import replace_bytes
from medrobust.jobs.bench import model_record
from medrobust.jobs.folder import ENVIRONMENT, Holding, RunFolder
from medrobust.jobs.job import Done, Kind, Notes, Opening, Unit, Work
from medrobust.machine import checked_device, describe
from medrobust.models import load
from medrobust.pairs.caption_files import bare
from medrobust.pairs.captioned import CaptionedImages, image_files, open_captioned
from medrobust.pairs.poison import BLOCK, VERSION, AttackedPair, Poison, Targets, attack_pairs, chosen, eight_bit
from medrobust.pairs.poison_summary import (
    AttackedModel,
    AttackedShare,
    CopiedCounts,
    CopiedPairs,
    PairAttack,
    PoisonSummary,
    TargetImages,
    count_attacked,
)
from medrobust.pairs.settings import PoisonSettings
from medrobust.results.journal import checked_form, read_journal
from medrobust.tell import Tell
from medrobust.types import Preprocess, VisionLanguageModel

MANIFEST = "poison.json"
_SETTINGS, _ROWS = "unfinished.yaml", "unfinished.jsonl"
FORM = checked_form(AttackedPair, VERSION, parts="pairs", command="poison")


@dataclass(frozen=True)
class TargetSource:
    """Source of the images to move to: a folder with images anywhere below it, or any labelled data."""

    data: str
    task: str | None = None
    split: str = "train"
    skip_broken: bool = False


def open_targets(source: TargetSource, preprocess: Preprocess) -> Targets:
    """The images to move to; labels and captions are not needed in a folder. Raises `DataError` where there is none."""
    root = Path(source.data)
    if not root.is_dir():
        task = load_task(source.task) if source.task else None
        data = open_dataset(source.data, task, preprocess=preprocess, split=source.split)
        return Targets(data.ids, data.read, source.data)
    listing = [LabelledFile(path.relative_to(root).as_posix(), path, 0) for path in image_files(root)]
    kept, broken = decodable(listing, preprocess, skip_broken=source.skip_broken)
    if not kept:
        raise DataError(f"{root} has no image left to move to: all {len(broken)} are broken")
    return Targets(tuple(file.id for file in kept), lambda i: open_image(kept[i].path, preprocess), source.data)


class Poisoning(NamedTuple):
    """Pairs, the model and images that they are moved with, and the path of each image in the copy."""

    settings: PoisonSettings
    poison: Poison
    model: VisionLanguageModel
    pairs: CaptionedImages
    targets: Targets | None
    files: list[str]

    @property
    def rows(self) -> list[int]:
        """The pairs that are attacked."""
        return chosen(len(self.pairs), self.poison.share, self.poison.seed)


def check_poison(settings: PoisonSettings) -> None:
    """See what can be told before anything is loaded. Raises MedrobustError."""
    _ = settings.poison, checked_device(settings.device)


def open_poison(opening: Opening[PoisonSettings]) -> Poisoning:
    """Load the model and list the pairs and the images to move to. Raises MedrobustError."""
    settings, given = opening.settings, opening.given
    model = given.model or load(settings.model, device=checked_device(settings.device), revision=settings.revision)
    pairs = given.data or open_captioned(settings.source, model.preprocess)
    targets = None
    if settings.target:
        source = TargetSource(settings.target, settings.target_task, settings.split, settings.skip_broken)
        targets = open_targets(source, model.preprocess)
    return Poisoning(settings, settings.poison, model, pairs, targets, file_names(pairs.ids))


def poison_units(opened: Poisoning) -> list[Unit]:
    """A unit a block of pairs, attacked as one batch."""
    rows, ids = opened.rows, opened.pairs.ids
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return [Unit(tuple(ids[row] for row in block), tuple(block)) for block in blocks]


def poison_work(opened: Poisoning) -> Work[AttackedPair]:
    """Attacks a block of pairs; its images are kept beside the rows, by their path in the copy."""

    def work(unit: Unit) -> Done[AttackedPair]:
        block = [int(row) for row in unit.what]
        images, done = attack_pairs(opened.pairs, block, opened.poison, opened.model.encode_image, opened.targets)
        return Done(done, {opened.files[row]: encoded(image) for row, image in zip(block, images, strict=True)})

    return work


def keep_images(folder: RunFolder, notes: Notes) -> None:
    """Write the attacked images of a unit. Raises RunError."""
    for name, picture in notes.items():
        replace_bytes(folder.path / name, picture)


def poison_announcement(opened: Poisoning, _left: float) -> list[str]:
    """Says what is attacked, and how."""
    poison, pairs = opened.poison, opened.pairs
    how = f"{poison.ball}, {poison.attack.steps} steps" if poison.images else "captions only"
    return [f"attack {len(opened.rows)} of {len(pairs)} pairs of {pairs.source} with {opened.model.name}, {how}"]


def finish_poison(folder: RunFolder, opened: Poisoning, tell: Tell) -> PoisonSummary:
    """Copy the pairs that are not attacked, write captions.jsonl and poison.json, and delete what came before it."""
    pairs, files = opened.pairs, opened.files
    _write_clean(folder.path, opened, tell)
    done = read_journal(folder.path / _ROWS, FORM)
    after = {pair.id: pair.caption_after for pair in done}
    lines = [
        {"id": name, "image": path, "caption": after.get(name, caption)}
        for name, path, caption in zip(pairs.ids, files, pairs.captions, strict=True)
    ]
    replace_bytes(folder.path / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    summary = _summary(opened, done)
    replace_bytes(folder.path / MANIFEST, (json.dumps(summary.to_json(), indent=1) + "\n").encode())
    folder.remove(_ROWS, ENVIRONMENT, _SETTINGS)
    return summary


def _write_clean(out: Path, opened: Poisoning, tell: Tell) -> None:
    attacked = set(opened.rows)
    for row, name in enumerate(opened.files):
        # what exists is whole, because files are put in place in one step
        if row not in attacked and not (out / name).exists():
            replace_bytes(out / name, encoded(eight_bit(opened.pairs.read(row)[None])[0]))
        tell.progress("copy clean pairs", row + 1, len(opened.files))


def _summary(opened: Poisoning, done: Sequence[AttackedPair]) -> PoisonSummary:
    settings, poison, model, pairs, targets, _ = opened
    attack = poison.attack
    return PoisonSummary(
        source=_copied(pairs),
        target=None if targets is None else TargetImages(targets.source, len(targets.ids)),
        seed=settings.seed,
        share=AttackedShare(poison.share, len(opened.rows) / len(pairs)),
        model=AttackedModel(model.name, model.sha256, model.preprocess.size),
        attack=PairAttack(
            poison.images, poison.captions, poison.ball.norm, poison.ball.eps, attack.steps, attack.step, attack.decay,
            attack.keep_grey,
        ),
        counts=CopiedCounts(len(pairs), len(pairs.uncaptioned), len(pairs.skipped), count_attacked(done)),
        pairs=tuple(done),
    )  # fmt: skip


def _copied(pairs: CaptionedImages) -> CopiedPairs:
    texts = "\x1f".join(text for pair in zip(pairs.ids, pairs.captions, strict=True) for text in pair)
    content = sha256(texts.encode()).hexdigest()
    return CopiedPairs(pairs.source, pairs.split, len(pairs), content, pairs.uncaptioned, pairs.skipped)


def _environment(opened: Poisoning) -> dict[str, Any]:
    model, targets = opened.model, opened.targets
    pairs = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(_copied(opened.pairs)).items()
    }
    return {
        "environment": describe(model.device, threads=torch.get_num_threads()),
        "model": model_record(model) | {"pixels": model.preprocess.size},
        "pairs": pairs,
        "targets": {} if targets is None else {"images": len(targets.ids)},
    }


def file_names(ids: Sequence[str]) -> list[str]:
    """A path a pair: its id with odd characters written as numbers; without extension where it is unique without."""
    short = [bare(name) for name in ids]
    shown = short if len(set(short)) == len(short) else ids
    return ["/".join(["images", *map(_file_name, name.split("/"))]) + ".png" for name in shown]


def _file_name(part: str) -> str:
    return quote(part, safe=" ,+=()") if part.strip(".") else "%2E" * len(part) or "%2F"


POISON: Kind[PoisonSettings, Poisoning, AttackedPair, PoisonSummary] = Kind(
    name="poison",
    settings=PoisonSettings,
    settings_file=_SETTINGS,
    rows_file=_ROWS,
    form=FORM,
    check=check_poison,
    open=open_poison,
    units=poison_units,
    cost=poison_announcement,
    work=poison_work,
    keep=keep_images,
    environment=_environment,
    publish=finish_poison,
    holding=Holding("poisoned data set", alone=True, finished=MANIFEST),
)
