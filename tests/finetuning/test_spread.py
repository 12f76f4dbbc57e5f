"""Training on several devices and processes gives what one device gives, in fewer bytes on each."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.runtime.devices import _spec
from tests.finetuning.spread_script import FEW, SETTINGS
from tests.helpers.processes import free_address, result, start

pytestmark = pytest.mark.slow

MODULE = ("-m", "tests.finetuning.spread_script")


@pytest.fixture(scope="module")
def four(folder, task, tmp_path_factory) -> dict[str, Any]:
    """What a process with four devices finds."""
    out = tmp_path_factory.mktemp("four")
    return result(start([*MODULE, "devices", str(folder), task.source, str(out)], 4, out))


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(one["losses"]) == len(other["losses"]) == 4
    np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-5)
    # Adam makes steps of full size of gradients that are nothing but rounding, such as those of a key's bias.
    np.testing.assert_allclose(one["norms"], other["norms"], rtol=2e-3)


@pytest.mark.parametrize("kind", ["adapters", "decoder"])
def test_one_and_four_devices_give_the_same_losses(four, kind):
    same(*four["losses"][kind])


def test_what_dropout_draws_does_not_depend_on_how_rows_are_spread(four):
    same(four["resumed"]["one"], four["resumed"]["both"])


@pytest.mark.parametrize("way", ["weights one", "one weights", "weights two"])
def test_a_run_goes_on_on_another_number_of_devices(four, way):
    whole, again = four["resumed"]["one"], four["resumed"][way]
    assert len(again["losses"]) == 2  # the third step, and the score
    np.testing.assert_allclose(again["losses"], whole["losses"][2:], rtol=1e-5)
    np.testing.assert_allclose(again["norms"], whole["norms"], rtol=2e-3)


def test_a_model_recovers_on_a_mesh_as_on_one_device(four):
    one, both = four["recovered"]["one"], four["recovered"]["both"]
    assert len(one) == 3 and one[-1] < one[0]
    np.testing.assert_allclose(one, both, rtol=5e-3)  # differences of nearly equal predictions, in float32


def test_bytes_of_a_device_fall_as_predicted(four):
    one, data, weights, both = (four["bytes"][name] for name in ("one", "data", "weights", "both"))
    for name in ("parameters", "gradients", "moments"):
        assert data[name] == one[name]
        # All but what no axis divides: positions and types of tokens, and labels.
        assert one[name] / 4 <= weights[name] < 1.02 * one[name] / 4
        assert one[name] / 4 <= both[name] < 1.1 * one[name] / 4
    assert data["activations"] < 1.01 * one["activations"] / 4
    assert weights["predicted"] < data["predicted"] < one["predicted"]
    for found in (weights, both):
        assert found["parameters"] + found["moments"] <= found["arguments"] < found["measured"]
        assert abs(found["predicted"] / found["measured"] - 1) < 0.1  # activations are an estimate


def test_two_processes_train_as_one_device_and_leave_a_state_for_it(folder, task, four, tmp_path):
    words = [*MODULE, "processes", str(folder), task.source, str(tmp_path), free_address(), "2"]
    running = [start([*words, str(rank)], 2, tmp_path) for rank in range(2)]
    try:
        answers = [result(process) for process in running]
    finally:
        for process in running:
            process.kill()
    for answer in answers:
        same(four["resumed"]["one"], answer)
        assert answer["devices"] == 4 and answer["rows"] == [[2], [2]]  # of each batch half of four
    again = jp.finetune(jp.load(folder), task, SETTINGS, trainable=FEW, out=tmp_path / "run", resume=True)
    (record,) = again.provenance.record["training"]["epochs"]
    np.testing.assert_allclose(record["loss"], np.mean(answers[0]["losses"][:3]), rtol=1e-5)
    norms = [float(np.linalg.norm(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(again.params)]
    np.testing.assert_allclose(norms, answers[0]["norms"], rtol=1e-6)


def test_where_a_weight_is_divided():
    key = jax.tree_util.DictKey
    q, token = (key("q"), key("kernel")), (key("embed"), key("token"))
    spec = lambda path, shape, over_data, **axes: tuple(_spec(path, shape, axes, over_data))  # noqa: E731
    assert spec(q, (12, 8, 1, 4), False, data=2, model=4) == (None, "model", None, None)
    assert spec(q, (12, 8, 1, 4), True, data=2, model=4) == ("data", "model", None, None)
    assert spec(q, (12, 7, 1, 4), True, data=4, model=2) == ("data", None, None, None)  # seven heads are left
    assert spec(q, (12, 0, 1, 4), True, data=1, model=2) == (None,) * 4  # none are
    assert spec(token, (30, 12), True, data=4, model=2) == ("model", "data")
    assert spec((key("norm"), key("scale")), (12,), True, data=5) == (None,)


def test_processes_that_train_alone_share_no_folder(model, task, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        SettingsError, match="2 processes, each of which trains alone, would write to .*run; pass a mesh"
    ):
        jp.finetune(model, task, SETTINGS, out=tmp_path / "run")


def test_what_does_not_go_together_is_refused(four):
    rows, model, data, axes = four["refused"]
    assert rows == "a batch of 6 rows does not divide into 2 parts on 4 devices; pack it into a multiple of 8."
    assert model.startswith("the mesh's axis model has 4 devices, and no weight of the model can be divided by 4;")
    assert data.startswith("the mesh's axis data has 4 devices, and no weight of the model can be divided by 4;")
    assert axes == "the mesh has axes data, rows; expected data, and model if you like."
