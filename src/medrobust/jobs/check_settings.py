"""Settings of `medrobust data check`. No torch here."""

from pydantic import BaseModel, ConfigDict

from medrobust.settings import option


class CheckSettings(BaseModel):
    """The images that are looked at, and the task and model that they are meant for."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    data: str = option(..., "What --data takes: a folder, manifest, .npz, MedMNIST name or phantom.")
    task: str | None = option(None, "A name from `medrobust tasks`, or a YAML file.", names=("--task", "-t"))
    model: str = option(
        "builtin", "A name from `medrobust models`, a hub id, a folder, or NAME=PATH.", names=("--model", "-m")
    )
    split: str | None = option(None, "Only this split; all of them unless given.")
