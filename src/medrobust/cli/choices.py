"""Experiments from the texts of the command line: defences DEFENCE[:VARIANT][=STATE], and settings KEY=VALUE."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medrobust.cli.options import values_of
from medrobust.errors import ConfigError
from medrobust.jobs.experiment import VARIANT, Choice, Experiment
from medrobust.settings import parse


def experiment_of(given: dict[type, dict[str, Any]], *, transfer: bool = False, **parts: type[BaseModel]) -> Experiment:
    """An experiment from options, with these parts. Raises ConfigError, or StateError for a broken state."""
    values = values_of(given, Experiment)
    if "defences" in values:
        values["defences"] = chosen(values["defences"], transfer=transfer)
    for name, model in parts.items():
        values[name] = parse(model, values_of(given, model), "command line")
    return parse(Experiment, values, "command line")


def chosen(texts: list[str], *, transfer: bool = False) -> list[Choice]:
    """Choices with the variants of their states, told apart; with `transfer`, of states learned on any task."""
    choices = [Choice.model_validate(text).model_copy(update={"transfer": transfer}) for text in texts]
    return _told_apart([_with_variant_of_state(choice) for choice in choices])


def settings_of_attacks(attacks: list[str], texts: list[str]) -> dict[str, dict[str, Any]]:
    """`--set` by attack: `KEY=VALUE` goes to all that have this setting, `ATTACK.KEY=VALUE` to one.

    Raises AttackError for an unknown attack, ConfigError for a setting that none has.
    """
    from medrobust.settings import spread

    return spread(fields_of_attacks(attacks), settings_of(texts))


def fields_of_attacks(attacks: list[str]) -> dict[str, list[str]]:
    """The settings of each attack. Raises AttackError for an unknown one."""
    from medrobust.attacks import ATTACKS, make_attack

    for name in attacks:
        make_attack(name)
    return {name: list(ATTACKS[name].settings) for name in attacks}


def _with_variant_of_state(choice: Choice) -> Choice:
    """A state given without a variant is called after the one it was learned in."""
    if choice.from_state is None or choice.settings:
        return choice
    from medrobust.defences.state import load_state

    variant = load_state(Path(choice.from_state))[1].settings.get(VARIANT)
    if not variant:
        return choice
    return Choice(
        defence=choice.defence, settings={VARIANT: variant}, from_state=choice.from_state, transfer=choice.transfer
    )


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Two states of one defence are called after their folders."""
    names = [choice.name for choice in choices if choice.from_state]
    return [
        choice.model_copy(update={"name": f"{choice.name} ({Path(path).parent.name or path})"})
        if (path := choice.from_state) and names.count(choice.name) > 1
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
