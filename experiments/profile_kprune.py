"""Where the seconds of `kprune` go: run twice in one process, the second time warm, split by program.

    python experiments/profile_kprune.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue

Prints, per run, the record's totals (seconds, compilation, dense forward passes, peak bytes), then run and compile
seconds and calls of every program. Each call is waited for, so that its seconds are its own.
"""

import argparse
import time
from collections import defaultdict
from typing import Any

import jax

from jaxprune.programs import Programs


def main() -> None:
    import jaxprune as jp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--remove", type=float, default=0.6)
    args = parser.parse_args()

    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])  # run seconds, compile seconds, calls
    plain_call = Programs.__call__

    def timed(self: Programs, function: Any, *arrays: Any, **static: Any) -> Any:
        began, compiling = time.perf_counter(), self.compile_seconds
        out = jax.block_until_ready(plain_call(self, function, *arrays, **static))
        compiled = self.compile_seconds - compiling
        entry = spent[f"{getattr(function, '__name__', 'program')} {static.get('half', '')}"]
        entry[0] += time.perf_counter() - began - compiled
        entry[1] += compiled
        entry[2] += 1
        return out

    Programs.__call__ = timed  # type: ignore[method-assign]
    model, task = jp.load(args.model), jp.tasks.load(args.task, args.data)
    calibration = task.calibration(512, seed=0)
    for run in ("cold", "warm"):
        spent.clear()
        record = jp.kprune(model, calibration, jp.Budget(args.remove)).provenance.record
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record["phases"].items())
        print(
            f"{run}: {record['seconds']:.1f} s ({phases}), {record['compile_seconds']:.1f} s of it compiling "
            f"{record['compiled_programs']} programs; one dense forward {record['dense_forward_seconds']:.2f} s, "
            f"so {record['dense_forwards']:.1f} of them; peak {record['peak_bytes'] / 1e6:.0f} MB"
        )
        for name, (seconds, compiled, calls) in sorted(spent.items(), key=lambda item: -sum(item[1][:2])):
            print(f"  {name:32s} {seconds:6.2f} s in {calls:3.0f} calls, compiled in {compiled:.2f} s")


if __name__ == "__main__":
    main()
