"""results/gpu.md from the JSON lines: the last line of every measurement counts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .book import LINES, TABLE, read
from .sections import SECTIONS, Section

Line = dict[str, Any]
HEAD = """# Measured on a GPU

Made by `experiments/gpu_all.py --table` from `{lines}`; nothing here is written by hand.
"""


def write(out: Path) -> None:
    """Write the page of a folder's lines. Raises SystemExit where there are none."""
    lines = read(out / LINES)
    if not lines:
        raise SystemExit(f"{out / LINES} holds no lines; run this script without --table first")
    (out / TABLE).write_text(page(lines), encoding="utf-8")


def page(lines: Sequence[Line]) -> str:
    parts = [HEAD.format(lines=LINES), *map(run_text, (line for line in lines if line.get("section") == "run"))]
    if any(line.get("tiny") for line in lines):
        parts.append(
            "**Sizes are tiny: this page shows that the command works, and no figure in it means anything.**\n"
        )
    for name, section in SECTIONS.items():
        own = [line for line in lines if line.get("section") == name]
        if own:
            parts.append(section_text(name, section, own))
    return "\n".join(parts)


def run_text(line: Line) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    return f"    {line['command']}\n\n{line['started']}, {line['machine']}; {versions}.\n"


def section_text(name: str, section: Section, lines: Sequence[Line]) -> str:
    measured = {(line["part"], line["name"]): line for line in lines if "name" in line}
    devices = sorted({line["device"] for line in measured.values()})
    text = [
        f"## {section.title}",
        "",
        *(line for note in section.notes for line in (note, "")),
        f"On: {', '.join(devices) or 'nothing'}.",
        "",
    ]
    rows = [line for line in measured.values() if "failed" not in line and "skipped" not in line]
    text += [markdown(section, rows), ""]
    text += [f"- {entry}" for line in rows for entry in beside(line)]
    for key, verb in (("failed", "failed"), ("skipped", "was left out")):
        text += [f"- {label(line)} {verb}: {line[key]}" for line in measured.values() if key in line]
    ended = {line["part"]: line for line in lines if "status" in line}
    text += [
        f"- {f'{name} {part}'.strip()}: {line['status']} after {line['seconds']} s: {line.get('error', '')}"
        for part, line in ended.items()
        if line["status"] != "done"
    ]
    if name == "training":
        text += [f"- {saving(measured)}"]
    return "\n".join(text).rstrip() + "\n"


def label(line: Line) -> str:
    return ": ".join(filter(None, (line["part"], line["name"])))


def markdown(section: Section, rows: Sequence[Line]) -> str:
    """Lines as a table of the columns that any of them fills."""
    columns = {
        heading: (key, form) for heading, (key, form) in section.columns.items() if any(key in row for row in rows)
    }
    rows = [row for row in rows if any(key in row for key, _ in columns.values())]
    table = [["", *columns], ["---"] * (1 + len(columns))]
    table += [[label(row), *(value(row.get(key), form) for key, form in columns.values())] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def value(found: Any, form: str) -> str:
    """A value by a format, and a factor after a bar."""
    if found is None:
        return ""
    form, _, factor = form.partition("|")
    return form.format(found * float(factor) if factor else found)


def beside(line: Line) -> list[str]:
    """What no column holds: seconds by phase of a watched run, and a trace's largest entries."""
    found = []
    for phase, kinds in line.get("phases", {}).items():
        kinds = dict(kinds)
        whole = kinds.pop("all", sum(kinds.values()))  # outside of phases nobody takes the whole time
        rest = whole - sum(kinds.values())
        spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in {**kinds, "the rest": rest}.items())
        found.append(f"{label(line)}, {phase or 'outside of phases'}: {whole:.2f} s ({spent})")
    found += [f"`{entry['name']}`: {entry['ms']:.1f} ms in {entry['calls']} calls" for entry in line.get("largest", [])]
    if "versions" in line:
        found.append("stored on a CPU by " + ", ".join(f"{name} {text}" for name, text in line["versions"].items()))
    return found


def saving(measured: Mapping[tuple[str, str], Line]) -> str:
    """How much less than full AdamW RECAP takes, by the allocator; the goal is 65 %."""
    steps = ("step", "tuning and the rest")
    peaks = {part: line.get("allocator_peak_bytes") for (part, name), line in measured.items() if name in steps}
    found = []
    for suffix in ("", ", remat"):
        full, recap = peaks.get(f"full{suffix}"), peaks.get(f"recap{suffix}")
        if full and recap:
            found.append(f"{1 - recap / full:.0%}{suffix and ' with remat'}")
    return f"RECAP below full AdamW, by the allocator's peaks: {' and '.join(found) or 'not measured'} (goal: 65 %)."
