"""Ends a pod's other hosts when one of them fails: they would wait for it in a collective for ever.

Every host has a small process beside it, its watcher. The watchers are connected to host 0's, which passes on what one
of them has to tell: that its host has failed, and why, or is gone. They then give their own hosts GRACE seconds to end
with words of their own, and kill them: a job that has ended can be started again, one that waits only costs.

Nothing beats, and nobody is missed for being slow. A host may compile for half an hour, or write a checkpoint, without
a word; that it is alive is what the operating systems know, of which the watchers ask whether a process and a
connection are there. They are processes, not threads, because a thread waits as the others do where a call holds
Python's lock. Nothing of torch is imported, here or by the watchers, which run this file alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GRACE = 60.0  # s
START = 120.0  # s in which the watchers find each other
LOOK = 0.5  # s between two looks whether the host's process is there
# a machine without power or network says nothing: after 30 s of silence it is asked, and missed after 60 s more
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
GONE, LOST = "its process is gone", "its machine or its watcher is gone"

_watcher: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Settings:
    """What a watcher has to know.

    Args:
        host: number of its own, of `count`; `process`: of the operating system.
        address, port: where host 0's watcher listens.
        token: known to the job's watchers, so that nobody else is taken for one.
        listener: file descriptor of host 0's listening socket; -1 on the others.
        grace: s, see GRACE.
    """

    host: int
    count: int
    process: int
    address: str
    port: int
    token: str
    listener: int
    grace: float


# ---- in the host's process -------------------------------------------------------------------------------


def hold(host: int, count: int, meeting_place: str, agree: Callable[[Any], Any]) -> None:
    """Starts this host's watcher, the first time it is called. All hosts must ask.

    Args:
        host: number of this one, of `count`.
        meeting_place: address of a machine that all hosts reach; nothing is sent there.
        agree: gives all hosts the value of host 0.
    """
    global _watcher
    if _watcher is not None:
        return
    with contextlib.ExitStack() as stack:
        offer, listener = None, -1
        if host == 0:
            server = stack.enter_context(socket.create_server(("", 0), backlog=1024))
            offer = (_own_address(meeting_place), server.getsockname()[1], secrets.token_hex(16))
            listener = server.fileno()
        address, port, token = agree(offer)
        _watcher = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,  # nothing is left to be sent when it is closed
            pass_fds=[listener] if host == 0 else [],
            start_new_session=True,  # what stops the host's process group is not meant for it
        )
    _write(asdict(Settings(host, count, os.getpid(), address, port, token, listener, GRACE)))
    threading.Thread(target=_end_with, args=[_watcher], daemon=True).start()


def _end_with(watcher: subprocess.Popen[bytes]) -> None:
    """Ends this host where its watcher was killed: the others take it for lost, and end."""
    if (code := watcher.wait()) != 0 and watcher.stdin is not None and not watcher.stdin.closed:
        print(f"nst: this host's watcher has ended with {code}, and the host with it", file=sys.stderr, flush=True)
        os._exit(1)


def release(fault: str | None = None) -> None:
    """Tells the other hosts that this one ends: well, or by a fault. Nothing where no watcher was started.

    Ending without it is a fault too. Only the first call counts.
    """
    if _watcher is not None and _watcher.stdin is not None and not _watcher.stdin.closed:
        _write({"fault": fault})
        _watcher.stdin.close()


def _write(message: Any) -> None:
    assert _watcher is not None
    assert _watcher.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # killed: this host is on its own, and no worse off than without
        _watcher.stdin.write(_line(message))


def _own_address(meeting_place: str) -> str:
    """The address by which machines that reach `meeting_place` reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((meeting_place, 9))  # of datagrams: sends nothing, chooses the interface
        return str(probe.getsockname()[0])


def _line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


# ---- in the watcher's process ----------------------------------------------------------------------------


async def watch() -> None:
    """Until this host has ended, or host 0 has ended well: then nobody waits for anybody any more."""
    words = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    settings = Settings(**json.loads(await words.readline()))
    own = asyncio.create_task(_own_end(settings, words))
    if settings.listener < 0:
        await _follow(settings, own)
        return
    exchange = Exchange(settings)
    server = await asyncio.start_server(exchange.serve, sock=socket.socket(fileno=settings.listener))
    await _follow(settings, own)
    with contextlib.suppress(TimeoutError):  # those that come later than this host's end have to be told too
        await asyncio.wait_for(exchange.complete.wait(), START)
    server.close()


async def _follow(settings: Settings, own: asyncio.Task[str | None]) -> None:
    """Tells of this host's end, and ends it where another has failed."""
    found = await _connect(settings)
    if found is None:
        if _alive(settings):
            _say(settings, f"no connection to host 0's watcher at {settings.address}:{settings.port}; if another host"
                 " fails, this one may wait for it")  # fmt: skip
            await own
        return
    reader, writer = found
    with contextlib.closing(writer):
        others = asyncio.create_task(_others_end(reader))
        await asyncio.wait({own, others}, return_when=asyncio.FIRST_COMPLETED)
        if not own.done():
            if (fault := others.result()) is not None:
                _say(settings, f"{fault}; this one ends in {settings.grace:.0f} s")
                await _end(settings)
            return
        with contextlib.suppress(ConnectionError):
            writer.write(_line({"fault": own.result()}))
            await writer.drain()
        if own.result() is not None or settings.host == 0:
            await others  # its own word, sent back: all that are there have it
        if own.result() is not None:
            await _end(settings)


class Exchange:
    """Host 0's watcher as the one that passes on: a fault to all, and that host 0 has ended well."""

    def __init__(self, settings: Settings) -> None:
        self.token, self.count = settings.token, settings.count
        self.came: set[int] = set()
        self.complete = asyncio.Event()  # every host's watcher has come
        self.writers: set[StreamWriter] = set()
        self.told: bytes | None = None

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One watcher's connection, from its first word to its last or to the end of this watcher."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        _keep_alive(writer)
        hello = await _read(reader)
        if hello is None or hello.get("token") != self.token:
            writer.close()
            return
        self.writers.add(writer)
        if self.told is not None:  # before this one came
            writer.write(self.told)
        host = hello["host"]
        self.came.add(host)
        if len(self.came) == self.count:
            self.complete.set()
        word = await _read(reader) or {"fault": LOST}
        if self.told is None and (word["fault"] is not None or host == 0):
            self.told = _line({"host": host, "fault": word["fault"]})
            for each in self.writers:
                each.write(self.told)
        self.writers.discard(writer)


async def _connect(settings: Settings) -> tuple[StreamReader, StreamWriter] | None:
    deadline = asyncio.get_running_loop().time() + START
    while asyncio.get_running_loop().time() < deadline:  # also for a host that has ended: the others want to know
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(settings.address, settings.port), 10)
        except OSError:  # too late too
            await asyncio.sleep(LOOK)
            continue
        _keep_alive(writer)
        writer.write(_line({"host": settings.host, "token": settings.token}))
        return reader, writer
    return None


async def _own_end(settings: Settings, words: StreamReader) -> str | None:
    """The fault by which this host ends; None: it ends well."""
    said = asyncio.create_task(words.readline())
    while not said.done() and _alive(settings):
        await asyncio.wait({said}, timeout=LOOK)
    line = said.result() if said.done() else b""
    return json.loads(line)["fault"] if line else GONE


async def _others_end(reader: StreamReader) -> str | None:
    """Which host has failed, and how; None: host 0 has ended well, and nobody waits for anybody any more."""
    word = await _read(reader) or {"host": 0, "fault": LOST}
    return None if word["fault"] is None else f"host {word['host']} has failed: {word['fault']}"


async def _end(settings: Settings) -> None:
    """Ends this host's process, unless it does so itself in time."""
    deadline = asyncio.get_running_loop().time() + settings.grace
    while _alive(settings) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(LOOK)
    if _alive(settings):
        os.kill(settings.process, signal.SIGKILL)


async def _read(reader: StreamReader) -> dict[str, Any] | None:
    """A message; None: the connection has ended, or was never one of ours."""
    try:
        line = await reader.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else None
    except (OSError, ValueError):
        return None


def _keep_alive(writer: StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _alive(settings: Settings) -> bool:
    return os.getppid() == settings.process  # an orphan gets another parent


def _say(settings: Settings, text: str) -> None:
    print(f"nst: host {settings.host}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the host's, which the watcher outlives by a moment
    asyncio.run(watch())
