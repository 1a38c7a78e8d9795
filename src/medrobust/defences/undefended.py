"""The model as it is: its own classes where it is an image classifier, hand-written prompts where it reads texts."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from medrobust.data.task import Task
from medrobust.defences.adaptation import merged
from medrobust.defences.defence import Defence
from medrobust.defences.zero_shot import learn_nothing, zero_shot
from medrobust.errors import TaskError
from medrobust.types import Classifier, Features, HasClasses, Logits, State, VisionLanguageModel


class Undefended(BaseModel):
    """No settings: nothing is added to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class OwnClasses:
    """Logits of the model in the order of the task's classes."""

    order: tuple[int, ...]  # for each class of the task, its place among the model's

    def __call__(self, features: Features) -> Logits:
        return features[:, list(self.order)]


def undefended(settings: Undefended | None = None) -> Defence:
    """The baseline of every comparison; nothing is learned. Of a vision-language model it is `zero-shot`."""

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        if not isinstance(model, HasClasses):
            return zero_shot().apply(model, task, state)
        return Classifier(merged(model, state).encode_image, OwnClasses(places(model.name, model.classes, task)))

    return Defence(settings or Undefended(), learn_nothing, apply)


def places(name: str, classes: tuple[str, ...], task: Task) -> tuple[int, ...]:
    """For each class of a task its place among a model's own classes, by names and aliases.

    Raises TaskError where the two do not name the same classes.
    """
    if task.absent:
        raise TaskError(
            f"several findings of task {task.name} may be in one image, and {name} answers with one class; ask for one "
            f"of them by '#{task.classes[0]}' behind the task's name"
        )
    labels = task.match(classes, f"model {name}")
    if len(set(labels.values())) < len(classes):
        raise TaskError(f"model {name} has two classes that task {task.name} calls alike; its classes are {classes}")
    at = {label: place for place, label in enumerate(labels.values())}
    return tuple(at[label] for label in range(len(task.classes)))
