"""Make the embedded default: a small BERT for the 77 intents of Banking77, and slices of its texts.

    python experiments/make_demo_model.py --data BANKING77_FOLDER --out jaxprune/assets/demo --seed 0

BANKING77_FOLDER holds train.jsonl, test.jsonl and labels.json. The vocabulary and the weights start from nothing but
these texts. `--holdout N` trains without N training rows and scores them instead of the test set: that is how the
settings below were chosen. The last line on stdout is a JSON object with the score.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxprune.checkpoint import load
from jaxprune.evaluation.outputs import text_outputs
from jaxprune.finetuning.epochs import shuffled
from jaxprune.finetuning.settings import Train
from jaxprune.finetuning.train import train
from jaxprune.model import Architecture, LayerSizes, Model, Params, parameter_shapes
from jaxprune.tasks import Example
from jaxprune.tokens.tokenizer import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN, FIRST_WORD = 1, len(SPECIAL)
LENGTH, LAYERS, HIDDEN, HEADS, NEURONS = 128, 4, 128, 8, 512
ENDINGS = 500  # pieces of words in the vocabulary, beside letters and whole words
BATCH_SIZE = 64  # texts a training step
WORD_DROPOUT = 0.15  # share of tokens that read [UNK] while training; new ones in every epoch
SETTINGS = Train(epochs=12, learning_rate=1e-3, warmup=0.1, weight_decay=0.05, smoothing=0.1, dropout=0.0)


def read_rows(path: Path) -> list[Example]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(row["text"], None, row["label"]) for row in rows]


def write_rows(path: Path, rows: list[Example]) -> None:
    lines = (json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def write_tokenizer(texts: list[str], folder: Path) -> int:
    """A WordPiece vocabulary of these texts, as tokenizer.json; returns its size.

    Characters, every word that occurs twice, and the most frequent endings of words. (The trainer of `tokenizers`
    breaks ties differently in every run, so that its vocabularies cannot be made again.)
    """
    from tokenizers import Tokenizer as Fast, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    endings: Counter[str] = Counter()
    for word, count in words.items():
        endings.update({word[at:]: count for at in range(max(1, len(word) - 6), len(word) - 1)})
    letters = sorted({letter for word in words for letter in word})
    frequent = sorted(endings, key=lambda ending: (-endings[ending], ending))[:ENDINGS]
    inside = [f"##{piece}" for piece in [*letters, *sorted(frequent)]]
    whole = sorted(word for word, count in words.items() if count > 1 and len(word) > 1)
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *letters, *inside, *whole])}

    fast: Any = Fast(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer, fast.decoder = normalizer, splitter, decoders.WordPiece()
    fast.add_special_tokens(list(SPECIAL))
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    fast.save(str(folder / "tokenizer.json"), pretty=False)
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": LENGTH, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return fast.get_vocab_size()


def initial(architecture: Architecture, seed: int) -> Params:
    """Random parameters: kernels and tables from a normal distribution, scales 1, biases 0."""
    random = np.random.RandomState(seed)

    def leaf(path: Any, shape: tuple[int, ...]) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "bias"):
            return np.full(shape, float(name == "scale"), np.float32)
        # 0.02, the usual deviation, is for widths near 768; at width 128 the same output needs about 0.05.
        return random.normal(0.0, 0.05, shape).astype(np.float32)

    shapes = parameter_shapes(architecture)
    return jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda node: isinstance(node, tuple))


def drop_words(ids: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """The text with a share of its tokens unreadable, so that no single word can be learned by heart."""
    drop = (ids >= FIRST_WORD) & (random.random_sample(len(ids)) < WORD_DROPOUT)
    return np.where(drop, UNKNOWN, ids)


def tensors(params: Params) -> dict[str, np.ndarray]:
    """The parameters under the names and in the layouts of a BERT checkpoint, float16."""
    named: dict[str, np.ndarray] = {}

    def linear(name: str, p: Params, inputs: int) -> None:
        named[f"{name}.weight"] = np.asarray(p["kernel"]).reshape(inputs, -1).T
        named[f"{name}.bias"] = np.asarray(p["bias"]).reshape(-1)

    def norm(name: str, p: Params) -> None:
        named[f"{name}.weight"], named[f"{name}.bias"] = np.asarray(p["scale"]), np.asarray(p["bias"])

    for ours, theirs in (("token", "word"), ("position", "position"), ("type", "token_type")):
        named[f"bert.embeddings.{theirs}_embeddings.weight"] = np.asarray(params["embed"][ours])
    norm("bert.embeddings.LayerNorm", params["embed"]["norm"])
    for number, layer in enumerate(params["layers"]):
        prefix, p, f = f"bert.encoder.layer.{number}", layer["attention"], layer["feed_forward"]
        for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
            linear(f"{prefix}.attention.self.{theirs}", p[ours], HIDDEN)
        linear(f"{prefix}.attention.output.dense", p["o"], HIDDEN)
        norm(f"{prefix}.attention.output.LayerNorm", p["norm"])
        linear(f"{prefix}.intermediate.dense", f["up"], HIDDEN)
        linear(f"{prefix}.output.dense", f["down"], NEURONS)
        norm(f"{prefix}.output.LayerNorm", f["norm"])
    linear("bert.pooler.dense", params["pooler"], HIDDEN)
    linear("classifier", params["head"], HIDDEN)
    # safetensors writes wrong values, without a word, for arrays that are not C-contiguous.
    return {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in named.items()}


def config(architecture: Architecture) -> dict[str, Any]:
    """config.json of a Hugging Face BERT classifier."""
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": architecture.vocab,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": NEURONS,
        "hidden_act": "gelu",
        "max_position_embeddings": LENGTH,
        "type_vocab_size": architecture.token_types,
        "layer_norm_eps": architecture.norm_eps,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "id2label": dict(enumerate(architecture.labels)),
        "label2id": {name: number for number, name in enumerate(architecture.labels)},
        "problem_type": "single_label_classification",
        "dtype": "float16",
    }


def write_slices(
    folder: Path, training: list[Example], scored: list[Example], labels: tuple[str, ...], seed: int
) -> None:
    """2,000 texts to calibrate on and 1,000 to score on, drawn at random; none is in both."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {row.text for row in scored}
    apart = [row for row in training if row.text not in texts]  # six texts of Banking77 are in both of its files
    for name, rows, count in (("train.jsonl", apart, 2000), ("validation.jsonl", scored, 1000)):
        write_rows(folder / name, [rows[i] for i in np.random.RandomState(seed).permutation(len(rows))[:count]])
    (folder / "labels.json").write_text(json.dumps(labels, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--holdout", type=int, default=0, help="score this many training rows, not the test set")
    args = parser.parse_args()

    labels = tuple(json.loads((args.data / "labels.json").read_text(encoding="utf-8")))
    training, scored = read_rows(args.data / "train.jsonl"), read_rows(args.data / "test.jsonl")
    if args.holdout:
        order = np.random.RandomState(1234).permutation(len(training))
        scored = [training[i] for i in order[: args.holdout]]
        training = [training[i] for i in order[args.holdout :]]

    folder, slices = args.out / "model", args.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer([row.text for row in training], folder)
    architecture = Architecture(
        family="bert", vocab=vocabulary, hidden=HIDDEN, head_width=HIDDEN // HEADS, max_positions=LENGTH,
        layers=(LayerSizes(groups=HEADS, neurons=NEURONS),) * LAYERS, token_types=2, pooler="tanh",
        head="classification", labels=labels,
    )  # fmt: skip
    encoded = Tokenizer.of(folder).encode(training, LENGTH)

    def report(event: dict[str, Any]) -> None:
        if event["done"] % 100 == 0:
            print("step {done} of {of}, epoch {epoch}: loss {loss:.3f}".format(**event), file=sys.stderr)

    model = train(
        Model(architecture, initial(architecture, args.seed)),
        shuffled(encoded, architecture, seed=args.seed, size=BATCH_SIZE, change=drop_words),
        np.array([row.label for row in training], np.int32),
        SETTINGS,
        on_step=report,
    ).model
    save_file(tensors(model.params), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(architecture), indent=1) + "\n")

    reread = load(str(folder))  # the score is that of the float16 file
    logits = text_outputs(reread, Tokenizer.of(reread).encode(scored, LENGTH))
    accuracy = float(np.mean(logits.argmax(1) == np.array([row.label for row in scored])))

    write_slices(slices, training, scored, labels, args.seed)
    print(json.dumps({"accuracy": accuracy, "examples": len(scored), "seed": args.seed}))


if __name__ == "__main__":
    main()
