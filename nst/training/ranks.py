"""The ranks of one training on CPUs or GPUs: who started them, that they are as many as asked for, what all agree on.

Three may start them: torchrun, Slurm's srun (whose variables are rewritten as torchrun's, so that below there is one
kind of rank), or nst itself: then Lightning starts the others of this machine when the first fit begins.

What depends on files (is there a checkpoint to continue from?) rank 0 decides, and leaves in a store under a number
that counts up. The others read it there whenever they come to the same place, so those that are started later find
what was decided before they were.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from nst.errors import NstError, UsageError, in_a_line

TO_SAY_S = 30  # until the first rank of a machine has said what is wrong
TO_COME_S = 300  # until all ranks have begun
TO_DECIDE_S = 3600  # longer than the slowest thing that rank 0 does alone, such as hashing a large data set
_PORTS = range(15000, 30000)  # below those that the kernel hands out

_numbers = itertools.count()


@dataclass(frozen=True)
class World:
    """The ranks as whoever started them counts them.

    Args:
        launcher: "torchrun", "srun", or "nst" where this process is alone or starts the others itself.
        here: ranks on this machine.
    """

    launcher: str
    rank: int
    size: int
    here: int

    @classmethod
    def current(cls, devices: int, nodes: int) -> World:
        """This process's; `devices` and `nodes` are as asked for.

        Raises:
            UsageError: others than as many as that were started, or several nodes without torchrun or srun.
        """
        if _started_by_srun():
            _rename_slurm_variables()
        launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()
        launcher = ("srun" if _SRUN in os.environ else "torchrun") if launched else "nst"
        if launched:
            size = int(os.environ["WORLD_SIZE"])
            here = int(os.environ.get("LOCAL_WORLD_SIZE", size // nodes))
            world = cls(launcher, int(os.environ["RANK"]), size, here)
        else:
            world = cls(launcher, int(os.environ.get("LOCAL_RANK", "0")), devices, devices)
        if (world.size, world.here) != (devices * nodes, devices):
            if os.environ.get("LOCAL_RANK", "0") != "0":  # once a machine is enough
                time.sleep(TO_SAY_S)  # who started them ends all when the first has ended
                raise SystemExit(UsageError.exit_code)
            raise _other_world(world, devices, nodes)
        return world


_SRUN = "NST_RANKS_OF_SRUN"  # set where the variables below are srun's, renamed


def environment(devices: int, nodes: int) -> ClusterEnvironment:
    """How Lightning finds the ranks; its own search takes a Slurm shell for a rank.

    Raises:
        UsageError: as `World.current`.
    """
    return LightningEnvironment() if World.current(devices, nodes).launcher == "nst" else TorchElasticEnvironment()


def agreed(value: Any, devices: int, nodes: int) -> Any:
    """Rank 0's value of what each may see otherwise; all ranks ask, in the same order. Values have a JSON form.

    Raises:
        NstError: a rank does not come or is gone; UsageError: as `World.current`.
    """
    world = World.current(devices, nodes)
    if world.size == 1:
        return value
    number = next(_numbers)
    patience = TO_COME_S if number == 0 else TO_DECIDE_S
    key, heard = f"decision {number}", f"decision {number} is known"
    try:
        store = _store(world.rank)
        if world.rank == 0:
            store.set(key, json.dumps(value))
            # until all know: this process may be through after it, and takes the store along. Ranks that this one will
            # start later are not there yet
            if "LOCAL_RANK" in os.environ:
                _wait(store, heard, patience)
            return value
        _wait(store, key, patience)
        if store.add(f"heard {number}", 1) == world.size - 1:
            store.set(heard, "")
        return json.loads(store.get(key))
    except (dist.DistError, TimeoutError) as error:
        raise _apart(world, number, error) from error


def _wait(store: dist.Store, key: str, patience: float) -> None:
    """Until somebody has set the key. Not by the store's own waiting, which no Ctrl-C interrupts."""
    since = time.monotonic()
    while not store.check([key]):
        if time.monotonic() - since > patience:
            raise TimeoutError(f"not within {patience:.0f} s")
        time.sleep(0.02)


@functools.cache
def _store(rank: int) -> dist.Store:
    """Where ranks meet: torchrun's store, else one of rank 0's at MASTER_ADDR:MASTER_PORT, which Lightning's process
    group shares. Where nobody has chosen a port, a free one is taken and told to the ranks that are started later."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = dist.TCPStore(
        address,
        int(os.environ.get("MASTER_PORT", "0")),
        is_master=rank == 0 and not served,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=TO_COME_S),
        multi_tenant=True,
    )
    os.environ.setdefault("MASTER_PORT", str(store.port))
    return dist.PrefixStore("nst", store)


# ---- Slurm ---------------------------------------------------------------------------------------------------------


def _started_by_srun() -> bool:
    """Whether this process is a task of srun, and not a command in a shell that Slurm has opened on a node."""
    names = os.environ
    if "SLURM_PROCID" not in names or "SLURM_NTASKS" not in names or "RANK" in names:
        return False  # outside of Slurm, in a shell of salloc, or a rank of torchrun
    shell = "SLURM_PTY_PORT" in names or names.get("SLURM_JOB_NAME") in ("bash", "interactive")
    # srun inside such a shell inherits its names, but has tasks of its own
    return not shell or int(names.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _rename_slurm_variables() -> None:
    names = os.environ
    size = names.get("SLURM_STEP_NUM_TASKS", names["SLURM_NTASKS"])
    here = names.get("SLURM_STEP_TASKS_PER_NODE", names.get("SLURM_NTASKS_PER_NODE", ""))
    job, step = (int(names.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    hosts = names.get("SLURM_STEP_NODELIST", names.get("SLURM_JOB_NODELIST", names.get("SLURM_NODELIST", "127.0.0.1")))
    names.update({_SRUN: "1", "RANK": names["SLURM_PROCID"], "WORLD_SIZE": size})
    names["LOCAL_RANK"] = names.get("SLURM_LOCALID", "0")
    names["GROUP_RANK"] = names.get("SLURM_NODEID", "0")
    if match := re.match(r"\d+", here):  # "4(x2)": four on each of two nodes
        names["LOCAL_WORLD_SIZE"] = match[0]
    names.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(hosts))
    # steps that share a node need ports of their own
    names.setdefault("MASTER_PORT", str(_PORTS[(job + 97 * step) % len(_PORTS)]))


# ---- in words ------------------------------------------------------------------------------------------------------


def _other_world(world: World, devices: int, nodes: int) -> UsageError:
    asked = f"trainer.devices={devices} trainer.num_nodes={nodes}"
    several = f" --nodes={nodes}" if nodes > 1 else ""
    right = f"srun{several} --ntasks-per-node={devices} nst ..."
    if world.launcher == "torchrun":
        several = several.replace("nodes", "nnodes")
        right = f"torchrun{several} --nproc-per-node={devices} -m nst ..."
    if world.launcher == "nst":
        return UsageError(
            "several nodes are started by torchrun or by Slurm's srun",
            got=f"nst alone, {asked}",
            next=f"{right} (docs/gpus.md)",
        )
    machines = max(world.size // max(world.here, 1), 1)
    return UsageError(
        f"{world.launcher} has started {world.size} {'rank' if world.size == 1 else 'ranks'}, not one for each device",
        got=f"{world.here} on this machine, {world.size} in all; {asked}",
        valid=f"{devices} on each of {nodes} {'machine' if nodes == 1 else 'machines'}",
        next=f"{right}, or trainer.devices={world.here} trainer.num_nodes={machines}",
    )


def _apart(world: World, number: int, error: Exception) -> NstError:
    if number == 0:
        return NstError(
            f"the {world.size} ranks do not all come together",
            got=f"{in_a_line(error)} at {os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '')}",
            valid="every rank started, and one address that all reach",
            next="see the other ranks' own messages; in an sbatch script write `srun nst ...`; MASTER_PORT=<another>",
        )
    return NstError(
        "another rank is gone or stands still" if world.rank == 0 else "rank 0 is gone or stands still",
        got=in_a_line(error),
        next="see its own message; the same command continues",
    )
