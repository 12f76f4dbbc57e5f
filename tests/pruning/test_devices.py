"""Streamed weights and meshes change where arrays live, never what a run finds."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.cli.flags import make_mesh
from jaxprune.errors import SettingsError
from jaxprune.model import Architecture, LayerSizes
from jaxprune.pruning import measure
from jaxprune.runtime.devices import Devices
from jaxprune.runtime.memory import live_bytes
from tests.finetuning.conftest import WORDS
from tests.helpers.decoders import language_model
from tests.helpers.processes import free_address, result, start

METHODS = {
    "kprune": (jp.kprune, jp.KPrune()),
    "fisher": (jp.fisher, jp.Fisher(refit="weights")),
    "flap": (jp.flap, jp.Flap()),
    "taylor": (jp.taylor, jp.Taylor()),
    "magnitude": (jp.magnitude, jp.Magnitude(refit="scales")),
    "random": (jp.random_prune, jp.Random()),
}
BUDGETS = [jp.Budget(0.3, cost="params"), jp.Budget(0.6, cost="params")]
CALIBRATION = jp.Calibration.of_texts(
    [" ".join(np.random.RandomState(row).choice(WORDS, 12)) for row in range(20)], max_length=16
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(language_model(tmp_path_factory.mktemp("base") / "model", "llama").provenance.source or "")


def same(one: jp.Model, other: jp.Model) -> bool:
    return one.architecture == other.architecture and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streamed_weights_give_the_same_model_to_the_bit(folder, name, dtype, monkeypatch):
    run, chosen = METHODS[name]
    expected = run(jp.load(folder, dtype=dtype), CALIBRATION, BUDGETS, chosen)
    # So little may wait that the batches go in several groups.
    model = jp.load(folder, dtype=dtype, host=True)
    monkeypatch.setattr(measure, "WAITING_BYTES", 2 * 4 * 768 * model.architecture.hidden * 4)
    found = run(model, CALIBRATION, BUDGETS, chosen, stream=True)
    for one, other in zip(expected, found, strict=True):
        assert same(one, other)
        assert all(isinstance(leaf, np.ndarray) and leaf.dtype.name == dtype for leaf in jax.tree.leaves(other.params))
        assert one.provenance.record["kept"] == other.provenance.record["kept"]
        assert other.provenance.record["masked_vs_cut"] < 1e-5


@pytest.mark.slow
def test_the_published_preset_streams_too():
    from jaxprune.assets import demo_data_path, demo_model_path

    calibration = jp.tasks.folder(demo_data_path()).calibration(40)
    arguments = calibration, jp.Budget(0.5), jp.KPrune.presets()["published"]
    expected = jp.kprune(jp.load(demo_model_path()), *arguments)
    assert same(expected, jp.kprune(jp.load(demo_model_path(), host=True), *arguments, stream=True))


@pytest.mark.slow
def test_what_lives_on_the_device_does_not_grow_with_depth(tmp_path):
    """Beyond the embedding and activations: three sublayers' weights and sums at most, whatever the depth."""

    def grown(layers: int, stream: bool) -> tuple[int, int]:
        sizes: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 200, "num_hidden_layers": layers}
        source = language_model(tmp_path / f"model-{layers}-{stream}", "llama", **sizes).provenance.source
        model = jp.load(source or "", host=stream)
        before = live_bytes() if stream else live_bytes() - sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
        record = jp.kprune(model, CALIBRATION, jp.Budget(0.5), stream=stream).provenance.record
        layer = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params["layers"][0]))
        return record["peak_bytes"] - before, layer

    (short, layer), (long, _) = grown(3, stream=True), grown(9, stream=True)
    assert abs(long - short) < layer / 10
    (short, _), (long, _) = grown(3, stream=False), grown(9, stream=False)
    assert long - short > 6 * layer


def test_sublayers_come_in_turn_and_few_at_a_time():
    layers = [{"attention": {"w": np.full(1000, i)}, "feed_forward": {"w": np.full(1000, -i)}} for i in range(6)]
    before, seen, most = live_bytes(), [], 0
    addresses = Architecture(
        family="bert", vocab=4, hidden=4, head_width=4, layers=(LayerSizes(groups=1, neurons=1),) * 6, max_positions=4
    ).sublayers()
    for at, p in Devices(stream=True).sublayers(layers, reversed(addresses)):
        seen.append((at.index, at.half, int(p["w"][0])))
        most = max(most, live_bytes() - before)
    halves = ("attention", "feed_forward")
    assert seen == [(i, halves[i % 2], (i // 2) * (1, -1)[i % 2]) for i in reversed(range(12))]
    assert most <= 3 * np.asarray(p["w"]).nbytes
    assert list(Devices(stream=True).sublayers(layers, [])) == []


def test_axes_of_a_mesh_are_checked():
    with pytest.raises(SettingsError, match="has axes rows; expected data"):
        Devices(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",)))
    with pytest.raises(SettingsError, match="needs 4096 devices, there are"):
        make_mesh("data=4096")
    for text in ("4", "data=", "model=2", "data=2,rows=2", "data=-1"):
        with pytest.raises(SettingsError, match="is not understood"):
            make_mesh(text)
    assert make_mesh("data=1").shape == {"data": 1, "model": 1}


# Run by processes of their own, which can have other numbers of devices.
SCRIPT = """
import json, sys
import jax, numpy as np
processes, rank, address, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if processes > 1:
    jax.distributed.initialize(address, processes, rank)
import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from tests.pruning.test_devices import BUDGETS, CALIBRATION, METHODS

meshes = {"1": None, "data": jax.make_mesh((4,), ("data",))}
if processes == 1:
    meshes["both"] = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
texts = jp.tasks.folder(demo_data_path()).calibration(24)
found = {}
for place, mesh in meshes.items():
    few = processes > 1 or place == "both"
    for name in ("kprune", "flap") if few else ("kprune", "fisher", "flap", "taylor"):  # the others measure nothing
        run, settings = METHODS[name]
        found[f"{place} {name}"] = run(jp.load(folder), CALIBRATION, BUDGETS[1], settings, mesh=mesh)
    for name in ("default",) if few else ("default", "published"):
        settings = jp.KPrune() if name == "default" else jp.KPrune.presets()[name]
        encoder = jp.load(demo_model_path())
        found[f"{place} encoder {name}"] = jp.kprune(encoder, texts, jp.Budget(0.5), settings, mesh=mesh)
far = {}
for key, small in found.items():
    alone = found["1" + key[key.index(" "):]]
    far[key] = [
        small.provenance.record["kept"] == alone.provenance.record["kept"],
        max(
            float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0)) if np.shape(x) == np.shape(y) else 1.0
            for x, y in zip(jax.tree.leaves(small.params), jax.tree.leaves(alone.params))
        ),
    ]
print("RESULT " + json.dumps([len(jax.devices()), far]), flush=True)
"""


def check(devices: int, far: dict[str, Any]) -> None:
    assert devices == 4
    for name, (same_units, distance) in far.items():
        assert same_units and distance < 1e-3, name


@pytest.mark.slow
def test_four_devices_keep_the_same_units_as_one(folder):
    check(*result(start(["-c", SCRIPT, "1", "0", "", str(folder)], 4, folder)))


@pytest.mark.slow
def test_two_processes_keep_the_same_units_as_one_device(folder):
    address = free_address()
    running = [start(["-c", SCRIPT, "2", str(rank), address, str(folder)], 2, folder) for rank in range(2)]
    try:
        for process in running:
            check(*result(process))
    finally:
        for process in running:
            process.kill()
