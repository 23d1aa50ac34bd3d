# SPDX-License-Identifier: MIT
"""On the host: from results to tables and pictures in docs/io-saved.md."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parents[3]
PAGE = PROJECT / "docs/io-saved.md"
PICTURES = PROJECT / "docs/pictures"
#: In the page: what comes after it is written here.
_MARK = "<!-- The rest is written by make bench-io. -->\n"
_MIB = 1 << 20
FILE_SYSTEMS = ("btrfs", "ext4", "f2fs", "xfs")

Rows = list[dict[str, Any]]


def write(results: Path) -> None:
    """Put what was measured into the page, with its pictures; the rest of it stays.

    Args:
        results: the directory with a file for each section and file system.

    Raises:
        ValueError: the page has no place for it.

    """
    words, mark, before = PAGE.read_text().partition(_MARK)
    if not mark:
        raise ValueError(f"{PAGE} has no line {_MARK.strip()}; put it where the tables begin")
    parts: dict[str, str] = {}
    for one in re.split(r"^(?=### )", before, flags=re.MULTILINE)[1:]:
        parts[one.partition("\n")[0]] = one.rstrip("\n") + "\n"
    order = []
    for name, section in _SECTIONS.items():
        for fs in FILE_SYSTEMS:
            title = f"### {_TITLES[name]}: {fs}"
            order.append(title)
            files = [results / f"{one}-{fs}.jsonl" for one in (name, *_JOINED.get(name, ()))]
            lines = [line for one in files if one.exists() for line in one.read_text().splitlines()]
            if lines:
                rows = [json.loads(line) for line in lines]
                parts[title] = title + "\n\n" + _part(name, fs, rows, section)
    PAGE.write_text(words + mark + "\n" + "\n".join(parts[one] for one in order if one in parts))


def _part(name: str, fs: str, rows: Rows, section: Callable[[str, Rows], Iterable[str]]) -> str:
    about = rows[0]
    scale = "" if about["scale"] == 1 else f" Of the data, {about['scale']:.0%} only."
    rate = about.get("disk_rate")
    disk = f", on a disk of {rate} MiB a second" if rate else ""
    only = ",".join((name, *_JOINED.get(name, ())))
    machine = (
        f"`make bench-io BENCH_ARGS='--only {only} --fs {fs}'`: Linux {about['kernel']}, "
        f"{about['memory'] // _MIB:,} MiB of memory, {about['data'] // _MIB:,} MiB of data in "
        f"{about['files']:,} files{disk}.{scale}"
    )
    return "\n".join([machine, "", *section(fs, rows), ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _passes(row: dict[str, Any] | None) -> str:
    return f"{row['read'] / row['data']:.3f}" if row else ""


_MODES = {
    "apart": "one after another",
    "uninformed": "together, without Duet",
    "informed": "together, with Duet",
}


def _tasks(fs: str, rows: Rows) -> Iterable[str]:
    found = {(len(row["tasks"]), row["mode"]): row for row in rows}
    counts = sorted({count for count, _ in found})
    names = {len(row["tasks"]): ", ".join(row["tasks"]) for row in rows}
    lines = []
    for count in counts:
        one = {mode: found.get((count, mode)) for mode in _MODES}
        informed, apart = one["informed"], one["apart"]
        saved = f"{1 - informed['read'] / apart['read']:.0%}" if informed and apart else ""
        extents = informed["extents"] if informed else [None, None]
        lines.append(
            [
                names[count],
                *(_passes(row) for row in one.values()),
                saved,
                *(f"{row['written'] // _MIB:,}" if row else "" for row in (apart, informed)),
                f"{extents[0]:,} → {extents[1]:,}" if extents[1] else "",
            ]
        )
    yield "Read from the disk, in passes over the data; written to it, in MiB."
    yield ""
    yield from _table(
        ["tasks", *_MODES.values(), "saved", "written, one after another", "written, with Duet",
         "extents"],
        lines,
    )  # fmt: skip
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (mode, label) in enumerate(_MODES.items()):
        have = [(count, found[count, mode]) for count in counts if (count, mode) in found]
        axes.bar(
            [count + (number - 1) * 0.27 for count, _ in have],
            [row["read"] / row["data"] for _, row in have],
            0.25, label=label,
        )  # fmt: skip
    axes.set_xticks(counts, [names[count].replace(", ", "\n") for count in counts])
    axes.set_ylabel("passes read")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.legend(fontsize="small")
    yield ""
    yield _picture(figure, f"io-tasks-{fs}", f"Passes read by tasks on {fs}")


def _four(fs: str, rows: Rows) -> Iterable[str]:
    del fs
    yield f"{', '.join(rows[0]['tasks'])}, begun together."
    yield ""
    yield from _table(
        ["four tasks", "read, in passes", "written, MiB", "extents", "seconds"],
        (
            [
                _MODES.get(row["mode"], "together, with Duet, giving way"), _passes(row),
                f"{row['written'] // _MIB:,}", "{:,} → {:,}".format(*row["extents"]),
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ),
    )  # fmt: skip


def _foreground(fs: str, rows: Rows) -> Iterable[str]:
    found = {(row["load"], row["share"], row["mode"]): row for row in rows}
    lines = []
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, load in zip(all_axes, ("uniform", "skewed"), strict=True):
        shares = sorted({share for kind, share, _ in found if kind == load})
        curves: dict[str, list[float]] = {"possible": [], "informed": [], "uninformed": []}
        for share in shares:
            alone, with_duet, without = (
                found.get((load, share, mode)) for mode in ("alone", "informed", "uninformed")
            )
            if not (alone and with_duet and without):
                continue
            curves["possible"].append(with_duet["possible"] / with_duet["data"])
            for mode, row in (("informed", with_duet), ("uninformed", without)):
                curves[mode].append(sum(row["cached"].values()) / row["data"])
            lines.append(
                [
                    f"{load}, {share:.0%}",
                    *(f"{curve[-1]:.1%}" for curve in curves.values()),
                    *(_passes(row) for row in (alone, without, with_duet)),
                    *(
                        f"{row['load_read'] / alone['load_read']:.2f}"
                        for row in (without, with_duet)
                    ),
                    *(
                        f"{row['load_seconds'] / alone['load_seconds']:.2f}"
                        for row in (without, with_duet)
                    ),
                ]
            )
        ticks = [100 * share for share in shares[: len(curves["possible"])]]
        for label, curve in curves.items():
            style = "--" if label == "possible" else "-o"
            axes.plot(ticks, [100 * value for value in curve], style, label=label)
        axes.set_title(load, fontsize="medium")
        axes.set_xlabel("data in use, %")
    all_axes[0].set_ylabel("of the task's reads saved, %")
    all_axes[0].legend(fontsize="small")
    yield "Shares of the data; all reads in passes; the load's own against its run alone."
    yield ""
    yield from _table(
        ["load", "overlap", "saved with Duet", "saved without", "read: load alone",
         "both, without", "both, with Duet", "load's reads, without", "with Duet",
         "load's seconds, without", "with Duet"],
        lines,
    )  # fmt: skip
    yield ""
    yield _picture(figure, f"io-foreground-{fs}", f"What a task saves beside a load on {fs}")


def _speed(fs: str, rows: Rows) -> Iterable[str]:
    del fs
    found = {(row["share"], row["mode"]): row for row in rows}
    modes = ("alone", "uninformed", "informed")
    lines = []
    for share in sorted({share for share, _ in found}):
        alone, *tasks = (found[share, mode] for mode in modes if (share, mode) in found)
        lines.append(
            [
                f"{share:.0%}",
                f"{alone['load_seconds']:.1f}",
                *(f"{row['load_seconds'] / alone['load_seconds']:.2f}" for row in tasks),
                *(f"{row['load_read'] / alone['load_read']:.2f}" for row in tasks),
                *(f"{row['seconds']:.0f}" for row in tasks),
            ]
        )
    yield (
        "What the load waits for its reads and what it reads from the disk, against its run alone. "
        "Without Duet and without giving way, and as a task is by default."
    )
    yield ""
    yield from _table(
        ["data in use", "load alone, s", "waits, without", "with Duet", "load's reads, without",
         "with Duet", "task takes, without, s", "with Duet, s"],
        lines,
    )  # fmt: skip


def _apart(fs: str, rows: Rows) -> Iterable[str]:
    yield "The best there can be is 1 pass, and what the first had done when the second began."
    yield ""
    yield from _table(
        ["backup begins when scrub has done", "read, in passes", "best"],
        ([f"{row['later']:.0%}", _passes(row), f"{1 + row['later']:.2f}"] for row in rows),
    )
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    later = [100 * row["later"] for row in rows]
    axes.plot(later, [row["read"] / row["data"] for row in rows], "-o", label="read")
    axes.plot(later, [1 + row["later"] for row in rows], "--", label="best")
    axes.set_xlabel("done by the first when the second begins, %")
    axes.set_ylabel("passes read")
    axes.legend(fontsize="small")
    yield ""
    yield _picture(figure, f"io-apart-{fs}", "Tasks that do not begin together")


def _slow(fs: str, rows: Rows) -> Iterable[str]:
    del fs
    yield "A scrub, and a backup that reads at a third of the scrub's speed at most."
    yield ""
    yield from _table(
        ["patience, s", "read, in passes", "scrub alone, s", "scrub, s", "backup, s"],
        (
            [
                f"{row['patience']:.0f}", _passes(row), f"{row['alone']:.0f}",
                *(f"{row['ended'][kind]:.0f}" for kind in ("scrub", "backup")),
            ]
            for row in rows
        ),
    )  # fmt: skip


def _pair(fs: str, rows: Rows) -> Iterable[str]:
    del fs
    yield from _table(
        ["scrub and backup", "read, in passes"],
        ([_MODES[row["mode"]], _passes(row)] for row in rows),
    )


_CHOICES = {"own": "f2fs's choice", "duet": "with Duet", "both": "with Duet, --count-writes"}


def _f2fs(fs: str, rows: Rows) -> Iterable[str]:
    found = {(row["share"], row["choice"]): row["read"] / max(row["segments"], 1) for row in rows}
    lines = []
    for row in rows:
        share, choice = row["share"], row["choice"]
        read, own = found[share, choice], found[share, "own"]
        lines.append(
            [
                f"{share:.0%}, {_CHOICES[choice]}",
                f"{row['segments']}",
                f"{row['moved']:,}",
                f"{read / 1024:,.0f}",
                f"{1 - read / own:.0%}" if choice != "own" and own else "",
                *(
                    f"{size / _MIB:.1f}"
                    for size in (row["read"], row["written"], row["read"] + row["written"])
                ),
            ]
        )
    yield (
        f"As many segments are cleaned each time, of the same {rows[0]['partly_valid']} that are "
        "partly valid. Blocks are of 4 KiB."
    )
    yield ""
    yield from _table(
        ["data in memory, choice", "segments freed", "blocks moved", "read for each, KiB", "saved",
         "read, MiB", "written, MiB", "both, MiB"],
        lines,
    )  # fmt: skip
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    for choice, label in _CHOICES.items():
        curve = [
            (100 * share, read / 1024) for (share, one), read in found.items() if one == choice
        ]
        axes.plot(*zip(*curve, strict=True), "-o", label=label)
    axes.set_xlabel("data in memory, %")
    axes.set_ylabel("read for each segment, KiB")
    axes.set_ylim(0)
    axes.legend(fontsize="small")
    yield ""
    yield _picture(figure, f"io-f2fs-{fs}", "What is read to free a segment of f2fs")


#: Sections whose rows go into another's table.
_JOINED = {"tasks": ("turns",)}
_TITLES = {
    "tasks": "One to four tasks",
    "four": "Four tasks",
    "foreground": "A task beside somebody who works",
    "speed": "How fast somebody works beside a task",
    "apart": "Tasks that do not begin together",
    "slow": "A task that is slower than the other",
    "tenth": "Memory a tenth of the data",
    "large": "Files larger than memory",
    "large-slow": "Files larger than memory, on a slow disk",
    "f2fs": "Cleaning an aged f2fs",
}
_SECTIONS: dict[str, Callable[[str, Rows], Iterable[str]]] = {
    "tasks": _tasks,
    "four": _four,
    "foreground": _foreground,
    "speed": _speed,
    "apart": _apart,
    "slow": _slow,
    "tenth": _pair,
    "large": _pair,
    "large-slow": _pair,
    "f2fs": _f2fs,
}


def _picture(figure: Figure, name: str, alternative: str) -> str:
    # The same file of the same figures.
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
    return f"![{alternative}](pictures/{name}.svg)"
