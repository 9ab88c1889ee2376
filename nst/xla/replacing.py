"""Other functions in place of some of torch's own, within a context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack


class Replacing(TorchFunctionMode):
    """While it is entered, calls go where `replaced` says; within a replacement torch's own functions are there."""

    replaced: ClassVar[Mapping[Any, Callable[..., Any]]] = {}  # torch's function → what is called

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        return self.replaced.get(function, function)(*arguments, **(options or {}))


def same_operations() -> contextlib.AbstractContextManager[Any]:
    """What makes a part of the forward pass that is run again later do as the first time, its gradients too."""
    modes = _get_current_function_mode_stack()
    return next((type(mode)() for mode in modes if isinstance(mode, Replacing)), contextlib.nullcontext())


def pair(value: Any) -> tuple[int, int]:
    """A size, stride, padding or dilation as torch's convolutions take it, for rows and columns."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
