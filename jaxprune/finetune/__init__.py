"""Fine-tuning: the training step, and the methods that extend it."""

from .epochs import shuffled as shuffled
from .finetune import finetune as finetune
from .lora import Adapters as Adapters, Lora as Lora, merged as merged
from .train import Train as Train, Trained as Trained, merge as merge, select as select, train as train
