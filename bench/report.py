"""What a run found: JSON, a Markdown table, and plots."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.scenarios import SCENARIOS, Figures
from bench.servers import FLOOR, SERVERS

Rounds = dict[str, list[Figures]]
"""By server."""


class Budget(NamedTuple):
    """What one figure may be at most; or, with `least`, at least."""

    text: str
    scenario: str
    server: str
    limit: float
    over: str | None = None
    """The server that it is a multiple of; None: it stands for itself."""
    least: bool = False


BUDGETS = (
    Budget("user memory of an idle connection, B", "idle", "gows", 600),
    Budget("CPU a message, 1,000 echo 32 B, compiled, over the C loop", "echo", "gows, workers=0", 1.35, FLOOR),
    Budget("the same, plain Python", "echo", "plain, workers=0", 2.0, FLOOR),
    Budget("16 in flight each, compiled, over the C loop", "echo-16", "gows, workers=0", 2.0, FLOOR),
    Budget("16 KiB messages, compiled, over the C loop", "echo-16k", "gows, workers=0", 1.35, FLOOR),
    Budget("new connections a second, one process", "accept", "gows, workers=0", 15000, least=True),
    Budget("CPU a message beside 15,000 idle, over alone", "flat", "gows", 1.15),
    Budget("default worker pool over workers=0, CPU a message", "echo", "gows", 1.2, "gows, workers=0"),
    Budget("p99 of others while a worker is stuck, us", "stuck", "gows", 30000),
)


def machine() -> str:
    """What it ran on, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, CPython {platform.python_version()}"


def value(found: dict[str, Rounds], scenario: str, server: str) -> list[float]:
    """The figure that counts, of every round, from the least; empty when it was not measured."""
    figure = SCENARIOS[scenario].figure
    return sorted(figures[figure] for figures in found.get(scenario, {}).get(server, ()))


def number(figure: float) -> str:
    """With three digits that mean something."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 20 else f"{figure:.2f}"


def table(found: dict[str, Rounds], missing: dict[str, dict[str, str]], scenario: str) -> list[str]:
    """The rows of one scenario, in Markdown."""
    asked = SCENARIOS[scenario]
    rounds = found[scenario]
    floor = value(found, scenario, FLOOR)
    heads = {"p50_us": "p50 ms", "p99_us": "p99 ms", "max_us": "longest ms", "messages_per_s": "messages/s"}
    several = [name for name in heads if any(name in figures[0] for figures in rounds.values())]
    titles = [asked.unit, "least to most", "to the C loop", *(heads[name] for name in several)]
    rows = [f"### {asked.title}", "", f"| | {' | '.join(titles)} |"]
    rows.append("|---|" + "---:|" * (3 + len(several)))
    for name in SERVERS:
        figures = value(found, scenario, name)
        if not figures:
            if name in missing.get(scenario, {}):
                rows.append(f"| {name} | not measured: {missing[scenario][name]} |" + " |" * (2 + len(several)))
            continue
        ratio = f"{median(figures) / median(floor):.2f}" if floor else ""
        cells = [number(median(figures)), f"{number(figures[0])} to {number(figures[-1])}", ratio]
        for other in several:
            middle = median(round_[other] for round_ in rounds[name])
            cells.append(number(middle) if other == "messages_per_s" else f"{middle / 1000:.2f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*rows, ""]


def budgets(found: dict[str, Rounds]) -> list[str]:
    """What was promised, and what was measured; in Markdown."""
    rows = []
    for budget in BUDGETS:
        mine = value(found, budget.scenario, budget.server)
        base = [1.0] if budget.over is None else value(found, budget.scenario, budget.over)
        if not mine or not base:
            continue
        measured = median(mine) / median(base)
        kept = measured >= budget.limit if budget.least else measured <= budget.limit
        spread = f"{number(mine[0] / median(base))} to {number(mine[-1] / median(base))}"
        sign = "≥" if budget.least else "≤"
        verdict = "yes" if kept else "**no**"
        rows.append(f"| {budget.text} | {sign} {budget.limit:,g} | {number(measured)} | {spread} | {verdict} |")
    heads = ["### Budgets", "", "| | budget | measured | spread | kept |", "|---|---:|---:|---:|---|"]
    return [*heads, *rows, ""] if rows else []


def write(folder: Path, found: dict[str, Rounds], missing: dict[str, dict[str, str]], facts: dict[str, Any]) -> None:
    """`results.json` and `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(
        json.dumps({**facts, "results": found, "not_measured": missing}, indent=1) + "\n"
    )
    lines = [
        "# Measured",
        "",
        f"{facts['date']}, {facts['machine']}; `{facts['command']}`, medians of {facts['rounds']} rounds.",
        "The server has one CPU, the load the other.",
        "",
        *budgets(found),
    ]
    for scenario in found:
        lines += table(found, missing, scenario)
    (folder / "results.md").write_text("\n".join(lines))


def plots(folder: Path, found: dict[str, Rounds]) -> None:
    """A PNG with bars for each scenario, the shortest first; none without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plots: matplotlib is not installed (make bench installs it)")
        return
    for scenario in found:
        middles = {name: median(figures) for name in SERVERS if (figures := value(found, scenario, name))}
        if not middles:
            continue
        names = sorted(middles, key=middles.__getitem__, reverse=True)
        colours = ["#888888" if n == FLOOR else "#1f77b4" if SERVERS[n].kind == "gows" else "#d0a060" for n in names]
        figure, axes = pyplot.subplots(figsize=(7, 0.35 * len(names) + 1.1))
        bars = axes.barh(names, [middles[name] for name in names], color=colours)
        axes.bar_label(bars, labels=[number(middles[name]) for name in names], padding=3)
        axes.set_title(SCENARIOS[scenario].title, fontsize=11)
        axes.set_xlabel(SCENARIOS[scenario].unit)
        axes.margins(x=0.12)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / f"{scenario}.png", dpi=110)
        pyplot.close(figure)
