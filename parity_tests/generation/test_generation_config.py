"""The generation config: the reference's files both ways, what wins over what, clear errors."""

import json

import pytest
import transformers

from minihf.checkpoints.files import CheckpointError
from minihf.generation.config import GenerationConfig, settle
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel

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
    for name in ("do_sample", "temperature", "top_k", "top_p", "num_return_sequences", "use_cache"):
        assert getattr(ours, name) == theirs[name], name
    for name in ("max_new_tokens", "max_length", *ids):
        assert getattr(ours, name) is None


def test_files_go_both_ways(tmp_path):
    assert set(OTHER) == set(GenerationConfig().to_dict())
    GenerationConfig(**OTHER).save_pretrained(tmp_path)
    read = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(read, name) for name in OTHER} == OTHER
    transformers.GenerationConfig(**OTHER).save_pretrained(tmp_path)
    read = GenerationConfig.from_file(tmp_path / "generation_config.json")
    assert {name: getattr(read, name) for name in OTHER} == OTHER


def test_each_setting_alone_survives_a_save(tmp_path):
    for name, value in OTHER.items():
        config = GenerationConfig(**{name: value} | ({"do_sample": True} if name == "num_return_sequences" else {}))
        config.save_pretrained(tmp_path)
        again = GenerationConfig.from_file(tmp_path / "generation_config.json")
        assert again.to_dict() == config.to_dict()
        assert getattr(again, name) == value
    GenerationConfig(do_sample=True, top_k=0).save_pretrained(tmp_path)  # no limit: it may not come back as 50
    assert GenerationConfig.from_file(tmp_path / "generation_config.json").top_k == 0


def test_unknown_settings_are_kept_and_written_back(tmp_path):
    extra = {"length_penalty": 2.0, "my_note": [1], "transformers_version": "9.9", "cache_implementation": "dynamic"}
    (tmp_path / "generation_config.json").write_text(json.dumps({**extra, "top_k": 3}))
    config = GenerationConfig.from_file(tmp_path / "generation_config.json")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {**extra, "top_k": 3}


def test_settings_can_be_changed_later():
    config = GenerationConfig(**OTHER)
    config.top_p, config.pad_token_id = 0.25, 3
    assert config.to_dict() == {**OTHER, "top_p": 0.25, "pad_token_id": 3}


def test_a_copy_is_apart():
    config = GenerationConfig(**OTHER, note="kept")
    other = config.copy()
    assert other.to_dict() == config.to_dict()
    other.top_k = 1
    other.other["note"] = "changed"
    other.eos_token_id.append(99)
    assert config.to_dict() == {**OTHER, "eos_token_id": [5, 6], "note": "kept"}


def test_end_tokens():
    assert GenerationConfig().end_tokens == []
    assert GenerationConfig(eos_token_id=0).end_tokens == [0]
    assert GenerationConfig(eos_token_id=[3, 4]).end_tokens == [3, 4]


NEUTRAL = {
    "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "typical_p": 1.0,
    "bad_words_ids": None, "num_beam_groups": 1, "epsilon_cutoff": 0.0, "renormalize_logits": False,
}


def test_a_wish_that_would_go_unheard_is_refused_when_it_matters():
    GenerationConfig(**NEUTRAL).check_other()
    for name, value in (("num_beams", 2), ("repetition_penalty", 1.5), ("min_length", 3), ("bad_words_ids", [[1]])):
        config = GenerationConfig(**{**NEUTRAL, name: value})  # a file may say so: loading it is no error
        with pytest.raises(ValueError, match=rf"^{name}=.* is not implemented"):
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
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings, tmp_path):
    """A ValueError that names the setting; in a file, the file too."""
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        GenerationConfig(**settings)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json.*{name}"):
        GenerationConfig.from_file(path)
