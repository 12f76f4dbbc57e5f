"""The JSON lines that sections write, each on the disk before the next measurement begins."""

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LINES, LOG, TABLE = "gpu.jsonl", "gpu.log", "gpu.md"  # the files in a run's folder


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Add one line. A process that was killed may have left half of one: the new line begins its own."""
    with file.open("ab+") as out:
        size = out.seek(0, os.SEEK_END)
        if size:
            out.seek(size - 1)
        broken = bool(size) and out.read(1) != b"\n"
        out.write(b"\n" * broken + json.dumps(line, default=_plain).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """All whole lines of a file: what a killed process left half-written holds nothing."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


@dataclass
class Book:
    """What a section writes to, and what it may know of the run."""

    out: Path  # the run's folder
    section: str
    part: str
    seconds: float  # until which it should be done
    tiny: bool  # sizes for a CPU, so that all sections take two minutes
    device: str  # its kind, such as "NVIDIA H100 80GB HBM3"
    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)  # names of the cases that failed

    def left(self) -> float:
        """Seconds until this section should be done."""
        return self.seconds - (time.monotonic() - self.began)

    def write(self, name: str, **values: Any) -> None:
        head = {"section": self.section, "part": self.part, "name": name, "device": self.device, "tiny": self.tiny}
        append(self.out / LINES, head | values)

    def case(self, name: str, measure: Callable[..., Mapping[str, Any]], *inputs: Any, needs: float = 0.0) -> bool:
        """Write what `measure(*inputs)` finds under `name`, or why it found nothing; True: it found something.

        `needs` are the seconds it takes at least: where fewer are left, it is left out, and the line says so. A case
        that fails does not end its section.
        """
        if self.left() < needs:
            self.write(name, skipped=f"needs {needs:.0f} s, {self.left():.0f} are left")
            return False
        try:
            found = dict(measure(*inputs))
        except Exception as error:  # whatever it is, the next case shall begin
            traceback.print_exc()
            text = (str(error).strip().splitlines() or [""])[0][:300]
            self.write(name, failed=f"{type(error).__name__}: {text}")
            self.failures.append(name)
            return False
        self.write(name, **found)
        return True
