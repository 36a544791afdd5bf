"""Uploads to a stand-in hub: what arrives, what the card says, and that a failure leaves the repository as it was."""

import inspect
import logging

import pytest
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.utils import hub as reference

from minihf import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LoraConfig,
    PeftModel,
    PreTrainedTokenizerFast,
    get_peft_model,
    pipeline,
)
from minihf.checkpoints.card import NOTE, make_card
from minihf.checkpoints.publish import PushToHubMixin

SIZES = {"vocab_size": 9, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "is", "wide"]
WEIGHTS = {"config.json", "model.safetensors"}


def bert(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    return BertForMaskedLM(BertConfig(**SIZES))


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=12, n_layer=1, n_head=3, n_positions=8))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    engine = Tokenizer(models.WordLevel(dict(zip(WORDS, range(9), strict=True)), unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=engine, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def card(repository, revision: str = "main") -> ModelCard:
    return ModelCard(repository.files(revision)["README.md"].decode())


# What arrives


def test_a_model_and_its_tokenizer_come_back_as_they_went(online, tokenizer):
    model = bert()
    info = model.push_to_hub("dummy-model")
    assert info.commit_message == "Upload BertForMaskedLM"
    assert info.commit_url == f"{online.url}/me/dummy-model/commit/{info.oid}"
    tokenizer.push_to_hub("dummy-model")
    repository = online["me/dummy-model"]
    assert repository.titles() == ["Upload BertForMaskedLM", "Upload tokenizer"]
    assert set(repository.files()) == {*WEIGHTS, "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert same(AutoModelForMaskedLM.from_pretrained("me/dummy-model"), model)
    assert AutoTokenizer.from_pretrained("me/dummy-model")("the sea is wide")["input_ids"] == [5, 6, 7, 8]


def test_each_kind_is_one_commit(online, tokenizer):
    adapter = get_peft_model(bert(), LoraConfig(r=3, init_lora_weights=False))
    fill_mask = pipeline("fill-mask", bert(), tokenizer=tokenizer)
    kinds = {
        "model": (gpt2(), WEIGHTS | {"generation_config.json"}, "Upload model"),
        "config": (BertConfig(**SIZES), {"config.json"}, "Upload config"),
        "generation": (GenerationConfig(max_new_tokens=7), {"generation_config.json"}, "Upload config"),
        "adapter": (adapter, {"adapter_config.json", "adapter_model.safetensors"}, "Upload model"),
        "lora": (LoraConfig(r=3), {"adapter_config.json"}, "Upload config"),
        "pipe": (fill_mask, WEIGHTS | {"tokenizer.json", "tokenizer_config.json"}, "Upload FillMaskPipeline"),
    }
    for name, (saved, files, message) in kinds.items():
        info = saved.push_to_hub(f"team/{name}", commit_description="why")
        (_, commit) = online[f"team/{name}"].commits
        assert set(online[f"team/{name}"].files()) == files | {"README.md"}
        assert (commit.oid, commit.title, commit.description) == (info.oid, message, "why")
        assert f'"team/{name}")' in card(online[f"team/{name}"]).text
    assert AutoConfig.from_pretrained("team/config").hidden_size == 12
    assert GenerationConfig.from_pretrained("team/generation").max_new_tokens == 7
    assert LoraConfig.from_pretrained("team/lora").r == 3
    assert same(PeftModel.from_pretrained(bert(), "team/adapter"), adapter)
    assert pipeline("fill-mask", "team/pipe")("the [MASK] is wide") == fill_mask("the [MASK] is wide")


def test_names_defaults_and_messages_are_the_references(online, monkeypatch):
    theirs = inspect.signature(reference.PushToHubMixin.push_to_hub).parameters
    ours = inspect.signature(PushToHubMixin.push_to_hub).parameters
    for name, parameter in theirs.items():
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default), name

    monkeypatch.setattr(reference, "_hf_api", None)
    for kind in ("BertModel", "BertForMaskedLM", "BertConfig", "BertTokenizerFast", "PeftModel", "FillMaskPipeline"):
        for n, mixin in enumerate((reference.PushToHubMixin, PushToHubMixin)):

            class Saved(mixin):
                def save_pretrained(self, folder, **options):
                    with open(f"{folder}/config.json", "w") as file:
                        file.write("{}")

            Saved.__name__ = kind
            made = Saved()
            made.__class__.__name__ = kind
            made.push_to_hub(f"{kind}-{n}", private=True)
        first, second = online[f"me/{kind}-0"], online[f"me/{kind}-1"]
        assert first.titles() == second.titles()
        assert first.private is second.private is True
        assert set(first.files()) == set(second.files()) == {"config.json", "README.md"}


def test_save_pretrained_uploads_what_it_writes(online, tokenizer, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    model = bert()
    model.save_pretrained(folder, push_to_hub=True, max_shard_size="2KB")
    tokenizer.save_pretrained(folder, push_to_hub=True, repo_id="team/other", commit_message="words", token="secret")
    files = set(online["me/saved"].files())
    assert {"config.json", "model.safetensors.index.json", "README.md"} < files
    assert "notes.txt" not in files
    assert {name for name in files if "-of-" in name} == {path.name for path in folder.glob("*-of-*")}
    assert same(BertForMaskedLM.from_pretrained("me/saved"), model)
    assert set(online["team/other"].files()) == {"tokenizer.json", "tokenizer_config.json", "README.md"}
    assert online["team/other"].titles() == ["words"]

    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    model.save_pretrained(folder, state_dict=state, push_to_hub=True, repo_id="gathered")
    assert "# My own words" in card(online["me/gathered"]).text
    bias = BertForMaskedLM.from_pretrained("me/gathered").get_parameter("cls.predictions.bias")
    assert torch.equal(bias, state["cls.predictions.bias"])

    asked = len(online.asked)
    model.save_pretrained(tmp_path / "none", is_main_process=False, push_to_hub=True)
    model.save_pretrained(tmp_path / "local", max_shard_size="2KB")
    assert len(online.asked) == asked
    for options in ({"repo_id": "x"}, {"tags": ["a"], "private": False}):
        with pytest.raises(TypeError, match=f"{', '.join(options)} says how to upload: add push_to_hub=True"):
            model.save_pretrained(tmp_path / "local", **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'repo'"):
        model.save_pretrained(tmp_path / "local", repo="x")


def test_weights_of_an_earlier_upload_do_not_stand_beside_the_new_ones(online):
    for seed, size in enumerate(("50GB", "2KB", "4KB", "50GB")):
        model = bert(seed)
        model.push_to_hub("m", max_shard_size=size)
        assert same(BertForMaskedLM.from_pretrained("me/m"), model)
    assert set(online["me/m"].files()) == WEIGHTS | {"README.md"}
    assert len(online["me/m"].titles()) == 4


def test_what_has_not_changed_is_no_commit(online):
    infos = [bert().push_to_hub("m") for _ in range(2)]
    assert online["me/m"].titles() == ["Upload BertForMaskedLM"]
    assert infos[0].oid == infos[1].oid


def test_a_branch_and_a_pull_request_leave_main_alone(online, monkeypatch):
    model, changed = bert(0), bert(1)
    model.push_to_hub("m")
    for _ in range(2):  # the branch is made once
        changed.push_to_hub("m", revision="experiment")
    assert same(BertForMaskedLM.from_pretrained("me/m"), model)
    assert same(BertForMaskedLM.from_pretrained("me/m", revision="experiment"), changed)

    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(PermissionError, match=r"'me/m' was not uploaded, as you may not write there.*create_pr=True"):
        changed.push_to_hub("me/m")
    with pytest.raises(PermissionError, match="wants to know who you are"):
        changed.push_to_hub("me/m", token=False)
    info = changed.push_to_hub("me/m", create_pr=True, tags=["better"])
    assert info.pr_url == f"{online.url}/me/m/discussions/1"
    assert same(BertForMaskedLM.from_pretrained("me/m", revision="refs/pr/1"), changed)
    assert same(BertForMaskedLM.from_pretrained("me/m"), model)
    assert card(online["me/m"], "refs/pr/1").data.tags == ["better"]
    with pytest.raises(ValueError, match="leave out revision='experiment'"):
        changed.push_to_hub("me/m", create_pr=True, revision="experiment")


def test_private(online, monkeypatch):
    bert().push_to_hub("m", private=True)
    assert online["me/m"].private
    assert AutoConfig.from_pretrained("me/m").hidden_size == 12
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match="pass token="):
        AutoConfig.from_pretrained("me/m", force_download=True)


# The card


def test_the_card_says_what_it_is(online, tokenizer, tmp_path):
    bert().push_to_hub("base", tags="first")
    model = BertForMaskedLM.from_pretrained("me/base")
    model.push_to_hub("fine", tags=["a", "b", "a"])
    found = card(online["me/fine"]).data
    assert (found.base_model, found.pipeline_tag, found.library_name) == ("me/base", "fill-mask", "minihf")
    assert found.tags == ["a", "b"]
    assert f"{model.num_parameters():,} parameters" in card(online["me/fine"]).text
    assert card(online["me/base"]).data.base_model is None
    assert card(online["me/base"]).data.tags == ["first"]

    model.save_pretrained(tmp_path)
    BertForMaskedLM.from_pretrained(tmp_path).push_to_hub("local")
    assert card(online["me/local"]).data.base_model is None
    assert str(tmp_path) not in card(online["me/local"]).content
    get_peft_model(model, LoraConfig()).push_to_hub("lora")
    found = card(online["me/lora"]).data
    assert (found.base_model, found.library_name, found.pipeline_tag) == ("me/base", "peft", "fill-mask")


def test_a_card_that_is_there_stays_and_gets_tags(online, tokenizer):
    text = "---\r\nlicense: mit\r\ntags:\r\n- mine\r\n---\r\n# Mine\r\n"
    online.put("me/m", {"README.md": text})
    bert().push_to_hub("m")
    assert online["me/m"].files()["README.md"].decode() == text
    tokenizer.push_to_hub("m", tags=["mine", "new"])
    found = card(online["me/m"])
    assert (found.data.license, found.data.tags, found.text.strip()) == ("mit", ["mine", "new"], "# Mine")


def test_a_card_of_the_parts_it_is_given():
    made = make_card("m", "text", tags=[], license=None, language="en")
    assert made.content == f"---\nlanguage: en\nlibrary_name: minihf\n---\n\n{NOTE}\n\n# m\n\ntext\n"


# Former names


def test_former_names(online, monkeypatch, tokenizer):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.warns(FutureWarning) as told:
        tokenizer.push_to_hub("dummy-model", organization="team", use_auth_token="secret")
    assert {str(each.message) for each in told} == {
        "organization is a former name: write repo_id='team/dummy-model'",
        "use_auth_token is the former name of token: write token=",
    }
    assert {each.filename for each in told} == {__file__}
    assert "tokenizer.json" in online["team/dummy-model"].files()
    for name in ("repo_path_or_name", "repo_url", "use_temp_dir", "safe_serialization"):
        with pytest.raises(TypeError, match=f"no argument '{name}' any more: write"):
            tokenizer.push_to_hub("m", **{name: True})
    with pytest.raises(TypeError, match="no argument 'tagz'; it has repo_id, "):
        tokenizer.push_to_hub("m", tagz=["a"])
    with pytest.raises(TypeError, match="give one of them"):
        tokenizer.push_to_hub("m", token="secret", use_auth_token="secret")


# What goes wrong


@pytest.mark.parametrize(
    ("token", "error", "told"),
    [
        ("", PermissionError, r"'m' was not uploaded, as http://127\.\S+ wants to know who you are: log in \(hf auth"),
        ("hf_bad", PermissionError, r"refuses this token: log in .* or pass token= with the right to write"),
        ("read-only", PermissionError, r"you may not write there: .*you may not make a repository in me"),
    ],
)
def test_who_may_not_upload_is_told_what_to_do(online, monkeypatch, token, error, told):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=told) as raised:
        bert().push_to_hub("m")
    assert not online.repositories
    assert "hf_bad" not in str(raised.value)
    if not token:
        with pytest.raises(PermissionError, match="needs to know who you are: log in"):
            bert().push_to_hub("m", token=True)


def test_offline_and_out_of_reach(online, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match="'m' cannot be uploaded while HF_HUB_OFFLINE is set: unset it"):
            bert().push_to_hub("m")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"'m' was not uploaded, as http://127.0.0.1:9 is out of reach: Connect"):
        bert().push_to_hub("m")
    assert not online.repositories


@pytest.mark.parametrize(
    ("part", "answer", "error", "told"),
    [
        ("/large/", {"status": 500}, ConnectionError, "'me/m' was not uploaded, as .* failed: .*500"),
        ("/large/", {"status": 200, "length": 99}, ConnectionError, "out of reach"),
        ("/objects/batch", {"status": 403, "message": "over quota"}, PermissionError, "over quota"),
        ("/commit/", {"status": 503}, ConnectionError, "503.*Try again later"),
        ("/commit/", {"status": 412, "message": "has moved"}, ValueError, "does not take the upload.*has moved"),
        ("/README.md", {"status": 500}, ConnectionError, "'me/m' was not uploaded"),
        ("/tree/", {"status": 429}, ConnectionError, "429"),
    ],
)
def test_a_failure_on_the_way_leaves_the_repository_as_it_was(online, part, answer, error, told, caplog):
    caplog.set_level(logging.CRITICAL)
    online.put("me/m", {"config.json": "old", "model.safetensors": "old", "README.md": "---\ntags: []\n---\n"})
    before = dict(online["me/m"].files())
    online.faults[part] = answer
    with pytest.raises(error, match=told):
        bert().push_to_hub("me/m", max_shard_size="4KB")
    assert online["me/m"].files() == before


def test_names_that_cannot_be(online):
    for name in ("a/b/c", "with space", "-m", "x" * 100):
        with pytest.raises(ValueError, match="is no name of a repository, which looks like 'name' or 'org/name'"):
            bert().push_to_hub(name)
    with pytest.raises(FileNotFoundError, match="no repository 'm', or no revision 'refs/pr/7' of it"):
        bert().push_to_hub("m", revision="refs/pr/7")
    with pytest.raises(PermissionError, match="you may not make a repository in strangers"):
        bert().push_to_hub("strangers/m")


def test_a_model_that_cannot_be_saved_is_not_begun_to_be_uploaded(online):
    with pytest.raises(ValueError, match="on the meta device"):
        bert().to("meta").push_to_hub("m")
    assert not online.asked
