"""Everything that is to be measured on a GPU, what matters most first.

    python experiments/gpu_all.py --out build/gpu --minutes 9        # JAX_PLATFORMS as it is: a GPU must be found
    python experiments/gpu_all.py --out build/gpu --sections kprune  # some of it; lines are added to those there
    python experiments/gpu_all.py --out build/gpu --sections agreement kprune --parts default float32  # of these, some
    python experiments/gpu_all.py --out build/gpu --table            # gpu.md again, from the lines
    JAX_PLATFORMS=cpu python experiments/gpu_all.py --out build/tiny --tiny   # all of it at small sizes
    JAX_PLATFORMS=cpu python experiments/gpu_all.py --store          # the CPU's results that agreement compares with

It needs nothing but this repository: weights are drawn by shape, calibration texts are token ids. Each part of a
section is a process, without pre-allocated memory, with a compile cache on disk and a share of the time: what comes
last goes without where it is short (all of it is thought to need 13 minutes). What it finds
is in OUT/gpu.jsonl line by line, at once; a part that fails or runs out of time is written down and the next begins.
OUT/gpu.log holds what the processes said, OUT/gpu.md the tables, OUT/gpu_trace.json.gz a trace (ui.perfetto.dev).
Progress goes to stderr. Exit code 1: something failed or ran out of time.
"""

import argparse
import importlib
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # jaxprune need not be installed

from experiments.gpu import table
from experiments.gpu.book import LINES, Book, append, read
from experiments.gpu.jobs import ROOT, environment, run_all, say
from experiments.gpu.sections import SECTIONS, jobs_of

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "optax", "flax")


def measure(args: argparse.Namespace) -> int:
    """All sections asked for, then the tables."""
    known = {part for name in args.sections for part in SECTIONS[name].parts}
    if unknown := set(args.parts) - known:
        raise SystemExit(
            f"no part {', '.join(sorted(unknown))} in these sections, which have {', '.join(sorted(known))}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    if any(line.get("tiny", args.tiny) != args.tiny for line in read(args.out / LINES)):
        raise SystemExit(f"{args.out} holds lines of a run with{'out' * args.tiny} --tiny; choose another folder")
    began = {
        "section": "run",
        "tiny": args.tiny,
        "minutes": args.minutes,
        "sections": args.sections,
        "parts": args.parts,
    }
    began |= {"command": " ".join(["python experiments/gpu_all.py", *sys.argv[1:]]), "versions": versions()}
    began |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    append(args.out / LINES, began | {"started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process that runs is ended as well
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--out",
        str(args.out),
        *(["--tiny"] if args.tiny else []),
    ]
    cache = args.cache or Path(tempfile.gettempdir()) / f"jaxprune-gpu-{os.getuid()}"
    try:
        jobs, within = jobs_of(args.sections, args.tiny, args.parts), environment(cache, args.tiny)
        good = run_all(jobs, command, args.out, 60 * args.minutes, within)
    finally:
        table.write(args.out)
    say(f"{args.out / table.TABLE} is written" + ("" if good else "; some of it failed or ran out of time"))
    return 0 if good else 1


def section(args: argparse.Namespace) -> int:
    """One section in this process: what `measure` starts."""
    import jax

    from jaxprune.runtime import programs

    device = jax.devices()[0]
    if device.platform == "cpu" and not args.tiny:
        raise SystemExit(f"JAX found no accelerator but {device}; --tiny is what a CPU can run")
    where, _, name = SECTIONS[args.section].function.partition(":")
    function, began = getattr(importlib.import_module(f"experiments.gpu.{where}"), name), time.monotonic()
    failures: list[str] = []
    for number, part in enumerate(args.parts):
        seconds = (args.seconds - (time.monotonic() - began)) / (len(args.parts) - number)
        book = Book(args.out, args.section, part, seconds, args.tiny, device.device_kind, failures=failures)
        function(book)
        programs.forget()
    if failures:
        say(f"failed: {', '.join(failures)}")  # the last line of the log, which the parent writes down
    return 1 if failures else 0


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder for all that is found")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together (9)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--parts", nargs="*", default=[], metavar="NAME", help="of these sections, only these parts")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU too")
    parser.add_argument("--table", action="store_true", help="only write gpu.md anew")
    parser.add_argument("--store", action="store_true", help="store this CPU's results for agreement")
    parser.add_argument("--cache", type=Path, help="folder of compiled programs (one in the temporary folder)")
    for hidden, kind in (("--section", str), ("--seconds", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.store:
        from experiments.gpu.agreement import store

        return store() or 0
    if args.table:
        return table.write(args.out) or 0
    return section(args) if args.section else measure(args)


if __name__ == "__main__":
    sys.exit(main())
