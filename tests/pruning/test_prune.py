"""`jp.prune`: one verb for every method, a class of somebody else's among them; and methods by name."""

import dataclasses
import importlib.metadata
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path
from jaxprune.cli.main import main
from jaxprune.errors import BudgetError, JaxpruneError, SettingsError
from jaxprune.model.architecture import FEED_FORWARD
from jaxprune.pruning.by_name import METHODS, changed, label_of, method_class, method_of
from jaxprune.pruning.call_checks import check_call, check_results
from jaxprune.pruning.cost import flops, parameters
from jaxprune.pruning.cut import unit_counts
from jaxprune.pruning.method import check_method
from jaxprune.settings import FormerName
from tests.cli.conftest import cli as cli, inputs as inputs
from tests.report.conftest import tiny as tiny

BUDGETS = [jp.Budget(0.3, length=8), jp.Budget(0.6, length=8)]


@dataclass(frozen=True, kw_only=True)
class First(jp.Method):
    """Another package's method: the first units of every sublayer stay."""

    name = "first"
    spared: int = field(default=1, metadata={"help": "layers that keep all of their neurons"})
    seed: int = field(default=0, metadata={"help": "nothing is drawn"})

    @classmethod
    def presets(cls):
        return {"greedy": cls(spared=0)}

    def prune(self, run, budgets):
        architecture, models = run.model.architecture, []
        for budget in budgets:
            masks = []
            for at, count in zip(architecture.sublayers(), unit_counts(architecture), strict=True):
                spared = at.half == FEED_FORWARD and at.layer < self.spared
                kept = count if spared else max(int((1 - budget.remove) * count) - 1, 1)
                masks.append(np.arange(count) < kept)
            models.append(run.finish(self, budget, run.model, masks, [], notes={"spared": self.spared}))
        return models


@pytest.fixture
def ids(tiny):
    model = tiny()
    rows = np.random.default_rng(0).integers(model.architecture.vocab, size=(64, 8))
    return model, jp.Calibration.of_ids(rows, None)


@pytest.fixture
def offered(monkeypatch):
    """offered(name="module:Class", …): entry points of a package called theirs."""

    class Theirs(importlib.metadata.Distribution):
        def __init__(self, entries):
            lines = [f"{name} = {value}" for name, value in entries.items()]
            self.text = "\n".join(["[jaxprune.methods]", *lines])

        def read_text(self, filename):
            metadata = "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n"
            return {"entry_points.txt": self.text, "METADATA": metadata}.get(filename)

        def locate_file(self, path):
            return path

    def offer(**entries):
        found = Theirs(entries).entry_points
        monkeypatch.setattr("jaxprune.pruning.by_name.entry_points", lambda group: found.select(group=group))

    # Test modules are not imported by name.
    monkeypatch.setitem(sys.modules, "their_package", sys.modules[__name__])
    return offer


def test_one_budget_gives_a_model_and_several_a_list(ids):
    model, texts = ids
    small = jp.prune(model, texts, BUDGETS[0], jp.Magnitude())
    (same, smaller) = jp.prune(model, texts, BUDGETS, "magnitude")
    assert isinstance(small, jp.Model) and small.architecture == same.architecture
    assert flops(smaller.architecture, 8) < flops(small.architecture, 8)
    (alone,) = jp.magnitude(model, texts, BUDGETS[:1])
    assert alone.architecture == small.architecture
    with pytest.raises(BudgetError, match="there are no budgets"):
        jp.prune(model, texts, [])


def test_a_model_that_is_pruned_again_says_what_is_gone_in_all(ids, tmp_path):
    model, texts = ids
    once = jp.prune(model, texts, jp.Budget(0.3, "params"), jp.Magnitude())
    assert "removed_in_all" not in once.provenance.record
    twice = jp.prune(jp.load(jp.save(once, tmp_path / "once")), texts, jp.Budget(0.4, "params"), jp.Magnitude())
    record, first, now = twice.provenance.record, *(parameters(m.architecture) for m in (model, twice))
    assert record["removed"]["params"] < record["removed_in_all"]["params"] == pytest.approx(1 - now / first)
    thrice = jp.prune(twice, texts, jp.Budget(0.2, "params"), jp.Magnitude())
    in_all = thrice.provenance.record["removed_in_all"]["params"]
    assert in_all == pytest.approx(1 - parameters(thrice.architecture) / first)
    card = (jp.save(thrice, tmp_path / "thrice") / "README.md").read_text()
    assert f"{in_all:.1%} of the parameters of those of the first model, with earlier prunings." in card


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_the_same_call_under_its_name(name):
    shorthand = getattr(jp, "random_prune" if name == "random" else name)
    ours, theirs = inspect.signature(shorthand), inspect.signature(jp.prune)
    assert list(ours.parameters) == ["settings" if p == "method" else p for p in theirs.parameters]
    assert ours.parameters["settings"].default == METHODS[name]()
    assert METHODS[name].__name__ in shorthand.__doc__


def test_the_default_is_kprune():
    assert inspect.signature(jp.prune).parameters["method"].default == jp.KPrune()


def test_somebody_elses_class_prunes_compares_and_plans(ids):
    model, texts = ids
    small, smaller = jp.prune(model, texts, BUDGETS, First(spared=2))
    record = smaller.provenance.record
    assert (record["method"], record["settings"], record["spared"]) == ("first", {"spared": 2, "seed": 0}, 2)
    assert [size.neurons for size in small.architecture.layers] == [32, 32]
    assert record["masked_vs_cut"] < 1e-5 and record["kept"][0]["heads"] == [0]
    with pytest.raises(SettingsError, match="first, as it is set, keeps no measurement"):
        jp.prune(model, texts, BUDGETS, First(), out="somewhere")


def test_what_is_no_method_is_named():
    with pytest.raises(SettingsError, match=r"method is the class KPrune; pass settings, such as KPrune\(\)"):
        check_method(jp.KPrune)
    with pytest.raises(SettingsError, match="method is a int; pass settings such as KPrune"):
        check_method(3)

    @dataclass(frozen=True)
    class Half:
        name = "half"

        def prune(self, run, budgets):
            return []

    @dataclass(frozen=True, kw_only=True)
    class Silent(jp.Method):
        name = "silent"

    with pytest.raises(SettingsError, match="Silent is no pruning method: it lacks prune"):
        check_method(Silent())  # pyright: ignore[reportAbstractUsage]
    with pytest.raises(
        SettingsError, match="Half is no pruning method: it lacks measures_once, needs_texts, group, presets"
    ):
        check_method(Half())


def test_what_a_method_gives_is_one_model_a_budget_from_the_run(ids):
    model, calibration = ids

    @dataclass(frozen=True, kw_only=True)
    class Idle(jp.Method):
        name = "idle"
        gives: Any = None

        def prune(self, run: Any, budgets: Any) -> Any:
            return [run.model for _ in budgets] if self.gives is None else self.gives

    two = [jp.Budget(0.5), jp.Budget(0.3)]
    with pytest.raises(SettingsError, match="idle.prune gave a model that did not come from run.finish"):
        jp.prune(model, calibration, two, Idle())
    for gives, said in ((3, "int"), ([], "0 models")):
        with pytest.raises(SettingsError, match=f"idle.prune gave {said} for 2 budgets; return one model for each"):
            check_results("idle", gives, two)


def test_a_model_of_another_run_or_another_budget_is_none_of_this_one(ids):
    """What a method kept from before has the same `remove`, and another length, cost, seed or calibration."""
    model, calibration = ids

    @dataclass(frozen=True, kw_only=True)
    class Lazy(First):
        name = "lazy"
        earlier: Any = None
        swapped: bool = False

        def prune(self, run: Any, budgets: Any) -> Any:
            if self.earlier is not None:
                return [self.earlier for _ in budgets]
            given = [entry.with_record(note=1) for entry in super().prune(run, budgets)]
            return given[::-1] if self.swapped else given

    budget = jp.Budget(0.5, length=8)
    (earlier,) = jp.prune(model, calibration, [budget], Lazy())
    other = jp.Calibration.of_ids(np.zeros((64, 8), np.int64) + 5, None)
    for texts, asked, settings in (
        (calibration, jp.Budget(0.5, length=7), Lazy(earlier=earlier)),
        (calibration, jp.Budget(0.5, length=8, cost="params"), Lazy(earlier=earlier)),
        (calibration, budget, Lazy(earlier=earlier, seed=1)),
        (other, budget, Lazy(earlier=earlier)),
        (calibration, budget, Lazy(earlier=earlier)),
    ):
        with pytest.raises(SettingsError, match="lazy.prune gave a model that did not come from run.finish"):
            jp.prune(model, texts, asked, settings)
    with pytest.raises(
        SettingsError, match=r"gave the model of Budget\(remove=0.3.* in the place of Budget\(remove=0.6"
    ):
        jp.prune(model, calibration, BUDGETS[::-1], Lazy(swapped=True))
    assert earlier.provenance.record["note"] == 1  # which may be added


def test_what_is_no_model_no_texts_or_no_budget_is_named(ids):
    model, calibration = ids
    for call, said in (
        ((calibration, model, jp.Budget(0.5)), "model is a Calibration; pass what jp.load gives"),
        ((model, ["a b"], jp.Budget(0.5)), r"calibration is a list; pass .* Calibration.of_texts\(texts\)"),
        ((model, calibration, 0.6), r"the budget is 0.6; pass Budget\(remove=0.6\), or a list of budgets"),
        ((model, calibration, "0.6"), "the budget is '0.6'; pass Budget"),
        ((model, calibration, [0.6]), "0.6 is no budget; pass Budget"),
    ):
        with pytest.raises(JaxpruneError, match=said):
            check_call(*call)
    with pytest.raises(BudgetError, match="is named twice; name every budget once"):
        jp.prune(model, calibration, [jp.Budget(0.5), jp.Budget(0.5)], "magnitude")


def test_presets_are_spelled_alike_for_every_method():
    for cls in (*METHODS.values(), jp.PruneLora, jp.Recap, First):
        assert cls.preset("default") == cls()
        for name, settings in cls.presets().items():
            assert cls.preset(name) == settings != cls()
        with pytest.raises(SettingsError, match=f"{cls.__name__} has no preset 'nothing'; use one of default"):
            cls.preset("nothing")
    assert method_of("kprune:published") == jp.KPrune.preset("published")


def test_labels_tell_settings_apart():
    assert label_of(jp.KPrune()) == "kprune"
    assert label_of(jp.KPrune.preset("published")) == "kprune:published"
    assert label_of(jp.Fisher(refit="none", rearrange=False)) == "fisher, rearrange=False, refit=none"


def test_another_packages_method_by_name(offered, ids):
    offered(first="their_package:First")
    assert method_class("first") is First and method_of("first:greedy") == First(spared=0)
    with pytest.raises(SettingsError, match="method 'last' is unknown; use one of kprune, .*, random, first"):
        method_class("last")
    model, texts = ids
    small = jp.prune(model, texts, BUDGETS[0], "first:greedy")
    assert small.provenance.record["settings"]["spared"] == 0


def test_a_broken_package_is_named_only_when_its_method_is_asked_for(offered, ids):
    offered(first="their_package:First", broken="no_such_package:Method", odd="their_package:BUDGETS")
    model, texts = ids
    jp.prune(model, texts, BUDGETS[0], "magnitude")
    with pytest.raises(SettingsError, match=r"'broken' of theirs cannot be loaded \(ModuleNotFoundError: No module"):
        method_class("broken")
    with pytest.raises(SettingsError, match="'odd' of theirs is no dataclass that inherits from Method"):
        method_class("odd")
    offered(kprune="their_package:First")
    with pytest.raises(SettingsError, match="theirs offers a method 'kprune', which is one of jaxprune's own"):
        method_class("kprune")


def test_another_packages_method_on_the_command_line(offered, cli, inputs, tmp_path):
    offered(first="their_package:First", broken="no_such_package:Method")
    words = ("prune", "--model", inputs.model, "--task", "text-classification", "--data", inputs.data)
    words += ("--remove", 0.5, "--calibration-samples", 16, "--no-evaluate", "--out")
    found = cli.json(*words, tmp_path / "small", "--method", "first", "--spared", 2).data
    assert (found["method"], found["settings"]) == ("first", {"spared": 2, "seed": 0})
    found = cli.json(*words, tmp_path / "other", "--method=first:greedy").data
    assert found["settings"]["spared"] == 0 and found["layers"][0]["neurons"] < 24
    assert cli(*words, tmp_path / "third", "--method", "magnitude", "--spared", 2).code == 2  # no flag of its own
    told = cli(*words, tmp_path / "third", "--method", "broken")
    assert told.code == 2 and "'broken' of theirs cannot be loaded" in told.err
    assert main(["prune", "--method", "first", "--help"]) == 0


@pytest.mark.filterwarnings("default::jaxprune.settings.FormerName")
def test_a_flag_by_its_former_name_is_told_in_a_line(cli, inputs, tmp_path):
    words = ("prune", "--model", inputs.model, "--remove", 0.5, "--method", "magnitude", "--seq-len", 8, "--out")
    run = cli.json(*words, tmp_path / "small", "--repair", "none")
    assert run.code == 0 and run.data["settings"] == {"refit": "none"}
    (told,) = [line for line in run.err.splitlines() if "refit" in line]
    assert told.startswith("jaxprune: warning: Magnitude: repair is called refit now")
    assert cli.json(*words, tmp_path / "other", "--no-refit").data["settings"] == {"refit": "none"}


def test_compare_takes_settings_names_and_own_names(ids):
    from jaxprune.report.compare import _named

    named = _named([jp.Fisher(refit="none"), "kprune:published", First()])
    assert list(named) == ["fisher, refit=none", "kprune:published", "first"]
    assert _named({"mine": "magnitude"}) == {"mine": jp.Magnitude()}
    with pytest.raises(SettingsError, match="give each once"):
        _named(["kprune", jp.KPrune()])
    for seeds in ((), (3, 3)):
        with pytest.raises(SettingsError, match="give at least one, and each once"):
            jp.compare(ids[0], jp.tasks.folder(demo_data_path()), jp.Budget(0.5), seeds=seeds)
    with pytest.raises(SettingsError, match=r"got one text; write \['kprune'\]"):
        _named("kprune")


# --- one spelling


def of_old(cls: Any, **given: Any) -> Any:
    return cls(**given)  # the type checker knows only the new names


def test_former_names_are_taken_with_a_warning():
    with pytest.warns(FormerName, match="Fisher: repair is called refit now"):
        settings = of_old(jp.Fisher, repair="none")
    assert settings == jp.Fisher(refit="none")
    with pytest.warns(FormerName, match="Recap: share_of is called cost now"):
        assert of_old(jp.Recap, share_of="units").cost == "units"
    with pytest.raises(SettingsError, match="repair is called refit now, which is given too"):
        of_old(jp.Fisher, repair="none", refit="none")
    with pytest.warns(FormerName):
        assert changed(jp.Magnitude(), repair="scales") == jp.Magnitude(refit="scales")


def test_refit_is_spelled_alike_and_true_and_false_are_short_for_two_of_it(tiny):
    for cls in (jp.KPrune, jp.Fisher, jp.Magnitude, jp.Random, jp.Flap, jp.Taylor, jp.Recap):
        assert cls(refit=True).refit == "weights" and cls(refit=False).refit == "none"
    assert dataclasses.asdict(jp.KPrune())["refit"] == "weights"
    assert jp.KPrune(refit="scales").settled(tiny().architecture).fit.kind == "scales"


def test_a_run_of_an_earlier_release_goes_on(ids, tmp_path, monkeypatch):
    """Its fingerprint has all settings, by their former names and values: those that measuring reads are compared."""
    import json

    from safetensors import safe_open
    from safetensors.numpy import save_file

    from jaxprune.pruning.measured import FILE
    from jaxprune.pruning.run import Run

    model, texts = ids

    def finish(*given, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "finish", finish)
        jp.prune(model, texts, BUDGETS[0], out=tmp_path / "run")
    path = tmp_path / "run" / FILE
    with safe_open(path, framework="numpy") as file:
        notes, arrays = json.loads(file.metadata()["run"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert "setting refit" not in notes["fingerprint"]
    notes["fingerprint"] |= {"setting refit": True, "setting ridge": 9.0}
    save_file(arrays, path, {"run": json.dumps(notes)})
    small = jp.prune(model, texts, BUDGETS[1], out=tmp_path / "run", resume=True)
    assert small.provenance.record["reused"] == ["measurement of a run that was stopped"]
