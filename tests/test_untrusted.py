"""Data are data: files of strangers run nothing, read nothing elsewhere, and names in them stay text; no secret shows.

Tests that hold on the code before it too are marked as guards in their docstrings.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import add_file, encode, noise
from rich.console import Console

from nst.atomic import write_json
from nst.cli import dispatch
from nst.data.archives import scan_archives
from nst.data.images import BadImage
from nst.data.remote import Remote
from nst.data.shard_set import ShardSet, in_index
from nst.data.shards import index_tars, verify, write_shards
from nst.data.source import Sample
from nst.data.tars import TarReader
from nst.data.transfer import runs_nothing
from nst.documents import json_text, read_json, yaml_text
from nst.errors import NstError
from nst.finished import final_weights
from nst.models import foreign
from nst.models.checkpoints import read_weights
from nst.progress import console, say
from nst.recipes import EXHIBITS
from nst.report import paper
from nst.report.gallery import Picture
from nst.report.page import Gallery, Page, Section, Table, render
from nst.report.records import Generation
from nst.robustness.readers import open_array, read_clip
from nst.runs import Run
from nst.shown import fenced, in_markdown, kept, printable, short, shown, without_secrets
from nst.training.tracking import run_id
from tests import forked

SECRET = "hunter2-Zq81xV"


class Bomb:
    """What a pickle of a stranger does when it is loaded: makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def small_set(folder: Path, count: int = 4) -> ShardSet:
    samples = [Sample(f"k{number}", encode(noise(8, 8, number), "PNG"), "png", number % 2) for number in range(count)]
    return write_shards(folder, "s", samples, classes=("a", "b"), labeled=True, name="x")


def change_index(folder: Path, **values: Any) -> None:
    path = folder / "index.json"
    path.write_text(json_text({**read_json(path, sealed=False), **values}))  # a stranger can seal a file, too


def change_shard(folder: Path, **values: Any) -> None:
    shards = json.loads((folder / "index.json").read_text())["shards"]
    change_index(folder, shards=[{**shards[0], **values}, *shards[1:]])


# ---- where shards lie ------------------------------------------------------------------------------------------


def test_an_index_runs_no_command(tmp_path: Path):
    small_set(tmp_path / "set")
    change_index(tmp_path / "set", shards_at=f"pipe:touch {tmp_path}/marker; cat {tmp_path}/set/{{}}")
    remote = Remote(cache=str(tmp_path / "cache"), attempts=1, wait_s=0)
    for use in (
        lambda: ShardSet.open(tmp_path / "set", remote).reader(0),
        lambda: verify(tmp_path / "set", remote=remote),
    ):
        with pytest.raises(NstError, match=r"names a place outside its folder[\s\S]*remote\.shards_at='pipe:"):
            use()
    assert not (tmp_path / "marker").exists()


OUTSIDE = [
    "/etc", "..", "../set", "a/../../set", "a\\..\\b", "a\0", "", "file:///etc", "memory://x", "simplecache::file:///etc",
    "https://h/x::file:///etc", "pipe:", "reference::x://y", "https://***@host/set", 3, ["x"],
]  # fmt: skip


@pytest.mark.parametrize("place", OUTSIDE, ids=repr)
def test_an_index_leads_nowhere_outside(tmp_path: Path, place: object):
    small_set(tmp_path / "set")
    change_index(tmp_path / "set", shards_at=place)
    with pytest.raises(NstError, match="names a place outside its folder"):
        ShardSet.open(tmp_path / "set")


def test_an_index_may_name_a_folder_inside_and_an_address(tmp_path: Path):
    whole = small_set(tmp_path / "set")
    (tmp_path / "set" / "tars").mkdir()
    (tmp_path / "set" / "s-000000.tar").rename(tmp_path / "set" / "tars" / "s-000000.tar")
    change_index(tmp_path / "set", shards_at="tars")
    assert ShardSet.open(tmp_path / "set").reader(0).read(0)[0] == "k0"
    change_index(tmp_path / "set", shards_at="https://host/x")
    assert ShardSet.open(tmp_path / "set").place == "https://host/x"
    assert ShardSet.open(tmp_path / "set").digest == whole.digest


@pytest.mark.parametrize("form", ["pipe:HF_TOKEN={secret} cat {folder}/{{}}", "file://{folder}", "{folder}"])
def test_a_place_that_the_user_has_named_is_read_and_no_secret_lies_in_the_index(tmp_path: Path, form: str):
    here = small_set(tmp_path / "set")
    place = form.format(secret=SECRET, folder=tmp_path / "set")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.json").write_bytes((tmp_path / "set" / "index.json").read_bytes())
    change_index(tmp_path / "other", shards_at=in_index(place))
    assert SECRET not in (tmp_path / "other" / "index.json").read_text()
    with pytest.raises(NstError, match="names a place outside its folder"):
        ShardSet.open(tmp_path / "other")
    for named in (place, [str(tmp_path), place]):
        remote = Remote(cache=str(tmp_path / "cache"), shards_at=named)
        assert ShardSet.open(tmp_path / "other", remote).reader(0).keys == here.reader(0).keys


def test_nst_shard_says_how_to_read_what_it_has_excluded_from_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    small_set(tmp_path / "set")
    known = [Sample("t", encode(noise(8, 8, 1), "PNG"), "png", 0)]
    write_shards(tmp_path / "test", "t", known, classes=("a", "b"), labeled=True, name="t")
    place = f"pipe:cat {tmp_path}/set/{{}}"
    cache = f"remote.cache={tmp_path}/cache"
    monkeypatch.setattr("nst.stages.exclude.SHOWN_EXCLUDED", 0)
    where = [f"data.unlabeled='{place}'", cache, f"shard.output={tmp_path}/pruned", "shard.workers=1"]
    assert dispatch(["shard", f"shard.exclude={tmp_path}/test", "shard.exclude_distance=null", *where]) == 0
    out = capsys.readouterr().out
    advice = re.search(r"remote\.shards_at='.*'", out)
    assert advice, out
    assert out.index("  and 1 more: ") < advice.start(), "the list is told to its end first"
    assert dispatch(["shard", "--verify", f"shard.output={tmp_path}/pruned/unlabeled", cache, advice[0]]) == 0
    assert "3 images in 1 shard, as index.json lists them" in capsys.readouterr().out
    # and once more, from where it was
    assert dispatch(["shard", f"shard.exclude={tmp_path}/test", "shard.exclude_distance=null", *where]) == 0


@pytest.mark.parametrize(
    "name", ["../s.tar", "/etc/s.tar", "a/s.tar", "..", ".", "", "a\0.tar", "a\\b.tar", 3, "x" * 300]
)
def test_names_of_shards_are_those_of_files_beside_the_index(tmp_path: Path, name: object):
    small_set(tmp_path / "set")
    change_shard(tmp_path / "set", name=name)
    with pytest.raises(NstError, match="names a file that does not lie beside it"):
        ShardSet.open(tmp_path / "set")


def test_a_sha256_that_leads_out_of_the_cache_is_refused(tmp_path: Path):
    small_set(tmp_path / "set")
    change_shard(tmp_path / "set", sha256="/../../x")
    with pytest.raises(NstError, match=r"index\.json is damaged"):
        ShardSet.open(f"file://{tmp_path}/set", Remote(cache=str(tmp_path / "cache")))


def test_a_shard_that_is_a_link_out_of_the_folder_is_followed_only_if_the_user_says_so(tmp_path: Path):
    small_set(tmp_path / "set")
    (tmp_path / "private").mkdir()
    (tmp_path / "set" / "s-000000.tar").rename(tmp_path / "private" / "s.tar")
    (tmp_path / "set" / "s-000000.tar").symlink_to("../private/s.tar")
    with pytest.raises(NstError, match=rf"a link out of the folder[\s\S]*remote\.shards_at='{tmp_path}/private'"):
        ShardSet.open(tmp_path / "set")
    assert ShardSet.open(tmp_path / "set", Remote(shards_at=f"{tmp_path}/private")).samples == 4
    (tmp_path / "set" / "inner").symlink_to("../private")
    change_index(tmp_path / "set", shards_at="inner")
    change_shard(tmp_path / "set", name="s.tar")
    with pytest.raises(NstError, match="a link out of the folder"):
        ShardSet.open(tmp_path / "set")


def test_what_runs_nothing_is_a_list_of_schemes():
    assert all(map(runs_nothing, ["http://h", "https://h/x", "s3://b/x", "gs://anonymous@b/x", "hf://datasets/x"]))
    assert not any(map(runs_nothing, ["pipe:x", "file:///x", "local://x", "ssh://x", "s3://b::file:///x", "/x", "x"]))


# ---- archives, predictions, results -------------------------------------------------------------------------------


def make_tar(path: Path, *names: str, links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            add_file(archive, name, encode(noise(8, 8, number), "PNG"))
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return path


@pytest.mark.parametrize("name", ["../x/1.png", "a/../../1.png", "/etc/1.png", "a\\..\\1.png"])
def test_names_in_archives_that_lead_out_are_refused(tmp_path: Path, name: str):
    path = make_tar(tmp_path / "s.tar", "a/0.png", name)
    for use in (lambda: TarReader(path), lambda: scan_archives([path], None)):
        with pytest.raises(NstError, match="whose name leads out of it"):
            use()
    with pytest.raises(NstError, match="whose name leads out of it"):
        index_tars(tmp_path)


def test_links_in_archives_are_told_and_not_followed(tmp_path: Path):
    (tmp_path / "private.png").write_bytes(encode(noise(8, 8), "PNG"))
    (tmp_path / "set").mkdir()
    path = make_tar(tmp_path / "set" / "s.tar", "a/0.png", links={"a/1.png": f"{tmp_path}/private.png"})
    assert TarReader(path).keys == ["a/0"]
    with pytest.raises(NstError, match="1 link, not followed"):
        index_tars(tmp_path / "set")
    found = scan_archives([path], False)
    assert [entry.key for entry in found.entries] == ["0"]
    assert found.notes[-1].startswith("1 passed over, a link to what the archive does not hold: a/1.png")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/../../x", "", "a\\..\\x", None])
def test_a_result_names_weights_of_its_own_run(tmp_path: Path, name: object):
    (tmp_path / "other.safetensors").write_bytes(b"")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "DONE").write_text("x")
    write_json(tmp_path / "run" / "result.json", {"stage": "train", "weights": name})
    with pytest.raises(NstError, match=r"result\.json names a file outside"):
        final_weights(tmp_path / "run")


def test_a_suite_of_a_result_names_no_figure_elsewhere(tmp_path: Path):
    block = {"kind": "corruptions"}
    write_json(tmp_path / "evaluation" / "result.json", {"robustness": {"../../x": block}})
    with pytest.raises(NstError, match="names a file that does not lie beside it"):
        _ = Generation(tmp_path).robustness


def test_the_id_of_a_wandb_run_is_no_path(tmp_path: Path):
    (tmp_path / "wandb_id").write_text("../../x\n")
    with pytest.raises(NstError, match="no id of a W&B run"):
        run_id(tmp_path)


HUB = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"architecture": "hf-hub:stranger/network"}, "names no network of timm's"),
        ({"architecture": "local-dir:/etc"}, "names no network of timm's"),
        ({"architecture": ["resnet18"]}, "is not timm's config.json"),
        (
            {"architecture": "resnet10t", "model_args": {"checkpoint_path": "/etc/x.pth"}},
            "asks for more than a network",
        ),
        ({"architecture": "resnet10t", "model_args": {"pretrained_cfg": {"url": "x"}}}, "asks for more than a network"),
        ({"architecture": "resnet10t", "model_args": {"drop": {"a": 1}}}, "asks for more than a network"),
    ],
)
def test_a_hub_folder_names_a_network_and_its_sizes(tmp_path: Path, about: dict[str, Any], message: str):
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": HUB, **about}))
    with pytest.raises(NstError, match=message):
        foreign.open_any(tmp_path, ("a", "b"))


# ---- no Python objects ---------------------------------------------------------------------------------------------


def test_weights_of_a_stranger_run_nothing(tmp_path: Path):
    """A guard."""
    torch.save({"x": Bomb(tmp_path / "marker")}, tmp_path / "x.pth")
    with pytest.raises(NstError, match="is not a whole network file"):
        read_weights(tmp_path / "x.pth")
    assert not (tmp_path / "marker").exists()


def test_a_state_of_a_stranger_runs_nothing(tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nst.stages import train

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as some set it for the sake of other programs
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"x": Bomb(tmp_path / "marker")}, tmp_path / "run" / "checkpoints" / "trained_last.ckpt")
    with pytest.raises(NstError, match=r"trained_last\.ckpt is not a state that a training has kept"):
        train.main(tiny())
    assert not (tmp_path / "marker").exists()


def test_arrays_and_yaml_of_strangers_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A guard."""
    np.save(tmp_path / "x.npy", np.array([Bomb(tmp_path / "marker")], object), allow_pickle=True)
    with pytest.raises(NstError, match="cannot read"):
        open_array(str(tmp_path / "x.npy"))
    call = f"x: !!python/object/apply:os.system ['touch {tmp_path}/marker']\n"
    (tmp_path / "config.yaml").write_text(yaml_text(call))
    with pytest.raises(Exception, match="could not determine a constructor"):
        _ = Generation(tmp_path).config
    monkeypatch.setenv("PRIVATE", SECRET)
    text = f"a: ${{oc.env:PRIVATE}}\nb: {{_target_: os.system, command: touch {tmp_path}/marker}}\n"
    (tmp_path / "config.yaml").write_text(yaml_text(text))
    found = Generation(tmp_path).config
    assert found == {"a": "${oc.env:PRIVATE}", "b": {"_target_": "os.system", "command": f"touch {tmp_path}/marker"}}
    assert not (tmp_path / "marker").exists()


def test_a_playlist_that_is_named_a_video_fetches_nothing(tmp_path: Path):
    (tmp_path / "x.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/private.ts\n")
    with pytest.raises(BadImage, match="neither an MP4 file"):
        read_clip([str(tmp_path / "x.mp4")], 31, 0)


def test_nothing_loads_pickles_or_runs_text():
    """A guard, which finds the next place: by hand each of these would have to be looked at."""
    root = Path(__file__).parent.parent / "nst"
    text = "\n".join(path.read_text() for path in root.rglob("*.py"))
    loads = re.findall(r"torch\.load\([^)]*\)", text)
    assert loads
    assert all(call.endswith(', map_location="cpu", weights_only=True)') for call in loads), loads
    for call in re.findall(r"np\.load\([^\n]*", text):
        assert "allow_pickle=False" in call, call
    assert "weights_only=True" in text[text.index("trainer.fit(") :][:120]
    assert not re.findall(
        r"yaml\.(?:load|unsafe_load|full_load)\(|pickle\.loads?\(|(?<![.\w])(?:eval|exec)\(|extractall\(", text
    )
    assert text.count("shell=True") == 1, "in nst/data/transfer.py, for what the user has typed"


# ---- names are text ----------------------------------------------------------------------------------------------

NASTY = [
    "<script>alert(1)<script>", '"><img src=x onerror=alert(1)>', "[a](javascript:alert(1))", "[red]x[", "a|b",
    "new\nline", "\u202ertl", "x" * 10_000, "$\\frac{1}$", "\x1b[31mesc\x07", "' onload='x", "`code`",
    "&amp;", "{{ 7*7 }}",
]  # fmt: skip


class Tags(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def require_harmless(self) -> None:
        for tag, attributes in self.found:
            assert tag not in ("script", "iframe", "object", "embed", "base", "form", "link"), tag
            assert not [name for name in attributes if name.startswith("on")], attributes
            if tag == "img":
                assert str(attributes["src"]).startswith("data:image/"), attributes
            for name in ("href", "xlink:href"):
                # a click, and no address: a relative path of the one file that a page links
                known = r"#|data:image/png;base64,|(?!/)[\w.%/~-]*/mistakes\.csv$"
                assert re.match(known, str(attributes.get(name, "#"))), attributes


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An iterate of two generations on a tar of such classes and files, its export, and what the terminal was told.

    The test images are read through a command with a secret in it.
    """
    folder = tmp_path_factory.mktemp("hostile")
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number, name in enumerate(NASTY):
            for copy in range(24):
                data = encode(noise(12, 12, 100 * number + copy), "PNG")
                add_file(archive, f"{name}/{copy}{name[:200] if copy == 0 else ''}.png", data)
    data = ["data=tar", f"data.source.root={folder}/pictures.tar", f"data.root={folder}/data",
            "data.labeled_per_class=6", "data.test_samples=70", "data.unlabeled_samples=140"]  # fmt: skip
    tiny = [item for item in TINY if not item.startswith("data.")]
    run = [*tiny, *data, f"run_dir={folder}/run", "select.min_confidence=0", "select.images_per_class=10",
           "select.allow_empty_classes=true", f"remote.cache={folder}/cache",
           f"data.test='pipe:HF_TOKEN={SECRET} cat {folder}/data/test/{{}}'",
           "iterate.generations=[[],[]]"]  # fmt: skip
    told = ""
    for words in (["shard", *tiny, *data], ["iterate", *run],
                  ["export", f"model.checkpoint={folder}/run/gen1", "export.format=timm"]):  # fmt: skip
        done = forked.run(words)
        assert done.returncode == 0, done.stderr[-3000:]
        told += done.stdout + done.stderr
    return folder, told


def test_class_and_file_names_are_text_in_the_report(hostile: tuple[Path, str]):
    page = (hostile[0] / "run" / "report.html").read_text()
    tags = Tags(page)
    tags.require_harmless()
    text = "".join(tags.text)
    for name in NASTY:
        assert short(name, 32)[:20] in text, name
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert max(len(word) for word in re.sub(r'src="[^"]*"|<style>[\s\S]*?</style>', "", page).split()) < 1000
    for figure in (hostile[0] / "run" / "figures").glob("*.svg"):
        Tags(figure.read_text()).require_harmless()


def test_class_names_are_exact_in_what_other_stages_read(hostile: tuple[Path, str]):
    """A guard: what is shown is not what is kept."""
    index = json.loads((hostile[0] / "data" / "labeled" / "index.json").read_text())
    assert sorted(index["classes"]) == sorted(NASTY)
    assert (
        json.loads((hostile[0] / "run" / "gen1" / "evaluation" / "result.json").read_text())["classes"]
        == index["classes"]
    )


def test_class_names_are_text_in_the_model_card(hostile: tuple[Path, str]):
    card = (hostile[0] / "run" / "gen1" / "export" / "timm" / "README.md").read_text()
    outside = re.sub(r"^(`{3,})[\s\S]*?^\1$", "", card, flags=re.M)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\]\(", outside)
    row = next(line for line in outside.splitlines() if line.startswith("| Classes"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3, row
    assert r"a\|b" in row
    assert len(card) < 20_000


def test_names_do_not_steer_the_terminal(hostile: tuple[Path, str]):
    assert "\x1b" not in hostile[1]
    assert "\u202e" not in hostile[1]


def test_no_secret_of_an_address_is_written_or_told(hostile: tuple[Path, str]):
    folder, told = hostile
    assert SECRET not in told
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes()] == []
    assert "HF_TOKEN=***" in (folder / "run" / "gen0" / "config.yaml").read_text()


SLASHES = ["<script>alert(1)</script>", "</td><td onclick=x>", "</style><script>", "a/../b", *NASTY]


def test_names_that_no_folder_can_have_are_text_on_the_page_too():
    pictures = [Picture("data:image/png;base64,", name, name, 0.5, name, name, name) for name in SLASHES]
    table = Table(SLASHES, [SLASHES], texts=len(SLASHES), note="".join(SLASHES[:4]))
    blocks: list[Any] = [table, Gallery(SLASHES[2], SLASHES[3], pictures)]
    sections = [Section(SLASHES[0], SLASHES[1], blocks, missing=SLASHES, points=SLASHES)]
    texts = {name: name for name in SLASHES}
    page = render(
        Page(SLASHES[0], SLASHES[1], [(name, name, name) for name in SLASHES], sections, texts, SLASHES[2], texts)
    )
    Tags(page).require_harmless()
    assert page.count("<section") == 2
    assert "\udc80" not in render(Page("a\udc80", "", [], [], {}, None, {}))


@pytest.mark.parametrize("name", SLASHES, ids=lambda name: name[:12])
def test_markdown_of_a_name_is_one_cell_of_text(name: str):
    cell = in_markdown(name)
    assert len(cell) <= 2 * 200 + 100
    assert not re.search(r"[<>\n]|(?<!\\)[|\[\]`*]", cell), cell


def test_a_fence_is_longer_than_any_in_it():
    assert fenced("a\n````\nb", "bash").startswith("`````bash\n")


def test_names_are_no_markup_for_the_terminal(capsys: pytest.CaptureFixture[str]):
    with console.capture() as caught:
        console.print("[red]x[/] :smile:")
    assert caught.get() == "[red]x[/] :smile:\n"
    say("[/red] \x1b[31m \u202e :smile: \udc80")
    assert capsys.readouterr().out == "[/red] \\x1b[31m \\u202e :smile: \\udc80\n"
    assert str(NstError("x", got="\x1b]0;title\x07")) == "x\n  got:   \\x1b]0;title\\x07"


def test_long_and_strange_names_fit_the_table_of_the_paper_at_80_columns():
    where = next(iter(EXHIBITS.values()))
    column, scores, network = where.columns[0], {next(iter(where.metrics)): 1.0}, "[/]|" + "y" * 10_000
    ours = paper.CellResult("s", "r", column, 0, network, scores, Path("x"))
    cells = {("[red]" + "x" * 10_000, column): paper.Cell((ours,))}
    out = io.StringIO()
    Console(file=out, width=80, markup=False).print(paper.terminal_table(where, "[/]" * 5000, cells))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert len(out.getvalue().splitlines()) < 80
    assert "[red]" in out.getvalue()
    assert len(paper.markdown(where, "s", cells)) < 20_000


def test_printable_keeps_what_is_text():
    assert printable("ü 漢字 \u00a0 a\tb\n") == "ü 漢字 \u00a0 a\tb\n"
    assert short("a\n b", 10) == "a b"
    assert short("x" * 100, 30) == "x" * 18 + "… (+82)"


# ---- secrets ---------------------------------------------------------------------------------------------------

ADDRESSES = [
    "https://user:{}@host/x", "https://{}@host/x", "s3://AKIA:{}@bucket/x", "https://h/x?token={}", "ssh://u:{}@host/x",
    "https://h/x?a=b&X-Amz-Signature={}&c=d", "https://h/x?X-Goog-Signature={}", "https://b.blob/x?sv=1&sig={}",
    "pipe:curl -u user:{} https://h/{{}}", "pipe:curl -H 'Authorization: Bearer {}' https://h/{{}}",
    "pipe:AWS_SECRET_ACCESS_KEY={} aws s3 cp s3://b/{{}} -", "pipe:hf get --token {} x", "pipe:x --password='{}' y",
    'pipe:curl -H "X-Auth-Token: {}" https://h/', "s3://b/x?access_key=A&secret_key={}",
]  # fmt: skip


@pytest.mark.parametrize("form", ADDRESSES)
def test_secrets_of_addresses_are_not_shown(form: str):
    address = form.format(SECRET)
    assert SECRET not in shown(f"cannot fetch {address}: see {address}.")
    assert SECRET not in str(NstError("cannot fetch", got=address, next=f"curl -I {address}"))
    assert SECRET not in json.dumps(kept({"a": [address, {"b": (address,)}], "c": 1}))


def test_what_is_no_secret_stays():
    for text in ("gs://anonymous@bucket/x", "https://h/x?region=eu", "ssh://git@host/x", "a@b.c", "https://h/a@b",
                 "key digits-0001", "s3://bucket/key=1/x", "file:///x", "teacher.run=runs/b0"):  # fmt: skip
        assert without_secrets(text) == text


def test_values_of_secret_variables_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("EMPTY_KEY", "")
    monkeypatch.setenv("SHORT_KEY", "a")
    assert without_secrets(f"refused: {SECRET} and a") == "refused: *** and a"


def test_a_run_keeps_no_secret_and_loggers_get_none(tmp_path: Path):
    config = {"data": {"test": f"https://u:{SECRET}@h/x"}, "overrides": [f"data.test=https://u:{SECRET}@h/x"]}
    with Run(tmp_path, "train", {}, config=config):
        pass
    assert SECRET not in (tmp_path / "config.yaml").read_text()
    assert "https://***@h/x" in (tmp_path / "config.yaml").read_text()


def test_a_transfer_that_fails_tells_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)  # a sweep within another test of this process raises it
    remote = Remote(cache=str(tmp_path), attempts=2, wait_s=0)
    with pytest.raises(NstError) as caught:
        ShardSet.open(f"http://user:{SECRET}@127.0.0.1:9/x", remote)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text
    assert "attempt 1 of 2" in caplog.text


def test_a_traceback_tells_no_secret(tmp_path: Path):
    code = "import sys; sys.argv = ['nst', 'report']\nimport nst.cli\n" \
           "def fail(*_): raise ValueError('https://u:" + SECRET + "@h/x')\n" \
           "nst.cli.dispatch = fail\nnst.cli.main()\n"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ValueError: https://***@h/x" in done.stderr
    assert "Traceback" in done.stderr
