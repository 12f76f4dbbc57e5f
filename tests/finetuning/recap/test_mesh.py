"""RECAP on several devices gives what one device gives, in fewer bytes on each."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.runtime.devices import _spec
from tests.finetuning.recap.mesh_script import SETTINGS, TRAINING
from tests.helpers.processes import result, start


@pytest.fixture(scope="module")
def four(folder, task, tmp_path_factory) -> dict[str, Any]:
    """What a process with four devices finds."""
    out = tmp_path_factory.mktemp("four")
    return result(start(["-m", "tests.finetuning.recap.mesh_script", str(folder), task.source, str(out)], 4, out))


def same(one: dict[str, Any], other: dict[str, Any], losses: int) -> None:
    assert one["units"] == other["units"]
    assert len(one["losses"]) == len(other["losses"]) == losses
    np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-5)
    # Adam makes steps of full size of gradients that are nothing but rounding, such as those of a key's bias.
    np.testing.assert_allclose(one["norms"], other["norms"], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "both"])
def test_one_and_four_devices_give_the_same_losses_and_masks(four, name):
    same(four["one"], four[name], 6)  # two steps and a score a round
    assert four["one"]["mesh"] is None and set(four[name]["mesh"]) == {"data", "model", "processes"}


@pytest.mark.slow
def test_a_full_model_on_the_host_teaches_a_mesh(four):
    one, both = four["taught"]
    same(one, both, len(one["losses"]))


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(four):
    whole, again = four["one"], four["resumed"]
    assert again["losses"][-2:] == pytest.approx(whole["losses"][-2:], rel=1e-5)  # the scores
    same({**whole, "losses": whole["losses"][2:]}, again, 4)


@pytest.mark.slow
def test_bytes_of_a_device_fall_as_predicted(four):
    one, data, both = (four["bytes"][name] for name in ("one", "data", "both"))
    assert both["tuning"] < data["tuning"] < one["tuning"]
    for sizes in (one, data, both):
        assert abs(sizes["tuning"] / sizes["measured"] - 1) < 0.2  # activations are an estimate
    # All but what no axis divides: positions and types of tokens, labels, and where rows lie.
    assert one["write back"] == data["write back"] and both["write back"] < 1.1 * one["write back"] / 4
    for name in ("one", "data", "both"):
        books = four[name]["bytes"]
        assert books["measured"]["write back"] == books["predicted"]["write back"]  # exact: weights and moments alone
    for phase in ("importance", "tuning"):
        assert four["data"]["bytes"]["measured"][phase] < 0.6 * four["one"]["bytes"]["measured"][phase]


@pytest.mark.slow
def test_a_limit_is_that_of_a_device_and_a_mesh_has_its_own(four):
    device, limit, axes = four["refused"]
    assert device == "device cpu:1 is one device, and a mesh has its own; leave one of the two out."
    assert "is predicted to need" in limit and "the limit is 330,000" in limit  # which the run on a mesh kept within
    assert axes == "the mesh has axes data, rows; expected data, and model if you like."


def test_rows_of_a_matrix_in_two_parts_are_divided():
    key, part = jax.tree_util.DictKey, jax.tree_util.GetAttrKey

    def spec(owner: str, name: str, of: str, *shape: int) -> tuple[str | None, ...]:
        return tuple(_spec((key(owner), key(name), part(of)), shape, {"data": 4, "model": 2}, True))

    assert spec("q", "kernel", "trained", 12, 6) == ("data", "model")
    assert spec("q", "kernel", "frozen", 12, 7) == ("data", None)  # seven rows are left
    assert spec("down", "kernel", "trained", 6, 12) == ("model", "data")
    assert spec("up", "bias", "trained", 6) == ("model",)
    assert spec("embed", "token", "frozen", 6, 12) == ("model", "data")
    assert spec("down", "kernel", "place", 8) == (None,)


def test_several_processes_are_refused(model, task, monkeypatch):

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    with pytest.raises(
        SettingsError, match="full model in the memory of one process, and there are 2; start one, with"
    ):
        jp.recap(model, task, SETTINGS, TRAINING, mesh=mesh)
