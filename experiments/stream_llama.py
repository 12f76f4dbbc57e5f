"""A Llama of about a billion random bfloat16 weights through `jaxprune prune --stream`: time and memory.

    python experiments/stream_llama.py --tokenizer build/models/smollm2-135m \
        --text ../shared/data/text/wikitext2/test.txt --calibration ../shared/data/text/c4/calibration.jsonl \
        --folder build/llama-1b --out experiments/results/stream.jsonl

Makes the checkpoint where it is missing (2.2 GB), then runs the command in a process of its own and appends one JSON
line: seconds, dense forward passes, the device's peak, and the most memory that the process held beside the weights.
On a CPU the device's memory is the process's own. Scores mean nothing here: the weights are random.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

CONFIG = {  # TinyLlama's sizes, with the tokenizer's vocabulary
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def make(folder: Path, tokenizer: Path, layers: int) -> None:
    """Write a sharded checkpoint of random weights, one layer a file, without ever holding all of it."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    vocab = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = {**CONFIG, "vocab_size": vocab, "num_hidden_layers": layers}
    random = np.random.default_rng(0)
    draw = lambda *shape: (0.02 * random.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)  # noqa: E731
    hidden, neurons = config["hidden_size"], config["intermediate_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden)}
    shapes |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden)}
    shapes |= {"mlp.gate_proj": (neurons, hidden), "mlp.up_proj": (neurons, hidden), "mlp.down_proj": (hidden, neurons)}
    ones = np.ones(hidden, ml_dtypes.bfloat16)
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True)
    places = {}
    for layer in range(-1, layers):
        if layer < 0:
            tensors = {"model.embed_tokens.weight": draw(vocab, hidden), "model.norm.weight": ones}
        else:
            tensors = {f"model.layers.{layer}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
            norms = ("input_layernorm", "post_attention_layernorm")
            tensors |= {f"model.layers.{layer}.{name}.weight": ones for name in norms}
        file = f"model-{layer + 2:05}-of-{layers + 1:05}.safetensors"
        save_file(tensors, part / file)
        places |= dict.fromkeys(tensors, file)
    (part / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (part / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, part / name)
    part.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--tokenizer", "--text", "--calibration", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    parser.add_argument("--windows", type=int, default=2, help="calibration windows of 512 tokens (2)")
    parser.add_argument("--remove", default="0.2")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.folder.exists():
        make(args.folder, args.tokenizer, args.layers)
    weights = sum(file.stat().st_size for file in args.folder.glob("*.safetensors"))
    pruned = args.folder.with_name(args.folder.name + "-pruned")
    words = f"--dtype auto --stream --task text --data {args.text} --calibration-texts {args.calibration} --seq-len 512"
    words += f" --calibration-samples {args.windows} --cost params --remove {args.remove} --no-evaluate --json"
    command = [sys.executable, "-m", "jaxprune", "prune", "--model", str(args.folder), *words.split()]
    command += ["--out", str(pruned), "--overwrite"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    line = {
        "weights_bytes": weights,
        "held_bytes": held,
        "beside_weights_bytes": held - weights,
        "tokens": found["calibration"]["tokens"],
        **{name: found[name] for name in ("seconds", "compile_seconds", "dense_forwards", "dense_forward_seconds")},
        **{name: found[name] for name in ("phases", "peak_bytes", "removed", "masked_vs_cut")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=1))


if __name__ == "__main__":
    main()
