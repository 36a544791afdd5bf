"""Loading does what it must, and no more: shown by what is imported and what is mapped, not by a clock."""

import subprocess
import sys

import torch

from minihf import GPT2Config, GPT2LMHeadModel


def test_loading_does_not_import_the_compiler(tmp_path):
    """Initialising tensors on the meta device would: 800 modules, a second and 70 MB, for values that nobody keeps."""
    GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=6, n_head=2, n_layer=1, n_positions=5)).save_pretrained(tmp_path)
    code = f"""
import sys
from minihf import GPT2ForSequenceClassification, GPT2LMHeadModel
GPT2LMHeadModel.from_pretrained({str(tmp_path)!r})
GPT2ForSequenceClassification.from_pretrained({str(tmp_path)!r})  # with a head to initialise
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_generated_ids_can_be_trained_on():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=6, n_head=2, n_layer=1, n_positions=9, eos_token_id=None))
    ids = model.eval().generate(torch.tensor([[1, 2]]), max_new_tokens=5)
    assert not ids.is_inference()
    model(ids, labels=ids).loss.backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0
