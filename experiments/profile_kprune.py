"""Where the seconds of `kprune` go: cold, warm, and once more warm with every program's calls timed apart.

    python experiments/profile_kprune.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue
    python experiments/profile_kprune.py --model build/models/smollm2-135m --task text --remove 0.2 0.3 \
        --data ../shared/data/text/wikitext2/test.txt --calibration-texts ../shared/data/text/c4/calibration.jsonl

Prints, per run and budget (those after the first reuse its measurement), the record's totals: seconds, compilation,
dense forward passes, peak bytes. Then the seconds and calls of every program, each call waited for, so that its seconds
are its own.
"""

import argparse
from collections import defaultdict

from jaxprune.runtime.programs import watched


def main() -> None:
    import jaxprune as jp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--remove", type=float, nargs="+", default=[0.4, 0.6, 0.8])
    parser.add_argument("--calibration-texts", help="of a language model; 16 windows of 512 tokens are drawn")
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()

    model = jp.load(args.model)
    if args.task == "text":
        calibration = jp.tasks.text(args.data, calibration=args.calibration_texts, length=512).calibration(16, seed=0)
    else:
        calibration = jp.tasks.load(args.task, args.data).calibration(512, seed=0)
    budgets = [jp.Budget(remove) for remove in args.remove]
    for run in ("cold", "warm"):
        for small in jp.kprune(model, calibration, budgets, stream=args.stream):
            record = small.provenance.record
            phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record["phases"].items())
            print(
                f"{run}, {record['budget']['remove']:.0%}: {record['seconds']:.1f} s ({phases}), "
                f"{record['compile_seconds']:.1f} s of it compiling {record['compiled_programs']} programs; one dense "
                f"forward {record['dense_forward_seconds']:.2f} s, so {record['dense_forwards']:.1f} of them; "
                f"peak {record['peak_bytes'] / 1e6:.0f} MB"
            )
    spent: dict[str, list[float]] = defaultdict(list)  # seconds of every call
    with watched(lambda name, seconds: spent[name].append(seconds)):
        jp.kprune(model, calibration, budgets, stream=args.stream)
    for name, calls in sorted(spent.items(), key=lambda item: -sum(item[1])):
        print(f"  {name:32s} {sum(calls):6.2f} s in {len(calls):3d} calls")


if __name__ == "__main__":
    main()
