"""The embedded default: a small fine-tuned checkpoint and slices of its data set, so that a first run needs no files.

See demo/README.md for what they are and how they were made.
"""

from importlib.resources import files
from pathlib import Path

DEMO = Path(str(files(__name__))) / "demo"


def demo_model_path() -> Path:
    """A BERT folder in the layout of Hugging Face: 4 layers, width 128, the 77 intents of Banking77."""
    return DEMO / "model"


def demo_data_path() -> Path:
    """A folder of labelled texts (train.jsonl, validation.jsonl, labels.json) that fits the model."""
    return DEMO / "data"
