"""Fine-tuning: the training step, and the methods that extend it."""

from .epochs import shuffled as shuffled
from .train import Train as Train, merge as merge, select as select, train as train
