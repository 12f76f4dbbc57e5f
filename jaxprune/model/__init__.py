"""The Transformer: a description, its parameters, one forward pass."""

from .architecture import Architecture as Architecture, LayerSizes as LayerSizes
from .dropout import Dropout as Dropout
from .model import Batch as Batch, Model as Model, Params as Params, Provenance as Provenance
from .padded import logits as logits
from .shapes import parameter_shapes as parameter_shapes
from .transformer import Sites as Sites, forward as forward
