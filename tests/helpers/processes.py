"""Processes of their own for tests: they can have several devices, and there can be several of them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(words: Sequence[str], devices: int, folder: Path) -> subprocess.Popen[str]:
    """`python WORDS…` in `folder`, on as many simulated devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    )


def result(process: subprocess.Popen[str]) -> Any:
    """What the process prints as JSON behind the word RESULT."""
    out, error = process.communicate(timeout=1200)
    line = next((line for line in out.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, error[-3000:]
    return json.loads(line.removeprefix("RESULT "))


def free_address() -> str:
    """Of this machine, where processes can meet."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"
