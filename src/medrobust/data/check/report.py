"""The report on a check of labelled images, as `medrobust data check --json` prints it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medrobust.types import Preprocess


@dataclass(frozen=True)
class NamedImage:
    """One image: its id, split and class, and a value that belongs to it (frames, or why it is broken)."""

    id: str
    split: str
    label: str
    frames: int | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what does not apply."""
        more = {"frames": self.frames, "reason": self.reason}
        return {"id": self.id, "split": self.split, "class": self.label} | {
            key: value for key, value in more.items() if value is not None
        }


Group = tuple[NamedImage, ...]


@dataclass(frozen=True)
class SplitCounts:
    """Readable images of a split, by class, and the share that a constant answer would score."""

    images: int
    classes: Mapping[str, int]
    largest_over_smallest: float | None
    always_the_largest_class: float | None


@dataclass(frozen=True)
class Side:
    """The widths, or the heights, of all pictures in pixels."""

    min: int
    median: int | float
    max: int


@dataclass(frozen=True)
class FrequentSize:
    """The commonest size in pixels, and the number of pictures that have it."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of the pictures."""

    width: Side
    height: Side
    most_frequent: FrequentSize
    different: int


@dataclass(frozen=True)
class Duplicates:
    """Groups of pictures whose decoded pixels are equal; one that spans classes and splits stands under both."""

    across_classes: tuple[Group, ...]
    across_splits: tuple[Group, ...]
    within_class: tuple[Group, ...]
    compared: str = "SHA-256 of the decoded pixels"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        groups = {
            "across_classes": self.across_classes,
            "across_splits": self.across_splits,
            "within_class": self.within_class,
        }
        return {"compared": self.compared} | {name: [_listed(one) for one in found] for name, found in groups.items()}


@dataclass(frozen=True)
class OutsideTheCrop:
    """The share of a picture's area that the crop leaves out: of the commonest size, and of the worst one."""

    most_frequent_size: float
    worst: float
    worst_size: tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """The model's view of the pictures; `outside` and `enlarged` are None where no picture can be read."""

    preprocess: Preprocess
    outside: OutsideTheCrop | None = None
    enlarged: int | None = None
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is not known."""
        outside = None if self.outside is None else asdict(self.outside)
        more = {"outside_the_crop": outside, "enlarged": self.enlarged, "model": self.model}
        return asdict(self.preprocess) | {key: value for key, value in more.items() if value is not None}


@dataclass(frozen=True)
class CheckReport:
    """Contents of labelled images, and everything that would make results on them wrong: `problems`, one sentence each.

    `findings`: each image has any number of them. `kinds` counts pictures by their pixel format.
    """

    source: str
    task: str | None
    images: int
    findings: bool
    splits: Mapping[str, SplitCounts]
    sizes: Sizes | None
    kinds: Mapping[str, int]
    duplicates: Duplicates
    broken: Group
    blank: Group
    several_frames: Group
    preprocess: Seen
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    schema_version: int = 1

    @property
    def usable(self) -> bool:
        """True where nothing would make results wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema_version": self.schema_version,
            "source": self.source,
            "task": self.task,
            "images": self.images,
            "findings": self.findings,
            "splits": {name: asdict(part) for name, part in self.splits.items()},
            "sizes": {} if self.sizes is None else asdict(self.sizes),
            "kinds": dict(self.kinds),
            "duplicates": self.duplicates.to_json(),
            "broken": _listed(self.broken),
            "blank": _listed(self.blank),
            "several_frames": _listed(self.several_frames),
            "preprocess": self.preprocess.to_json(),
            "notes": list(self.notes),
            "problems": list(self.problems),
            "usable": self.usable,
        }


def _listed(images: Sequence[NamedImage]) -> list[dict[str, Any]]:
    return [image.to_json() for image in images]
