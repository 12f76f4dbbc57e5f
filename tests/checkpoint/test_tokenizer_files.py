"""Tokenizers are what transformers makes of a folder, and stay that when the model is saved or exported."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

import jaxprune as jp
from jaxprune.checkpoint import tokenizer_files
from jaxprune.checkpoint.tokenizer_files import read_tokenizer
from jaxprune.errors import CheckpointError
from jaxprune.tasks.example import Example
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers import tiny
from tests.helpers.tokenizers import write_bert, write_bpe, write_bpe_json, write_pieces, write_settings

TEXTS = ["the films", "Film café 電", "電影", "<s> [SEP] the</s>", ""]
PAIR = Example("the film", "Café", None)
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
XLM = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CAMEMBERT = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>")
END = "<|endoftext|>"


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(family, write, **settings) -> the folder of a model with the tokenizer that `write` puts there."""

    def make(family, write, *tokens, rows=None, **settings) -> Path:
        folder = tmp_path / "source"
        rows = (
            (100 if family == "bert" and write is not write_bpe else 300) if rows is None else rows
        )  # a little more than there are tokens
        config = tiny.config(family, vocab_size=rows)
        tiny.write(folder, config, tiny.tensors(config))
        write(folder, *tokens)
        if settings:
            write_settings(folder, **settings)
        return folder

    return make


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [entry.tolist() for entry in tokenizer.encode([Example(text, None, None) for text in TEXTS], 64).ids]


def in_transformers(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    return [AutoTokenizer.from_pretrained(str(folder))(text)["input_ids"] for text in TEXTS]


def as_file(folder: Path) -> list[list[int]]:
    """What programs read that know tokenizer.json alone."""
    from tokenizers import Tokenizer as Fast

    return [Fast.from_file(str(folder / "tokenizer.json")).encode(text).ids for text in TEXTS]


CASES = {
    "cased, beside a file that lower-cases": ("bert", write_bert, (), {"do_lower_case": False}),
    "accents kept": ("bert", write_bert, (), {"strip_accents": False}),
    "Chinese words whole": ("distilbert", write_bert, (), {"tokenize_chinese_chars": False}),
    "vocab.txt, cased": ("bert", lambda folder: write_bert(folder, "vocab.txt"), (), {"do_lower_case": False}),
    "class of another family": ("bert", write_bpe, ROBERTA, {"tokenizer_class": "RobertaTokenizer"}),
    "GPT-2": ("gpt2", write_bpe, (END,), {}),
    "GPT-2 with a start": ("gpt2", write_bpe, (END,), {"add_bos_token": True}),
    "GPT-2 with a space": ("gpt2", write_bpe_json, (END,), {"add_prefix_space": True}),
    "OPT": ("opt", write_bpe, ROBERTA, {"add_bos_token": True, "bos_token": "</s>", "unk_token": "</s>"}),
    "RoBERTa": ("roberta", write_bpe, ROBERTA, {}),
    "XLM-RoBERTa": ("xlm-roberta", write_pieces, XLM, {}),
    "CamemBERT": ("camembert", write_pieces, CAMEMBERT, {}),
    "ELECTRA": ("electra", write_bert, (), {"do_lower_case": False}),
    "MPNet": ("mpnet", write_bert, (), {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}),
    "Qwen": ("qwen2", write_bpe, (END,), {}),
    "a Llama of bytes": ("llama", write_bpe_json, (END,), {"tokenizer_class": "LlamaTokenizer"}),
    "special tokens as text": ("bert", write_bert, (), {"split_special_tokens": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_transformers_before_and_after_saving(case, checkpoint, tmp_path):
    family, write, tokens, settings = CASES[case]
    folder = checkpoint(family, write, *tokens, **settings)
    expected = in_transformers(folder)
    model = jp.load(folder)
    assert ids(Tokenizer.of(model)) == ids(Tokenizer.of(folder)) == expected
    saved = jp.save(model, tmp_path / "saved")
    exported = jp.export(model, tmp_path / "exported").folder
    shutil.rmtree(folder)
    for place in (saved, exported):
        again = jp.load(place)
        assert ids(Tokenizer.of(again)) == ids(Tokenizer.of(place)) == expected
        assert ids(Tokenizer.of(jp.load(jp.save(again, place.with_name(place.name + "-again"))))) == expected
        if case != "special tokens as text":  # a setting that tokenizer.json has no place for
            assert as_file(place) == expected
    assert in_transformers(exported) == expected


def test_a_setting_against_tokenizer_json_is_obeyed_and_said(checkpoint, tmp_path):
    folder = checkpoint("bert", write_bert)
    text = [Example("Film CAFÉ", None, None)]
    plain = Tokenizer.of(jp.load(folder))
    assert plain.encode(text, 16).ids[0].tolist() == [2, 5, 8, 3] and plain.doubts(text) == ()
    before = (folder / "tokenizer.json").read_bytes()
    assert (jp.save(jp.load(folder), tmp_path / "same") / "tokenizer.json").read_bytes() == before
    write_settings(folder, do_lower_case=False)
    cased = Tokenizer.of(jp.load(folder))
    assert cased.encode(text, 16).ids[0].tolist() == [2, 6, 1, 3]
    (doubt,) = cased.doubts(text)
    assert "another normalizer than its class, BertTokenizer, and tokenizer_config.json say" in doubt
    saved = jp.load(jp.save(jp.load(folder), tmp_path / "saved"))  # its file agrees with the settings
    assert Tokenizer.of(saved).doubts(text) == ()


def test_a_tokenizer_setting_in_config_json_is_not_obeyed_and_that_is_said(checkpoint):
    folder = checkpoint("bert", lambda folder: write_bert(folder, "vocab.txt"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    assert in_transformers(folder)[1] == [2, 5, 8, 10, 3]  # film cafe: lower-cased, without accents
    tokenizer = Tokenizer.of(jp.load(folder))
    assert ids(tokenizer) == in_transformers(folder)
    assert "config.json has another do_lower_case than the tokenizer" in tokenizer.doubts(())[0]
    write_settings(folder, do_lower_case=False)
    assert Tokenizer.of(jp.load(folder)).doubts(()) == ()


def test_a_padded_vocabulary_hides_no_start_token(checkpoint, tmp_path):
    folder = checkpoint("gpt2", write_bpe, END, rows=400)
    saved = jp.load(jp.save(jp.load(folder), tmp_path / "saved"))
    assert [entry.tolist() for entry in Tokenizer.of(saved).prompts(["the film"])] == [[258, 263]]


@pytest.mark.parametrize("settings", [{"model_input_names": ["input_ids", "attention_mask"]}, {}])
def test_pairs_have_the_types_that_transformers_hands_over(settings, checkpoint):
    name = {} if settings else {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer = Tokenizer.of(jp.load(checkpoint("bert", write_bert, **settings, **name)))
    assert tokenizer.encode([PAIR], 16).types[0].tolist() == [0] * 6
    (doubt,) = tokenizer.doubts([PAIR])
    assert "no token_type_ids" in doubt and tokenizer.doubts([Example("a", None, None)]) == ()


def test_texts_are_cut_at_the_side_the_settings_name(checkpoint):
    long = [Example("film café 電 影", None, None)]
    folder = checkpoint("bert", write_bert)
    assert Tokenizer.of(jp.load(folder)).encode(long, 4).ids[0].tolist() == [2, 5, 8, 3]
    write_settings(folder, truncation_side="left")
    assert Tokenizer.of(jp.load(folder)).encode(long, 4).ids[0].tolist() == [2, 10, 11, 3]


def test_files_that_are_not_those_of_the_class(checkpoint, tmp_path):
    folder = checkpoint("gpt2", write_bpe, END)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer files in .* do not load: .*; put the checkpoint's tok"):
        Tokenizer.of(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"no vocab\.txt, which a BertTokenizer is made of; put the checkpoint's"):
        Tokenizer.of(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"nothing in .* says which class of tokenizer vocab\.json belongs to"):
        Tokenizer.of(folder)
    (folder / "vocab.json").unlink()
    (folder / "vocab.txt").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match=r"vocab\.txt is a link to a place outside its folder"):
        read_tokenizer(folder)


PIECES = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n"


@pytest.mark.parametrize(
    ("family", "name", "content", "package"),
    [
        ("llama", "tokenizer.model", PIECES, "sentencepiece"),
        ("llama", "tokenizer.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
        ("deberta-v2", "spm.model", PIECES, "sentencepiece"),
        ("xlm-roberta", "sentencepiece.bpe.model", PIECES, "sentencepiece"),
    ],
)
def test_pieces_alone_name_the_package_they_need(family, name, content, package, checkpoint, monkeypatch):
    folder = checkpoint(family, lambda folder: (folder / name).write_bytes(content))
    found = importlib.util.find_spec
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(CheckpointError, match=rf"which the package {package} reads: pip install {package}, or put the"):
        Tokenizer.of(jp.load(folder))


def templates_of(folder: Path) -> dict[str, str]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder)).chat_template


def test_chat_templates_beside_the_default_one_come_along(checkpoint, tmp_path):
    folder = checkpoint("llama", write_bpe_json, END, tokenizer_class="PreTrainedTokenizerFast")
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    both = {"default": "plain", "tool_use": "tools"}
    assert templates_of(folder) == both
    model = jp.load(folder)
    saved = jp.save(model, tmp_path / "saved")
    jp.save(jp.load(saved), saved, overwrite=True)  # the folder is one of ours
    written = [jp.export(jp.load(saved), tmp_path / name, format=name).folder for name in ("transformers", "onnx")]
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(str(folder))
    written += [saved, jp.export(model, tmp_path / "given", tokenizer=given).folder]
    for place in written:
        assert templates_of(place) == both, place.name
    (tmp_path / "secret").write_text("x")
    (folder / "additional_chat_templates" / "rag.jinja").symlink_to(tmp_path / "secret")
    for read in (jp.load, lambda folder: Tokenizer.of(model)):
        with pytest.raises(CheckpointError, match=r"rag\.jinja is a link to a place outside its folder"):
            read(folder)


def test_a_tokenizer_that_only_a_slow_class_reads_is_copied_and_that_is_said(checkpoint, tmp_path):
    folder = checkpoint("roberta", lambda folder: None, tokenizer_class="BertweetTokenizer")
    (folder / "vocab.txt").write_text("a 5\nb 4\n")
    (folder / "bpe.codes").write_text("a b 3\n")
    model = jp.load(folder)
    saved, exported = jp.save(model, tmp_path / "saved"), jp.export(model, tmp_path / "exported")
    told = r"the tokenizer's files were copied as they are, without a tokenizer\.json: .* only a slow tokenizer"
    for place, warnings in ((saved, jp.load(saved).provenance.warnings), (exported.folder, exported.warnings)):
        (warning,) = warnings
        assert re.match(told, warning)
        for name in ("vocab.txt", "bpe.codes", "tokenizer_config.json"):
            assert (place / name).read_bytes() == (folder / name).read_bytes()
    (folder / "vocab.txt").rename(folder / "spiece.model")
    with pytest.raises(CheckpointError, match="has no tokenizer files that are read here; put the checkpoint's"):
        Tokenizer.of(model)
    assert (jp.save(model, tmp_path / "again") / "spiece.model").is_file()
