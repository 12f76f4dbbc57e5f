"""Print pyproject.toml's lower bounds as pins, for pip's `-c`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
    match = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement)
    assert match, f"{requirement!r} in pyproject.toml states no floor; write name>=version."
    print("==".join(match.groups()))
print(f"jaxlib=={next(r for r in project['dependencies'] if r.startswith('jax>=')).removeprefix('jax>=')}")
