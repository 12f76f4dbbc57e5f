"""`python -m jaxprune`, for where the command `jaxprune` is not on the path."""

import sys

from .cli.main import main

sys.exit(main())
