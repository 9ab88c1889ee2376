"""pyproject.toml, requirements.lock and environment.yml name the same versions."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FIXED = {
    "torch": "2.9.0",
    "torch-xla": "2.9.0",
    "torchvision": "0.24.0",
    "lightning": "2.6.6",
    "timm": "1.0.31",
    "hydra-core": "1.3.8",
    "webdataset": "1.0.2",
    "wandb": "0.31.0",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        if match := re.fullmatch(r"([\w.-]+)==(\S+)", line.strip()):
            found[canonical(match[1])] = match[2]
    return found


LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCK = pins(LOCK_LINES)


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for entries in lists for text in entries]


def test_every_declared_dependency_is_locked_within_its_range():
    requirements = declared()
    assert len(requirements) > 15
    for requirement in requirements:
        assert requirement.specifier.contains(LOCK[canonical(requirement.name)]), requirement


def test_conda_environment_has_every_declared_dependency_at_the_locked_version():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    versions = pins(pip)
    assert versions == {name: LOCK[name] for name in versions}
    assert {canonical(requirement.name) for requirement in declared()} == set(versions)
    assert "python=3.11" in conda["dependencies"]


def test_the_versions_the_project_is_built_on():
    assert {name: LOCK[name] for name in FIXED} == FIXED


def test_lock_has_exact_versions_and_no_addresses():
    assert len(LOCK) > 60
    for line in LOCK_LINES:
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+", line), line


@pytest.mark.parametrize("name", ["torch", "lightning", "timm", "hydra-core", "duckdb"])
def test_the_tests_run_on_the_locked_versions(name):
    assert metadata.version(name).split("+")[0] == LOCK[name]


def test_an_installed_package_holds_every_module_and_the_configuration():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "nst").rglob("__init__.py")}
    assert set(setuptools["packages"]) == {".".join(folder.parts) for folder in folders} | {"nst.conf"}
    assert setuptools["package-dir"]["nst.conf"] == "conf"
    assert setuptools["package-data"]["nst.conf"] == ["**/*.yaml"]
