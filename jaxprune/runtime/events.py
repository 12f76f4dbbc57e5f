"""How a long call tells of its progress."""

from collections.abc import Callable
from typing import Any

# Called with {"phase": name, "done": so many, "of": how many}, and what else there is to tell.
OnStep = Callable[[dict[str, Any]], None]
