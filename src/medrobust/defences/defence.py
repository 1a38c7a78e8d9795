"""A defence as a value: its functions fit, apply and tune, and the properties that follow from its settings."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel

from medrobust.data.task import Dataset, Task
from medrobust.learning.loop import SILENT, Session
from medrobust.types import Classifier, Image, Scope, State, VisionLanguageModel

LearnsFrom = Literal["nothing", "images", "labels"]
Change = Literal["vision", "vision prompts", "text prompts", "head"]


@runtime_checkable
class Fit(Protocol):
    """Learn from labelled or unlabelled images. The model stays as it is; the state is on the CPU.

    Everything random comes from `generator`. `session` says how the training is run; it changes nothing that is
    learned. Raises ConfigError where several processes are to learn what one alone can.
    """

    def __call__(
        self,
        model: VisionLanguageModel,
        data: Dataset,
        *,
        generator: torch.Generator,
        session: Session = SILENT,
    ) -> State: ...


@runtime_checkable
class Apply(Protocol):
    """The classifier of a model, a task, and what was learned; raises KeyError where the state lacks a tensor."""

    def __call__(self, model: VisionLanguageModel, task: Task, state: State, /) -> Classifier: ...


@runtime_checkable
class Tune(Protocol):
    """Adapt a classifier to one unlabelled image at test time; makes the scope `tuned on input`."""

    def __call__(
        self, classifier: Classifier, image: Image, *, sigma: float, generator: torch.Generator
    ) -> Classifier: ...


@dataclass(frozen=True)
class Defence:
    """A defence with its settings: `fit` learns a state, `apply` answers with it, `tune` adapts to one image.

    `learns_from`: whether `fit` reads nothing, images alone, or their labels too. `changes`: the parts of the model
    that its state replaces or extends. `vision`: weights of the vision tower. `vision prompts`, `text prompts`:
    learned inputs of a tower. `head`: layers after the encoder. `class_bound`: what was learned speaks of its task's
    classes, of their number and order, and answers no other task.
    """

    settings: BaseModel
    fit: Fit
    apply: Apply
    tune: Tune | None = None
    learns_from: LearnsFrom = "nothing"
    changes: frozenset[Change] = frozenset()
    class_bound: bool = False

    @property
    def scope(self) -> Scope:
        """The classifier that a certificate of this defence holds for."""
        return "model" if self.tune is None else "tuned on input"
