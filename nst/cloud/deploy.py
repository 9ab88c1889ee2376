"""The code onto a TPU's workers, and its environment.

What travels is a git bundle of the committed HEAD (or a fetch from a repository), not a copy of the folder. So every
worker has exactly one known commit, which run directories record, files that left the repository leave the workers
too, and the environment there stays in place.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from nst.cloud import worker_scripts
from nst.cloud.gcloud import Shell, Tpu
from nst.cloud.refusals import CloudError
from nst.cloud.workers import Workers, copy, numbers
from nst.errors import NstError
from nst.shown import some, without_secrets

ROOT = Path(__file__).resolve().parent.parent.parent
COMMIT = "0" * 40  # what a dry run assumes


@dataclass(frozen=True)
class CodeSource:
    """Where the workers fetch from: a bundle that is copied there first, or a URL."""

    place: str  # as the worker's shell reads it
    ref: str = "HEAD"
    bundle: Path | None = None

    @classmethod
    def repository(cls, url: str, ref: str) -> CodeSource:
        """Raises NstError for a URL with a password: each user of a worker could read it in the list of processes."""
        if without_secrets(url) != url:
            raise NstError(
                "--repo holds a password, which others would see",
                got=url,
                valid="a URL that needs none",
                next="without --repo the code is copied from here",
            )
        return cls(shlex.quote(url), ref)


def git(shell: Shell, *arguments: str, assume: str = "") -> str:
    """Output of git in this repository.

    Raises:
        NstError: git refused.
    """
    done = shell.run(["git", "-C", str(ROOT), *arguments], assume)
    if done.returncode:
        raise NstError(
            "the code to set up is the HEAD of a git repository, and this folder is in none",
            got=done.stderr.strip() or None,
            next="--repo <url> for the workers to clone from",
        )
    return done.stdout.rstrip()  # a status line may begin with a space


def committed(shell: Shell, folder: Path) -> CodeSource:
    """A bundle of HEAD in `folder`; what is not committed is named, and stays here."""
    changed = git(shell, "status", "--porcelain").splitlines()
    if changed:
        names = some([line[3:] for line in changed], 5)
        shell.say(f"warning: {len(changed)} uncommitted changes stay here, the TPU gets HEAD: {names}")
    if git(shell, "rev-parse", "--is-shallow-repository", assume="false") == "true":
        raise NstError("a shallow clone cannot be copied", next="git fetch --unshallow, or --repo <url>")
    bundle = folder / "nst.bundle"
    git(shell, "bundle", "create", "--quiet", str(bundle), "HEAD")
    return CodeSource('"$HOME/nst.bundle"', bundle=bundle)


def setup(tpu: Tpu, source: CodeSource) -> str:
    """Code and environment on every worker, from `source`; returns the commit.

    Raises:
        NstError: an installation failed, a job is running, or workers ended up with different commits.
        CloudError: workers did not answer.
    """
    workers = Workers(tpu)
    if source.bundle is not None:
        copy(tpu, source.bundle, "nst.bundle")
    tpu.shell.say(
        f"installing on {workers.count} worker{'s' if workers.count > 1 else ''}: the first time takes minutes"
    )
    answers = workers.all(
        worker_scripts.setup(source.place, source.ref, os.environ.get("NST_TPU_TORCH_INDEX")), assume=f"ready {COMMIT}"
    )
    said = {number: text.partition(" ") for number, text in answers.items()}
    busy, failed = ({number: rest for number, (first, _, rest) in said.items() if first == word}
                    for word in ("busy", "failed"))  # fmt: skip
    if busy:
        raise NstError(f"{numbers(busy)}: a job is running: {busy[min(busy)]}", next=f"bin/tpu stop {tpu.name}")
    if failed:
        log = f"bin/tpu logs {tpu.name} --setup --worker {min(failed)}"
        raise NstError(f"{numbers(failed)}: the installation failed", got=failed[min(failed)], next=log)
    commits = {commit for _, _, commit in said.values()}
    if len(commits) > 1:
        raise CloudError("commits", "the workers fetched different commits", got=commits, next="--ref <commit>")
    commit = commits.pop()
    tpu.shell.say(f"{tpu.name}: {numbers(answers)} ready, commit {commit[:12]}")
    tpu.shell.say(f"next: bin/tpu run {tpu.name} -- train trainer={'tpu_pod' if workers.count > 1 else 'tpu'} ...")
    return commit
