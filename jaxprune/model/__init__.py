"""The Transformer: a description, its parameters, one forward pass."""

from .architecture import Architecture as Architecture, LayerSizes as LayerSizes, parameter_shapes as parameter_shapes
from .model import Batch as Batch, Model as Model, Params as Params, Provenance as Provenance
from .transformer import Dropout as Dropout, Sites as Sites, forward as forward, logits as logits
