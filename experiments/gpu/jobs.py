"""Processes one after another in the time there is: each with a limit of its own, its end written down."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .book import LINES, LOG, append
from .sections import Job

ROOT = Path(__file__).resolve().parents[2]
LEAST = 3.0  # seconds below which no process is started


def environment(cache: Path, tiny: bool) -> dict[str, str]:
    """No memory is taken in advance, and programs are kept on disk, however quickly they compiled.

    With `tiny`, where speed means nothing, they are compiled in half the time.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **({"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if tiny else {}),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_all(
    jobs: Sequence[Job], command: Sequence[str], out: Path, seconds: float, within: Mapping[str, str] | None = None
) -> bool:
    """Run `command` with a section and its parts added, for every job, `within` an environment (None: this one).

    True: none failed or ran out of time. Every job's end is a line, and the next one begins whatever it was.

    The time that is left is shared out by the weights of the jobs to come, so that what one leaves helps the others.
    But a job may have the seconds of its weight in any case. Where time is short, the last ones go without: in shares
    that are too small for all of them none would come to its end.
    """
    end, good = time.monotonic() + seconds, True
    for number, job in enumerate(jobs):
        left = end - time.monotonic()
        share = left * job.weight / sum(other.weight for other in jobs[number:])
        limit = min(max(share, job.weight), left)
        say(f"[{number + 1}/{len(jobs)}] {job.name}: at most {limit:.0f} of {max(left, 0):.0f} s")
        began, cores = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        status, error = ("out of time", "no time was left") if limit < LEAST else run(job, command, out, limit, within)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (
            after.ru_utime + after.ru_stime - cores.ru_utime - cores.ru_stime
        )  # tells a busy machine from a slow section
        line = {"section": job.section, "part": "; ".join(job.parts), "status": status}
        line |= {"seconds": round(took, 1), "limit_seconds": round(limit, 1), "cpu_seconds": round(cpu, 1)}
        append(out / LINES, line | ({"error": error} if error else {}))
        say(f"    {status} after {took:.0f} s{f': {error}' if error else ''}")
        good = good and status == "done"
    return good


def run(job: Job, command: Sequence[str], out: Path, limit: float, within: Mapping[str, str] | None) -> tuple[str, str]:
    """How the process of a job ended ("done", "failed", "out of time"), and what it said last if it failed."""
    words = [*command, "--section", job.section, "--seconds", f"{0.9 * limit:.1f}", "--parts", *job.parts]
    with (out / LOG).open("ab") as log:
        log.write(f"== {job.name}\n".encode())
        log.flush()
        start = log.tell()
        # A session of its own: what the process has started goes with it.
        process = subprocess.Popen(words, stdout=log, stderr=log, env=within, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return "out of time", f"killed after {limit:.0f} s"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code == 0:
        return "done", ""
    said = (out / LOG).read_bytes()[start:].decode(errors="replace").strip().splitlines()
    return "failed", f"killed by signal {-code}" if code < 0 else (said[-1][:300] if said else f"exit code {code}")
