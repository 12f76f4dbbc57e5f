"""The README.md of a folder in the form of Hugging Face's hub: what the model is, what was removed, how to load it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from .head_names import HEAD_NAMES
from .uneven import MODELLING

CARD = "README.md"
CARD_HASH = "card"  # in the record: SHA-256 of the card, by which one that was edited since is told
# By format; saved folders: jaxprune.
_LIBRARIES = {"transformers": "transformers", "onnx": "onnx", "stablehlo": "jax", "gguf": "gguf"}
_LIBRARIES |= {"sentence-transformers": "sentence-transformers"}
_LOADING = {
    "jaxprune": "import jaxprune as jp\n\nmodel = jp.load(FOLDER)",
    "transformers": "from transformers import {class_name}\n\nmodel = {class_name}.from_pretrained(FOLDER)",
    "sentence-transformers": "from sentence_transformers import SentenceTransformer\n\n"
    "model = SentenceTransformer(FOLDER)",
    MODELLING: "from transformers import {class_name}\n\n"
    "model = {class_name}.from_pretrained(FOLDER, trust_remote_code=True)",
    "onnx": "import jaxprune as jp\n\nmodel = jp.load_onnx(FOLDER)  # or onnx/model.onnx in any runtime of ONNX",
    "stablehlo": "from pathlib import Path\n\nfrom jax import export\n\n"
    'program = export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))',
    "gguf": "llama-cli -m FOLDER/model.gguf",
}
_MODELLING = (
    f"The classes of transformers have no place for layers of these sizes: `{MODELLING}` builds them with projections "
    "of the sizes in config.json, and does nothing else. With `trust_remote_code=True` transformers runs that file; "
    "read it first, it is short. Without it, loading fails at the shapes of the tensors. `jaxprune.load(FOLDER)` reads "
    "the model without running it."
)
_SHELL = {"gguf": "sh"}  # formats that are run by a command


def card_text(manifest: Mapping[str, Any], class_name: str | None = None) -> str:
    """The card of a folder whose record is `manifest`; `class_name` is that of transformers, where it loads it."""
    a = manifest["architecture"]
    export = manifest.get("export", {})
    kind = export.get("format", "jaxprune")
    filed = MODELLING in export.get("files", ())
    loading = _LOADING[MODELLING if filed else kind].format(class_name=class_name)
    if kind == "transformers" and a.get("embedding") is not None:  # which that package reads, and few others
        kind = "sentence-transformers"
        loading = _LOADING[kind].replace("(FOLDER", "(FOLDER, trust_remote_code=True" if filed else "(FOLDER")
    parts = (
        _front_matter(manifest, a, kind),
        _title(manifest, a),
        _removed(manifest, a),
        _how(manifest),
        _scores(manifest),
        f"## Loading it\n\n```{_SHELL.get(kind, 'python')}\n{loading}\n```",
        _MODELLING if filed else "",
        _warnings(manifest),
        f"Written by jaxprune {manifest.get('versions', {}).get('jaxprune', '')}.",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def card_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _front_matter(manifest: Mapping[str, Any], a: Mapping[str, Any], kind: str) -> str:
    """YAML; every value is written as JSON, which YAML reads alike."""
    method = manifest.get("method")
    tags = ["jaxprune", *(["pruned", str(method)] if method else []), *([kind] if kind in ("onnx", "gguf") else [])]
    entries: dict[str, Any] = {"library_name": _LIBRARIES.get(kind, "jaxprune")}
    if (pipeline := _pipeline(a)) is not None:
        entries["pipeline_tag"] = pipeline
    if isinstance(manifest.get("hub"), Mapping):  # a folder on someone's disk is no name on the hub
        entries["base_model"] = str(manifest["source"])
    entries["tags"] = tags
    lines = [f"{name}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in entries.items()]
    return "\n".join(["---", *lines, *_model_index(manifest, a), "---"])


def _model_index(manifest: Mapping[str, Any], a: Mapping[str, Any]) -> list[str]:
    """The scores as the hub reads them."""
    scores = manifest.get("scores")
    pipeline = _pipeline(a)
    if not isinstance(scores, Mapping) or not isinstance(scores.get("pruned"), float) or pipeline is None:
        return []
    task, metric = str(scores.get("task")), str(scores.get("metric"))
    results = {
        "task": {"type": pipeline},
        "dataset": {"name": task, "type": task},
        "metrics": [{"type": metric, "value": scores["pruned"]}],
    }
    index = [{"name": f"{model_name(manifest, a)}, pruned", "results": [results]}]
    return [f"model-index: {json.dumps(index, ensure_ascii=False)}"]


def _pipeline(a: Mapping[str, Any]) -> str | None:
    """What the hub calls the task."""
    pipeline = HEAD_NAMES[a["head"]].pipeline
    return pipeline if pipeline is None or not a.get("patches") else pipeline.replace("text", "image", 1)


def model_name(manifest: Mapping[str, Any], a: Mapping[str, Any]) -> str:
    """What the model was cut from, without the folders that it lay in."""
    source = manifest.get("source")
    if not isinstance(source, str):
        return a["family"]
    return source if isinstance(manifest.get("hub"), Mapping) else PurePath(source.replace("\\", "/")).name


def _title(manifest: Mapping[str, Any], a: Mapping[str, Any]) -> str:
    name, method = model_name(manifest, a), manifest.get("method")
    title = f"# {name}, pruned" if method else f"# {name}"
    head = "" if HEAD_NAMES[a["head"]].bare else f" with a {a['head'].replace('_', ' ')} head"
    head = head if a.get("embedding") is None else " that makes vectors of texts"
    return f"{title}\n\nA {a['family']} model{head}" + (
        f", made smaller by {method}: heads and neurons were cut out, and the matrices shrank." if method else "."
    )


def _removed(manifest: Mapping[str, Any], a: Mapping[str, Any]) -> str:
    shares = manifest.get("removed")
    lines = ["## What was removed"] if manifest.get("method") else ["## Sizes"]
    in_all = manifest.get("removed_in_all")
    for removed, of in ((shares, "all heads and neurons"), (in_all, "those of the first model, with earlier prunings")):
        if isinstance(removed, Mapping) and removed.keys() >= {"flops", "params"}:
            lines.append(f"{removed['flops']:.1%} of the FLOPs and {removed['params']:.1%} of the parameters of {of}.")
    rows = (
        f"| {number} | {size['groups'] * size['queries']} | {size['neurons']} |"
        for number, size in enumerate(a["layers"])
    )
    return "\n\n".join([*lines, "\n".join(["| layer | heads | neurons |", "| --- | --- | --- |", *rows])])


def _how(manifest: Mapping[str, Any]) -> str:
    """The method's settings, the texts it measured, and training."""
    lines = []
    if manifest.get("method"):
        settings = manifest.get("settings")
        lines.append(f"Method: `{manifest['method']}`" + (f" with `{json.dumps(settings)}`." if settings else "."))
    budget = manifest.get("budget")
    if isinstance(budget, Mapping):
        lines.append(f"Asked for: `{json.dumps(budget)}`.")
    texts = manifest.get("calibration")
    if isinstance(texts, Mapping):
        source = PurePath(str(texts.get("source")).replace("\\", "/")).name
        lines.append(
            f"Measured on {texts.get('count')} texts of {source} ({texts.get('tokens')} tokens, seed "
            f"{texts.get('seed')}); labels were not used."
        )
    training = manifest.get("training")
    if isinstance(training, Mapping):
        lines.append(f"Trained ({training.get('method')}) on {training.get('texts')} texts of {training.get('task')}.")
    return "\n\n".join(["## How", *lines]) if lines else ""


def _scores(manifest: Mapping[str, Any]) -> str:
    scores = manifest.get("scores")
    if not isinstance(scores, Mapping):
        return ""
    told = [(name, scores[name]) for name in ("dense", "pruned") if isinstance(scores.get(name), float)]
    if not told:
        return ""
    rows = "\n".join(f"| {name} | {score:.4f} |" for name, score in told)
    return f"## Scores\n\n| {scores.get('task')} | {scores.get('metric')} |\n| --- | --- |\n{rows}"


def _warnings(manifest: Mapping[str, Any]) -> str:
    told: Iterable[str] = manifest.get("warnings") or ()
    return "\n".join(["## Doubts", "", *(f"- {warning}" for warning in told)]) if told else ""
