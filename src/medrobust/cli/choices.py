"""Defences as the command line names them: NAME[:MODE][=STATE]."""

from pathlib import Path

from medrobust.experiment import Choice


def chosen(texts: list[str]) -> list[Choice]:
    """Choices with the modes of their states, told apart."""
    return _told_apart([_with_mode_of_state(Choice.model_validate(text)) for text in texts])


def _with_mode_of_state(choice: Choice) -> Choice:
    """A state given without a mode is called after the mode it was learned in."""
    if choice.state is None or choice.settings:
        return choice
    from medrobust.defences.state import load_state

    mode = load_state(Path(choice.state))[1].settings.get("mode")
    return choice.model_copy(update={"settings": {"mode": mode}}) if mode else choice


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Two states of one defence are called after their folders."""
    called = [choice.called for choice in choices if choice.state]
    return [
        choice.model_copy(update={"label": f"{choice.called} ({Path(choice.state).parent.name or choice.state})"})
        if choice.state and called.count(choice.called) > 1
        else choice
        for choice in choices
    ]
