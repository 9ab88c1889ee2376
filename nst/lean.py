"""Lightning and timm without the packages that only their extras use: importing this loads both, in half the time.

torchmetrics, which Lightning brings, loads scipy and matplotlib for measures and plots that nobody here asks for, and
timm loads wandb for a table of its own training script. While both load, these packages count as not installed; whoever
imports them later gets them. In this process torchmetrics then believes that there is nothing to plot with.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from types import ModuleType

EXTRAS = ("scipy", "matplotlib", "wandb")


class Absent(MetaPathFinder):
    """As if packages were not installed, for imports and for those who look at the list of what is installed."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{name} is left out for now", name=name)

    def find_distributions(self, context: DistributionFinder.Context) -> Iterator[Distribution]:
        if context.name in self.packages:
            raise PackageNotFoundError(context.name)
        return iter(())


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Packages that are not loaded yet cannot be imported meanwhile."""
    finder = Absent([name for name in packages if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with without(*EXTRAS):
    for module in ("lightning.pytorch", "timm"):
        importlib.import_module(module)
