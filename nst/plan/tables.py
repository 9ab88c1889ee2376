"""A plan as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from nst.plan.budget import COMPILE_S_A_BLOCK
from nst.plan.chips import GIB
from nst.progress import plain_table
from nst.shown import count_of

HOUR = 3600
Result = Mapping[str, Any]
MEMORY_ROWS = {
    "parameters": "parameters",
    "optimizer": "optimiser state",
    "ema": "moving average",
    "gradients": "gradients",
    "activations": "activations",
    "batch": "images and targets",
    "teacher": "online teacher",
}


def tables(plan: Result) -> Iterator[Table]:
    """What the plan says, one table a subject."""
    yield stages(plan)
    yield step(plan)
    yield memory(plan)
    if plan["compiled"]:
        yield compiled(plan)
    yield storage(plan)
    if plan["paper"]:
        yield paper(plan)


def stages(plan: Result) -> Table:
    """Work and hours of every stage that computes."""
    cluster = plan["cluster"]
    cores = f"{count_of(cluster['cores'], 'core')}, {count_of(cluster['hosts'], 'host')}"
    table = _table(
        f"{plan['name']} on {cluster['name']} ({cores})",
        ("gen", "stage", "network", "px", "steps", "images", "FLOP", "limit", "hours"),
        left=("stage", "network"),
    )
    for row in plan["stages"]:
        steps = f"{row['steps']:,}" if row["steps"] else "-"
        table.add_row(
            str(row["generation"]),
            row["stage"],
            row["model"],
            str(row["image_size"]),
            steps,
            number(row["images"]),
            number(row["flops"]),
            percent(row["utilization"]) if row["bound"] == "chip" else "loader",
            short(row["hours"]),
        )
    total, compiling = plan["total"], plan["compiling"]
    if compiling["hours"]:
        table.add_row("", "", "compiling once", "", "", "", "", "", short(compiling["hours"]))
    table.add_section()
    table.add_row("", "", "all", "", "", "", number(total["flops"]), "", short(total["hours"]))
    table.add_row("", "", "chip-hours", "", "", "", "", "", short(total["hours"] * cluster["chips"]))
    table.caption = "\n".join(_notes(plan))
    return table


def _notes(plan: Result) -> Iterator[str]:
    """Whence the hours are known."""
    cluster, rows, compiling = plan["cluster"], plan["stages"], plan["compiling"]
    yield "limit: the share of the peak that is reached, or loaders"
    shares: dict[str, list[str]] = {}
    for row in (row for row in rows if row["bound"] == "chip"):
        shares.setdefault(row["source"], []).append(percent(row["utilization"]))
    yield from (f"{', '.join(dict.fromkeys(values))}: {source}" for source, values in shares.items())
    if any(row["bound"] == "loader" for row in rows):
        cores = count_of(round(cluster["processors"] / cluster["hosts"]), "processor core")
        yield f"loader: {cores} of a host, with trainer.workers={cluster['loader_workers']}"
    if compiling["hours"]:
        source = "measured" if compiling["measured"] else f"assumed, {COMPILE_S_A_BLOCK} s a block"
        yield f"every start compiles: {duration(compiling['seconds_a_start'])} on two cores ({source})"


def step(plan: Result) -> Table:
    """One step of the last generation's training."""
    values, network = plan["step"], plan["network"]
    title = f"a training step of generation {network['generation']}, {network['model']} at {network['image_size']} px"
    table = _table(title, ("", "value", ""), left=("",), head=False)
    bound = "chips" if values["computing"] >= values["preparing"] else "loaders"
    rows = [
        ("parameters", number(network["parameters"]), ""),
        ("multiply-accumulates of an image", number(network["macs"]), "forward"),
        ("images", f"{values['images']:,}", f"{values['images_per_core']:,} a core"),
        ("FLOP", number(values["flops"]), f"{number(values['flops_per_core'])} a core"),
        ("all-reduce of a core", size(values["all_reduce_bytes"]), "gradients, BatchNorm"),
        ("computing", duration(values["computing"]), f"{percent(plan['utilization'])} of the peak"),
        ("loading", duration(values["preparing"]), f"trainer.workers={plan['cluster']['loader_workers']}"),
        ("images a second", short(values["images_per_second"]), f"by the {bound}"),
        ("  of a host", short(values["images_per_second_and_host"]), ""),
        ("read a second and host", size(plan["bytes_per_second_and_host"]), "image files, targets"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def memory(plan: Result) -> Table:
    """Bytes on a core, with all activations kept and with rematerialisation; the plan's own choice is marked."""
    kept, remat, limit = plan["memory"]["kept"], plan["memory"]["remat"], plan["cluster"]["memory_per_core"]
    mine = plan["memory"]["chosen"]
    heads = {name: f"{title}{' *' if mine == name else ''}" for name, title in (("kept", "GiB"), ("remat", "remat"))}
    has = f", which has {limit / GIB:.1f} GiB" if limit else ""
    parts = plan["memory"]["accumulate"]
    title = "memory of a core" if parts == 1 else f"memory of a core, trainer.accumulate={parts}"
    table = _table(f"{title}{has} (estimate; * as configured)", ("", heads["kept"], heads["remat"]), left=("",))
    for name, title in MEMORY_ROWS.items():
        if kept[name]:
            table.add_row(title, f"{kept[name] / GIB:.2f}", f"{remat[name] / GIB:.2f}")
    table.add_section()
    table.add_row("all", *(_of_limit(values["total"], limit) for values in (kept, remat)))
    if limit:
        table.add_row("accumulate that fits", *(str(values["accumulate"] or "none") for values in (kept, remat)))
    if cure := plan["memory"]["cure"]:
        table.caption = f"does not fit; what does: {cure}"
    return table


def compiled(plan: Result) -> Table:
    """What the TPU compiler says of the real step."""
    values = plan["compiled"]
    remat = "with" if plan["network"]["remat"] else "without"
    title = f"the step {remat} remat, compiled for {plan['cluster']['name']} in {values['seconds']:.0f} s"
    table = _table(title, ("", "a core", ""), left=("",), head=False)
    for name in ("arguments", "outputs", "aliased", "temporaries", "code"):
        note = {"aliased": "outputs in place of arguments", "code": "the program itself"}.get(name, "")
        table.add_row(name, size(values[name], 1024), note)
    table.add_row("peak", size(values["peak"], 1024), _of_limit(values["peak"], plan["cluster"]["memory_per_core"]))
    table.add_row(
        "FLOP", number(values["flops"]), f"{values['flops'] / plan['step']['flops_per_core']:.2f} of the count"
    )
    for entry in values["collectives"]:
        table.add_row(f"{entry['kind']} {entry['dtype']}", size(entry["bytes"]), f"{entry['operations']:,} operations")
    return table


def storage(plan: Result) -> Table:
    table = _table("storage", ("", "images", "size"), left=("",))
    for name, entry in plan["storage"].items():
        table.add_row(name, number(entry["images"]), size(entry["bytes"]))
    return table


def paper(plan: Result) -> Table:
    """The paper's cost beside ours."""
    values = plan["paper"]
    table = _table("beside the paper", ("", "paper", "here"), left=("",))
    table.add_row("L2, 350 epochs, on v3:32x32: days", f"{values['days']}", f"{values['our_days']:.1f}")
    implied, taken = f"{values['utilization']:.1%} implied", f"{values['our_utilization']:.1%} taken"
    table.add_row("  share of the peak", implied, taken)
    for ratio in values["time_ratios"]:
        title = f"training time, {_letters(ratio['model'])} over {_letters(ratio['base'])} (table 7)"
        table.add_row(title, f"{ratio['paper']}", f"{ratio['ours']:.2f} by FLOP")
    return table


def number(value: float) -> str:
    """`480.3M`, `170.9G`: one decimal and the power of a thousand."""
    for power, letter in ((6, "E"), (5, "P"), (4, "T"), (3, "G"), (2, "M")):
        if value >= 1000**power:
            return f"{value / 1000**power:,.1f}{letter}"
    return f"{value:,.0f}"


def size(value: float, base: int = 1000) -> str:
    """Bytes as `21.3 MB`, or in powers of 1024 as `20.3 MiB`."""
    units = ("kB", "MB", "GB", "TB") if base == 1000 else ("KiB", "MiB", "GiB", "TiB")
    power = next((power for power in range(1, len(units)) if value < base ** (power + 1)), len(units))
    return f"{value / base**power:,.1f} {units[power - 1]}"


def short(value: float) -> str:
    """Three digits: `0.0123`, `1.23`, `123`, `1,234`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """`5%`, `0.73%`: two digits."""
    return f"{100 * share:.2g}%"


def duration(seconds: float) -> str:
    """`12.3 ms`, `4.56 s`, `7.8 h`."""
    if seconds >= HOUR:
        return f"{short(seconds / HOUR)} h"
    return f"{short(seconds)} s" if seconds >= 1 else f"{short(1000 * seconds)} ms"


def _of_limit(used: float, limit: float | None) -> str:
    return f"{used / GIB:.2f}" + (f" ({used / limit:.0%})" if limit else "")


def _letters(model: str) -> str:
    return model.rpartition("_")[2].upper()


def _table(title: str, columns: Sequence[str], *, left: Sequence[str], head: bool = True) -> Table:
    shown = plain_table(title, head=head)
    for name in columns:
        # a network's name may be long, and is folded where the numbers leave no room
        folded = name == "network"
        shown.add_column(name, justify="left" if name in left else "right", no_wrap=not folded, overflow="fold")
    return shown
