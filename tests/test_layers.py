"""Imports point one way, and nothing but nst/xla knows of torch_xla."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from nst.models.checkpoints import save_network
from nst.models.efficientnet import Architecture, build
from nst.models.network_info import NetworkInfo
from tests.forked import run

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "nst").rglob("*.py"))

TINY_NETWORK = Architecture(0.25, 0.25, train_size=16, test_size=16, name="tiny")
NAMED = NetworkInfo(TINY_NETWORK, tuple(map(str, range(10))), 16, 16)

# a package may import those named after it, options, and what lies directly under nst/
ALLOWED = {
    "cloud": {"cloud"},
    "data": {"data"},
    "evaluation": {"evaluation", "robustness", "models", "data"},
    "models": {"models", "recipes"},
    "training": {"training", "models", "data"},
    "doctor": {"doctor", "training", "models", "data"},
    "plan": {"plan", "training", "models", "data"},
    "recipes": {"recipes"},
    "report": {"report", "evaluation", "robustness", "data", "recipes"},
    "robustness": {"robustness", "models", "data"},
    "settings": {"settings"},
    "stages": {"stages", "doctor", "plan", "training", "evaluation", "robustness", "models", "data", "report", "xla"},
    "xla": {"xla", "training", "models", "data"},
}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    package = path.relative_to(ROOT / "nst").parts[0]
    if package not in ALLOWED:
        return
    packages = {name.split(".")[1] for name in imported(path) if name.startswith("nst.")}
    assert packages & set(ALLOWED) <= ALLOWED[package] | {"settings"}


def twice(names: Iterable[str]) -> set[str]:
    """Names that stand more than once."""
    return {name for name, count in Counter(names).items() if count > 1}


def test_a_file_name_stands_once():
    """What two rooms call alike is taken for each other; a package's `__init__.py` says nothing by its name."""
    assert not twice(path.name for path in MODULES if path.name != "__init__.py")


def test_a_class_name_stands_once():
    """Wherever in a file the class is."""
    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    assert not twice(node.name for node in nodes if isinstance(node, ast.ClassDef))


def test_no_stage_leads_back_to_itself():
    """Modules of the stages, wherever in a file they are imported: doctor, iterate and train once stood in a circle."""
    names = {f"nst.stages.{path.stem}": path for path in MODULES if path.parent.name == "stages"}
    after = {name: (imported(path) & names.keys()) - {name} for name, path in names.items()}
    while ends := [name for name, others in after.items() if not others]:
        for name in ends:
            del after[name]
        after = {name: others - set(ends) for name, others in after.items()}
    assert not after, "these import each other"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_nst_xla_imports_torch_xla(path: Path):
    if path.relative_to(ROOT / "nst").parts[0] != "xla":
        assert not [name for name in imported(path) if name.split(".")[0] == "torch_xla"]


def test_everything_but_nst_xla_works_where_torch_xla_is_not_installed(digits: Path, tmp_path: Path):
    """A training in a process in which torch_xla cannot be imported."""
    code = f"""
import sys
sys.modules["torch_xla"] = None
from pathlib import Path
import importlib, pkgutil, nst
for module in pkgutil.walk_packages(nst.__path__, "nst."):
    if not module.name.startswith("nst.xla") and module.name != "nst.__main__":
        importlib.import_module(module.name)
from nst.cli import main
from tests.conftest import TINY
main(["train", *TINY, "data.root={digits}", "run_dir={tmp_path / "run"}"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "DONE").exists()


def test_training_on_a_cpu_does_not_load_torch_xla(digits: Path, tmp_path: Path):
    """Lightning would import it to print that there is no TPU; that costs seconds at every start."""
    code = f"""
import sys
from nst.cli import dispatch
from tests.conftest import TINY
dispatch(["train", *TINY, "data.root={digits}", "run_dir={tmp_path / "run"}"])
sys.exit("torch_xla" in sys.modules)
"""
    done = run(["python", "-c", code])
    assert done.returncode == 0, done.stderr


LIGHT = """
import sys
import nst.recipes
assert not {"hydra", "omegaconf", "yaml"} & sys.modules.keys(), "the tables are data"
import nst.cli
import nst.stages.shard, nst.stages.select, nst.stages.report
heavy = {"torch", "timm", "torchvision", "lightning"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_stages_that_compute_nothing_load_no_torch():
    """It takes seconds of each process, of many in a sweep."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LEAN = """
import sys
from nst import cli
cli.module_of("train")
rest = {"scipy", "matplotlib", "wandb", "torch_xla"} & sys.modules.keys()
assert "timm" in sys.modules and "lightning" in sys.modules and not rest, rest
import matplotlib, scipy, wandb  # whoever needs them gets them
"""


def test_training_loads_nothing_that_only_extras_of_lightning_and_timm_use():
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ASKED = """
import sys
from nst.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "timm", "torchvision", "lightning", "wandb"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_doctor_loads_no_torch_for_an_efficientnet(digits: Path, tmp_path: Path):
    """With shards and a teacher that are there: neither its file nor the networks' table needs torch."""
    told = [f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]
    save_network(tmp_path / "gen0.safetensors", build(TINY_NETWORK, 10).state_dict(), NAMED)
    options = (
        ["experiment=digits_demo", *told],
        [
            "experiment=digits_demo",
            f"teacher.checkpoint={tmp_path / 'gen0.safetensors'}",
            *told,
            "teacher.predictions=p",
            "teacher.selection=s",
        ],
        ["student=efficientnet_l2", "data=imagenet", f"run_dir={tmp_path / 'run'}"],
    )
    for each in options:
        done = subprocess.run(
            [sys.executable, "-c", ASKED, "doctor", *each], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "rules" in done.stdout
