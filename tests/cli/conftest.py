import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxprune.cli.main import main

WORDS = "the a film book plot cast good bad fine dull warm cold long short and but is was very not".split()
LABELS = ("no", "yes")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> SimpleNamespace:
    """`model`, a random BERT folder of two layers, and `data`, a folder of labelled texts: paths as text."""
    root = tmp_path_factory.mktemp("inputs")
    write_model(root / "model")
    write_data(root / "data")
    return SimpleNamespace(model=str(root / "model"), data=str(root / "data"))


@pytest.fixture
def cli(capfd):
    """cli("evaluate", …) -> code, out, err; and `.json(…)`, which adds --json and parses all of stdout."""

    def call(*argv) -> SimpleNamespace:
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    def call_json(*argv) -> SimpleNamespace:
        result = call(*argv, "--json")
        return SimpleNamespace(code=result.code, data=json.loads(result.out), err=result.err)

    call.json = call_json
    return call


def write_data(folder: Path) -> None:
    random = np.random.RandomState(0)
    folder.mkdir()
    for name, count in (("train", 64), ("validation", 16)):
        lines = []
        for number in range(count):
            text = " ".join(random.choice(WORDS, random.randint(3, 9))) + f" {name}{number}"
            lines.append(json.dumps({"text": text, "label": number % 2}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir()
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **tokens})
    )
    hidden, neurons, positions = 16, 24, 32
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": neurons,
        "max_position_embeddings": positions,
        "vocab_size": len(vocabulary),
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: index for index, name in enumerate(LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.RandomState(0)
    tensors: dict[str, np.ndarray] = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        tensors[f"{name}.weight"] = random.normal(0, 0.3, (outputs, inputs)).astype(np.float32)
        tensors[f"{name}.bias"] = random.normal(0, 0.1, outputs).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(hidden, np.float32)
        tensors[f"{name}.bias"] = np.zeros(hidden, np.float32)

    for name, rows in (("word", len(vocabulary)), ("position", positions), ("token_type", 2)):
        table = random.normal(0, 1, (rows, hidden)).astype(np.float32)
        tensors[f"bert.embeddings.{name}_embeddings.weight"] = table
    norm("bert.embeddings.LayerNorm")
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            dense(f"{at}.attention.self.{name}", hidden, hidden)
        dense(f"{at}.attention.output.dense", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        dense(f"{at}.intermediate.dense", hidden, neurons)
        dense(f"{at}.output.dense", neurons, hidden)
        norm(f"{at}.output.LayerNorm")
    dense("bert.pooler.dense", hidden, hidden)
    dense("classifier", hidden, len(LABELS))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
