"""What loader processes keep ready fits into /dev/shm, or a sentence says that it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from nst.data import shared_memory
from nst.data.batches import LabeledSamples, TrainingBatches
from nst.data.datamodule import Loader, _Steps
from nst.data.shard_set import ShardSet
from nst.data.shared_memory import SHARE, LoaderOptions, fitting
from nst.data.views import clean_view
from nst.errors import NstError
from nst.settings.data import Pictures

ROOT = Path(__file__).parent.parent
MIB = 2**20


def with_free(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    found = SimpleNamespace(f_bavail=round(count) // 4096, f_frsize=4096)
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda _: found)


@pytest.mark.parametrize(
    ("batches_free", "ranks", "workers", "prefetch"),
    [(99, 1, 4, 4), (18, 1, 4, 4), (17.9, 1, 4, 3), (6, 1, 4, 1), (5, 1, 3, 1), (3, 1, 1, 1), (36, 2, 4, 4),
     (12, 2, 4, 1)],
)  # fmt: skip
def test_less_is_kept_ready_where_less_fits(
    batches_free: float, ranks: int, workers: int, prefetch: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    shared_memory._tell.cache_clear()
    with_free(monkeypatch, (batches_free + 0.01) * MIB / SHARE)
    for _ in range(2):
        assert fitting(LoaderOptions(4, 4, ranks), MIB) == LoaderOptions(workers, prefetch, ranks)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"trainer.workers={workers} trainer.prefetch={prefetch} instead of 4 and 4") == (
        (workers, prefetch) != (4, 4)
    )


def test_a_batch_that_fits_no_worker_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch):
    with_free(monkeypatch, 64 * MIB)
    with pytest.raises(NstError, match=r"no room[\s\S]*32.0 MiB, 64.0 MiB free[\s\S]*trainer.workers[\s\S]*--shm-size"):
        fitting(LoaderOptions(8, 4), 32 * MIB)
    assert fitting(LoaderOptions(0, 4), 32 * MIB).workers == 0  # loads in the training itself


def small_batches(digits: Path) -> TrainingBatches:
    samples = LabeledSamples(ShardSet.open(digits / "labeled"), clean_view(64, Pictures(small=True)), seed=0)
    return TrainingBatches(samples, None, labeled_batch_size=64, unlabeled_batch_size=0)


def test_the_bytes_of_a_batch_are_those_of_its_tensors_and_lower_what_a_loader_keeps(
    digits: Path, monkeypatch: pytest.MonkeyPatch
):
    batches = small_batches(digits)
    batch = batches[0]
    assert batches.nbytes == batch["images"].nbytes + batch["labels"].nbytes
    with_free(monkeypatch, 7.1 * batches.nbytes / SHARE)
    loader = Loader(batches, _Steps(0, 4), LoaderOptions(2, 4)).loader
    assert (loader.num_workers, loader.prefetch_factor) == (2, 2)


IN_A_SMALL_ONE = """
import sys, time
from pathlib import Path
from nst.data import datamodule
from nst.data.datamodule import Loader, _Steps
from nst.data.shared_memory import LoaderOptions
from nst.faults import in_words
from tests.test_shared_memory import small_batches

loader = lambda: iter(Loader(small_batches(Path(sys.argv[1])), _Steps(0, 12), LoaderOptions(2, 4)))
for batch in loader():
    pass
print("read all")
datamodule.fitting = lambda options, _: options
try:
    batches = loader(); first = next(batches)
    time.sleep(100)  # workers fill what they may; one that dies of it ends this
except RuntimeError as error:
    print(in_words(error))
"""


def test_a_loader_lives_in_a_small_dev_shm_and_without_the_bound_dies_in_words(digits: Path):
    """A real one of 5 MB: eight batches of 0.8 MB do not fit, four do."""
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=5m none /dev/shm && exec "$0" "$@"']
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    done = run_by_itself(IN_A_SMALL_ONE, digits, within=command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("read all") == 1, done.stdout
    assert "shared memory (/dev/shm) has no room for the loader's batches" in done.stdout
    assert "--shm-size" in done.stdout


HELD_AT_THE_END = """
import sys
from collections.abc import Sequence
from pathlib import Path
from nst.data.datamodule import Loader, _Steps
from nst.data.shared_memory import LoaderOptions
from tests.test_shared_memory import small_batches

batches = iter(Loader(small_batches(Path(sys.argv[1])), _Steps(0, 12), LoaderOptions(2, 4)))
next(batches)
raise SystemExit("a fault")
"""
NOT_HANDED_OVER = """
from types import SimpleNamespace
from nst.data.datamodule import Loader, _Steps
from nst.data.shared_memory import LoaderOptions
from nst.faults import in_words

class Full:
    def __reduce__(self):
        raise RuntimeError(SAID)

class Batches(list):
    nbytes = 1

try:
    next(iter(Loader(Batches([Full()]), _Steps(0, 1), LoaderOptions(1, 1))))
except RuntimeError as error:
    print(in_words(error))
"""


def run_by_itself(program: str, *arguments: object, within: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*within, sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True,
        env=environment, check=False, timeout=200,
    )  # fmt: skip


def test_a_process_that_ends_in_a_fault_takes_the_loaders_along_that_it_still_holds(digits: Path):
    done = run_by_itself(HELD_AT_THE_END, digits)
    assert (done.returncode, done.stderr) == (1, "a fault\n")


@pytest.mark.parametrize(
    ("said", "fault"),
    [("unable to write to file </torch_7_1_2>: No space left on device (28)", "shared memory (/dev/shm) has no room"),
     ("no such thing", "a loader process died")],
)  # fmt: skip
def test_a_batch_that_cannot_be_handed_over_ends_the_loader_instead_of_waiting_for_ever(said: str, fault: str):
    done = run_by_itself(f"SAID = {said!r}\n{NOT_HANDED_OVER}")
    assert done.stdout.startswith(fault), done
    assert said in done.stderr
