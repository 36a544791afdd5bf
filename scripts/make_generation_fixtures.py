"""What transformers 4.51.3 writes in the searches that were dropped later, for parity_tests/fixtures/generation.json.

To make it anew (offline, beside whatever torch is installed):

    pip install --no-deps --target OLD "transformers==4.51.3" "tokenizers>=0.21,<0.22" "huggingface_hub<1" requests \\
        urllib3 idna charset-normalizer certifi
    HF_HUB_OFFLINE=1 PYTHONPATH=OLD python scripts/make_generation_fixtures.py

The models are tiny; their weights follow from their names, so that no file holds them. The tests give ours the same.
"""

import json
import logging
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent.parent / "parity_tests" / "fixtures" / "generation.json"
V = 61
SPECIAL = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
MODELS = {
    "GPT2LMHeadModel": {"n_embd": 20, "n_layer": 2, "n_head": 5, "n_positions": 48, **SPECIAL},
    "LlamaForCausalLM": {
        "hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 48, **SPECIAL,
    },
    "T5ForConditionalGeneration": {
        "d_model": 20, "d_kv": 6, "num_heads": 3, "d_ff": 30, "num_layers": 2, "decoder_start_token_id": 2, **SPECIAL,
    },
}  # fmt: skip
CONTRASTIVE = [
    {"penalty_alpha": 0.6, "top_k": 4},
    {"penalty_alpha": 0.3, "top_k": 7, "repetition_penalty": 1.3, "min_new_tokens": 4},
    {"penalty_alpha": 0.9, "top_k": 2, "no_repeat_ngram_size": 2},
    {"penalty_alpha": 1.0, "top_k": 5},
]
GROUPS = [
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 4},
    {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.5, "length_penalty": 0.3, "early_stopping": True},
    {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 0.8, "num_return_sequences": 3, "length_penalty": -1.0},
    {
        "num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.2, "num_return_sequences": 5,
        "early_stopping": "never", "length_penalty": 2.0, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3,
    },
]  # fmt: skip
CONSTRAINED = [
    {"num_beams": 4, "force_words_ids": [[17, 23]], "num_return_sequences": 3},
    {"num_beams": 3, "force_words_ids": [[31], [44, 12, 9]], "length_penalty": 0.4, "early_stopping": True},
    {"num_beams": 5, "force_words_ids": [[[8, 9], [40, 41, 42], [50]], [33, 34]], "num_return_sequences": 5},
    {"num_beams": 4, "force_words_ids": [[5, 5, 6], [7]], "early_stopping": "never", "length_penalty": 1.7},
    {"num_beams": 2, "force_words_ids": [[20, 21, 22, 23, 24], [30, 31, 32, 33, 34]], "num_return_sequences": 2},
    {"num_beams": 4, "force_words_ids": [[[26, 27, 28], [26, 27, 29], [26, 36]]], "repetition_penalty": 1.2},
]


@torch.no_grad()
def fill(model: torch.nn.Module, lively: float = 1.0) -> torch.nn.Module:
    """Weights in float64 that follow from the names of the parameters; those with several names, from the first."""
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    model.double().eval()
    for (name, parameter), names in zip(model.named_parameters(), aliases.values(), strict=True):
        values = np.random.RandomState(zlib.crc32(min(names).encode())).standard_normal(tuple(parameter.shape))
        norm = parameter.dim() == 1 and name.endswith("weight")
        spread = 2.0 if "wpe" in name else 0.8 if parameter.dim() == 2 else 0.1
        parameter.copy_(torch.from_numpy(values) * spread * lively + norm)
    return model


def prompts(name: str, rows: int, padded: bool) -> dict[str, list]:
    ids = np.random.RandomState(rows + 10 * padded).randint(3, V, (rows, 6))
    mask = np.ones_like(ids)
    for row in range(1, rows) if padded else ():
        if name.startswith("T5"):
            mask[row, -row - 1 :] = 0
        else:
            mask[row, : row + 1] = 0
    return {"input_ids": (ids * mask).tolist(), "attention_mask": mask.tolist()}


def main() -> None:
    import transformers
    from transformers.generation import beam_constraints

    assert transformers.__version__ == "4.51.3", transformers.__version__
    torch.set_default_dtype(torch.float64)  # its masks are made in it
    logging.getLogger("transformers").setLevel(logging.ERROR)
    copied = beam_constraints.DisjunctiveConstraint.copy

    def copied_well(self, stateful=False):
        # As released, copies of one state share its list, and one that takes a token spoils the others.
        new = copied(self, stateful)
        new.current_seq = list(new.current_seq)
        return new

    cases = []
    for name, sizes in MODELS.items():
        cls = getattr(transformers, name)
        model = fill(cls(cls.config_class(**sizes)))
        model.lm_head.register_forward_hook(lambda *args: args[-1].float())  # scores of groups know no other logits
        for mode, ways in (("contrastive", CONTRASTIVE), ("groups", GROUPS), ("constrained", CONSTRAINED)):
            for i, way in enumerate(ways):
                for padded in (False, True):
                    inputs = prompts(name, 3 if padded else 2, padded)
                    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
                    if padded:  # which the old release takes for a token to be repeated less
                        way = {key: value for key, value in way.items() if key != "repetition_penalty"}
                    free = model.generate(**tensors, **way, max_new_tokens=9)
                    ends = {
                        0: None,
                        1: int(free[0, -3]),
                        2: [int(free[-1, -5]), int(free[0, -2]), 3],
                        3: [int(free[1, -4]), int(free[0, -6])],
                    }[(i + padded) % 4]
                    settings = {**way, "max_new_tokens": 9 + i, "eos_token_id": ends}
                    case = {"mode": mode, "model": name, "inputs": inputs, "settings": settings}
                    flags = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
                    for fixed in (False, True) if mode == "constrained" else (False,):
                        beam_constraints.DisjunctiveConstraint.copy = copied_well if fixed else copied
                        try:
                            out = model.generate(**tensors, **settings, **flags)
                        except RuntimeError:  # of texts that lack a word it has no beam indices, which it then wants
                            out = model.generate(**tensors, **settings, return_dict_in_generate=True)
                        key = "fixed" if fixed else "sequences"
                        case[key] = out.sequences.tolist()
                    case["fixed"] = case.get("fixed", case["sequences"])
                    if out.get("sequences_scores") is not None:
                        case["sequences_scores"] = out.sequences_scores.tolist()
                    if i == 0 and mode == "contrastive":
                        case["scores"], case["logits"] = rounded(out.scores), rounded(out.logits)
                    elif i == 0 and out.get("scores") is not None:
                        case["scores"] = rounded(out.scores)
                    cases.append(case)
    HERE.parent.mkdir(exist_ok=True)
    HERE.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def rounded(steps: tuple[torch.Tensor, ...]) -> list:
    """The first three steps of the first two rows, and of the last."""
    return [[[round(x, 6) for x in row] for row in step[[0, 1, -1]].tolist()] for step in steps[:3]]


if __name__ == "__main__":
    main()
