"""Problems of labelled images, found before a run spends an hour on them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from medrobust.data.image import prepare_image
from medrobust.data.sources.inventory import EVERY, ListedImage, take_inventory
from medrobust.data.task import NO_FINDING, Task
from medrobust.errors import DataError
from medrobust.types import Preprocess

_THREADS = 4  # each holds one decoded image


class Look(NamedTuple):
    """The outcome of decoding one image."""

    image: ListedImage
    size: tuple[int, int] = (0, 0)  # width, height
    kind: str = ""
    frames: int = 1
    digest: str = ""  # SHA-256 of the decoded pixels
    blank: bool = False  # every pixel, or every one that the model would see, is the same
    broken: str = ""  # why a run would refuse it

    @property
    def named(self) -> dict[str, str]:
        """Id, split and class of the image, as the report keeps them."""
        return {"id": self.image.id, "split": self.image.split, "class": self.image.label}


def check(
    source: str,
    task: Task | None,
    *,
    preprocess: Preprocess,
    split: str | None = None,
    say: Callable[[str], None] = lambda _text: None,
    progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None,
) -> dict[str, Any]:
    """Decode every image of a source, of all splits or of one, and report what a run on it would meet.

    Returns plain values (`schema_version` 1); `problems` are sentences, one for each thing that would make results
    wrong: broken files, one picture under two labels or in two splits, a class without an image, labels that the task
    does not know. Equal pictures are those whose decoded pixels are equal bit for bit. Raises `DataError` or
    `TaskError` where the source cannot be listed at all.
    """
    found = take_inventory(source, task)
    chosen = None if split is None else (split, EVERY)
    images = [image for image in found.images if chosen is None or image.split in chosen]
    if not images:
        splits = ", ".join(sorted({image.split for image in found.images})) or "none"
        raise DataError(f"{source} has no image{f' of split {split!r}' if split else ''}; its splits are {splits}")
    say(f"check {source}: read each of its {len(images)} images once; nothing is written")
    told = _told(source, found.task, _look_at(images, preprocess, progress), preprocess)
    faults, notes = (
        [it.text for it in row if chosen is None or it.split in chosen] for row in (found.faults, found.notes)
    )
    problems = [*_problems(told), *faults]
    return {**told, "notes": notes, "problems": problems, "usable": not problems}


def _told(source: str, task: Task | None, looks: Sequence[Look], preprocess: Preprocess) -> dict[str, Any]:
    whole = [look for look in looks if not look.broken]
    classes = task.classes if task else tuple(sorted({look.image.label for look in looks}))
    many = bool(task and task.absent)
    return {
        "schema_version": 1,
        "source": source,
        "task": task.name if task else None,
        "images": len(looks),
        "findings": many,
        "splits": _splits([look.image for look in looks], whole, classes, findings=many),
        "sizes": _sizes(whole),
        "kinds": dict(Counter(look.kind for look in whole).most_common()),
        "duplicates": {"compared": "SHA-256 of the decoded pixels", **_duplicates(whole)},
        "broken": [{**look.named, "reason": look.broken} for look in looks if look.broken],
        "blank": [look.named for look in whole if look.blank],
        "several_frames": [{**look.named, "frames": look.frames} for look in whole if look.frames > 1],
        "preprocess": _preprocess(whole, preprocess),
    }


def _look_at(
    images: Sequence[ListedImage], preprocess: Preprocess, progress: Callable[[str, int, int], None]
) -> list[Look]:
    looks = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for look in threads.map(partial(_look, preprocess=preprocess), images):
            looks.append(look)
            progress("images", len(looks), len(images))
    return looks


def _look(image: ListedImage, preprocess: Preprocess) -> Look:
    try:
        decoded = image.decode()
        seen = prepare_image(decoded, preprocess)
    except DataError as error:
        return Look(image, broken=str(error))
    pixels = np.ascontiguousarray(np.asarray(decoded.pixels))
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode())
    digest.update(pixels.data)
    blank = bool(seen.min() == seen.max() or pixels.min() == pixels.max())
    return Look(image, decoded.size, decoded.kind, decoded.frames, digest.hexdigest(), blank)


def _splits(
    images: Sequence[ListedImage], whole: Sequence[Look], classes: Sequence[str], *, findings: bool
) -> dict[str, Any]:
    """For each split: the number of readable images of a class, and the score of a constant answer.

    For findings, the number of images with each; an image may count several times, or not at all.
    """
    table = {}
    for split in dict.fromkeys(image.split for image in images):
        there = [look.image.label for look in whole if look.image.split == split]
        if findings:
            names = Counter(name for label in there for name in label.split(", "))
            counted = {name: names[name] for name in (*classes, NO_FINDING)}
            table[split] = {"images": len(there), "classes": counted}
            table[split] |= {"largest_over_smallest": None, "always_the_largest_class": None}
            continue
        counts = Counter(there)
        others = sorted(set(counts) - set(classes))
        sizes = {name: counts[name] for name in (*classes, *others)}
        total, largest, smallest = sum(sizes.values()), max(sizes.values()), min(sizes.values())
        table[split] = {
            "images": total,
            "classes": sizes,
            "largest_over_smallest": largest / smallest if smallest else None,
            "always_the_largest_class": largest / total if total else None,
        }
    return table


def _sizes(whole: Sequence[Look]) -> dict[str, Any]:
    if not whole:
        return {}
    sides = {"width": [look.size[0] for look in whole], "height": [look.size[1] for look in whole]}
    counts = Counter(look.size for look in whole)
    (frequent, count) = counts.most_common(1)[0]
    return {
        **{name: {"min": min(side), "median": median(side), "max": max(side)} for name, side in sides.items()},
        "most_frequent": {"width": frequent[0], "height": frequent[1], "images": count},
        "different": len(counts),
    }


def _duplicates(whole: Sequence[Look]) -> dict[str, list[list[dict[str, str]]]]:
    """Groups of equal pictures. A group that spans classes and splits stands under both."""
    groups: dict[str, list[Look]] = {}
    for look in whole:
        groups.setdefault(look.digest, []).append(look)
    several = [group for group in groups.values() if len(group) > 1]

    def named(chosen: Iterable[list[Look]]) -> list[list[dict[str, str]]]:
        return [[look.named for look in group] for group in chosen]

    def spans(group: list[Look], what: Callable[[Look], str]) -> bool:
        return len({what(look) for look in group}) > 1

    def label(look: Look) -> str:
        return look.image.label

    def split(look: Look) -> str:
        return look.image.split

    return {
        "across_classes": named(group for group in several if spans(group, label)),
        "across_splits": named(group for group in several if spans(group, split)),
        "within_class": named(group for group in several if not spans(group, label) and not spans(group, split)),
    }


def _preprocess(whole: Sequence[Look], preprocess: Preprocess) -> dict[str, Any]:
    """Resize and crop, and the share of each picture's area that the crop leaves out."""
    found: dict[str, Any] = asdict(preprocess)
    if not whole:
        return found
    counts = Counter(look.size for look in whole)
    outside = {size: _outside(size, preprocess) for size in counts}
    worst, frequent = max(outside, key=outside.__getitem__), counts.most_common(1)[0][0]
    return found | {
        "outside_the_crop": {
            "most_frequent_size": outside[frequent],
            "worst": outside[worst],
            "worst_size": list(worst),
        },
        "enlarged": sum(
            count for size, count in counts.items() if preprocess.canvas is None and min(size) < preprocess.resize
        ),
    }


def _outside(size: tuple[int, int], preprocess: Preprocess) -> float:
    if not preprocess.crop:
        return 0.0
    shorter, longer = sorted(size) if preprocess.canvas is None else (1, 1)  # a canvas is square
    return 1 - preprocess.size**2 / (preprocess.resize * (preprocess.resize * longer // shorter))


def _problems(told: dict[str, Any]) -> list[str]:
    problems = []
    if told["broken"]:
        problems.append(f"{len(told['broken'])} images are broken, so a run refuses them or leaves them out")
    if groups := told["duplicates"]["across_classes"]:
        problems.append(f"{len(groups)} pictures carry two or more labels, so some labels are wrong")
    if groups := told["duplicates"]["across_splits"]:
        problems.append(f"{len(groups)} pictures are in two or more splits, so scores on one are learned on the other")
    for split, part in () if told["findings"] else told["splits"].items():
        if empty := [name for name, count in part["classes"].items() if not count]:
            where = "" if split == EVERY else f" in split {split}"
            problems.append(f"no readable image of {', '.join(map(repr, empty))}{where}")
        elif len(part["classes"]) < 2:
            problems.append(f"only the class {next(iter(part['classes']))!r} in split {split}, expected two or more")
    return problems
