"""bin/bench <name> [options]: runs one benchmark; without a name, a line on each."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from nst.errors import NstError, require_choice

# name: module with `main(argv)`, whose first docstring line is the one listed
BENCHMARKS = {
    "input": "benchmarks.input_pipeline",
    "train_step": "benchmarks.train_step",
    "labeling": "benchmarks.labeling",
    "selection": "benchmarks.selection",
    "corruptions": "benchmarks.corruptions",
    "host_cost": "benchmarks.host_cost",
    "profile": "benchmarks.profile",
    "pods": "benchmarks.pods",
    "gpu": "benchmarks.gpu",
    "identity": "benchmarks.identity",
    "startup": "benchmarks.startup",
    "series": "benchmarks.series",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0
    try:
        require_choice("benchmark", argv[0], BENCHMARKS)
        importlib.import_module(BENCHMARKS[argv[0]]).main(argv[1:])
    except NstError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def listing() -> str:
    lines = [f"  {name:<13} {summary(module)}" for name, module in BENCHMARKS.items()]
    return "\n".join(["bin/bench <name> [options]; options of one: bin/bench <name> --help", "", *lines])


def summary(module: str) -> str:
    """First line of a module's docstring; the module is not imported, which would take seconds each."""
    path = Path(__file__).parent.parent / (module.replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
