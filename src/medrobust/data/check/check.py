"""Problems of labelled images, found before a run spends an hour on them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from medrobust.data.check.look import Look
from medrobust.data.check.report import (
    CheckReport,
    Duplicates,
    FrequentSize,
    Group,
    NamedImage,
    OutsideTheCrop,
    Seen,
    Side,
    Sizes,
    SplitCounts,
)
from medrobust.data.sources.inventory import EVERY, Inventory, ListedImage, take_inventory
from medrobust.data.task import NO_FINDING, Task
from medrobust.errors import DataError
from medrobust.types import Preprocess


class Listing(NamedTuple):
    """A source and those of its images that are looked at: all, or those of one split."""

    source: str
    split: str | None
    inventory: Inventory
    images: list[ListedImage]

    def has(self, split: str) -> bool:
        """True where a split is asked for."""
        return self.split is None or split in (self.split, EVERY)


class Looked(NamedTuple):
    """An image and what it turned out to be."""

    image: ListedImage
    look: Look

    @property
    def named(self) -> NamedImage:
        """The image by name."""
        return NamedImage(self.image.id, self.image.split, self.image.label)


def list_images(source: str, task: Task | None, split: str | None = None) -> Listing:
    """The images of a source, of all splits or of one. Raises `DataError` or `TaskError` where there are none."""
    listing = Listing(source, split, take_inventory(source, task), [])
    images = [image for image in listing.inventory.images if listing.has(image.split)]
    if not images:
        splits = ", ".join(sorted({image.split for image in listing.inventory.images})) or "none"
        raise DataError(f"{source} has no image{f' of split {split!r}' if split else ''}; its splits are {splits}")
    return listing._replace(images=images)


def report(listing: Listing, looks: Sequence[Look], preprocess: Preprocess, *, model: str | None = None) -> CheckReport:
    """Report of everything that a run on these images would meet.

    `problems` are sentences, one for each thing that would make results wrong: broken files, one picture under two
    labels or in two splits, a class without an image, labels that the task does not know.
    """
    every, task = [Looked(listing.images[look.number], look) for look in looks], listing.inventory.task
    whole = [one for one in every if not one.look.broken]
    classes = task.classes if task else tuple(sorted({one.image.label for one in every}))
    many = bool(task and task.absent)
    broken = tuple(replace(one.named, reason=one.look.broken) for one in every if one.look.broken)
    splits = _splits(listing.images, whole, classes, findings=many)
    duplicates = _duplicates(whole)
    faults, notes = (
        tuple(remark.text for remark in remarks if listing.has(remark.split))
        for remarks in (listing.inventory.faults, listing.inventory.notes)
    )
    return CheckReport(
        source=listing.source,
        task=task.name if task else None,
        images=len(every),
        findings=many,
        splits=splits,
        sizes=_sizes([one.look for one in whole]) if whole else None,
        kinds=dict(Counter(one.look.kind for one in whole).most_common()),
        duplicates=duplicates,
        broken=broken,
        blank=tuple(one.named for one in whole if one.look.blank),
        several_frames=tuple(replace(one.named, frames=one.look.frames) for one in whole if one.look.frames > 1),
        preprocess=_seen([one.look for one in whole], preprocess, model),
        notes=notes,
        problems=(*_problems(broken, duplicates, {} if many else splits), *faults),
    )


def _splits(
    images: Sequence[ListedImage], whole: Sequence[Looked], classes: Sequence[str], *, findings: bool
) -> dict[str, SplitCounts]:
    """For each split: how many readable images a class has, and what a constant answer would score.

    Of findings, how many images have each; an image may count several times, or not at all.
    """
    table = {}
    for split in dict.fromkeys(image.split for image in images):
        there = [one.image.label for one in whole if one.image.split == split]
        if findings:
            names = Counter(name for label in there for name in label.split(", "))
            counted = {name: names[name] for name in (*classes, NO_FINDING)}
            table[split] = SplitCounts(len(there), counted, None, None)
            continue
        counts = Counter(there)
        others = sorted(set(counts) - set(classes))
        sizes = {name: counts[name] for name in (*classes, *others)}
        total, largest, smallest = sum(sizes.values()), max(sizes.values()), min(sizes.values())
        table[split] = SplitCounts(
            total, sizes, largest / smallest if smallest else None, largest / total if total else None
        )
    return table


def _sizes(whole: Sequence[Look]) -> Sizes:
    counts = Counter(look.size for look in whole)
    (frequent, count) = counts.most_common(1)[0]
    width, height = (
        Side(min(side), median(side), max(side))
        for side in ([look.width for look in whole], [look.height for look in whole])
    )
    return Sizes(width, height, FrequentSize(*frequent, count), len(counts))


def _duplicates(whole: Sequence[Looked]) -> Duplicates:
    groups: dict[str, list[Looked]] = {}
    for one in whole:
        groups.setdefault(one.look.digest, []).append(one)
    several = [group for group in groups.values() if len(group) > 1]

    def named(chosen: Iterable[list[Looked]]) -> tuple[Group, ...]:
        return tuple(tuple(one.named for one in group) for group in chosen)

    def spans(group: list[Looked], what: Callable[[Looked], str]) -> bool:
        return len({what(one) for one in group}) > 1

    def label(one: Looked) -> str:
        return one.image.label

    def split(one: Looked) -> str:
        return one.image.split

    return Duplicates(
        across_classes=named(group for group in several if spans(group, label)),
        across_splits=named(group for group in several if spans(group, split)),
        within_class=named(group for group in several if not spans(group, label) and not spans(group, split)),
    )


def _seen(whole: Sequence[Look], preprocess: Preprocess, model: str | None) -> Seen:
    """Resize and crop, and the share of each picture's area that the crop leaves out."""
    if not whole:
        return Seen(preprocess, model=model)
    counts = Counter(look.size for look in whole)
    outside = {size: _outside(size, preprocess) for size in counts}
    worst, frequent = max(outside, key=outside.__getitem__), counts.most_common(1)[0][0]
    enlarged = sum(
        count for size, count in counts.items() if preprocess.canvas is None and min(size) < preprocess.resize
    )
    return Seen(preprocess, OutsideTheCrop(outside[frequent], outside[worst], worst), enlarged, model)


def _outside(size: tuple[int, int], preprocess: Preprocess) -> float:
    if not preprocess.crop:
        return 0.0
    shorter, longer = sorted(size) if preprocess.canvas is None else (1, 1)  # a canvas is square
    return 1 - preprocess.size**2 / (preprocess.resize * (preprocess.resize * longer // shorter))


def _problems(broken: Group, duplicates: Duplicates, splits: Mapping[str, SplitCounts]) -> list[str]:
    problems = []
    if broken:
        problems.append(f"{len(broken)} images are broken, so a run refuses them or leaves them out")
    if groups := duplicates.across_classes:
        problems.append(f"{len(groups)} pictures carry two or more labels, so some labels are wrong")
    if groups := duplicates.across_splits:
        problems.append(f"{len(groups)} pictures are in two or more splits, so scores on one are learned on the other")
    for split, part in splits.items():
        if empty := [name for name, count in part.classes.items() if not count]:
            where = "" if split == EVERY else f" in split {split}"
            problems.append(f"no readable image of {', '.join(map(repr, empty))}{where}")
        elif len(part.classes) < 2:
            problems.append(f"only the class {next(iter(part.classes))!r} in split {split}, expected two or more")
    return problems
