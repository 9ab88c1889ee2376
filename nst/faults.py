"""Turns torch's words for a machine's failure into words to act on.

Torch raises a RuntimeError wherever the work happens to be, and much of it (NCCL, the driver, a loader process) has no
class of its own: so its text decides. Nothing here imports torch.
"""

from __future__ import annotations

from nst.errors import NstError

CONTINUES = "the same command continues"
_SHARED_MEMORY = ("Bus error", "bus error", "shared memory", "<torch_", "/torch_")
_NO_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")
_OLD_DRIVER = "NVIDIA driver on your system is too old"
_RANKS = {
    "NCCL": "NCCL_DEBUG=INFO before the command shows why; of several machines: NCCL_SOCKET_IFNAME=<their network>, as"
    " `ip addr` names it; in a container: --shm-size 8g",
    "Gloo": "GLOO_SOCKET_IFNAME=<the machines' common network>, as `ip addr` names it",
}


def in_words(error: BaseException, stage: str = "train") -> NstError | None:
    """The fault behind one of torch's errors, as `nst <stage>` tells it; None for any other error."""
    said = str(error)
    if "DataLoader worker (pid" in said or ("shared memory" in said and "torch_" in said):
        # "exited unexpectedly", raised while a loader was waited for, has the signal that ended it as its cause
        return _loader_death(str(error.__cause__ or error))
    if type(error).__name__ == "OutOfMemoryError" or any(text in said for text in _NO_MEMORY):
        return _no_memory(said, stage)
    if _OLD_DRIVER in said or "Found no NVIDIA driver" in said:
        return no_gpu(said)
    if "NCCL error" in said:
        return _not_connected("NCCL", said)
    if "Gloo connectFullMesh failed" in said:
        return _not_connected("Gloo", said)
    if "Connection closed by peer" in said or "clients joined" in said:
        return NstError("another rank is gone", got=_line(said), next=f"see its own message; {CONTINUES}")
    return None


def no_gpu(said: str) -> NstError:
    """There is none that torch can use; `said` is its own reason, or empty."""
    if _OLD_DRIVER in said:
        return NstError(
            "the NVIDIA driver is older than this torch wants",
            got=_line(said).partition(". Please")[0],
            next="a newer driver, or in nst's environment a torch for this one (https://pytorch.org); trainer=cpu",
        )
    return NstError(
        "no GPU was found",
        got=f"trainer with accelerator=gpu{'; ' if said else ''}{_line(said).partition('. Please')[0]}",
        next="trainer=cpu, or see what `nvidia-smi` finds; a container needs: docker run --gpus all",
    )


def no_shared_memory(got: str) -> NstError:
    """Loader processes hand batches over in /dev/shm, and it is too small."""
    return NstError(
        "shared memory (/dev/shm) has no room for the loader's batches",
        got=got,
        next="trainer.workers=<fewer>, trainer.prefetch=1, or more of it: docker run --shm-size 16g;"
        f" trainer.workers=0 does without. With each of them {CONTINUES}",
    )


def _loader_death(said: str) -> NstError:
    if any(text in said for text in _SHARED_MEMORY):
        return no_shared_memory(_line(said))
    return NstError(
        "a loader process died",
        got=_line(said),
        next=f"killed ones most often ran out of memory: trainer.workers=<fewer>; {CONTINUES}",
    )


def _no_memory(said: str, stage: str) -> NstError:
    """What makes a step smaller, and what becomes of the work that is done."""
    training = (
        f"model.remat=true: with it {CONTINUES}; or trainer.accumulate=2 (4, 8 ...), a smaller"
        " student.labeled_batch_size or student.unlabeled_ratio: another training, so with another run_dir"
    )
    options = {"label": "label.batch_size", "evaluate": "eval.batch_size", "predict": "predict.batch_size"}
    ways = {name: f"{option}=<smaller>: with it {CONTINUES}" for name, option in options.items()}
    if stage == "iterate":
        training += f"\n         in labeling: {ways['label']}\n         in evaluation: {ways['evaluate']}"
    where = "memory" if "can't allocate memory" in said else "GPU memory"
    return NstError(f"out of {where}", got=_line(said), next=ways.get(stage, training))


def _not_connected(library: str, said: str) -> NstError:
    reasons = [line for line in map(str.strip, said.splitlines()) if line and line != "Last error:"]
    got = "; ".join(dict.fromkeys((reasons[0], reasons[-1])))
    return NstError(f"{library} cannot connect the ranks", got=got, next=_RANKS[library])


def _line(said: str) -> str:
    return said.strip().partition("\n")[0]
