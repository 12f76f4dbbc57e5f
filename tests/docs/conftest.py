"""What the tests of pages share."""

import jax
import pytest

from jaxprune.checkpoint import known_families
from tests.docs import snippets


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """The folder with what a reader is taken to have."""
    return snippets.write_inputs(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def quickly(monkeypatch):
    """What a page computes is small: most of its time is compiling."""
    monkeypatch.setattr(known_families, "_handed_in", {})  # a family that a page makes is not known to other tests
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
