"""A copy of a captioned data set on disk, of which a share is attacked: `medrobust poison`.

The folder holds `images/`, `captions.jsonl` and, once it is finished, `poison.json`. Until then `unfinished.json` says
whose folder it is and `unfinished.jsonl` what has been attacked, so that the same command goes on and ends with the
same bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medrobust.data import load_task, open_dataset, open_image
from medrobust.data.pictures import encoded
from medrobust.data.sources.files import LabelledFile, decodable
from medrobust.errors import DataError, RunError
from medrobust.files import replace_bytes
from medrobust.models.clip import Clip
from medrobust.pairs.caption_files import bare
from medrobust.pairs.captioned import CaptionedImages, image_files
from medrobust.pairs.poison import (
    BLOCK,
    VERSION,
    AttackedPair,
    Poison,
    Targets,
    attack_pairs,
    chosen,
    eight_bit,
    summary,
)
from medrobust.results.journal import Form, Journal, read_journal, values_of
from medrobust.tell import Tell
from medrobust.types import Preprocess
from medrobust.version import __version__

MANIFEST = "poison.json"
_MARK, _JOURNAL = "unfinished.json", "unfinished.jsonl"


@dataclass(frozen=True)
class TargetSource:
    """The source of images to move to: a folder with images anywhere below it, or any labelled data."""

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


def poison_into(
    out: Path,
    pairs: CaptionedImages,
    poison: Poison,
    model: Clip,
    *,
    targets: Targets | None = None,
    reporter: Tell | None = None,
) -> dict[str, Any]:
    """Write the attacked copy, and return the values of `poison.json`.

    Raises RunError where `out` holds a finished copy, another one, or other files.
    """
    tell = reporter or Tell()
    rows = chosen(len(pairs), poison.share, poison.seed)
    settings = _settings(pairs, poison, model, targets)
    _claim(out, settings)
    names = _file_names(pairs.ids)
    tell.say(
        f"attack {len(rows)} of {len(pairs)} pairs of {pairs.source} with {model.name}"
        + (f", {poison.ball}, {poison.attack.steps} steps" if poison.images else ", captions only")
    )
    _write_clean(out, pairs, names, set(rows), tell)
    with Journal.open(out / _JOURNAL, [pairs.ids[row] for row in rows], _FORM) as journal:
        begin = len(journal.done) // BLOCK * BLOCK  # whole blocks only, so that batches are those of the first time
        for start in range(begin, len(rows) if journal.remaining else begin, BLOCK):
            block = rows[start : start + BLOCK]
            images, done = attack_pairs(pairs, block, poison, model.encode_image, targets)
            for row, image in zip(block, images, strict=True):
                replace_bytes(out / names[row], encoded(image))
            there = journal.done
            journal.append([pair for pair in done if pair.key not in there])
            tell.progress("attack pairs", start + len(block), len(rows))
    return _finish(out, pairs, names, settings)


def _claim(out: Path, settings: dict[str, Any]) -> None:
    mark = out / _MARK
    if (out / MANIFEST).exists():
        raise RunError(f"{out} holds a finished poisoned data set; use another --out")
    if not mark.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} holds other files; use another --out")
        replace_bytes(mark, _json(settings))
        return
    try:
        held = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{mark} cannot be read ({error}); use another --out") from error
    wanted = json.loads(_json(settings))
    differ = [key for key in wanted if not isinstance(held, dict) or held.get(key) != wanted[key]]
    if differ:
        raise RunError(f"{out} was begun with another {' and '.join(differ)}; repeat that command or use another --out")


def _settings(pairs: CaptionedImages, poison: Poison, model: Clip, targets: Targets | None) -> dict[str, Any]:
    content = sha256(
        "\x1f".join(text for pair in zip(pairs.ids, pairs.captions, strict=True) for text in pair).encode()
    )
    return {
        "schema_version": VERSION,
        "medrobust": __version__,
        "source": {"data": pairs.source, "split": pairs.split, "pairs": len(pairs), "sha256": content.hexdigest(),
                   "without_caption": list(pairs.uncaptioned), "skipped": list(pairs.skipped)},
        "target": None if targets is None else {"data": targets.source, "images": len(targets.ids)},
        "seed": poison.seed,
        "share": {"asked": poison.share, "reached": len(chosen(len(pairs), poison.share, poison.seed)) / len(pairs)},
        "model": {"name": model.name, "sha256": model.sha256, "pixels": model.preprocess.size},
        "attack": {"images": poison.images, "captions": poison.captions, "norm": poison.ball.norm,
                   "eps": poison.ball.eps, "steps": poison.attack.steps, "step": poison.attack.step,
                   "decay": poison.attack.decay, "keep_grey": poison.attack.keep_grey},
    }  # fmt: skip


def _write_clean(out: Path, pairs: CaptionedImages, names: Sequence[str], attacked: set[int], tell: Tell) -> None:
    for row, name in enumerate(names):
        # what exists is whole, because files are put in place in one step
        if row not in attacked and not (out / name).exists():
            replace_bytes(out / name, encoded(eight_bit(pairs.read(row)[None])[0]))
        tell.progress("copy clean pairs", row + 1, len(names))


def _finish(out: Path, pairs: CaptionedImages, names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    done = _read_rows(out / _JOURNAL)
    after = {pair.id: pair.caption_after for pair in done}
    lines = [
        {"id": name, "image": path, "caption": after.get(name, caption)}
        for name, path, caption in zip(pairs.ids, names, pairs.captions, strict=True)
    ]
    replace_bytes(out / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    left_out = {"without_caption": len(pairs.uncaptioned), "skipped": len(pairs.skipped)}
    counts = {"pairs": len(pairs), **left_out, **summary(done)}
    manifest = settings | {"counts": counts, "pairs": [asdict(pair) for pair in done]}
    replace_bytes(out / MANIFEST, _json(manifest))
    for name in (_JOURNAL, _MARK):
        (out / name).unlink(missing_ok=True)
    return manifest


def _file_names(ids: Sequence[str]) -> list[str]:
    """A path a pair: its id with odd characters written as numbers; without extension where it is unique without."""
    short = [bare(name) for name in ids]
    shown = short if len(set(short)) == len(short) else ids
    return ["/".join(["images", *map(_file_name, name.split("/"))]) + ".png" for name in shown]


def _file_name(part: str) -> str:
    return quote(part, safe=" ,+=()") if part.strip(".") else "%2E" * len(part) or "%2F"


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _to_line(pair: AttackedPair) -> str:
    return json.dumps(asdict(pair)) + "\n"


def _from_line(line: str) -> AttackedPair:
    values = values_of(line, AttackedPair, VERSION)
    words = tuple((str(was), str(now)) for was, now in values.pop("words_changed"))
    return AttackedPair(**values, words_changed=words)


_FORM: Form[AttackedPair] = Form(_to_line, _from_line, parts="pairs", command="poison")


def _read_rows(path: Path) -> list[AttackedPair]:
    return read_journal(path, _FORM)
