"""XLM-RoBERTa (arXiv 1911.02116): RoBERTa, trained on a hundred languages at once.

The file's `model_type` and the names of its classes are its own; its module paths say `roberta`, as RoBERTa's do.
"""

from dataclasses import dataclass
from typing import ClassVar

from minihf.models import roberta


@dataclass(init=False)
class XLMRobertaConfig(roberta.RobertaConfig):
    model_type: ClassVar[str] = "xlm-roberta"

    vocab_size: int = 30522
    """The reference's default; checkpoints have 250002."""


class XLMRobertaPreTrainedModel(roberta.RobertaPreTrainedModel):
    config_class = XLMRobertaConfig


class XLMRobertaModel(XLMRobertaPreTrainedModel, roberta.RobertaModel):
    __doc__ = roberta.RobertaModel.__doc__


class XLMRobertaForCausalLM(XLMRobertaPreTrainedModel, roberta.RobertaForCausalLM):
    """XLM-RoBERTa as a decoder: which token comes next? Needs `is_decoder=True` to mean anything."""


class XLMRobertaForMaskedLM(XLMRobertaPreTrainedModel, roberta.RobertaForMaskedLM):
    """Which word stood here? Logits (B, T, V) for each token."""


class XLMRobertaForSequenceClassification(XLMRobertaPreTrainedModel, roberta.RobertaForSequenceClassification):
    """One answer a text: a class, several classes, or a number."""


class XLMRobertaForMultipleChoice(XLMRobertaPreTrainedModel, roberta.RobertaForMultipleChoice):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""


class XLMRobertaForTokenClassification(XLMRobertaPreTrainedModel, roberta.RobertaForTokenClassification):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""


class XLMRobertaForQuestionAnswering(XLMRobertaPreTrainedModel, roberta.RobertaForQuestionAnswering):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""
