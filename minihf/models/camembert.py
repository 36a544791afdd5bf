"""CamemBERT (arXiv 1911.03894): RoBERTa, trained on French.

The file's `model_type` and the names of its classes are its own; its module paths say `roberta`, as RoBERTa's do.
"""

from dataclasses import dataclass
from typing import ClassVar

from minihf.models import roberta


@dataclass(init=False)
class CamembertConfig(roberta.RobertaConfig):
    model_type: ClassVar[str] = "camembert"

    vocab_size: int = 30522
    """The reference's default; checkpoints have 32005."""


class CamembertPreTrainedModel(roberta.RobertaPreTrainedModel):
    config_class = CamembertConfig


class CamembertModel(CamembertPreTrainedModel, roberta.RobertaModel):
    __doc__ = roberta.RobertaModel.__doc__


class CamembertForCausalLM(CamembertPreTrainedModel, roberta.RobertaForCausalLM):
    """CamemBERT as a decoder: which token comes next? Needs `is_decoder=True` to mean anything."""


class CamembertForMaskedLM(CamembertPreTrainedModel, roberta.RobertaForMaskedLM):
    """Which word stood here? Logits (B, T, V) for each token."""


class CamembertForSequenceClassification(CamembertPreTrainedModel, roberta.RobertaForSequenceClassification):
    """One answer a text: a class, several classes, or a number."""


class CamembertForMultipleChoice(CamembertPreTrainedModel, roberta.RobertaForMultipleChoice):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""


class CamembertForTokenClassification(CamembertPreTrainedModel, roberta.RobertaForTokenClassification):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""


class CamembertForQuestionAnswering(CamembertPreTrainedModel, roberta.RobertaForQuestionAnswering):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""
