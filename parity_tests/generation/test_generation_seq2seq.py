"""Encoder-decoders that write: what the encoder is given, how the decoder begins, and what files say of it."""

import json

import pytest
import torch
import transformers

from minihf import AutoModelForSeq2SeqLM, AutoModelForTextEncoding, BartConfig, BartForConditionalGeneration
from minihf.inspection.pairs import make_pair
from minihf.models.outputs import BaseModelOutput

KINDS = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "t5": "T5ForConditionalGeneration",
}
ALL = pytest.mark.parametrize("kind", KINDS)
torch.manual_seed(0)
IDS = torch.randint(12, 40, (2, 5))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ASKED = {"max_new_tokens": 6, "decoder_start_token_id": 3, "pad_token_id": 2, "eos_token_id": 7}


@pytest.fixture(scope="module")
def pairs():
    made = {kind: make_pair(kind, name).to(torch.float64) for kind, name in KINDS.items()}
    return {kind: (pair.ours.eval(), pair.theirs.eval()) for kind, pair in made.items()}


def equal(pair, *args, **settings):
    ours, theirs = (model.generate(*args, **{**ASKED, **settings}) for model in pair)
    assert torch.equal(ours, theirs), f"\n{ours}\n{theirs}"
    return ours


@ALL
def test_how_the_decoder_begins(kind, pairs):
    """With its start token, one for each row, or what the caller wants after it, or in its place."""
    pair, given = pairs[kind], {"attention_mask": MASK}
    plain = equal(pair, IDS, **given)
    assert plain[:, 0].tolist() == [3, 3]
    rows = equal(pair, IDS, decoder_start_token_id=[3, 5], **given)
    assert rows[:, 0].tolist() == [3, 5]
    assert torch.equal(rows[0, : plain.shape[1]], plain[0, : rows.shape[1]])
    begun = equal(pair, IDS, decoder_input_ids=torch.tensor([[9, 8], [10, 11]]), **given)
    assert begun[:, :3].tolist() == [[3, 9, 8], [3, 10, 11]]
    same = equal(pair, IDS, decoder_input_ids=torch.tensor([[3, 9, 8], [3, 10, 11]]), **given)
    assert torch.equal(begun, same)
    for beams in (1, 3):
        code = equal(pair, IDS, forced_bos_token_id=8, num_beams=beams, **given)  # as one asks mBART for a language
        assert code[:, 1].tolist() == [8, 8]
    ended = equal(pair, IDS, forced_eos_token_id=7, eos_token_id=None, max_length=5, max_new_tokens=None, **given)
    assert ended[:, -1].tolist() == [7, 7]
    assert ended.shape == (2, 5)


@ALL
def test_the_decoders_own_mask(kind, pairs):
    begin, own = torch.tensor([[3, 9, 8], [3, 2, 11]]), torch.tensor([[1, 1, 1], [1, 0, 1]])
    settings = {"attention_mask": MASK, "decoder_input_ids": begin, "decoder_attention_mask": own}
    for beams in (1, 2):
        ours = pairs[kind][0].generate(IDS, **ASKED, **settings, num_beams=beams)
        alone = pairs[kind][0].generate(IDS, **ASKED, **settings, num_beams=beams, use_cache=False)
        assert torch.equal(ours, alone)
    more = {"return_dict_in_generate": True, "output_logits": True}
    hidden, seen = (
        pairs[kind][0].generate(IDS, **ASKED, **{**settings, **more, "decoder_attention_mask": mask}).logits[0]
        for mask in (own, torch.ones_like(own))
    )
    torch.testing.assert_close(hidden[0], seen[0])
    assert (hidden[1] - seen[1]).abs().max() > 1e-3


@ALL
@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
def test_the_encoder_runs_once_for_each_text(kind, way, pairs):
    model = pairs[kind][0]
    seen = []
    handle = model.get_encoder().register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        torch.manual_seed(1)
        plain = model.generate(IDS, attention_mask=MASK, **ASKED, **way)
    finally:
        handle.remove()
    assert [len(output.last_hidden_state) for output in seen] == [2]
    embeds = model.get_encoder().embed_tokens(IDS)
    if kind == "marian" and model.config.scale_embedding:  # its encoder scales what it looks up, and nothing else
        embeds = embeds * model.config.d_model**0.5
    for given in (
        {"encoder_outputs": BaseModelOutput(seen[0].last_hidden_state.clone())},
        {"encoder_outputs": (seen[0].last_hidden_state.clone(),), "input_ids": IDS},
        {"inputs_embeds": embeds},
    ):
        torch.manual_seed(1)
        assert torch.equal(model.generate(**given, attention_mask=MASK, **ASKED, **way), plain)


def test_what_the_encoder_saw_comes_back(pairs):
    ours, theirs = pairs["bart"]
    settings = {"attention_mask": MASK, "num_beams": 2, "return_dict_in_generate": True, "output_hidden_states": True}
    a, b = (model.generate(IDS, **ASKED, **settings) for model in (ours, theirs))
    for x, y in zip(a.encoder_hidden_states, b.encoder_hidden_states, strict=True):
        real = MASK.bool()
        torch.testing.assert_close(x[real], y[:2][real], atol=1e-9, rtol=1e-9)


@ALL
def test_padding_that_no_mask_tells_of(kind, pairs):
    """The pad token tells of it, as in 4.51.3: padding never changes a result. Today's reference reads it as text."""
    padded, way = IDS.masked_fill(MASK == 0, 2), {**ASKED, "return_dict_in_generate": True, "output_logits": True}
    ours, theirs = pairs[kind]
    told, untold, other = (
        torch.stack(model.generate(padded, **way, **given).logits[:1])
        for model, given in ((ours, {"attention_mask": MASK}), (ours, {}), (theirs, {}))
    )
    assert torch.equal(told, untold)
    assert (untold[0, 1] - other[0, 1]).abs().max() > 0.01


def test_what_is_refused(pairs):
    model = pairs["bart"][0]
    read = model.generate(IDS, **ASKED, return_dict_in_generate=True).past_key_values
    for given, said in (
        ({}, "nothing for the encoder to read"),
        ({"inputs": IDS, "inputs_embeds": torch.zeros(2, 5, 3)}, "input_ids and inputs_embeds"),
        ({"inputs": IDS[0]}, r"generate takes ids of shape \(batch, tokens\)"),
        ({"inputs": IDS, "decoder_start_token_id": [3]}, "decoder_start_token_id has 1 entries for 2 texts"),
        ({"inputs": IDS, "decoder_input_ids": IDS[:1]}, "decoder_input_ids has 1 rows for 2 texts"),
        ({"inputs": IDS, "attention_mask": MASK[:, :3]}, "the mask of the encoder's text has shape"),
        ({"inputs": IDS, "attention_mask": MASK.tolist()}, "the encoder's text is a list, expected a tensor"),
        ({"inputs": IDS, "past_key_values": ((IDS, IDS),)}, "takes a minihf.nn.cache.Cache, not a tuple"),
        ({"inputs": IDS, "past_key_values": read}, "holds 6 tokens, and decoder_input_ids has 1: pass all ids"),
        ({"inputs": IDS, "forced_bos_token_id": 999}, "the token 999 is to be forced: there are 59 tokens"),
        ({"encoder_outputs": ("state",)}, "encoder_outputs begin with a state"),
        ({"inputs": IDS, "decoder_attention_mask": [[1], [1]]}, "the mask of decoder_input_ids is a list"),
        ({"inputs": IDS, "num_beams": 2, "length_penalty": float("nan")}, "length_penalty=nan: expected a finite"),
        ({"encoder_outputs": ()}, "encoder_outputs begin with a state"),
        ({"encoder_outputs": 5}, "encoder_outputs begin with a state"),
        ({"encoder_outputs": (torch.zeros(2, 5, 7),)}, r"encoder_outputs has 7 channels of .*: expected \d+"),
        ({"inputs": IDS, "token_type_ids": IDS}, "BartForConditionalGeneration has no token_type_ids"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            model.generate(**{**ASKED, **given})
    with pytest.raises(ValueError, match="neither decoder_start_token_id nor bos_token_id"):
        model.generate(IDS, decoder_start_token_id=None, bos_token_id=None)


@pytest.mark.parametrize("beams", [1, 4])
def test_under_autocast(beams):
    """For so many rows and steps weights are packed otherwise, and the packed product takes float32 alone."""
    model = make_pair("t5", KINDS["t5"]).ours.eval()
    settings = {**ASKED, "eos_token_id": None, "max_new_tokens": 18, "num_beams": beams}
    four = IDS.repeat(2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        written = model.generate(four, **settings)
        assert torch.equal(written, model.generate(four, **settings, use_cache=False))


OLD = {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 2.0, "early_stopping": True, "max_length": 9}


def test_old_configs_say_how_to_write(tmp_path):
    """Settings of generation in a `config.json` work, and are moved to `generation_config.json` on saving."""
    torch.manual_seed(0)
    sizes = {"d_model": 12, "vocab_size": 41, "max_position_embeddings": 40, "init_std": 1.0}
    sizes |= {f"{side}_{what}": 8 // (1 + (what != "ffn_dim") * 3) for side in ("encoder", "decoder")
              for what in ("layers", "attention_heads", "ffn_dim")}  # fmt: skip
    model = BartForConditionalGeneration(BartConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "generation_config.json").unlink()
    path = tmp_path / "old" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **OLD}))

    old = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "old").eval()
    expected = model.generate(IDS, **OLD)
    assert torch.equal(old.generate(IDS), expected)
    assert not torch.equal(model.generate(IDS, max_length=9), expected)

    old.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert {name: saved[name] for name in OLD} == OLD
    assert not set(OLD) & set(json.loads((tmp_path / "new" / "config.json").read_text()))
    assert old.config.num_beams == 3  # the model in memory is as it was
    for library in (AutoModelForSeq2SeqLM, transformers.AutoModelForSeq2SeqLM):
        assert torch.equal(library.from_pretrained(tmp_path / "new").eval().generate(IDS), expected)


def test_the_encoder_alone(tmp_path, pairs):
    model = pairs["t5"][0]
    model.save_pretrained(tmp_path)
    encoder = AutoModelForTextEncoding.from_pretrained(tmp_path).eval()
    assert type(encoder).__name__ == "T5EncoderModel"
    torch.testing.assert_close(encoder(IDS).last_hidden_state, model.get_encoder()(IDS).last_hidden_state)
    pairs["bart"][0].save_pretrained(tmp_path / "bart")
    with pytest.raises(ValueError, match="bart has no class for AutoModelForTextEncoding"):
        AutoModelForTextEncoding.from_pretrained(tmp_path / "bart")
