"""Where minihf differs from the reference on purpose, and no other test says so."""

import torch

from minihf.inspection.batches import cast, make_batch
from minihf.inspection.pairs import make_pair


def test_a_forward_leaves_the_config_as_it_was_where_the_reference_writes_the_problem_type_into_it():
    for model_type, name in (("bert", "BertForSequenceClassification"), ("gpt2", "GPT2ForSequenceClassification")):
        pair = make_pair(model_type, name)
        batch = cast(make_batch(pair.ours, pair.task, "full"), torch.float32)
        before = pair.ours.config.to_dict()
        assert pair.ours(**batch).loss is not None
        assert pair.ours.config.to_dict() == before
        pair.theirs(**batch)
        assert pair.theirs.config.problem_type == "single_label_classification"


def test_gpt2_summarises_each_choice_where_the_reference_takes_the_first_choice_for_the_first_token():
    """Of the summary types only cls_index knows the axis of choices there; (B, choices) is what a choice needs."""
    from minihf.models.gpt2 import GPT2Config, GPT2DoubleHeadsModel

    ids = torch.randint(3, 40, (3, 2, 7))
    for kind, token in (("first", 0), ("last", 6)):
        sizes = {"vocab_size": 40, "n_embd": 12, "n_head": 3, "n_layer": 1, "n_positions": 9}
        model = GPT2DoubleHeadsModel(GPT2Config(**sizes, summary_type=kind)).eval()
        x = model.transformer(ids.flatten(0, 1)).last_hidden_state.view(3, 2, 7, 12)
        expected = model.multiple_choice_head.summary(x[:, :, token]).squeeze(-1)
        torch.testing.assert_close(model(ids).mc_logits, expected)


def test_roberta_writes_on_with_the_positions_of_its_forward_where_the_reference_counts_them_from_zero():
    pair = make_pair("roberta", "RobertaForCausalLM", seed=5)
    ids = torch.randint(3, 40, (12, 5), generator=torch.Generator().manual_seed(0))

    def by_hand(model, first):
        text = ids
        for _ in range(6):
            positions = first + torch.arange(text.shape[1])[None]
            logits = model(text, position_ids=positions, use_cache=False).logits[:, -1]
            text = torch.cat([text, logits.argmax(-1, keepdim=True)], dim=1)
        return text

    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    with torch.no_grad():
        ours, theirs = (model.generate(ids, **options) for model in (pair.ours, pair.theirs))
        first = pair.ours.config.pad_token_id + 1
        assert torch.equal(ours, by_hand(pair.theirs, first))
        assert torch.equal(theirs, by_hand(pair.theirs, 0))
    assert not torch.equal(ours, theirs)


def test_choices_positions_may_come_flat_as_in_the_reference_or_as_the_ids():
    for model_type, name in (("bert", "BertForMultipleChoice"), ("distilbert", "DistilBertForMultipleChoice")):
        pair = make_pair(model_type, name)
        ids = torch.randint(3, 40, (3, 2, 7))
        positions = torch.arange(7).flip(0).expand(3, 2, 7)
        expected = pair.theirs(input_ids=ids, position_ids=positions.flatten(0, 1)).logits
        for given in (positions, positions.flatten(0, 1), positions[0, :1]):
            torch.testing.assert_close(pair.ours(ids, position_ids=given).logits, expected)
