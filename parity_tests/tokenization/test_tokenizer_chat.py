"""Chats: the same text and ids as the reference writes, from the same templates; and templates that are up to no good.

The formats are those of the published models; their templates are written here.
"""

import copy
import dataclasses
import enum
import importlib
import json
import sys
import threading
import types
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import minihf
from minihf.checkpoints.hub import CheckpointError
from minihf.tokenization import AutoTokenizer, PreTrainedTokenizerFast

LLAMA2 = """\
{%- set system = "" %}
{%- set turns = messages %}
{%- if messages[0].role == "system" %}
    {%- set system = "<<SYS>>\\n" ~ messages[0].content ~ "\\n<</SYS>>\\n\\n" %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn.role == "user") != loop.first and loop.length == 1 or turn.role not in ("user", "assistant") %}
        {{- raise_exception("the first turn is the user's, not that of: " ~ turn.role) }}
    {%- endif %}
    {%- if turn.role == "user" %}
        {{- bos_token ~ "[INST] " ~ (system if loop.first else "") ~ turn.content | trim ~ " [/INST]" }}
    {%- else %}
        {%- generation %}{{ " " ~ turn.content | trim ~ " " ~ eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {%- if message["role"] == "assistant" %}
        {%- generation %}{{ message["content"] | trim + "<|eot_id|>" }}{% endgeneration %}
    {%- else %}
        {{- message["content"] | trim + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}
[INST] {{ message['content'] }} [/INST]{% elif message['role'] == 'assistant' %}
{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}{% else %}
{{ raise_exception('no such role: ' + message['role']) }}{% endif %}
{% endfor %}
"""
CHATML = """\
{% for message in messages %}
<|im_start|>{{ message.role }}
{% if message.role == "assistant" %}
{% generation %}{{ message.content }}<|im_end|>
{% endgeneration %}
{% else %}
{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
TEMPLATES = {"llama 2": LLAMA2, "llama 3": LLAMA3, "mistral": MISTRAL, "chatml": CHATML}
EXPECTED = {
    "llama 2": "<s>[INST] {system}Hi there [/INST] Hello! </s><s>[INST] 2 + 2? [/INST] 4. </s>",
    "llama 3": "<s>{system}{U}Hi there<|eot_id|>{A}Hello!<|eot_id|>{U}2 + 2?<|eot_id|>{A}4.<|eot_id|>",
    "mistral": "<s>[INST] Hi there [/INST] Hello!</s>[INST] 2 + 2? [/INST] 4.</s>",
    "chatml": "{system}<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>\n",
}
SYSTEM = {
    "llama 2": "<<SYS>>\nBe brief.\n<</SYS>>\n\n",
    "llama 3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n",
}
PROMPTS = {"llama 3": "<|start_header_id|>assistant<|end_header_id|>\n\n", "chatml": "<|im_start|>assistant\n"}
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


CHAT = turns("Hi there", "Hello!", "2 + 2?", "4.")
ASK = [{"role": "system", "content": "Be brief."}, *CHAT[:3]]


@pytest.fixture(scope="module")
def metaspace(sources) -> Engine:
    """A small engine of Llama's make: a space is a character of its own, and every text begins with one."""
    engine = Engine(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    engine.train_from_iterator((line for source in sources for line in source.splitlines()), trainer=trainer)
    return engine


@pytest.fixture(scope="module", params=["bytes", "metaspace"])
def engine(request, byte_bpe, metaspace) -> Engine:
    """An engine that puts `<s>` before each text, which a chat must not get twice."""
    engine = Engine.from_str((byte_bpe if request.param == "bytes" else metaspace).to_str())
    engine.add_special_tokens(["<s>", "</s>", "<pad>", *MARKS])
    engine.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", engine.token_to_id("<s>"))]
    )
    return engine


@pytest.fixture(scope="module")
def both(engine):
    """template -> our tokenizer and the reference's that have it."""

    def both(template, **options):
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        options = {"tokenizer_object": engine, "chat_template": template, **special, **options}
        return PreTrainedTokenizerFast(**options), transformers.PreTrainedTokenizerFast(**options)

    return both


@pytest.fixture
def ours(both):
    return both(CHATML)[0]


@pytest.fixture
def write(both):
    """What our tokenizer makes of a template, shown to be what the reference makes of it."""

    def write(template, conversation=CHAT, **options):
        first, second = (one.apply_chat_template(conversation, tokenize=False, **options) for one in both(template))
        assert first == second
        return first

    return write


def equal(first, second) -> None:
    """What two tokenizers returned is the same, values, types and all."""
    assert list(first) == list(second)
    for key in first:
        assert type(first[key]) is type(second[key])
        if isinstance(first[key], torch.Tensor | np.ndarray):
            assert first[key].dtype == second[key].dtype
            assert first[key].tolist() == second[key].tolist()
        else:
            assert first[key] == second[key]


# The formats


@pytest.mark.parametrize("style", TEMPLATES)
def test_the_formats(style, both):
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    headers = {"U": header("user"), "A": header("assistant")}
    ours, reference = both(TEMPLATES[style])
    for chat, system in [(CHAT, ""), ([ASK[0], *CHAT], SYSTEM.get(style))]:
        if system is None:
            continue
        wanted = EXPECTED[style].format(system=system, **headers)
        assert ours.apply_chat_template(chat, tokenize=False) == wanted
        assert reference.apply_chat_template(chat, tokenize=False) == wanted
        encoded = ours.apply_chat_template(chat)
        equal(encoded, reference.apply_chat_template(chat))
        assert encoded["input_ids"] == ours(wanted, add_special_tokens=False)["input_ids"]
        assert encoded["input_ids"].count(ours.bos_token_id) == wanted.count("<s>")
        asked = wanted.replace(wanted[wanted.index("4.") :], "")
        prompt = ours.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        assert prompt == reference.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        assert prompt == asked.rstrip(" ")
        assert prompt.endswith(PROMPTS.get(style, "[/INST]"))


@pytest.mark.parametrize("style", TEMPLATES)
def test_any_text(style, both, texts):
    ours, reference = both(TEMPLATES[style])
    texts = [text or "?" for text in texts]
    chats = [turns(first, second) for first, second in zip(texts, reversed(texts), strict=True)]
    assert ours.apply_chat_template(chats, tokenize=False) == reference.apply_chat_template(chats, tokenize=False)
    equal(ours.apply_chat_template(chats), reference.apply_chat_template(chats))


def test_a_template_that_refuses_the_chat(both):
    for template, chat, told in (
        (LLAMA2, [CHAT[0], {"role": "tool", "content": "3"}], r"line 9, .*not that of: tool"),
        (MISTRAL, ASK, r"line 5, .*no such role: system"),
    ):
        with pytest.raises(ValueError, match=told):
            both(template)[0].apply_chat_template(chat)


# Options


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": True, "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 50, "truncation": True, "return_tensors": "np"},
        {"truncation": True, "max_length": 7},
        {"max_length": 7},
        {"padding": True, "tokenizer_kwargs": {"pad_to_multiple_of": 16, "return_offsets_mapping": True}},
        {"tokenizer_kwargs": {"return_special_tokens_mask": True, "return_attention_mask": False}},
    ],
)
def test_the_options_of_a_call(both, side, options):
    ours, reference = both(CHATML, padding_side=side, truncation_side=side)
    for conversation in (CHAT, [CHAT, ASK, CHAT[:1]], [CHAT]):
        if "return_tensors" not in options or options.get("padding"):
            equal(
                ours.apply_chat_template(conversation, **options),
                reference.apply_chat_template(conversation, **options),
            )
        ids = ours.apply_chat_template(conversation, return_dict=False, **options)
        expected = reference.apply_chat_template(conversation, return_dict=False, **options)
        equal({"input_ids": ids}, {"input_ids": expected})


def test_arguments_come_in_the_references_order(both):
    ours, reference = both(MISTRAL)
    options = (
        CHAT,
        None,
        None,
        CHATML,
        False,
        "content",
        True,
        False,
        "max_length",
        True,
        12,
        "pt",
        False,
        False,
        None,
    )
    equal({"ids": ours.apply_chat_template(*options)}, {"ids": reference.apply_chat_template(*options)})


def test_what_a_template_is_given(write, both):
    shown = "{{ [bos_token, eos_token, pad_token, sep_token is defined, tools, add_generation_prompt, x] | tojson }}"
    assert write(shown, x={"é": 1}) == '["<s>", "</s>", "<pad>", false, null, false, {"é": 1}]'
    assert write(shown, bos_token="<b>", x=None).startswith('["<b>"')
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    documents = [{"title": "a", "text": "b"}]
    both_given = write("{{ tools | tojson(indent=2) }}{{ documents | tojson }}", tools=tools, documents=documents)
    assert both_given == json.dumps(tools, indent=2) + json.dumps(documents)
    with pytest.warns(UserWarning, match=r"does not read add_generation_promt; is it misspelt\?"):
        both(CHATML)[0].apply_chat_template(CHAT, add_generation_promt=True)
    with pytest.raises(TypeError, match="messages: the template's own"):
        both(CHATML)[0].apply_chat_template(CHAT, messages=CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n    {% if loop.index0 == 2 %}{% break %}{% endif %}\n  {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
        "{{ messages | tojson }} {{ '<é&\"' | tojson }} {{ 'é' | tojson(ensure_ascii=True) }}",
        "{{ {'b': 1, 'a': [1, 2]} | tojson(sort_keys=True, separators=(',', ':')) }}",
        "{% set ns = namespace(n=0, self=1) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}{% endfor %}{{ ns.n }}",
        "{{ dict(a=1).items() | list }}{{ dict.fromkeys([1, 2], 3) }}{{ dict([(1, 2)], b=2) }}",
        "{{ strftime_now('%Y') }}",
        "{%- macro say(m) -%}\n {{ m.content }}{%- endmacro -%}\n{% for m in messages %} {{- say(m) }}\n{% endfor %}",
        "{{ messages[0].missing }}|{{ messages[0].missing is defined }}|{{ messages[-1]['role'] }}",
        "{{ messages | map(attribute='role') | unique | join(', ') }}\n",
    ],
)
def test_the_language(write, template):
    assert write(template)


def test_the_time(ours):
    assert ours.apply_chat_template(CHAT, chat_template="{{ strftime_now('%Y-%m') }}", tokenize=False) == (
        datetime.now().strftime("%Y-%m")
    )


def test_a_chat_is_left_as_it_was(both, write):
    chat = [{"role": "user", "content": None, "name": "é", "tags": ["a"]}, *turns("Hi", "Yes")]
    before = copy.deepcopy(chat)
    shown = "{{ messages | tojson }}{# content, name #}"
    assert write(shown, chat, continue_final_message=True).endswith('"content": "Yes')
    assert chat == before
    assert '"content"' not in write(shown, chat[:1])  # None is left out


@dataclasses.dataclass
class Place:
    x: int
    y: object


class Role(enum.StrEnum):
    USER = "user"


def test_rich_values_are_made_plain(write):
    class Text(str):
        def shout(self):
            return "never"

    model = types.SimpleNamespace(model_dump=lambda: {"z": 1})
    for value in (Place(1, Text("a")), np.float64(0.5), np.bool_(False), (1, 2), torch.zeros(2), model, object, 10**30):
        write("{{ x | tojson }}", x=value)
    mapping = types.MappingProxyType({"role": Role.USER, "content": Text("Hi")})
    assert write("{{ messages | tojson }}", [mapping]) == '[{"role": "user", "content": "Hi"}]'
    assert write("{{ messages[0].content.shout is defined }}", [mapping]) == "False"


# Going on with the last message


@pytest.mark.parametrize("final", ["The answer is", "The answer is  ", "  é\n", "\n"])
@pytest.mark.parametrize("style", TEMPLATES)
def test_the_last_message_is_continued(style, both, final):
    ours, reference = both(TEMPLATES[style])
    chats = [turns("Hi", final), turns("What?", "No", "Why?", final)]
    options = {"continue_final_message": True}
    texts = ours.apply_chat_template(chats, tokenize=False, **options)
    assert texts == reference.apply_chat_template(chats, tokenize=False, **options)
    assert all(text.rstrip().endswith(final.strip()) for text in texts)
    equal(ours.apply_chat_template(chats, **options), reference.apply_chat_template(chats, **options))


def test_another_part_of_the_last_message_is_continued(write):
    said = [*CHAT[:1], {"role": "assistant", "content": "No", "reasoning": "Well", "note": "N"}]
    shown = (
        "{% for m in messages %}{{ m.content }}|{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.note }}!{% endfor %}"
    )
    assert write(shown, said).endswith("No|Well|Well|N!")
    for key, end in {"content": "No", "note": "No|Well|Well|N"}.items():
        assert write(shown, said, continue_final_message=key).endswith(f"!{end}")
    shown = "{% for m in messages %}{{ m.thinking }}!{% endfor %}"
    for key in ("reasoning", "reasoning_content"):
        assert write(shown, said, continue_final_message=key).endswith("!Well")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}, {"type": "image"}]
    shown = "{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}"
    assert write(shown, [{"role": "user", "content": parts}], continue_final_message=True) == "one;two"


def test_a_last_message_that_is_written_twice(both):
    """The reference leaves its mark in the first of them."""
    shown = "{{ messages[-1].content }}, {{ messages[-1].content | trim }}!"
    for final in ("Well", "Well  "):
        text = both(shown)[0].apply_chat_template(turns(final), tokenize=False, continue_final_message=True)
        assert text == f"{final}, Well"


@pytest.mark.parametrize(
    ("template", "final", "key", "told"),
    [
        (CHATML, "x", "reasoning", "the chat template does not read a message's 'reasoning'"),
        ("{{ messages[0].content }}", "Yes", True, "does not write 'Yes' as it stands"),
        ("{{ messages[-1].content | upper }}", "Yes", True, "does not write 'Yes' as it stands"),
        (CHATML, [{"type": "image"}], True, "no text to continue in the last message: its 'content' is the list"),
        (CHATML, 3, True, "no text to continue in the last message: its 'content' is the int 3"),
    ],
)
def test_a_last_message_that_cannot_be_continued(both, template, final, key, told):
    with pytest.raises(ValueError, match=told):
        both(template)[0].apply_chat_template(turns("Hi", final), continue_final_message=key)


# Whose tokens are the assistant's


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("style", TEMPLATES)
def test_assistant_masks(style, both, side):
    ours, reference = both(TEMPLATES[style], padding_side=side)
    for conversation in (CHAT, [CHAT, turns("Hello", "Good evening!"), turns("Hm?")]):
        for options in ({}, {"padding": True}, {"padding": True, "return_tensors": "pt"}):
            options |= {"return_assistant_tokens_mask": True}
            found = ours.apply_chat_template(conversation, **options)
            equal(found, reference.apply_chat_template(conversation, **options))
    said = {"llama 2": " Good evening! </s>", "llama 3": "Good evening!<|eot_id|>", "mistral": " Good evening!</s>"}
    ids = [token for token, mask in zip(found["input_ids"][1], found["assistant_masks"][1], strict=True) if mask]
    assert ours.decode(ids) == said.get(style, "Good evening!<|im_end|>\n")


def test_assistant_masks_are_whole_whatever_was_said(both, texts):
    """The reference leaves out the last bytes of a character that is several tokens, and what begins in a gap."""
    ours, _ = both(CHATML)
    for text in texts:
        text = f"{text}👍🏽" if text else "👍🏽"
        found = ours.apply_chat_template(turns("Hi 👍🏽", text), return_assistant_tokens_mask=True)
        rows = zip(found["input_ids"], found["assistant_masks"], strict=True)
        assert ours.decode([token for token, mask in rows if mask]) == f"{text}<|im_end|>\n"


@pytest.mark.parametrize("trims", [False, True])
def test_assistant_masks_of_spaces_that_are_tokens(both, trims):
    """The tokenizers of GPT-2 and Llama 3 trim spaces off the places of tokens, down to empty places."""
    ours, _ = both("{{ messages[0].content }}{% generation %}{{ messages[1].content }}{% endgeneration %}<|im_end|>  ?")
    ours.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trims)
    for said in ("   a", "a   ", "   ", " ", " a b  c", "a"):
        found = ours.apply_chat_template(turns("  <|im_start|>", said), return_assistant_tokens_mask=True)
        rows = zip(found["input_ids"], found["assistant_masks"], strict=True)
        assert ours.decode([token for token, mask in rows if mask]) == said


def test_assistant_masks_of_texts_that_are_cut(both):
    ours, _ = both(CHATML)
    whole = ours.apply_chat_template(CHAT, return_assistant_tokens_mask=True)["assistant_masks"]
    for side, part in (("right", whole[:9]), ("left", whole[-9:])):
        ours.truncation_side = side
        cut = {"truncation": True, "max_length": 9, "return_assistant_tokens_mask": True}
        assert ours.apply_chat_template(CHAT, **cut)["assistant_masks"] == part
        assert ours.apply_chat_template(CHAT, return_tensors="np", **cut)["assistant_masks"].tolist() == [part]
    ours.truncation_side = "right"
    cut["tokenizer_kwargs"] = {"return_overflowing_tokens": True}
    parts = ours.apply_chat_template(CHAT, **cut)["assistant_masks"]
    assert [mask for part in parts for mask in part] == whole


def test_assistant_masks_in_macros_and_threads(both):
    template = (
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endmacro %}"
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{{ m.content }}{% else %}{{ say(m) }}{% endif %}"
        "{% endfor %}"
    )
    ours, reference = both(template)
    wanted = reference.apply_chat_template(CHAT, return_assistant_tokens_mask=True)["assistant_masks"]
    assert 0 < sum(wanted) < len(wanted)
    found = []

    def work():
        for _ in range(20):
            found.append(ours.apply_chat_template(CHAT, return_assistant_tokens_mask=True)["assistant_masks"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 80


def test_assistant_masks_of_a_template_that_tells_nothing(ours):
    with pytest.warns(UserWarning, match="assistant_masks are all 0: the chat template has no {% generation %}"):
        found = ours.apply_chat_template(
            CHAT, chat_template="{{ messages[0].content }}", return_assistant_tokens_mask=True
        )
    assert set(found["assistant_masks"]) == {0}


# Templates by name, and in files


NAMED = {"default": CHATML, "tool_use": "{{ tools | tojson }}" + CHATML, "rag": "{{ documents | tojson }}"}


def test_a_template_by_name(both):
    ours, reference = both(NAMED)
    for options in (
        {},
        {"tools": []},
        {"tools": [{}]},
        {"chat_template": "rag"},
        {"chat_template": "rag", "tools": []},
    ):
        assert ours.get_chat_template(**options) == reference.get_chat_template(**options)
    assert ours.get_chat_template() == CHATML
    assert ours.get_chat_template(tools=[]) == NAMED["tool_use"]
    assert ours.get_chat_template("{{ x }}") == reference.get_chat_template("{{ x }}") == "{{ x }}"
    assert ours.apply_chat_template(CHAT, chat_template="rag", documents=[{}], tokenize=False) == "[{}]"
    ours, reference = both([{"name": name, "template": template} for name, template in NAMED.items()])
    assert ours.chat_template == reference.chat_template == NAMED
    ours, reference = both({"rag": "{{ x }}"})
    for given in ({"tools": [{}]}, {}):
        with pytest.raises(ValueError, match=r"none of the tokenizer's chat templates is the default; .* one of 'rag'"):
            ours.get_chat_template(**given)


def test_no_template(both):
    ours, _ = both(None)
    with pytest.raises(ValueError, match=r"this tokenizer has no chat template: .*tokenizer.chat_template"):
        ours.apply_chat_template(CHAT)
    assert ours.apply_chat_template(CHAT, chat_template=CHATML)["input_ids"]
    with pytest.raises(ValueError, match=r"chat_template='rag' is neither .* this tokenizer has: it has none"):
        ours.apply_chat_template(CHAT, chat_template="rag")
    ours.chat_template = NAMED
    with pytest.raises(ValueError, match=r"chat_template='rga' is neither .* has: 'default', 'rag', 'tool_use'"):
        ours.apply_chat_template(CHAT, chat_template="rga")
    for wrong in (3, {"default": 3}, ["{{ x }}"], [{"template": "{{ x }}"}]):
        with pytest.raises(ValueError, match=r"chat_template is .*; a str was expected, or"):
            both(CHATML)[0].__class__(tokenizer_object=ours.backend_tokenizer, chat_template=wrong)
        ours.chat_template = wrong
        with pytest.raises(ValueError, match=r"chat_template is .*; a str was expected, or"):
            ours.apply_chat_template(CHAT)


FILES = {"chat_template.jinja", "additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja"}


@pytest.mark.parametrize("template", [None, CHATML, NAMED, {"rag": "{{ é }}\n\n"}, {"default": LLAMA3}])
def test_saved_and_loaded_by_both(both, template, tmp_path):
    ours, reference = both(template)
    written = {Path(path) for path in ours.save_pretrained(tmp_path / "ours")}
    assert written == {path for path in (tmp_path / "ours").rglob("*") if path.is_file()}
    reference.save_pretrained(tmp_path / "reference")
    for folder in (tmp_path / "ours", tmp_path / "reference"):
        assert json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template") is None
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jinja")}
        assert files == (FILES if template is NAMED else files & FILES)
        again = AutoTokenizer.from_pretrained(folder)
        expected = transformers.AutoTokenizer.from_pretrained(folder).chat_template
        assert again.chat_template == expected == (template if template != {"default": LLAMA3} else LLAMA3)
        assert "chat_template" not in again.settings
        if template == CHATML:
            equal(again.apply_chat_template(ASK), reference.apply_chat_template(ASK))


@pytest.mark.parametrize("template", [CHATML, NAMED])
def test_templates_in_the_config(both, template, tmp_path):
    """As older releases save them; files of their own come first, and what the caller passes before those."""
    _, reference = both(template)
    reference.save_pretrained(tmp_path, save_jinja_files=False)
    assert [*tmp_path.rglob("*.jinja")] == []
    assert type(json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]) is (
        str if template is CHATML else list
    )
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == template
    (tmp_path / "chat_template.jinja").write_text(LLAMA3)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == LLAMA3
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == LLAMA3
    assert AutoTokenizer.from_pretrained(tmp_path, chat_template=MISTRAL).chat_template == MISTRAL
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == LLAMA3


def test_saving_leaves_no_template_of_an_earlier_save(both, tmp_path):
    both(NAMED)[0].save_pretrained(tmp_path)
    (tmp_path / "notes.jinja").write_text("mine")
    both({"rag": "{{ x }}"})[0].save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == {"rag": "{{ x }}"}
    both(None)[0].save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    assert (tmp_path / "notes.jinja").read_text() == "mine"


@pytest.mark.parametrize("name", ["../out", "a/b", "", "a\\b", "c:d"])
def test_names_that_lead_out_of_the_folder(both, name, tmp_path):
    with pytest.raises(ValueError, match="are no names of files; rename them"):
        both({"default": CHATML, name: "{{ x }}"})[0].save_pretrained(tmp_path / "new")
    assert [*tmp_path.iterdir()] == []


def test_broken_files(both, tmp_path):
    both(CHATML)[0].save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff{{ x }}")
    with pytest.raises(CheckpointError, match="a chat template is no text in UTF-8"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": 3}))
    with pytest.raises(CheckpointError, match="chat_template is 3; a str was expected"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_from_the_hubs_cache(both, tmp_path):
    repository = tmp_path / "models--someone--chat"
    snapshot = repository / "snapshots" / ("a" * 40)
    both(NAMED)[0].save_pretrained(snapshot)
    (snapshot / "additional_chat_templates" / "README.md").write_text("on these templates")
    both({"old": CHATML})[0].save_pretrained(snapshot / "before")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert AutoTokenizer.from_pretrained("someone/chat", **options).chat_template == NAMED


def test_a_tokenizer_trained_anew_or_copied_keeps_its_template(both):
    ours, _ = both(NAMED)
    assert copy.deepcopy(ours).chat_template == NAMED
    assert ours.train_new_from_iterator(["Hi there"] * 9, 600).chat_template == NAMED


# Templates of strangers


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}.{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].clear() }}{{ [3, 1].sort() }}",
        "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ tojson.__globals__.x }}{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (messages | attr('__class__')).x }}",
        "{{ ('{0.__class__.__mro__}').format(1) }}",
        "{{ ('%s' | format(1)).__class__.x }}",
        "{{ dict.update(messages[0], {'a': 1}) }}",
        "{{ dict.__class__.x }}{{ dict.fromkeys.__self__.x }}",
        "{% set ns = namespace(a=1) %}{% set ns.__class__ = 3 %}",
        "{{ namespace(_Namespace__attrs=3) }}",
        "{{ namespace.__init__.__globals__.x }}",
        "{{ self.__init__.__globals__.x }}",
        "{{ range(10000000) | list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum.__globals__.os.x }}",
    ],
)
def test_what_a_template_may_not_do(both, template):
    ours, reference = both("Hello\n" + template)
    chat = copy.deepcopy(CHAT)
    with pytest.raises(ValueError, match=r"the chat template(, line 2, .*)?: "):
        ours.apply_chat_template(chat)
    with pytest.raises(Exception):  # noqa: B017, PT011
        reference.apply_chat_template(chat)
    assert chat == CHAT


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("a\n{{ messages | nothing }}", r"line 2, '\{\{ messages \| nothing \}\}': No filter named 'nothing'"),
        ("a\n\n{% for m in messages %}", r"line 3, '\{% for m in messages %\}': .*endfor"),
        ("a\n{{ missing.x.y }}", r"line 2, .*: 'missing' is undefined"),
        ("a\nb\n\n{{ 'a' + 3 }}", r"line 4, .*: can only concatenate str"),
        ("{% macro f(m) %}\n{{ m.x.y }}\n{% endmacro %}\n\n{{ f(messages) }}", "line 2, .*has no attribute 'x'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1, .*: maximum recursion depth"),
        ("{{ 1 // 0 }}", "line 1, .*: integer"),
        ("{{ raise_exception('no tools here') }}", "line 1, .*: no tools here"),
        ("{% generation %}a", "line 1, .*endgeneration"),
        ("{{ x | tojson }}", "line 1, .*: Object of type Undefined is not JSON"),
    ],
)
def test_a_template_that_fails_is_told_with_its_line(ours, template, told):
    with pytest.raises(ValueError, match=f"^the chat template, {told}"):
        ours.apply_chat_template(CHAT, chat_template=template)


# What is no chat, and options that cannot be


@pytest.mark.parametrize(
    ("conversation", "kind", "told"),
    [
        ("Hi", TypeError, r"^conversation is the str 'Hi'; a list of messages was expected, such as \[{"),
        (CHAT[0], TypeError, "^conversation is the dict"),
        (None, TypeError, "^conversation is None;"),
        (3, TypeError, "^conversation is the int 3;"),
        ([], ValueError, "^conversation is empty; pass at least one message"),
        ([CHAT, []], ValueError, r"^conversation\[1\] is empty;"),
        (["Hi"], TypeError, r"^conversation\[0\] is the str 'Hi'; a message was expected"),
        ([CHAT[0], CHAT], TypeError, r"^conversation\[1\] is the list"),
        ([CHAT, CHAT[0]], TypeError, r"^conversation\[1\] is the dict .*; a list of messages"),
        ([CHAT, [CHAT[0], None]], TypeError, r"^conversation\[1\]\[1\] is None; a message"),
        ([{"content": "Hi"}], ValueError, r"^conversation\[0\] is the dict {'content': 'Hi'}; a message has a 'role'"),
        ([{"role": "user"}], ValueError, r"^conversation\[0\] .*and a 'content'"),
        ([*CHAT, {"role": "user", "text": "Hi"}], ValueError, r"^conversation\[4\] .*and a 'content'"),
        ([{"role": "user", "content": None}], ValueError, r"^conversation\[0\] .*and a 'content'"),
        ([{"role": 3, "content": "Hi"}], ValueError, r"^conversation\[0\] .*a 'role'"),
    ],
)
def test_what_is_no_chat(ours, conversation, kind, told):
    with pytest.raises(kind, match=told):
        ours.apply_chat_template(conversation)


def test_chats_of_other_kinds(both, write):
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    template = "{% for m in messages %}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    assert write(template, [CHAT[0], called]) == 'Hi there[{"function": {"name": "add"}}]'
    ours, _ = both(CHATML)
    wanted = ours.apply_chat_template(CHAT)
    for conversation in (tuple(CHAT), iter(CHAT), np.array(CHAT)):
        assert ours.apply_chat_template(conversation) == wanted
    assert ours.apply_chat_template((tuple(CHAT),))["input_ids"] == [wanted["input_ids"]]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            ValueError,
            "and add_generation_prompt exclude",
        ),
        (
            {"continue_final_message": True, "return_assistant_tokens_mask": True},
            ValueError,
            "and return_assistant_tokens_mask exclude",
        ),
        (
            {"return_assistant_tokens_mask": True, "return_dict": False},
            ValueError,
            "needs tokenize=True and return_dict",
        ),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, ValueError, "needs tokenize=True and return_dict"),
        ({"sanitize_control_tokens": True}, ValueError, "sanitize_control_tokens=True is not implemented"),
        ({"tools": {"name": "f"}}, TypeError, "tools is the dict .*a list of dicts"),
        ({"tools": ["f"]}, TypeError, r"tools\[0\] is the str 'f'; a dict"),
        ({"tools": [{}, turns]}, TypeError, r"tools\[1\] is the function turns; its JSON schema was expected"),
        ({"documents": "text"}, TypeError, "documents is the str 'text'; a list of dicts"),
        ({"documents": ["text"]}, TypeError, r"documents\[0\] is the str 'text'; a dict"),
        (
            {"tokenizer_kwargs": {"add_special_tokens": True}},
            TypeError,
            "tokenizer_kwargs has add_special_tokens, which .*template",
        ),
        ({"tokenizer_kwargs": {"padding": True}}, TypeError, "tokenizer_kwargs has padding, which"),
        ({"padding": "most"}, ValueError, "padding='most' is unknown"),
    ],
)
def test_options_that_cannot_be(ours, options, kind, told):
    with pytest.raises(kind, match=told):
        ours.apply_chat_template(CHAT, **options)


def test_the_template_engine_is_imported_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(minihf, "tokenization", minihf.tokenization)
    for name in [name for name in sys.modules if name.startswith("minihf.tokenization")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)  # whoever imports it now fails
    importlib.import_module("minihf.tokenization")
    with pytest.raises(ImportError, match="jinja2"):
        importlib.import_module("minihf.tokenization.sandbox")
