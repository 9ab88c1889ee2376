"""How Hydra finds the choices of `nst.recipes`, and the defaults: sources of configurations beside the files of conf/.

A source is asked for one choice at a time, so that a command makes the few that it names; and Hydra asks the files
first, so that a file of the same name goes before a row.
"""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Mapping

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from nst.recipes.rows import Choice

SCHEME, MODULES = "rows", ("nst.recipes", "nst.recipes.bases")


class RowSource(ConfigSource):
    """`rows://<module>`: the module's CHOICES, group → name → choice."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider=provider, path=path)
        self.choices: dict[str, Mapping[str, Choice]] = importlib.import_module(self.path).CHOICES

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        choice = self._find(config_path)
        if choice is None:
            raise ConfigLoadError(f"{config_path} is no row of {self.path}")
        config = OmegaConf.create(choice.node())
        return ConfigResult(self.provider, self.full_path(), config, header={"package": choice.package})

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in self.choices

    def is_config(self, config_path: str) -> bool:
        return self._find(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(name for name in self.choices.get(config_path.rstrip("/"), {}) if not name.startswith("_"))

    def _find(self, config_path: str) -> Choice | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return self.choices.get(group, {}).get(name)


class RowsInSearchPath(SearchPathPlugin):
    """Adds the rows and the defaults behind the files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        there = {entry.provider for entry in search_path.get_path()}
        for module in MODULES:
            if module not in there:
                search_path.append(provider=module, path=f"{SCHEME}://{module}")


def register() -> None:
    """Tells Hydra of the rows; once or often."""
    for plugin in (RowSource, RowsInSearchPath):
        Plugins.instance().register(plugin)
