"""Conversations as token ids: what is learnt, beside what transformers says; prompts and completions; cuts."""

import numpy as np
import pytest
import tokenizers

from jaxprune.errors import DataError
from jaxprune.tasks.chat import chat
from jaxprune.tokens.chat_template import ChatTemplate
from jaxprune.tokens.conversations import read_conversations, spoken
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers import chat as given

HI = given.turns("the film?", "it was the film", "why", "é is film.", system="be the film")


def read(tmp_path, template, rows, length=400, **settings):
    """(token ids, mask) of every conversation, and the warnings."""
    tokenizer = Tokenizer.of(given.write_chat_tokenizer(tmp_path / "tokenizer", template, **settings))
    task = chat(given.write_rows(tmp_path / "chat.jsonl", rows))
    read_rows, reading = read_conversations(tokenizer, task.validation, length)
    read_rows = list(read_rows)
    return tokenizer, read_rows, reading.warnings("conversations")


def learnt_text(tokenizer, row):
    return tokenizer.backend.decode(row[0][row[1] > 0].tolist(), skip_special_tokens=False)


def own(tokenizer, messages, template, **options):
    return tokenizer.read.own.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True, **options
    )


@pytest.mark.parametrize("template, marked", [(given.PLAIN, given.MARKED), (given.BEGUN, given.BEGUN_MARKED)])
@pytest.mark.parametrize("messages", [HI, HI[1:], HI[1:3], HI[:-2] + [HI[-1]], HI + [{"role": "user", "content": "?"}]])
def test_mask_without_marks_is_that_of_transformers_with_them(tmp_path, template, marked, messages):
    tokenizer, [(ids, mask)], _ = read(tmp_path, template, [{"messages": messages}])
    expected = own(tokenizer, messages, marked)
    assert ids.tolist() == expected["input_ids"] and mask.tolist() == expected["assistant_masks"]
    assert 0 < mask.sum() < len(mask)


def test_marks_are_read_as_transformers_reads_them(tmp_path):
    template = given.chatml("{% generation %}{{ m['content'] }}{% endgeneration %}<|im_end|>")  # the end is not learnt
    tokenizer, [(ids, mask)], _ = read(tmp_path, template, [{"messages": HI}])
    expected = own(tokenizer, HI, template)
    assert ids.tolist() == expected["input_ids"] and mask.tolist() == expected["assistant_masks"]
    assert learnt_text(tokenizer, (ids, mask)) == "it was the filmé is film."


def test_a_mask_that_transformers_breaks_off_is_no_mask(tmp_path, monkeypatch):
    tokenizer = Tokenizer.of(given.write_chat_tokenizer(tmp_path / "tokenizer", given.MARKED))
    template = ChatTemplate.of(tokenizer)
    [example] = chat(given.write_rows(tmp_path / "a.jsonl", [{"messages": HI}])).validation
    assert example.chat is not None
    ids, mask = template.marked(example.chat)
    first_alone = np.where(np.arange(len(mask)) < np.flatnonzero(np.diff(mask.astype(int)) < 0)[0] + 1, mask, 0)
    for broken in (first_alone, np.maximum.accumulate(mask)):
        monkeypatch.setattr(ChatTemplate, "marked", lambda *_, broken=broken: (ids, broken))
        with pytest.raises(DataError, match="line 1: the assistant has 2 turns, and transformers finds 1 of them"):
            spoken(template, [example.chat])


@pytest.mark.parametrize(
    "template, messages, learnt",
    [
        (given.PLAIN, HI, "it was the film<|im_end|>é is film.<|im_end|>"),
        (given.LINES, HI, "it was the film\né is film.\n"),  # the end of a line is all that ends a turn
        (given.INSTRUCT, HI[1:], " it was the film<|end|> é is film.<|end|>"),
        (given.THINKING, HI[:3], "<think></think>it was the film<|im_end|>"),
    ],
)
def test_what_the_assistant_says_with_what_ends_it(tmp_path, template, messages, learnt):
    tokenizer, [row], warnings = read(tmp_path, template, [{"messages": messages}])
    assert learnt_text(tokenizer, row) == learnt and not warnings


@pytest.mark.parametrize("template", [given.PLAIN, given.MARKED])
def test_weights_and_prompts_of_messages(tmp_path, template):
    weighed = [*HI[:2], HI[2] | {"weight": 0}, *HI[3:]]
    rows = [{"messages": weighed}, {"prompt": HI[:4], "completion": HI[4:]}]
    tokenizer, both, _ = read(tmp_path, template, rows)
    assert [learnt_text(tokenizer, row) for row in both] == ["é is film.<|im_end|>"] * 2
    assert both[0][0].tolist() == both[1][0].tolist()


def test_tools_and_calls_are_handed_to_the_template(tmp_path):
    template = "{{ tools | tojson }}\n" + given.chatml("{{ m['tool_calls'] | tojson }}<|im_end|>")
    call = [{"type": "function", "function": {"name": "film", "arguments": {"n": 1}}}]
    messages = [HI[1], {"role": "assistant", "content": None, "tool_calls": call}, {"role": "tool", "content": ""}]
    tools = [{"type": "function", "function": {"name": "film"}}]
    tokenizer, [row], _ = read(tmp_path, template, [{"messages": messages, "tools": tools}])
    assert '"arguments": {"n": 1}' in learnt_text(tokenizer, row)
    assert tokenizer.backend.decode(row[0].tolist()).startswith('[{"type": "function"')
    for leaves_out, fields in (("tools", {"tools": tools}), ("tool_calls", {})):
        with pytest.raises(DataError, match=f"chat.jsonl line 1: .*{leaves_out}|{leaves_out}, and the chat template"):
            read(tmp_path, given.PLAIN, [{"messages": messages, **fields}])


def test_a_turn_whose_end_transformers_does_not_find(tmp_path):
    """It has no token for a blank that a tokenizer trims off, and takes all that follows."""
    template = given.chatml("{% generation %}{{ m['content'] }}{% endgeneration %}<|im_end|>")
    folder = given.write_chat_tokenizer(tmp_path / "tokenizer", template)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    backend.save(str(folder / "tokenizer.json"))
    messages = given.turns("q", "x  ", "the film")
    task = chat(given.write_rows(tmp_path / "chat.jsonl", [{"messages": messages}]))
    with pytest.raises(DataError, match="line 1: by the marks .* takes what follows the assistant's last turn"):
        list(read_conversations(Tokenizer.of(folder), task.validation, 400)[0])


@pytest.mark.parametrize("said", ['it "rains"', HI[1]["content"]])  # the latter is what another message says, too
@pytest.mark.parametrize(
    "written, whole",
    [
        ("{{ m['content'] }}", True),
        ("{{ m['content'] | tojson }}", True),
        ("{{ m['content'][:2] }}", False),
        ("", False),
    ],
)
def test_what_a_tool_says_is_never_left_out(tmp_path, written, whole, said):
    template = (
        f"{{% for m in messages %}}{{% if m['role'] == 'tool' %}}{written}{{% else %}}{{{{ m['role'] }}}}: "
        "{{ m['content'] }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rows = [{"messages": [*HI[1:3], {"role": "tool", "content": said}, HI[4]]}]
    if whole:
        tokenizer, [(ids, _)], _ = read(tmp_path, template, rows)
        assert said.split()[-1].strip('"') in tokenizer.text(ids).split("\n")[2]
    else:
        with pytest.raises(DataError, match=r"line 1: the chat template leaves out message 3 \(tool\), or alters it"):
            read(tmp_path, template, rows)


def test_no_special_token_is_added_twice(tmp_path):
    template = given.BEGUN
    tokenizer, [row], _ = read(tmp_path, template, [{"messages": HI}])
    assert (row[0] == tokenizer.backend.token_to_id("<s>")).sum() == 1
    _, _, warnings = read(tmp_path, given.PLAIN, [{"messages": HI}, {"messages": given.turns("<|im_end|>", "x")}])
    assert len(warnings) == 1 and "such as <|im_end|> in" in warnings[0] and "line 2" in warnings[0]


# --- prompts and completions


def with_beginning(tmp_path):
    """The tokenizer's own beginning is put before every text, as Llama's does it."""
    from tokenizers import Tokenizer as Backend, processors

    folder = given.write_chat_tokenizer(tmp_path / "tokenizer", None)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])  # type: ignore
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


def pairs(tmp_path, tokenizer, *rows, length=400):
    file = given.write_rows(tmp_path / "pairs.jsonl", [{"prompt": prompt, "completion": said} for prompt, said in rows])
    read_rows, reading = read_conversations(tokenizer, chat(file).validation, length)
    read_rows = list(read_rows)
    return [(tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False), *row) for row in read_rows
            for ids in [row[0]]], reading.warnings("pairs")  # fmt: skip


def test_completions_follow_their_prompt_and_end(tmp_path):
    tokenizer = with_beginning(tmp_path)
    [(text, ids, mask)], warnings = pairs(tmp_path, tokenizer, ("see the", " film"))
    assert text == "<s>see the film<|end|>" and not warnings
    assert ids.tolist() == [*tokenizer.prompts(["see the film"])[0], 0]  # the tokens of the whole text
    assert mask.tolist() == [0] * len(tokenizer.prompts(["see the"])[0]) + [1, 1]


def test_a_prompt_that_ends_within_a_token_is_read_as_generation_reads_it(tmp_path):
    tokenizer = with_beginning(tmp_path)
    [(text, ids, mask)], warnings = pairs(tmp_path, tokenizer, ("see the ", "film"))
    assert text == "<s>see the film<|end|>" and ids.tolist() != [*tokenizer.prompts(["see the film"])[0], 0]
    assert ids[mask == 0].tolist() == tokenizer.prompts(["see the "])[0].tolist()
    assert ids[mask > 0].tolist() == [tokenizer.backend.token_to_id("film"), 0]
    assert len(warnings) == 1 and "1 of 1 pairs have a prompt that ends within a token" in warnings[0]


def test_beginning_and_end_that_are_written_are_not_added(tmp_path):
    tokenizer = with_beginning(tmp_path)
    [(text, ids, mask)], warnings = pairs(tmp_path, tokenizer, ("<s>see", " film<|end|>"))
    assert text == "<s>see film<|end|>" and mask.tolist() == [0, 0, 0, 0, 1, 1]
    assert "begin with the tokenizer's own first token" in warnings[0]


def test_without_an_end_token_that_is_said(tmp_path):
    folder = given.write_chat_tokenizer(tmp_path / "tokenizer", None, eos_token=None)
    [(text, _, _)], warnings = pairs(tmp_path, Tokenizer.of(folder), ("see", " film"))
    assert text == "see film" and "names no end token" in warnings[0]


# --- cuts


def test_long_conversations_are_cut_and_counted(tmp_path):
    short, long = {"messages": HI[1:3]}, {"messages": given.turns("a" * 100, "b")}
    _, whole, _ = read(tmp_path, given.PLAIN, [short])
    room = len(whole[0][0]) - 1
    _, rows, warnings = read(tmp_path, given.PLAIN, [short, long, {"messages": given.turns("a", "b")}], length=room)
    assert [len(ids) for ids, _ in rows] == [room, len(rows[1][0])]
    assert rows[0][0].tolist() == whole[0][0][:room].tolist()
    assert f"2 of 3 conversations were cut to {room} tokens" in warnings[0]
    assert "1 of 3 conversations were dropped" in warnings[1]
    _, rows, _ = read(tmp_path, given.PLAIN, [short], length=room, truncation_side="left")
    assert rows[0][0].tolist() == whole[0][0][-room:].tolist()
    with pytest.raises(DataError, match="nothing that is learnt is left of 1 conversations in 30 tokens; allow more"):
        read(tmp_path, given.PLAIN, [long], length=30)


# --- templates that cannot be read


@pytest.mark.parametrize(
    "template, messages, told",
    [
        (None, HI, "the tokenizer has no chat template"),
        (given.INSTRUCT, HI, "line 1: the chat template refuses the conversation: no system role"),
        (given.THINKING, HI, r"line 1: the chat template writes the messages up to number 3 otherwise"),
        (given.PLAIN.replace("assistant\n{%", "assistant\n<think>\n{%"), HI[1:3], "asks for an answer otherwise than"),
        (given.PLAIN, [HI[2], HI[1], HI[2]], "line 1: the assistant speaks first"),
        (given.PLAIN, [*HI, {"role": "environment", "content": "x"}], 'message 6 has the role "environment", which'),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}", HI, "leaves out message 1"),
        (
            "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
            given.turns("be nice", "ok", system="be"),  # the words of a message that another has, too
            "leaves out message 1",
        ),
        (
            given.INSTRUCT,
            [{"role": "developer", "content": "x"}, *HI[1:3]],
            "line 1: message 1 has the role developer, which the chat template does not know and writes as what the",
        ),
        (
            [{"name": "rag", "template": given.PLAIN}, {"name": "tool_use", "template": given.PLAIN}],
            HI,
            'the tokenizer has the chat templates rag, tool_use, none of them called "default"',
        ),
        ("{{ nothing.there }}", HI, "line 1: the chat template refuses the conversation"),
        (
            "{% for m in messages %}",
            HI,
            "^the tokenizer's chat template is no template of Jinja: Unexpected end of template",
        ),
        (given.PLAIN, [HI[1], HI[2] | {"reasoning": "x"}], "message 2 has reasoning, which the chat template leaves"),
    ],
)
def test_what_a_template_makes_impossible_is_one_line(tmp_path, template, messages, told):
    with pytest.raises(DataError, match=told) as raised:
        read(tmp_path, template, [{"messages": messages}])
    assert "\n" not in str(raised.value)


def test_a_template_that_knows_a_few_answers_is_read(tmp_path):
    """It refuses the marks by which messages are seen to be written."""
    only = (
        "{% if m['content'] in ('q', 'yes') %}{{ m['content'] }}{% else %}{{ raise_exception('yes or no') }}{% endif %}"
    )
    template = given.PLAIN.replace("{{ m['content'] }}", only)
    tokenizer, [row], _ = read(tmp_path, template, [{"messages": given.turns("q", "yes")}])
    assert learnt_text(tokenizer, row) == "yes<|im_end|>"


def test_text_arguments_are_not_written_as_json_twice(tmp_path):
    template = given.chatml("{{ m['tool_calls'][0].arguments | tojson }}<|im_end|>")
    messages = [HI[1], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"n": 1}'}]}]
    with pytest.raises(DataError, match="line 1: the arguments of a tool call in message 2 are a text"):
        read(tmp_path, template, [{"messages": messages}])


def test_doubts_of_a_template(tmp_path):
    tokenizer = with_beginning(tmp_path)
    tokenizer.read.own.chat_template = given.PLAIN + "{{ strftime_now('%d') }}"
    told = ChatTemplate.of(tokenizer).doubts()
    assert "does not begin with <s>" in told[0] and "the date of today" in told[1]
    tokenizer.read.own.chat_template = given.BEGUN
    assert ChatTemplate.of(tokenizer).doubts() == ()


def test_an_end_at_which_the_model_does_not_stop(tmp_path):
    tokenizer = Tokenizer.of(given.write_chat_tokenizer(tmp_path / "tokenizer", given.PLAIN))
    task = chat(given.write_rows(tmp_path / "a.jsonl", [{"messages": HI}]))
    stops = tokenizer.backend.token_to_id("<|im_end|>")
    for end_ids, said in (((0,), True), ((0, stops), False), ((), False)):
        rows, reading = read_conversations(tokenizer, task.validation, 400, end_ids=end_ids)
        list(rows)
        told = reading.warnings("conversations")
        assert said == any("ends with <|im_end|>, at which the model does not stop" in entry for entry in told)


def test_types_and_shapes(tmp_path):
    _, [(ids, mask)], _ = read(tmp_path, given.MARKED, [{"messages": HI}])
    assert (ids.dtype, mask.dtype, ids.shape) == (np.int32, np.uint8, mask.shape)
