"""The networks and the paper's rows as tables, one module per table of the paper, and the group choices they make.

`conf/` keeps what people edit; a file there goes before a choice of the same name here. Published figures are of
arXiv 1911.04252, first version, in the layout of the paper: percent; mCE and mFR are AlexNet-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping

from nst.recipes import figure3, figure4, networks, table2, table3, table4, table5, table6, table7, table8, table9
from nst.recipes.choices import Choice
from nst.recipes.networks import NETWORKS
from nst.recipes.published import Place
from nst.recipes.rows import Recipe

_TABLES = (table2, table3, table4, table5, figure3, table6, table7, table8, table9, figure4)

PLACES: dict[str, Place] = {place.name: place for table in _TABLES for place in table.PLACES}
RECIPES: dict[str, Recipe] = {recipe.name: recipe for table in _TABLES for recipe in table.RECIPES}
CHOICES: dict[str, Mapping[str, Choice]] = {  # group → name → choice
    "experiment": RECIPES,
    "model": {network.name: networks.model(network) for network in NETWORKS},
    "student": {network.name: networks.student(network) for network in NETWORKS},
    "teacher": {network.name: networks.teacher(network) for network in NETWORKS},
}
