"""Shards from elsewhere: fetched once and whole, again after a failure, and told in words when they stay away."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote

import fsspec
import pytest
from helpers import noise

from nst.data.batches import LabeledSamples, TrainingBatches
from nst.data.datamodule import Loader, _Steps
from nst.data.images import encode_png
from nst.data.remote import Remote
from nst.data.shards import ShardSet, index_tars, verify, write_shards
from nst.data.shared_memory import LoaderOptions
from nst.data.source import Sample
from nst.data.transfer import is_remote, join
from nst.data.views import clean_view
from nst.errors import NstError
from nst.settings.data import Pictures
from nst.written import LIST

CLASSES = ("cat", "dog", "emu")


class Server(ThreadingHTTPServer):
    """A web server on a folder. `faults` are names of files with what goes wrong at their first requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.objects()
        super().do_HEAD()

    def end_headers(self) -> None:
        self.send_header("ETag", '"1"')
        super().end_headers()

    def objects(self) -> None:
        """The path of an object of a bucket in Google's interface, as a plain path."""
        path = unquote(self.path).partition("?")[0]
        self.path = path.removeprefix("/storage/v1/b").replace("/o/", "/", 1) if "/storage/v1" in path else self.path

    def list_objects(self, prefix: str) -> None:
        """S3's answer to a request for the names of a folder."""
        folder = Path(self.translate_path(self.path.partition("?")[0])) / prefix
        names = "".join(
            f"<Contents><Key>{prefix}{path.name}</Key><Size>{path.stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for path in folder.iterdir()
        )
        answer = f"<ListBucketResult><IsTruncated>false</IsTruncated>{names}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self.list_objects(parse_qs(self.path.partition("?")[2]).get("prefix", [""])[0])
            return
        self.objects()
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests[name] += 1
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        data = Path(self.translate_path(self.path))
        if fault == "busy":
            self.send_error(503)
        elif fault in ("broken off", "short", "changed"):
            content = data.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) // 2 if fault == "short" else len(content)))
            self.end_headers()
            self.wfile.write(bytes(len(content)) if fault == "changed" else content[: len(content) // 2])
        elif fault == "silent":
            time.sleep(3)
        elif (part := self.headers.get("Range")) and data.exists():
            first, last = (int(number) for number in part.removeprefix("bytes=").split("-"))
            content = data.read_bytes()[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{data.stat().st_size}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    found = Server(tmp_path / "served")
    Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def remote(tmp_path: Path, **options: Any) -> Remote:
    return Remote(**{"cache": str(tmp_path / "cache"), "attempts": 3, "wait_s": 0.01, **options})


def write(folder: Path, count: int = 9) -> ShardSet:
    samples = [Sample(f"s-{i:03d}", encode_png(noise(9, 7, i)), "png", i % 3) for i in range(count)]
    return write_shards(folder, "train", samples, classes=CLASSES, labeled=True, name="test", samples_per_shard=3)


def content(shards: ShardSet) -> list[tuple[str, dict[str, bytes]]]:
    return [sample for position in range(len(shards.shards)) for sample in shards.reader(position)]


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith((".lock", LIST)))


def test_what_is_an_address_and_what_a_path():
    assert all(map(is_remote, ["http://h/x", "s3://bucket/x", "gs://bucket/x", "file:///x", "pipe:cat /x/{}"]))
    assert not any(map(is_remote, ["datasets/x", "/data/x", Path("/data/x"), None]))
    assert join("http://h/x/", "a.tar") == "http://h/x/a.tar"


@pytest.mark.parametrize("form", ["http", "pipe", "pipe with braces", "file", "memory"])
def test_a_remote_set_is_the_local_set(tmp_path: Path, server: Server, form: str):
    here = write(tmp_path / "served" / "set")
    place = {
        "http": f"{server.url}/set",
        "pipe": f"pipe:cat {here.folder}",
        "pipe with braces": f"pipe:cat {here.folder}/{{}} | cat",
        "file": f"file://{here.folder}",
        "memory": f"memory://set-{tmp_path.name}",
    }[form]
    if form == "memory":
        for path in Path(here.folder).iterdir():
            fsspec.filesystem("memory").pipe(f"/set-{tmp_path.name}/{path.name}", path.read_bytes())
    there = ShardSet.open(place, remote(tmp_path))
    assert content(there) == content(here)
    assert (there.digest, there.shards, there.classes) == (here.digest, here.shards, here.classes)
    assert verify(place, remote=remote(tmp_path))["samples"] == 9


def test_a_shard_is_fetched_once_and_opening_a_set_fetches_none(tmp_path: Path, server: Server):
    write(tmp_path / "served")
    there = ShardSet.open(server.url, remote(tmp_path))
    assert server.requests == {"index.json": 1}
    assert content(there) == content(there)
    again = ShardSet.open(server.url, remote(tmp_path))
    content(again)
    assert server.requests == {"index.json": 2, **{shard.name: 1 for shard in there.shards}}


@pytest.mark.parametrize("fault", ["busy", "broken off", "short", "changed", "silent"])
def test_a_transfer_that_fails_is_repeated(tmp_path: Path, server: Server, fault: str):
    here = write(tmp_path / "served")
    server.faults = {"index.json": ["busy"], "train-000001.tar": [fault, fault]}
    there = ShardSet.open(server.url, remote(tmp_path, stall_s=0.3))
    assert content(there) == content(here)
    assert server.requests["train-000001.tar"] == 3
    assert len(cached(tmp_path)) == 3, "nothing half is left"


def test_pauses_between_attempts_double(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "served")
    there = ShardSet.open(server.url, remote(tmp_path, wait_s=2, attempts=8))
    server.faults = {"train-000000.tar": ["busy"] * 8}
    pauses: list[float] = []
    monkeypatch.setattr("nst.data.remote.time.sleep", pauses.append)
    with pytest.raises(NstError):
        there.path(0)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("busy", "503"), ("broken off", "ClientPayloadError"), ("short", "bytes arrived"), ("changed", "sha256 differs")],
)
def test_a_shard_that_stays_away_is_named_with_attempts_reason_and_next_step(
    tmp_path: Path, server: Server, fault: str, reason: str
):
    write(tmp_path / "served")
    server.faults = {"train-000002.tar": [fault] * 9}
    there = ShardSet.open(server.url, remote(tmp_path))
    with pytest.raises(NstError) as caught:
        there.reader(2)
    for words in (f"{server.url}/train-000002.tar", "3 attempts failed", reason, "curl -I", "same command continues"):
        assert words in str(caught.value)
    assert cached(tmp_path) == []
    assert server.requests["train-000002.tar"] == 3


def test_a_server_that_is_down_is_told(tmp_path: Path, server: Server):
    write(tmp_path / "served")
    there = ShardSet.open(server.url, remote(tmp_path))
    server.shutdown()
    server.server_close()
    with pytest.raises(NstError, match=r"cannot fetch http.*train-000000\.tar[\s\S]*3 attempts.*Connect"):
        there.reader(0)
    with pytest.raises(NstError, match=r"cannot fetch http.*index\.json"):
        ShardSet.open(server.url, remote(tmp_path))


def test_what_is_not_there_is_not_asked_for_again(tmp_path: Path, server: Server):
    shards = write(tmp_path / "served")
    shards.path(1).unlink()
    there = ShardSet.open(server.url, remote(tmp_path))
    with pytest.raises(NstError, match=r"train-000001\.tar\n  got:   not found"):
        there.reader(1)
    assert server.requests["train-000001.tar"] == 1


def test_a_protocol_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(NstError, match="adlfs"):
        ShardSet.open("abfs://container/set", remote(tmp_path))
    with pytest.raises(NstError, match="nope"):
        ShardSet.open("nope://bucket/set", remote(tmp_path, attempts=1))


def play_the_store(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        monkeypatch.setenv(name, server.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.parametrize("scheme", ["s3://", "gs://anonymous@"])
def test_buckets_are_read_and_what_is_missing_there_is_told(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, scheme: str
):
    """The server plays the store: the object of a bucket by path (S3), or by its escaped name (Google's)."""
    here = write(tmp_path / "served" / "bucket" / "folder")
    play_the_store(monkeypatch, server)
    there = ShardSet.open(f"{scheme}bucket/folder", remote(tmp_path))
    assert content(there) == content(here)
    with pytest.raises(NstError, match=r"cannot fetch .*/none/index\.json\n  got:   not found"):
        ShardSet.open(f"{scheme}bucket/none", remote(tmp_path))


def test_a_command_that_fails_or_hangs_is_told(tmp_path: Path):
    with pytest.raises(NstError, match=r"ended with 7: no such bucket[\s\S]*run it by hand"):
        ShardSet.open("pipe:echo no such bucket >&2; exit 7; cat {}", remote(tmp_path))
    start = time.monotonic()
    with pytest.raises(NstError, match=r"nothing came for 0\.2 s"):
        ShardSet.open("pipe:sleep 60; cat {}", remote(tmp_path, attempts=1, stall_s=0.2))
    assert time.monotonic() - start < 30


def test_a_name_from_an_index_is_no_command(tmp_path: Path):
    assert join("pipe:cat /x", "a; rm -rf b") == "pipe:cat /x/'a; rm -rf b'"
    assert join("pipe:cat /x/{} | gunzip", "$(id).tar") == "pipe:cat /x/'$(id).tar' | gunzip"


# ---- the cache


def _open_all(url: str, options: Remote, start: Any) -> None:
    start.wait(20)
    shards = ShardSet.open(url, options)
    os._exit(0 if len(content(shards)) == 9 else 1)


def test_processes_that_start_together_fetch_every_shard_once(tmp_path: Path, server: Server):
    shards = write(tmp_path / "served")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    processes = [context.Process(target=_open_all, args=(server.url, remote(tmp_path), start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert {shard.name: server.requests[shard.name] for shard in shards.shards} == dict.fromkeys(
        (shard.name for shard in shards.shards), 1
    )


def test_the_cache_keeps_its_size_and_what_was_used_last(tmp_path: Path, server: Server):
    shards = write(tmp_path / "served", 12)
    there = ShardSet.open(server.url, remote(tmp_path, cache_gb=2.5 * shards.shards[0].bytes / 1e9))
    first = there.path(0)
    os.utime(first, (1000, 1000))
    second = there.path(1)
    os.utime(second, (2000, 2000))
    assert there.path(0) == first  # so the second was used longest ago when the third needs room
    third = there.path(2)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert there.path(1).exists()
    assert server.requests["train-000001.tar"] == 2


def test_the_cache_follows_the_free_disk_and_counts_what_it_holds_itself(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
):
    """A disk with room for four shards and a half: three may lie in the cache, however full they make the disk."""
    shards = write(tmp_path / "served", 20)
    size = max(shard.bytes for shard in shards.shards)
    folder = remote(tmp_path).folder

    def disk(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=4.5 * size - sum(file.stat().st_size for file in folder.glob("*.tar")))

    monkeypatch.setattr(shutil, "disk_usage", disk)
    there = ShardSet.open(server.url, remote(tmp_path))
    held = []
    for number in range(5):
        os.utime(there.path(number), (1000 * number, 1000 * number))
        held.append(len(cached(tmp_path)))
    assert held == [1, 2, 3, 3, 3]


def test_an_open_shard_stays_readable_when_the_cache_drops_it(tmp_path: Path, server: Server):
    here = write(tmp_path / "served")
    there = ShardSet.open(server.url, remote(tmp_path, cache_gb=1e-9))
    readers = [there.reader(position) for position in range(3)]
    assert len(cached(tmp_path)) == 1
    assert [sample for reader in readers for sample in reader] == content(here)


def test_a_cache_that_holds_nothing_keeps_what_a_thread_was_given_until_it_asks_again(tmp_path: Path):
    names = [shard.name for shard in write(tmp_path / "set").shards]
    options, both, seen = remote(tmp_path, cache_gb=1e-9), Barrier(2, timeout=60), []

    def ask(first: str, second: str | None) -> None:
        path, _ = options.unknown_shard(f"pipe:cat {tmp_path}/set/{first}", first)
        both.wait()
        seen.append(path.exists())
        both.wait()
        if second is not None:
            options.unknown_shard(f"pipe:cat {tmp_path}/set/{second}", second)
            seen.append(path.exists())
        both.wait()

    threads = [Thread(target=ask, args=given) for given in ((names[0], names[1]), (names[2], None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True, True, False]
    assert len(cached(tmp_path)) == 2, "of the two threads"


def test_a_shard_that_changed_at_its_place_is_never_taken_for_the_old_one(tmp_path: Path, server: Server):
    write(tmp_path / "served")
    content(ShardSet.open(server.url, remote(tmp_path)))
    shutil.rmtree(tmp_path / "served")
    changed = write_shards(
        tmp_path / "served",
        "train",
        [Sample(f"t-{i}", encode_png(noise(9, 7, 50 + i)), "png", 0) for i in range(3)],
        classes=CLASSES,
        labeled=True,
        name="changed",
        samples_per_shard=3,
    )
    assert content(ShardSet.open(server.url, remote(tmp_path))) == content(changed)


def test_a_cache_that_cannot_be_written_is_told_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "set")
    tries: list[str] = []

    def full(url: str, target: Path, stall_s: float) -> None:
        tries.append(url)
        raise OSError(28, "No space left on device")

    there = ShardSet.open(f"pipe:cat {tmp_path}/set", remote(tmp_path))
    monkeypatch.setattr("nst.data.remote.transfer", full)
    with pytest.raises(NstError, match=r"cache of remote shards[\s\S]*No space left[\s\S]*remote\.cache="):
        there.path(0)
    assert len(tries) == 1
    assert cached(tmp_path) == []


# ---- in the pipeline


def test_training_batches_from_a_flaky_server_are_those_from_the_disk(tmp_path: Path, server: Server):
    here = write(tmp_path / "served", 12)
    server.faults = {"train-000002.tar": ["broken off"], "train-000000.tar": ["busy", "short"]}
    there = ShardSet.open(server.url, remote(tmp_path))
    view = clean_view(8, Pictures(small=True))

    def batches(shards: ShardSet) -> TrainingBatches:
        return TrainingBatches(LabeledSamples(shards, view, seed=0), None, labeled_batch_size=4, unlabeled_batch_size=0)

    expected = [batches(here)[step] for step in range(6)]
    read = list(Loader(batches(there), _Steps(0, 6), LoaderOptions(workers=2, prefetch=2)))
    for one, other in zip(read, expected, strict=True):
        assert (one["images"] == other["images"]).all()
        assert (one["labels"] == other["labels"]).all()
        assert one["bad"] == []
    assert server.requests["train-000001.tar"] == 1, "two workers, one request"


def test_a_shard_that_stays_away_ends_the_loader_with_its_name(tmp_path: Path, server: Server):
    write(tmp_path / "served", 12)
    server.faults = {"train-000003.tar": ["busy"] * 99}
    there = ShardSet.open(server.url, remote(tmp_path))
    samples = LabeledSamples(there, clean_view(8, Pictures(small=True)), seed=0)
    batches = TrainingBatches(samples, None, labeled_batch_size=4, unlabeled_batch_size=0)
    with pytest.raises(NstError, match=r"cannot fetch http.*train-000003\.tar"):
        list(Loader(batches, _Steps(0, 6), LoaderOptions(workers=2, prefetch=2)))


def test_tars_at_an_address_are_indexed_from_here_and_stay_there(tmp_path: Path, server: Server):
    here = write(tmp_path / "served")
    (Path(here.folder) / "index.json").unlink()
    options = remote(tmp_path)
    found = index_tars(server.url, output=tmp_path / "index", remote=options)
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["index.json"]
    assert (found.shards, found.label_counts) == (here.shards, (3, 3, 3))
    assert content(ShardSet.open(tmp_path / "index", options)) == content(here)
    with pytest.raises(NstError, match="does not list"):
        index_tars(f"pipe:cat {here.folder}", output=tmp_path / "index", remote=options)


def test_a_cache_smaller_than_a_shard_is_enough_for_indexing(tmp_path: Path, server: Server):
    here = write(tmp_path / "served", 36)
    (Path(here.folder) / "index.json").unlink()
    found = index_tars(server.url, output=tmp_path / "index", remote=remote(tmp_path, cache_gb=1e-9))
    assert found.shards == here.shards


def test_tars_in_a_bucket_are_indexed(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    here = write(tmp_path / "served" / "bucket" / "folder", 6)
    play_the_store(monkeypatch, server)
    found = index_tars("s3://bucket/folder", output=tmp_path / "index", remote=remote(tmp_path))
    assert (found.shards, found.place) == (here.shards, "s3://bucket/folder")
