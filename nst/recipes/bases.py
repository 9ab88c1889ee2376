"""The defaults of `nst.settings` as choices of Hydra's groups: what the files of conf/ say their differences from.

Their names begin with `_`: no list shows them, and `glob(*)` does not mean them.
"""

from __future__ import annotations

from collections.abc import Mapping

from nst.recipes.choices import Made
from nst.settings import GROUPS, SECTIONS
from nst.settings.fields import defaults_of
from nst.settings.measuring import WandbOptions
from nst.settings.stages import CommonOptions

_SECTIONS = {name: defaults_of(section) for name, section in SECTIONS.items()}
CHOICES: dict[str, Mapping[str, Made]] = {  # group → name → choice
    group: {f"_{name}": Made("", defaults_of(base)) for name, base in bases.items()} for group, bases in GROUPS.items()
}
CHOICES[""] = {"_defaults": Made("", {**defaults_of(CommonOptions), **_SECTIONS})}
CHOICES["logger"] = {**CHOICES["logger"], "_wandb": Made("", defaults_of(WandbOptions))}
