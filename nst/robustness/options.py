"""Options of a robustness evaluation: those of the `eval` group beyond the clean scores.

What is not asked for is not measured, and everything that moves a number is here, so that a result can state its
conditions by repeating them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst.errors import UsageError, require_choice
from nst.robustness.attacks import Attack
from nst.robustness.baselines import CORRUPTIONS, MADE_CORRUPTIONS, MADE_SEQUENCES, PERTURBATIONS
from nst.robustness.corruptions import NAMES as CORRUPTION_NAMES
from nst.robustness.perturbations import NAMES as PERTURBATION_NAMES
from nst.settings.measuring import RobustnessSettings

JPEG_TABLES = (224, 299)  # the benchmarks whose released files are JPEGs of quality 85
RELEASED_QUALITY = 85


@dataclass(frozen=True)
class RobustnessOptions(RobustnessSettings):
    """Suites and their conditions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for levels in ("severities", "difficulties"):  # each once, as the names are
            object.__setattr__(self, levels, tuple(dict.fromkeys(getattr(self, levels))))
        for name in self.corruption_names:
            require_choice("corruption in eval.corruptions", name, ("benchmark", "all", *CORRUPTION_NAMES))
        for name in self.perturbation_names:
            require_choice("perturbation in eval.perturbations", name, ("benchmark", "all", *PERTURBATION_NAMES))
        self.attack_methods()

    @property
    def corruption_names(self) -> tuple[str, ...]:
        return _names(self.corruptions, benchmark=CORRUPTIONS, all=CORRUPTION_NAMES)

    @property
    def perturbation_names(self) -> tuple[str, ...]:
        return _names(self.perturbations, benchmark=PERTURBATIONS, all=PERTURBATION_NAMES)

    def attack_methods(self) -> dict[str, tuple[Attack, tuple[float, ...]]]:
        """Attack and epsilons by name.

        Raises:
            NstError: an attack has the name of an option or no epsilons.
        """
        found, others = {}, {*RobustnessOptions.__dataclass_fields__, MADE_CORRUPTIONS, MADE_SEQUENCES}
        for name, given in (self.attacks or {}).items():
            if not name.isidentifier() or name in others:
                raise UsageError("an attack needs a name of its own", got=name, valid="such as fgsm, pgd or pgd_40")
            if given is None:
                continue
            settings = dict(given)
            if not (epsilons := settings.pop("epsilons", None)):
                raise UsageError(f"eval.attacks.{name} has no epsilons", got=given, valid="{epsilons: [0, 2, 16]}")
            sizes = dict.fromkeys(epsilons if isinstance(epsilons, Sequence) else [epsilons])
            found[name] = Attack(**settings), tuple(sizes)
        return found

    def quality(self, table: int) -> int | None:
        """JPEG quality for pictures corrupted by the table of a benchmark."""
        if isinstance(self.jpeg_quality, str):
            return RELEASED_QUALITY if table in JPEG_TABLES else None
        return self.jpeg_quality

    @property
    def on_the_fly(self) -> bool:
        """Whether anything needs clean images of ours."""
        return bool(self.corruption_names or self.perturbation_names or self.attack_methods())


def _names(given: str | Sequence[str] | None, **groups: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a group, one name, or those of a list of both, each once."""
    entries = [given] if isinstance(given, str) else given or ()
    return tuple(dict.fromkeys(name for entry in entries for name in groups.get(entry, (entry,))))
