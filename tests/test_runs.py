"""What a run directory keeps out, what a start that failed leaves, and ranks that wait for rank 0: until it is done,
and not for ever when it is gone. Other rules are tested by the stages that use them (test_train, test_iterate)."""

import errno
import os
import re
import signal
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest

from nst.advice import note_command, whole
from nst.atomic import write_text
from nst.checking import kind_of
from nst.data.remote import Remote
from nst.errors import NstError
from nst.refused import typed
from nst.run_inputs import identity
from nst.runs import Run
from nst.settings.data import Sizes
from nst.sharing import take_lock, wait_for_lock


def failing(directory: Path, *, files: tuple[str, ...] = (), inputs: object = 0, stage: str = "train") -> None:
    """A start that writes these files and then fails."""
    with pytest.raises(ValueError, match="mistyped"), Run(directory, stage, {"seed": inputs}):
        for name in files:
            write_text(directory / name, "1")
        raise ValueError("mistyped")


def test_a_start_that_failed_leaves_nothing(tmp_path: Path):
    failing(tmp_path / "runs" / "a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    failing(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != ".lock"] == ["note.txt"]


def test_a_pulse_has_stopped_where_a_run_has_been_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else it writes into the directory while somebody copies, deletes or continues it."""
    write = Path.write_text

    def slowly(path: Path, *arguments: object, **options: object) -> int:
        if path.name == ".pulse":
            time.sleep(0.2)
        return write(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", slowly)
    with Run(tmp_path / "a", "train", {"seed": 1}) as run:
        pass
    assert not run._pulse_thread.is_alive()
    assert not (tmp_path / "a" / ".pulse").exists()


@pytest.mark.parametrize("left", [(), ("metrics.csv",), ("metrics.csv", "wandb_id")])
def test_a_start_that_came_to_nothing_gives_way_to_the_mended_command(tmp_path: Path, left: tuple[str, ...]):
    failing(tmp_path / "a", files=left)
    run = Run(tmp_path / "a", "train", {"seed": 1}).__enter__()  # and is killed: nothing is taken back
    run._left.set()
    run._pulse_thread.join()
    run._lock.close()  # type: ignore[union-attr]
    with Run(tmp_path / "a", "train", {"seed": 2}) as mended:
        assert mended._is_this({"fingerprint": mended.fingerprint})
        assert not (tmp_path / "a" / "metrics.csv").exists()
        mended.finish({})


@pytest.mark.parametrize(
    ("stage", "files", "refused"),
    [("train", ("checkpoints/trained_last.ckpt",), True), ("label", ("a.parquet",), True),
     ("select", ("selection-000000.parquet",), False)],
)  # fmt: skip
def test_what_can_be_continued_is_kept(tmp_path: Path, stage: str, files: tuple[str, ...], refused: bool):
    failing(tmp_path / "a", files=files, stage=stage)
    failing(tmp_path / "a", stage=stage)  # of the same inputs: continues, and keeps it again
    assert (tmp_path / "a" / files[0]).exists()
    if refused:
        with pytest.raises(NstError, match=f"holds a {stage} run with other inputs"):
            Run(tmp_path / "a", stage, {"seed": 1}).__enter__()
        assert (tmp_path / "a" / files[0]).exists()
    else:  # it would begin again anyway
        with Run(tmp_path / "a", stage, {"seed": 1}):
            assert not (tmp_path / "a" / files[0]).exists()


@pytest.mark.parametrize(
    ("stage", "option", "values"),
    [("train", "max_bad_fraction", (0.01, 0.5, 0.2)), ("label", "batch_size", (256, 8, 1))],
)
def test_what_moves_no_result_continues_the_run(tmp_path: Path, stage: str, option: str, values: tuple[float, ...]):
    kept = tmp_path / "a" / "kept"
    for value in values[:2]:
        with Run(tmp_path / "a", stage, {"seed": 0, option: value}) as run:
            assert kept.exists() == (value != values[0])
            write_text(kept, "1")
            if value != values[0]:
                run.finish({"top1": 1})
    with Run(tmp_path / "a", stage, {"seed": 0, option: values[2]}) as run:
        assert run.done


def test_the_refusal_repeats_the_command_and_names_options_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nst.advice._command", [])
    note_command(["train", "data.root=a b", "run_dir=x", "student.steps=5"])
    with Run(tmp_path, "train", {"recipe": {"steps": 4}, "start": None}) as run:
        run.finish({})
    with pytest.raises(NstError) as caught:
        Run(tmp_path, "train", {"recipe": {"steps": 5}, "start": "ab"}).__enter__()
    assert caught.value.got == "model.checkpoint: null before, ab now; student.steps: 4 before, 5 now"
    assert caught.value.next is not None
    lines = [line.strip() for line in whole(caught.value.next).splitlines()]
    assert lines[1:] == ["nst train 'data.root=a b' student.steps=5 run_dir=<folder>",
                         "nst train 'data.root=a b' run_dir=x student.steps=5 overwrite=true"]  # fmt: skip
    assert re.search(r"deletes the \d files that nst wrote there", caught.value.next)


@pytest.mark.parametrize(
    ("stage", "name", "option"),
    [("train", "recipe.optimizer.name", "student.optimizer.name"), ("train", "teacher.mode", "teacher.mode"),
     ("train", "noise.dropout", "noise.dropout"), ("train", "architecture.width", "model.width"),
     ("train", "finetune.epochs", "student.finetune.epochs"), ("train", "lanes", "lanes"),
     ("select", "min_confidence", "select.min_confidence"), ("select", "seed", "seed"),
     ("label", "keep", "label.keep"), ("label", "pictures.small", "data.pictures.small"),
     ("evaluate", "image_size", "eval.image_size"), ("shard", "samples_per_shard", "shard.samples_per_shard"),
     ("shard", "validation_samples", "data.validation_samples"), ("shard", "selection", "teacher.selection"),
     ("shard", "targets", "teacher.targets"),
     ("select", "validation", "data.validation"), ("select", "shares", "data.labeled"),
     ("export", "weights", "model.checkpoint"), ("predict", "views", "model.checkpoint")],
)  # fmt: skip
def test_inputs_are_called_as_they_are_typed(stage: str, name: str, option: str):
    assert typed(stage, name) == option
    assert kind_of(option) is not None


def test_sizes_of_shards_are_called_as_they_are_typed():
    for entry in fields(Sizes):
        assert typed("shard", entry.name) == f"data.{entry.name}"


def test_the_other_ranks_get_rank_0s_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rank 0 takes several times their patience, but its pulse shows that it lives."""
    inputs, answer = {"a": 1}, {}

    def rank_zero() -> None:
        with Run(tmp_path, "select", inputs, patience=0.6) as run:
            entered.set()
            time.sleep(2)
            run.finish({"rows": 3})

    entered = threading.Event()
    thread = threading.Thread(target=rank_zero)
    thread.start()
    assert entered.wait(10)
    monkeypatch.setattr("nst.runs.is_rank_zero", lambda: threading.current_thread() is thread)
    with Run(tmp_path, "select", inputs, patience=0.6) as run:
        answer = run.result()
    thread.join()
    assert answer["rows"] == 3
    assert not (tmp_path / ".pulse").exists()


def test_the_other_ranks_give_up_on_a_rank_0_without_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".pulse").write_text("17 4")  # left by a process that is gone
    monkeypatch.setattr("nst.runs.is_rank_zero", lambda: False)
    start = time.monotonic()
    with (
        pytest.raises(NstError, match=r"rank 0 stopped before[\s\S]*no sign of it"),
        Run(tmp_path, "select", {}, patience=0.5),
    ):
        pass
    assert time.monotonic() - start < 30


def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path: Path):
    """As a loader that outlives a killed trainer: the same command may start again at once."""
    lock = take_lock(tmp_path)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, b"there")
        time.sleep(30)
        os._exit(0)
    assert os.read(ours, 5) == b"there"
    try:
        with pytest.raises(NstError, match="another process is working in"):
            take_lock(tmp_path)
        lock.close()
        take_lock(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("fault", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int):
    def refused(file: object, operation: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("fcntl.flock", refused)
    cache = Remote(cache=str(tmp_path))
    for attempt in (
        lambda: take_lock(tmp_path),
        lambda: wait_for_lock(tmp_path / ".lock", lambda: None).__enter__(),
        lambda: cache._turn("a.tar").__enter__(),
        lambda: cache._make_room(tmp_path / "a.tar"),
    ):
        with pytest.raises(NstError, match=f"the disk of {tmp_path} cannot lock files") as error:
            attempt()
        assert error.value.got == os.strerror(fault)
        assert error.value.next == "choose a directory on another disk"


def test_inputs_that_came_later_are_left_out_where_they_are_as_it_was_before():
    older = {"pictures": {"flip": True}, "teacher": {"mode": "offline"}, "seed": 0}
    later = {"accumulate": 1, "lanes": 1, "turns": 1, "views": "one"}
    now = {
        "pictures": {"flip": True, "turn": False},
        "teacher": {"mode": "offline", "views": "one"},
        "seed": 0,
        **later,
    }
    assert identity(now) == older
    assert identity({**now, "teacher": "a digest"}) == {**older, "teacher": "a digest"}
    for changed in ({"turns": 8}, {"views": "all"}, {"accumulate": 2}, {"pictures": {"flip": True, "turn": True}}):
        assert identity({**now, **changed}) == {**older, **changed}


def test_which_option_chooses_a_directory_is_asked_only_by_who_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may compose the configuration anew."""
    monkeypatch.setattr("nst.runs.option_of", None)
    for _ in range(2):  # also where the run is there
        with Run(tmp_path / "run", "shard", {"seed": 1}) as run_:
            run_.finish({})
