"""mT5 (arXiv 2010.11934): T5 of version 1.1, trained on a hundred languages at once.

The file's `model_type` and the names of its classes are its own; what the output layer is given is never scaled.
"""

from dataclasses import dataclass
from typing import ClassVar

from minihf.models import t5


@dataclass(init=False)
class MT5Config(t5.T5Config):
    model_type: ClassVar[str] = "mt5"

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = 0

    def settle_head(self) -> None:
        self.scale_decoder_outputs = False


class MT5PreTrainedModel(t5.T5PreTrainedModel):
    config_class = MT5Config


class MT5Model(MT5PreTrainedModel, t5.T5Model):
    __doc__ = t5.T5Model.__doc__


class MT5ForConditionalGeneration(MT5PreTrainedModel, t5.T5ForConditionalGeneration):
    __doc__ = t5.T5ForConditionalGeneration.__doc__


class MT5EncoderModel(MT5PreTrainedModel, t5.T5EncoderModel):
    __doc__ = t5.T5EncoderModel.__doc__


class MT5ForSequenceClassification(MT5PreTrainedModel, t5.T5ForSequenceClassification):
    __doc__ = t5.T5ForSequenceClassification.__doc__


class MT5ForTokenClassification(MT5PreTrainedModel, t5.T5ForTokenClassification):
    __doc__ = t5.T5ForTokenClassification.__doc__


class MT5ForQuestionAnswering(MT5PreTrainedModel, t5.T5ForQuestionAnswering):
    __doc__ = t5.T5ForQuestionAnswering.__doc__
