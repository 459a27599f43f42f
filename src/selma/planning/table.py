"""A plan as a table for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from selma.planning.work import Asked, Plan
from selma.plurals import counted


def print_plan(plan: Plan, console: Console) -> None:
    """Print what a run costs by stage, what it asks of servers, and what both rest on."""
    device = plan.device
    what = "one thread" if device.memory_gib is None else device.name
    title = f"plan for {plan.gpus} x {what}"
    figures = ("10^15\noperations", "devices\nat work", "device\nhours", "wall\nclock", "disk,\nGB")
    table = Table(title=title)
    table.add_column("stage")
    for figure in figures:
        table.add_column(figure, justify="right")
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            f"{stage.operations / 1e15:.3g}" if stage.operations else "",
            str(stage.gpus),
            f"{stage.busy_s / 3600:.3g}",
            duration(stage.seconds),
            f"{stage.disk / 1e9:.3g}" if stage.disk else "",
        )
    totals = (f"{plan.operations / 1e15:.3g}", "", f"{plan.busy_s / 3600:.3g}")
    table.add_row("in all", *totals, duration(plan.seconds), f"{plan.disk / 1e9:.3g}", style="bold")
    console.print(table)
    lines = [
        f"All {plan.gpus} held from beginning to end: {plan.held_s / 3600:.3g} device hours. Disk "
        f"at most, with checkpoints: {plan.most_disk / 1e9:.3g} GB.",
        *(_asked(asked) for asked in plan.asked),
        f"Peak {device.peak('bf16') / 1e12:.3g} (bf16, fp16) and {device.peak('fp32') / 1e12:.3g} "
        "(fp32) x 10^12 operations a second.",
        *(f"Taken: {line}." for line in plan.assumed),
        *(f"Left out: {line}." for line in plan.left_out),
    ]
    if plan.changes:
        lines.append(f"Too much for {device.memory_gib} GiB; change: {'; '.join(plan.changes)}.")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _asked(asked: Asked) -> str:
    tokens = f", {asked.read:,} tokens read, {asked.written:,} written" if asked.read else ""
    cost = "no price in the settings" if asked.cost is None else f"costs {asked.cost:,.2f}"
    return f"Asked of a server, {asked.what}: {counted(asked.requests, 'request')}{tokens}; {cost}."


def duration(seconds: float) -> str:
    """Seconds in the unit that is read most easily."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
