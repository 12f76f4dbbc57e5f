"""Transfers: copies that share nothing, counted in bytes, freed at once; and devices that are not there."""

from itertools import count
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxprune.errors import SettingsError
from jaxprune.runtime.memory import live_bytes
from jaxprune.runtime.placement import Placement, find_device, free


@pytest.fixture
def placement() -> Placement:
    return Placement.of()


def test_what_comes_to_the_device_is_a_copy_and_is_counted(placement):
    tree = {"a": np.arange(4096, dtype=np.float32), "none": None, "b": np.int32(3)}
    with placement.phase("there") as books:
        found = placement.to_device(tree)
        tree["a"][:] = -1  # neither a view nor still being read
        np.testing.assert_array_equal(found["a"], np.arange(4096))
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(found)} == {"device"}
        back = placement.to_host(found)
    assert (books.bytes_to_device, books.bytes_to_host) == (4 * 4096 + 4, 4 * 4096 + 4)
    assert books.live_bytes >= 4 * 4096 + 4 and books.left_bytes == 0
    np.testing.assert_array_equal(back["a"], np.arange(4096))
    assert found["a"].is_deleted()


def test_seconds_of_transfers_are_part_of_those_of_the_phase(placement, monkeypatch):
    """By a clock that ticks when it is read: at the start and the end of the phase and of either transfer."""
    monkeypatch.setattr("jaxprune.runtime.placement.time", SimpleNamespace(perf_counter=count().__next__))
    with placement.phase("there") as books:
        placement.to_host(placement.to_device(np.ones(8, np.float32)))
    assert (books.transfer_seconds, books.seconds) == (2, 5)


def test_nothing_stays_in_pinned_memory(placement):
    before = live_bytes(kind="pinned_host")
    found = placement.to_device(np.ones(1000, np.float32))
    assert live_bytes(kind="pinned_host") == before
    kept = placement.to_host(found, keep=True)
    assert not found.is_deleted() and kept.sum() == 1000
    free(found)
    assert found.is_deleted()


def test_a_device_without_pinned_memory_gets_copies_too(placement):
    placement._staging = None
    source = np.ones(4096, np.float32)
    found = placement.to_device(source)
    source[:] = 0
    assert float(found.sum()) == 4096


def test_a_limit_stops_the_run_with_the_numbers():
    limited = Placement.of(limit=10_000)
    limited.to_device(np.ones(1000, np.float32))
    with pytest.raises(SettingsError, match="12,000 bytes on the device, the limit is 10,000"):
        limited.to_device(np.ones(3000, np.float32))


def test_devices_by_name_and_those_that_are_not_there():
    assert find_device("cpu:0", jax.devices) is jax.devices()[0] is find_device("cpu", jax.devices)
    count = len(jax.devices())
    with pytest.raises(
        SettingsError, match=f"'cpu:{count}' was asked, but there are {count} on cpu; choose from cpu:0"
    ):
        Placement.of(device=f"cpu:{count}")
    with pytest.raises(SettingsError, match="JAX has no platform 'abacus', but cpu") as error:
        Placement.of(host="abacus:0")
    assert "\n" not in str(error.value)
    with pytest.raises(SettingsError, match="'cpu:x' was asked"):
        Placement.of(device="cpu:x")
