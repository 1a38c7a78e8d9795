"""Changes of a module's input or output, for the time of a block and in its thread alone.

A module gets one permanent hook, which looks up the change in a `ContextVar` and does nothing where there is none.
Hooks that come and go would be seen by every thread that runs the module in the meantime.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from types import MappingProxyType
from typing import Any

from torch import nn

Change = Callable[[Any], Any]
Changes = Mapping[nn.Module, tuple[Change, ...]]  # in the order in which they are made

_NONE: Changes = MappingProxyType({})
_of_inputs: ContextVar[Changes] = ContextVar("changes of inputs", default=_NONE)
_of_outputs: ContextVar[Changes] = ContextVar("changes of outputs", default=_NONE)
_registering = Lock()


@contextmanager
def changed_input(module: nn.Module, change: Change) -> Iterator[None]:
    """While the block runs, `module` gets `change(x)` in place of its first positional argument x.

    Blocks nest: the outer change comes first. A copy of the module made inside is not changed.
    """
    with _registering:
        if _change_input not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_change_input)
    with _added(_of_inputs, module, change):
        yield


@contextmanager
def changed_output(module: nn.Module, change: Change) -> Iterator[None]:
    """While the block runs, `module` gives `change(y)` in place of y; otherwise as `changed_input`."""
    with _registering:
        if _change_output not in module._forward_hooks.values():
            module.register_forward_hook(_change_output)
    with _added(_of_outputs, module, change):
        yield


def has_hooks(module: nn.Module) -> bool:
    """True where a hook changes or reads the module's pass now; hooks of this file count only inside their block."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(hook not in (_change_input, _change_output) for hook in hooks):
        return True
    return module in _of_inputs.get() or module in _of_outputs.get()


@contextmanager
def _added(changes: ContextVar[Changes], module: nn.Module, change: Change) -> Iterator[None]:
    before = changes.get()
    token = changes.set({**before, module: (*before.get(module, ()), change)})
    try:
        yield
    finally:
        changes.reset(token)


def _change_input(module: nn.Module, inputs: tuple) -> tuple:
    for change in _of_inputs.get().get(module, ()):
        inputs = (change(inputs[0]), *inputs[1:])
    return inputs


def _change_output(module: nn.Module, _inputs: tuple, output: Any) -> Any:
    for change in _of_outputs.get().get(module, ()):
        output = change(output)
    return output
