"""The families of Transformers that we read, by name; their rows stand in `encoder_rows` and its like."""

from collections.abc import Mapping
from types import MappingProxyType

from .deberta_row import DEBERTA
from .decoder_rows import DECODERS
from .encoder_rows import ENCODERS
from .family import Family as Family, HeadModules as HeadModules
from .gemma_rows import GEMMAS
from .image_rows import IMAGES

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {row.model_type: row for row in (*ENCODERS, DEBERTA, *DECODERS, *GEMMAS, *IMAGES)}
)
"""Our rows by their model_type."""

ACTIVATION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    }
)
