"""What the command line writes as text: defences, NAME[:MODE][=STATE], settings, and radii."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Choice

if TYPE_CHECKING:
    from medrobust.jobs.attack import AttackSettings


def chosen(texts: list[str], *, transfer: bool = False) -> list[Choice]:
    """Choices with the variants of their states, told apart; with `transfer`, of states learned on any task."""
    choices = [Choice.model_validate(text).model_copy(update={"transfer": transfer}) for text in texts]
    return _told_apart([_with_variant_of_state(choice) for choice in choices])


def numbers(text: str) -> list[float]:
    """Radii with commas between them. Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--radii takes numbers with commas between them, got {text!r}") from None


def attack_settings(
    attacks: list[str], norm: str, eps: list[str], batch: int, sigma: float | None = None
) -> "AttackSettings":
    """An attack as options name it. Raises AttackError for a ball that cannot be meant."""
    from medrobust.attacks import Ball
    from medrobust.jobs.attack import AttackSettings

    balls = [Ball.parse(norm, size) for size in eps]
    sizes = tuple(ball.eps for ball in balls)
    return AttackSettings(attacks=tuple(attacks), norm=balls[0].norm, eps=sizes, sigma=sigma, batch=batch)


def _with_variant_of_state(choice: Choice) -> Choice:
    """A state given without a variant is called after the variant it was learned as."""
    if choice.state is None or choice.settings:
        return choice
    from medrobust.defences import variant_of
    from medrobust.defences.state import load_state

    learned = load_state(Path(choice.state))[1].settings
    return choice.model_copy(update={"settings": variant_of(choice.name, learned)})


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Two states of one defence are called after their folders."""
    called = [choice.called for choice in choices if choice.state]
    return [
        choice.model_copy(update={"label": f"{choice.called} ({Path(choice.state).parent.name or choice.state})"})
        if choice.state and called.count(choice.called) > 1
        else choice
        for choice in choices
    ]


def settings_of(texts: list[str]) -> dict[str, Any]:
    """KEY=VALUE texts as settings, the values read as YAML. Raises ConfigError for one without `=`."""
    import yaml

    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
        settings[key.strip()] = yaml.safe_load(value)
    return settings
