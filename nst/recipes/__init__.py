"""The networks and the paper's rows as tables, one module per table of the paper, and the group choices they make.

`conf/` keeps what people edit; a file there goes before a choice of the same name here. Published figures are of
arXiv 1911.04252, first version, in the layout of the paper: percent; mCE and mFR are AlexNet-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping

from nst.recipes import (
    figure3,
    figure4,
    later,
    network_table,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
)
from nst.recipes.network_table import NETWORKS
from nst.recipes.published import Exhibit
from nst.recipes.rows import Choice, Row

_TABLES = (table2, table3, table4, table5, figure3, table6, table7, table8, table9, figure4, later)

EXHIBITS: dict[str, Exhibit] = {exhibit.name: exhibit for table in _TABLES for exhibit in table.EXHIBITS}
ROWS: dict[str, Row] = {row.name: row for table in _TABLES for row in table.ROWS}
CHOICES: dict[str, Mapping[str, Choice]] = {  # group → name → choice
    "experiment": ROWS,
    "model": {network.name: network_table.model(network) for network in NETWORKS},
    "student": {network.name: network_table.student(network) for network in NETWORKS},
    "teacher": {network.name: network_table.teacher(network) for network in NETWORKS},
}
