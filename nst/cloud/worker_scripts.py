"""The shell scripts that run on a TPU's workers. Each ends in one line, `nst-worker <number> <answer>`.

On a worker, `~/nst` is the code with its environment and `~/nst-job` the job: `id`, `command`, `pid`, `exit`, `log`,
and `ready`, the commit that was set up. A lock held by the job for as long as it lives says that it runs: the kernel
releases it however the job dies, so there is no stale pid to believe.

Every script may run twice. gcloud itself repeats a command whose connection dropped, so a launch carries a name, and a
worker that has seen the name does not start again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number"
STOP_SECONDS = 30  # between SIGTERM and SIGKILL
LOOK_BYTES = 1_000_000  # of a log at a time
ENVIRONMENT = "nst.env"  # in the home folder of a worker, until the job is started

PRELUDE = f"""\
job=$HOME/nst-job
mkdir -p "$job/logs"
worker=$(hostname)
case $worker in
    *-w-[0-9]*) worker=${{worker##*-w-}} ;;
    *) worker=$(curl -fs -m 20 -H "Metadata-Flavor: Google" {METADATA} || echo 0) ;;
esac
answer() {{ printf "nst-worker %s %s\\n" "$worker" "$*"; }}
running() {{ [ -e "$job/lock" ] && ! flock --nonblock --shared "$job/lock" true; }}
content() {{ cat "$job/$1" 2>/dev/null || echo -; }}
command_line() {{ content command | tr "\\n" " " | cut -c 1-300; }}
state() {{
    code=-
    if running; then state=running
    elif [ -e "$job/exit" ]; then state=ended; code=$(cat "$job/exit")
    elif [ -e "$job/id" ]; then state=lost
    elif [ -e "$job/ready" ]; then state=idle
    else state=new
    fi
    answer "$state $code $(content ready) $(content id) $(command_line)"
}}
"""

STATE = f"{PRELUDE}state"

STOP = f"""\
{PRELUDE}
if running; then
    pid=$(cat "$job/pid")
    kill -TERM -- "-$pid"
    for tenth in $(seq {10 * STOP_SECONDS}); do running || break; sleep 0.1; done
    running && kill -KILL -- "-$pid" && sleep 1
    echo stopped >"$job/exit"
fi
state"""


def setup(source: str, ref: str, torch_index: str | None = None) -> str:
    """Fetches `ref` from a bundle or URL, checks it out and installs the environment; answers `ready <commit>`.

    Args:
        torch_index: see NST_TORCH_INDEX in bin/install; None: as it was set up before.
    """
    index = f"NST_TORCH_INDEX={shlex.quote(torch_index)} " if torch_index is not None else ""
    return f"""\
{PRELUDE}
install_nst() {{
    git init --quiet "$HOME/nst" &&
    cd "$HOME/nst" &&
    git fetch --quiet -- {source} {shlex.quote(ref)} &&
    git checkout --quiet --force --detach FETCH_HEAD &&
    {{ command -v python3.11 || export NST_PYTHON=uv; }} &&
    {index}NST_EXTRAS=tpu bin/install &&
    git rev-parse HEAD >"$job/ready.new" &&
    mv "$job/ready.new" "$job/ready"
}}
exec 7>"$job/setup.lock"
flock 7
if running; then
    answer "busy $(command_line)"
else
    rm -f "$job/ready"
    if install_nst >"$job/logs/setup.log" 2>&1 7>&-; then answer "ready $(content ready)"
    else answer "failed $(grep . "$job/logs/setup.log" | tail -n 1 | cut -c 1-300)"
    fi
fi"""


def launch(name: str, commit: str, words: Sequence[str], variables: Mapping[str, str]) -> str:
    """Starts `bin/nst <words>` in a session of its own, once per `name`; answers `started`, `busy` or `changed`.

    `variables` are seen in this script; what nobody may see lies in the file `ENVIRONMENT`, which the job reads once.
    """
    command = shlex.join(words)
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    # what outlives nst, such as a loader, would keep the TPU: it is ended before the exit code is written
    job = f"""\
echo $$ >"$HOME/nst-job/pid"
{exports}if [ -e "$HOME/nst-job/env" ]; then . "$HOME/nst-job/env"; rm -f "$HOME/nst-job/env"; fi
bin/nst {command}
echo $? >"$HOME/nst-job/exit.new"
trap "" TERM
kill -TERM 0
mv "$HOME/nst-job/exit.new" "$HOME/nst-job/exit"
"""
    return f"""\
{PRELUDE}
exec 8>"$job/lock"
if ! flock --wait 2 8; then
    if [ "$(content id)" = {name} ]; then answer started; else answer "busy $(command_line)"; fi
elif [ "$(content id)" = {name} ]; then
    answer started
elif [ "$(content ready)" != {shlex.quote(commit)} ]; then
    answer "changed $(content ready)"
else
    rm -f "$job/exit" "$job/pid" "$job/env"
    [ -e "$HOME/{ENVIRONMENT}" ] && chmod 600 "$HOME/{ENVIRONMENT}" && mv "$HOME/{ENVIRONMENT}" "$job/env"
    printf %s {shlex.quote(command)} >"$job/command"
    ln -sfn logs/{name}.log "$job/log"
    echo {name} >"$job/id.new"
    mv "$job/id.new" "$job/id"
    cd "$HOME/nst"
    setsid sh -c {shlex.quote(job)} >"$job/log" 2>&1 </dev/null &
    answer started
fi
rm -f "$HOME/{ENVIRONMENT}"
"""


def look(file: str, mark: str, *, start: int = 0, lines: int | None = None) -> str:
    """Prints a piece of a log between two marks, from byte `start` or the last `lines`, and where it ended.

    The state is taken before the log is read: once it says ended, what was read is the whole log (up to `LOOK_BYTES`).
    """
    if lines is not None:
        end, piece = "$size", f'head -c "$end" "$file" | tail -n {lines}'
    else:
        most = start + LOOK_BYTES
        end, piece = f"$((size < {most} ? size : {most}))", f'tail -c +{start + 1} "$file" | head -c $((end - {start}))'
    return f"""\
{PRELUDE}
said=$(state)
file=$job/{file}
size=0
[ -e "$file" ] && size=$(stat -L -c %s "$file")
end={end}
echo {mark} begin
[ -e "$file" ] && {piece}
printf "\\n%s end %s\\n%s\\n" {mark} "$end" "$said"
"""
