"""The methods: one file each, to be read next to its paper; none imports another."""

from .fisher import Fisher as Fisher
from .flap import Flap as Flap
from .kprune import KPrune as KPrune
from .magnitude import Magnitude as Magnitude
from .random import Random as Random
from .taylor import Taylor as Taylor

OURS = (KPrune, Fisher, Magnitude, Flap, Taylor, Random)  # in the order in which they are listed
