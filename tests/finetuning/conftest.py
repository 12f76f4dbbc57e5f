import json
from pathlib import Path

import numpy as np
import pytest

import jaxprune as jp
from tests.helpers import tiny
from tests.helpers.tokenizers import as_it_stands

WORDS = "the a film book plot cast good bad fine dull warm cold long short and but is was very not who when".split()


def write_tokenizer(folder: Path) -> int:
    """A word-level tokenizer.json; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(folder / "tokenizer.json"))
    as_it_stands(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A random BERT of two layers, three heads and ten neurons, with its tokenizer."""
    path = tmp_path_factory.mktemp("base") / "model"
    settings = tiny.config("bert", id2label={"0": "no", "1": "yes"}, vocab_size=4 + len(WORDS))
    named = {
        name: np.ones_like(tensor) if name.endswith("LayerNorm.weight") else 0.5 * tensor
        for name, tensor in tiny.tensors(settings).items()
    }
    tiny.write(path, settings, named)
    write_tokenizer(path)
    return path


@pytest.fixture
def model(folder) -> jp.Model:
    return jp.load(folder)


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> jp.Task:
    """Texts that are "yes" where they say good and "no" where they say bad: 48 to train on, 24 to score."""
    random, path = np.random.RandomState(0), tmp_path_factory.mktemp("data")
    for split, count in (("train", 48), ("validation", 24)):
        lines = []
        for number in range(count):
            words = [*random.choice(["film", "book", "plot", "cast"], 4)]
            words[random.randint(4)] = "good" if number % 2 else "bad"
            lines.append(json.dumps({"text": " ".join(words), "label": ("no", "yes")[number % 2]}))
        (path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return jp.tasks.folder(path)
