"""RECAP: fine-tune a model that does not fit the device; start reading at `method.py`."""

from .method import Recapped as Recapped, recap as recap, run_recap as run_recap
from .scatter import cut_params as cut_params, write_back as write_back
from .settings import Recap as Recap
