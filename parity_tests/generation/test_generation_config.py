"""The generation config: the reference's files both ways, what wins over what, clear errors."""

import json

import pytest
import transformers

from minihf.checkpoints.files import CheckpointError
from minihf.generation.checks import NEUTRAL
from minihf.generation.config import DEFAULTS, GenerationConfig, check_names, settle
from minihf.models.bart import BartConfig
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel

EVERY = {
    "max_new_tokens": 7, "max_length": 30, "min_new_tokens": 2, "min_length": 3, "max_time": 2.5, "stop_strings": ["a"],
    "do_sample": False, "num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.5, "penalty_alpha": 0.0,
    "low_memory": True, "length_penalty": 0.8, "early_stopping": "never", "force_words_ids": [[3], [[4, 5], [6]]],
    "num_return_sequences": 3, "use_cache": False, "guidance_scale": 1.5, "sequence_bias": [[[5, 7], -1.5]],
    "encoder_repetition_penalty": 1.2, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 4, "bad_words_ids": [[3], [4, 5]], "forced_bos_token_id": 8,
    "forced_eos_token_id": [6, 7], "remove_invalid_values": True, "exponential_decay_length_penalty": [5, 1.2],
    "suppress_tokens": [9], "begin_suppress_tokens": [9, 10], "temperature": 0.5, "top_h": 0.4, "top_k": 9,
    "top_p": 0.75, "min_p": 0.1, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02,
    "renormalize_logits": True, "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    "output_hidden_states": True, "output_attentions": True, "bos_token_id": 4, "eos_token_id": [5, 6],
    "pad_token_id": 0, "decoder_start_token_id": [2, 3], "num_assistant_tokens": 6,
    "num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.3, "prompt_lookup_num_tokens": 4,
    "max_matching_ngram_size": 3, "cache_implementation": "static", "max_cache_len": 40, "disable_compile": True,
}
OTHER = {
    "max_new_tokens": 7, "max_length": 30, "do_sample": True, "temperature": 0.5, "top_k": 9, "top_p": 0.75,
    "num_return_sequences": 3, "use_cache": False, "bos_token_id": 4, "eos_token_id": [5, 6], "pad_token_id": 0,
}


def test_defaults_are_what_the_reference_falls_back_to():
    """As `generate` settles them, where nobody says anything."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=2, n_head=1, n_layer=1, n_positions=3, **ids))
    ours = settle(model.generation_config, None, {})
    theirs = transformers.GenerationConfig._get_default_generation_params()
    for name, value in DEFAULTS.items():
        assert getattr(ours, name) == value
        assert theirs.get(name, value) == value, name
    for name, value in ours.to_dict().items():
        if name not in DEFAULTS:
            assert value is None
            assert not theirs.get(name) or theirs[name] == 1.0 or name == "max_length", name  # nothing that acts
    ours.check_other()


def test_the_hidden_default_is_in_plain_sight():
    assert "top_k=50" in repr(GenerationConfig())
    shown = repr(GenerationConfig(top_k=7, eos_token_id=3, note="kept"))
    assert shown.startswith("GenerationConfig(top_k=7, eos_token_id=3, note='kept'; by default ")
    assert "top_k=50" not in shown
    assert "do_sample=False" in shown
    assert "None" not in shown


def test_every_setting_of_the_reference_is_known_to_one_side():
    """Declared, or listed as not implemented: none is a slip of the pen."""
    theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    declared = set(GenerationConfig().to_dict())
    assert theirs - {"transformers_version"} == (declared | set(NEUTRAL)) & theirs
    assert declared <= theirs
    assert not declared & set(NEUTRAL)


def test_files_go_both_ways(tmp_path):
    assert {*EVERY, "constraints", "compile_config"} == set(GenerationConfig().to_dict())
    GenerationConfig(**EVERY).save_pretrained(tmp_path)
    read = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(read, name) for name in EVERY} == EVERY
    theirs = transformers.GenerationConfig(**EVERY)
    (tmp_path / "generation_config.json").write_text(theirs.to_json_string())
    read = GenerationConfig.from_pretrained(tmp_path, top_k=8)
    assert {name: getattr(read, name) for name in EVERY} == {**EVERY, "top_k": 8}


def test_each_setting_alone_survives_a_save(tmp_path):
    for name, value in EVERY.items():
        config = GenerationConfig(**{name: value})
        config.save_pretrained(tmp_path)
        again = GenerationConfig.from_file(tmp_path / "generation_config.json")
        assert again.to_dict() == config.to_dict()
        assert getattr(again, name) == value
    GenerationConfig(do_sample=True, top_k=0).save_pretrained(tmp_path)  # no limit: it may not come back as 50
    assert GenerationConfig.from_file(tmp_path / "generation_config.json").top_k == 0
    GenerationConfig(sequence_bias={(5, 7): -1.5, (2,): 3}).save_pretrained(tmp_path)
    read = GenerationConfig.from_file(tmp_path / "generation_config.json")
    assert read.sequence_bias == [[[5, 7], -1.5], [[2], 3]]
    with pytest.raises(ValueError, match="constraints are objects"):
        GenerationConfig(constraints=[object()]).save_pretrained(tmp_path)


def test_what_old_model_configs_say_of_generating():
    """Encoder-decoders of 2020 kept it all in config.json; how `forward` answers stays there."""
    sizes = {"vocab_size": 9, "d_model": 4, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 8}
    sizes |= {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}
    old = {
        "num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 3, "length_penalty": 2.0, "min_length": 56,
        "bad_words_ids": [[8]], "forced_eos_token_id": 2, "force_bos_token_to_be_generated": True,
        "decoder_start_token_id": 2, "bos_token_id": 0, "use_cache": False, "output_attentions": True,
    }
    ours = GenerationConfig.from_model_config(BartConfig(**sizes, **old)).said()
    theirs = transformers.GenerationConfig.from_model_config(transformers.BartConfig(**sizes).to_dict() | old)
    theirs = {name: value for name, value in theirs.to_dict().items() if value is not None}
    assert ours["forced_bos_token_id"] == 0
    assert ours["num_beams"] == 4
    of_forward = {"use_cache", "output_attentions", "output_hidden_states", "return_dict_in_generate"}
    metadata = {"transformers_version", "_from_model_config"}
    assert ours == {name: value for name, value in theirs.items() if name not in of_forward | metadata}


def test_unknown_settings_are_kept_and_written_back(tmp_path):
    extra = {"dola_layers": "low", "my_note": [1], "transformers_version": "9.9", "cache_implementation": "dynamic"}
    (tmp_path / "generation_config.json").write_text(json.dumps({**extra, "top_k": 3}))
    config = GenerationConfig.from_file(tmp_path / "generation_config.json")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {**extra, "top_k": 3}


def test_settings_can_be_changed_later():
    config = GenerationConfig(**OTHER)
    config.top_p, config.pad_token_id = 0.25, 3
    assert config.said() == {**OTHER, "top_p": 0.25, "pad_token_id": 3}


def test_a_copy_is_apart():
    config = GenerationConfig(**OTHER, note="kept")
    other = config.copy()
    assert other.to_dict() == config.to_dict()
    other.top_k = 1
    other.other["note"] = "changed"
    other.eos_token_id.append(99)
    assert config.said() == {**OTHER, "eos_token_id": [5, 6], "note": "kept"}


def test_end_tokens():
    assert GenerationConfig().end_tokens == []
    assert GenerationConfig(eos_token_id=0).end_tokens == [0]
    assert GenerationConfig(eos_token_id=[3, 4]).end_tokens == [3, 4]


def test_a_wish_that_would_go_unheard_is_refused_when_it_matters():
    for name, values in NEUTRAL.items():
        for value in (None, *values):
            GenerationConfig(**{name: value}).check_other()
        config = GenerationConfig(**{name: "static"})  # a file may say so: loading it is no error
        with pytest.raises(ValueError, match=rf"^{name}='static' is not implemented"):
            config.check_other()


def test_every_default_of_the_reference_is_neutral():
    """A file that writes them all out can be generated with."""
    known = transformers.GenerationConfig._get_default_generation_params()
    GenerationConfig(**{name: value for name, value in known.items() if name != "max_length"}).check_other()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0, "do_sample": True},
        {"temperature": "warm"},
        {"top_k": -3, "do_sample": True},
        {"top_k": "all"},
        {"top_p": 0, "do_sample": True},
        {"top_p": 2, "do_sample": True},
        {"top_p": [0.5]},
        {"max_new_tokens": -1},
        {"max_new_tokens": "many"},
        {"max_length": 7.5},
        {"num_return_sequences": 0},
        {"eos_token_id": "</s>"},
        {"eos_token_id": [1, "x"]},
        {"pad_token_id": 1.5},
        {"do_sample": "yes"},
        {"use_cache": 3},
        {"min_length": -1},
        {"min_new_tokens": 1.5},
        {"max_time": -0.5},
        {"num_beams": 0},
        {"num_beam_groups": 0},
        {"diversity_penalty": -1.0},
        {"penalty_alpha": -0.1},
        {"early_stopping": "always"},
        {"early_stopping": 1},
        {"length_penalty": "long"},
        {"repetition_penalty": 0},
        {"encoder_repetition_penalty": -1.0},
        {"no_repeat_ngram_size": -2},
        {"encoder_no_repeat_ngram_size": 2.5},
        {"bad_words_ids": [3]},
        {"bad_words_ids": [[]]},
        {"force_words_ids": []},
        {"force_words_ids": [3]},
        {"force_words_ids": [[]]},
        {"force_words_ids": [[[]]]},
        {"sequence_bias": {3: 1.0}},
        {"sequence_bias": {(): 1.0}},
        {"sequence_bias": {(1,): "much"}},
        {"sequence_bias": [[[1, 2]]]},
        {"sequence_bias": [1, 2]},
        {"stop_strings": ""},
        {"stop_strings": []},
        {"stop_strings": ["a", ""]},
        {"exponential_decay_length_penalty": [3]},
        {"exponential_decay_length_penalty": [0.5, 1.1]},
        {"forced_eos_token_id": "</s>"},
        {"suppress_tokens": 3},
        {"min_p": 1.5, "do_sample": True},
        {"typical_p": 0, "do_sample": True},
        {"epsilon_cutoff": 1.0, "do_sample": True},
        {"eta_cutoff": -0.1, "do_sample": True},
        {"top_h": 0.0, "do_sample": True},
        {"num_assistant_tokens": 0},
        {"num_assistant_tokens_schedule": "often"},
        {"prompt_lookup_num_tokens": 0},
        {"max_matching_ngram_size": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings, tmp_path):
    """A ValueError that names the setting; in a file, the file too."""
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        GenerationConfig(**settings)
    path = tmp_path / "generation_config.json"
    if name == "sequence_bias" and isinstance(settings[name], dict):
        return  # which no file can hold
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json.*{name}"):
        GenerationConfig.from_file(path)


def test_a_refused_change_changes_nothing():
    config = GenerationConfig(**OTHER)
    with pytest.raises(ValueError, match="num_beams"):
        config.update({"top_k": 3, "num_beams": 0})
    assert config.said() == OTHER


BEAMS = {"num_beams": 4, "num_beam_groups": 2}
WORDS = {"force_words_ids": [[3]]}
CONTRADICTIONS = [
    ({"num_return_sequences": 2}, "same text several times"),
    ({"num_return_sequences": 5, "num_beams": 4}, "num_return_sequences=5 of num_beams=4"),
    ({"num_return_sequences": 5, "num_beams": 4, "do_sample": True}, "num_return_sequences=5 of num_beams=4"),
    ({"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1.0}, r"num_beam_groups=2 .* not 5"),
    ({"num_beam_groups": 2, "diversity_penalty": 1.0}, r"num_beam_groups=2 .* not 1"),
    ({**BEAMS, "diversity_penalty": 1.0, "do_sample": True}, "num_beam_groups=2 .* does not draw"),
    (BEAMS, "num_beam_groups=2 .* without a diversity_penalty"),
    ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty=1.0 acts between groups: set num_beam_groups"),
    ({"diversity_penalty": 1.0}, "set num_beam_groups"),
    (WORDS, "force_words_ids takes a beam search: set num_beams"),
    ({**WORDS, "num_beams": 3, "do_sample": True}, "force_words_ids .* does not draw"),
    ({**WORDS, **BEAMS, "diversity_penalty": 1.0}, "force_words_ids .* without groups"),
    ({"constraints": ["a word"]}, "constraints takes a beam search"),
    ({"penalty_alpha": 0.6, "do_sample": True}, "penalty_alpha=0.6 .* does not draw"),
    ({"penalty_alpha": 0.6, "num_beams": 2}, "penalty_alpha=0.6 .* no beams"),
    ({"penalty_alpha": 0.6, "top_k": 1}, "penalty_alpha=0.6 .* top_k above 1, not 1"),
    ({"penalty_alpha": 0.6, "top_k": 0}, "penalty_alpha=0.6 .* top_k above 1, not 0"),
    ({"penalty_alpha": 0.6, "use_cache": False}, "penalty_alpha=0.6 .* cache"),
    ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "prompt_lookup_num_tokens=3 .* num_beams=1"),
    (
        {"prompt_lookup_num_tokens": 3, "num_return_sequences": 2, "do_sample": True},
        "prompt_lookup_num_tokens=3 .* num_return_sequences=1",
    ),
    ({"prompt_lookup_num_tokens": 3, "penalty_alpha": 0.5}, "prompt_lookup_num_tokens=3 .* penalty_alpha=None"),
    ({"prompt_lookup_num_tokens": 3, "use_cache": False}, "prompt_lookup_num_tokens=3 .* cache"),
    ({"forced_bos_token_id": 4, "suppress_tokens": [3, 4]}, r"forced_bos_token_id=\[4\] and suppress_tokens"),
    ({"forced_eos_token_id": [3, 4], "suppress_tokens": [3, 4]}, r"forced_eos_token_id=\[3, 4\] and suppress_tokens"),
    ({"exponential_decay_length_penalty": (3, 1.1)}, "exponential_decay_length_penalty takes an eos_token_id"),
]


@pytest.mark.parametrize("settings, told", CONTRADICTIONS, ids=lambda x: str(x)[:60])
def test_contradictions_are_refused_by_name(settings, told):
    config = settle(GenerationConfig(), None, settings)  # each alone makes sense
    with pytest.raises(ValueError, match=told):
        config.check_other()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 4, "num_beams": 4},
        {"num_return_sequences": 4, "do_sample": True},
        {**BEAMS, "diversity_penalty": 0.5},
        {**WORDS, "num_beams": 2},
        {"penalty_alpha": 0.6},  # top_k is 50 unasked
        {"penalty_alpha": 0.0, "do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"forced_eos_token_id": [3, 4], "suppress_tokens": [4]},
        {"early_stopping": True, "length_penalty": 2.0},  # of no effect without beams, and of no harm
        {"temperature": 0.0, "top_p": 0.0, "min_p": 7.0},  # nor these without do_sample: published files have them
        {"exponential_decay_length_penalty": (3, 1.1), "eos_token_id": 3},
    ],
    ids=str,
)
def test_what_makes_sense_is_taken(settings):
    settle(GenerationConfig(), None, settings).check_other()


def test_what_cannot_be_fulfilled_is_told(caplog):
    GenerationConfig(min_length=9, max_length=5).check_other()
    assert "min_length=9 is more than max_length=5" in caplog.text
    GenerationConfig(min_new_tokens=9, max_new_tokens=5).check_other()
    assert "min_new_tokens=9 is more than max_new_tokens=5" in caplog.text
    caplog.clear()
    GenerationConfig(output_scores=True, output_attentions=True).check_other()
    assert "output_scores, output_attentions: nothing comes of it" in caplog.text
    caplog.clear()
    GenerationConfig(min_length=9, max_length=5, max_new_tokens=20).check_other()  # which wins over max_length
    GenerationConfig(output_scores=True, return_dict_in_generate=True, min_length=5, max_length=5).check_other()
    assert not caplog.text


def test_a_slip_of_the_pen_is_told_what_was_meant():
    for wrong, meant in (("num_beam", "num_beams"), ("top_kk", "top_k"), ("no_repeat_ngram", "no_repeat_ngram_size")):
        with pytest.raises(TypeError, match=f"no argument '{wrong}'; did you mean '{meant}'"):
            check_names({wrong: 3})
    with pytest.raises(TypeError, match=r"no argument 'xyzzy'$"):
        check_names({"xyzzy": 3})
    check_names(EVERY | dict.fromkeys(NEUTRAL))
