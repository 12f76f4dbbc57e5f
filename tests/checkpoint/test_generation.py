"""End tokens: generation_config.json has the last word, as in transformers, and stays with the model."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import jaxprune as jp
from jaxprune.checkpoint.generation import unapplied
from jaxprune.errors import CheckpointError, SettingsError
from jaxprune.runtime.programs import Programs
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers.decoders import language_model

FILE = "generation_config.json"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("speaker") / "model"
    language_model(path, "llama", eos_token_id=2)
    return path


@pytest.fixture
def copied(speaker, tmp_path):
    """copied(generation_config) -> a copy of the model with that file; its config.json has eos_token_id 2."""

    def make(generation) -> Path:
        path = Path(shutil.copytree(speaker, tmp_path / "source"))
        if generation is not None:
            (path / FILE).write_text(json.dumps(generation))
        return path

    return make


def ends(folder: Path) -> tuple[int, ...]:
    return jp.load(folder).architecture.end_ids


# What transformers 5.23 did with these files: the tokens at which it stopped.
@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, (2,)),
        ({"eos_token_id": [2, 9]}, (2, 9)),
        ({"eos_token_id": 9}, (9,)),
        ({"bos_token_id": 1}, ()),
        ({"eos_token_id": None, "_from_model_config": True}, ()),
        ({"eos_token_id": -1}, ()),
    ],
)
def test_generation_config_has_the_last_word_and_is_kept(generation, expected, copied, tmp_path):
    folder = copied(generation)
    model = jp.load(folder)
    assert model.architecture.end_ids == expected
    saved, exported = jp.save(model, tmp_path / "saved"), jp.export(model, tmp_path / "exported").folder
    shutil.rmtree(folder)
    again = jp.save(jp.load(saved), tmp_path / "again")
    jp.save(jp.load(saved), saved, overwrite=True)  # the file is one of ours
    for place in (saved, exported, again):
        assert ends(place) == expected
        assert (json.loads((place / FILE).read_text()) if (place / FILE).exists() else None) == generation


def test_end_tokens_that_were_changed_are_written(copied, tmp_path):
    for generation, expected in (
        (None, {"eos_token_id": 9}),
        ({"eos_token_id": 3, "top_k": 5}, {"eos_token_id": 9, "top_k": 5}),
    ):
        model = jp.load(copied(generation))
        changed = model.replace(architecture=dataclasses.replace(model.architecture, end_ids=(9,)))
        for place in (jp.save(changed, tmp_path / "saved"), jp.export(changed, tmp_path / "exported").folder):
            assert ends(place) == (9,) and json.loads((place / FILE).read_text()) == expected
            shutil.rmtree(place)
        shutil.rmtree(tmp_path / "source")


@pytest.mark.parametrize("wrong", [{"eos_token_id": "</s>"}, {"eos_token_id": [True]}, {"eos_token_id": 2.0}])
def test_end_tokens_that_are_none(wrong, copied):
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is .*, expected token ids\."):
        jp.load(copied(wrong))


def test_a_link_that_leads_elsewhere_is_not_read(copied, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (copied(None) / FILE).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is a link to a place outside its folder"):
        jp.load(tmp_path / "source")


def test_generate_ends_there_and_says_what_it_does_not_do(copied):
    folder, settings = copied(None), {"max_new_tokens": 8, "programs": Programs()}
    free = jp.generate(jp.load(folder), "the film", **settings, end_ids=())
    assert free.warnings == () and not free.ended[0]
    end = free.ids[0][3]
    until = free.ids[0][: free.ids[0].index(end) + 1]
    (folder / FILE).write_text(json.dumps({"eos_token_id": [2, end], "repetition_penalty": 1.2}))
    found = jp.generate(jp.load(folder), "the film", **settings)
    assert found.ids[0] == until and found.ended[0]
    assert found.warnings == (
        f"{FILE} asks for repetition_penalty 1.2: transformers' generate does that, jaxprune does not.",
    )
    (folder / FILE).unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "no_repeat_ngram_size": 2, "num_beams": 1}))
    assert jp.generate(jp.load(folder), "the film", **settings).warnings == (
        "config.json asks for no_repeat_ngram_size 2: transformers' generate does that, jaxprune does not.",
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / FILE).write_text("{}")
    model = jp.load(folder)
    found = jp.generate(model, "the film", **settings)
    assert found.ids == free.ids
    assert f"{FILE} names no eos_token_id" in found.warnings[0] and "config.json has 2: pass end" in found.warnings[0]
    token = Tokenizer.of(model).backend.id_to_token(end)
    for asked in ([2, end], [2, token]):
        found = jp.generate(model, "the film", **settings, end_ids=asked)
        assert found.ids[0] == until and found.warnings == ()
    with pytest.raises(SettingsError, match="the tokenizer has no token 'cinema'; name an end token as its vocabulary"):
        jp.generate(model, "the film", end_ids=["cinema"], **settings)
    with pytest.raises(SettingsError, match="end_ids has 999, which is no token: the model's embedding has 26 rows"):
        jp.generate(model, "the film", end_ids=[999], **settings)


def test_what_transformers_would_do_besides():
    llama = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "eos_token_id": 2}
    assert unapplied(llama, {"temperature": 0.0}) == ("do_sample true", "temperature 0.6", "top_p 0.9")
    assert unapplied(llama, {"temperature": 0.7}) == ("top_p 0.9",)
    assert unapplied(llama, {"temperature": 0.7, "top_p": 0.8}) == ()
    assert unapplied(llama | {"do_sample": False}, {}) == ()
    assert unapplied({"repetition_penalty": 1.0, "num_beams": 1, "suppress_tokens": [], "min_length": 0}, {}) == ()
    assert unapplied({"repetition_penalty": 1.1, "suppress_tokens": [3]}, {}) == (
        "repetition_penalty 1.1",
        "suppress_tokens [3]",
    )
