"""The Python in README and docs/ runs, from top to bottom of each page, on small models and files written here.

A block after `<!-- compiled only: REASON -->` is compiled, not run; after `<!-- tiny: 512 -> 64; epochs=3 -> epochs=1
-->` (one line) it runs with these words exchanged. What pages call by a name that could be a reader's own (`my-texts`,
`my-language-model`, `test.txt`, …) lies in the folder that they run in; they write the rest.
"""

import json
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxprune.assets import demo_data_path
from tests.cli.conftest import write_data, write_model
from tests.finetuning.conftest import WORDS
from tests.helpers import images, tiny
from tests.helpers.chat import chat_model
from tests.helpers.decoders import language_model
from tests.helpers.sentences import write_folder
from tests.helpers.tokenizers import WORDS as BERT_WORDS, write_bert

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# In two files of tests, for two cores: those that prune the embedded model as README does share compiled programs.
ALIKE = [page for page in PAGES if page.stem in ("README", "quickstart", "concepts") or page.parent.name == "methods"]
BLOCK = re.compile(r"^(?:<!-- (compiled only|tiny): ([^\n]+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, bool]]:
    """The Python of a page, each block at the lines where it stands, and whether it is run."""
    text, out = page.read_text(encoding="utf-8"), []
    for match in BLOCK.finditer(text):
        kind, words, code = match.groups()
        for exchange in words.split("; ") if kind == "tiny" else ():
            shown, run = exchange.split(" -> ")
            assert shown in code, f"{page} has no {shown} to exchange"
            code = code.replace(shown, run)
        out.append(("\n" * text.count("\n", 0, match.start(3)) + code, kind != "compiled only"))
    return out


def write_inputs(root: Path) -> Path:
    """What a reader is taken to have: models, a task's files, texts."""
    write_data(root / "my-texts")
    write_model(root / "my-encoder")
    without_head(root / "my-encoder")
    language_model(root / "my-language-model", "llama")
    chat_model(root / "my-chat-model")
    of_another_family(root / "my-own-family")
    write_folder(root / "my-embedding-model")
    masked_model(root / "my-masked-model")
    images.write_model(root / "my-vit")
    images.write_npz(root / "my-images.npz", 96)
    random = np.random.RandomState(0)
    # "film" is a word that the masked model knows, too.
    text = "\n".join(" ".join([*random.choice(WORDS, 9), "film", "film", "film"]) for _ in range(200))
    for name in ("test.txt", "c4.txt"):
        (root / name).write_text(text)
    (root / "c4.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in text.splitlines()))
    rows = (demo_data_path() / "train.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    (root / "texts.txt").write_text("\n".join(json.loads(row)["text"].replace("\n", " ") for row in rows))
    return root


def masked_model(model: Path) -> None:
    """A BERT with the head of its pre-training."""
    settings = tiny.config("bert", "masked_lm", vocab_size=len(BERT_WORDS))
    write_bert(tiny.write(model, settings, tiny.tensors(settings)))


def of_another_family(model: Path) -> None:
    """A BERT under the names of a family that nobody knows."""
    write_model(model)
    tensors, config = load_file(model / "model.safetensors"), json.loads((model / "config.json").read_text())
    renamed = {name.replace("bert.", "ours.").replace("encoder.layer", "blocks"): t for name, t in tensors.items()}
    save_file(renamed, model / "model.safetensors")
    config |= {"model_type": "ours", "architectures": ["OursForSequenceClassification"], "dim": config["hidden_size"]}
    del config["hidden_size"]
    (model / "config.json").write_text(json.dumps(config))


def without_head(model: Path) -> None:
    """The checkpoint as pretraining leaves one: of no task."""
    config = json.loads((model / "config.json").read_text())
    for key in ("id2label", "label2id"):
        del config[key]
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))


def run(page: Path, folder: Path, here: Path) -> None:
    """Run the Python of a page in the folder `here`, beside what a reader is taken to have."""
    for entry in folder.iterdir():
        (here / entry.name).symlink_to(entry)
    namespace = {"__name__": "__main__"}
    for code, runs in blocks(page):
        program = compile(code, str(page), "exec")
        if runs:
            exec(program, namespace)
