"""minihf: the Hugging Face course's whole stack, written from scratch in plain PyTorch.

The public names are loaded on first use, so that importing minihf costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

# module -> the public names in it
_HOMES = {
    "minihf.models.auto": [
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForMaskedLM",
        "AutoModelForMultipleChoice",
        "AutoModelForNextSentencePrediction",
        "AutoModelForPreTraining",
        "AutoModelForQuestionAnswering",
        "AutoModelForSeq2SeqLM",
        "AutoModelForSequenceClassification",
        "AutoModelForTextEncoding",
        "AutoModelForTokenClassification",
    ],
    "minihf.models.bert": [
        "BertConfig",
        "BertForMaskedLM",
        "BertForMultipleChoice",
        "BertForNextSentencePrediction",
        "BertForPreTraining",
        "BertForQuestionAnswering",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertLMHeadModel",
        "BertModel",
    ],
    "minihf.models.bart": [
        "BartConfig",
        "BartForCausalLM",
        "BartForConditionalGeneration",
        "BartForQuestionAnswering",
        "BartForSequenceClassification",
        "BartModel",
    ],
    "minihf.models.mbart": [
        "MBartConfig",
        "MBartForCausalLM",
        "MBartForConditionalGeneration",
        "MBartForQuestionAnswering",
        "MBartForSequenceClassification",
        "MBartModel",
    ],
    "minihf.models.ctrl": [
        "CTRLConfig",
        "CTRLForSequenceClassification",
        "CTRLLMHeadModel",
        "CTRLModel",
    ],
    "minihf.models.distilbert": [
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        "DistilBertForMultipleChoice",
        "DistilBertForQuestionAnswering",
        "DistilBertForSequenceClassification",
        "DistilBertForTokenClassification",
        "DistilBertModel",
    ],
    "minihf.models.albert": [
        "AlbertConfig",
        "AlbertForMaskedLM",
        "AlbertForMultipleChoice",
        "AlbertForPreTraining",
        "AlbertForQuestionAnswering",
        "AlbertForSequenceClassification",
        "AlbertForTokenClassification",
        "AlbertModel",
    ],
    "minihf.models.roberta": [
        "RobertaConfig",
        "RobertaForCausalLM",
        "RobertaForMaskedLM",
        "RobertaForMultipleChoice",
        "RobertaForQuestionAnswering",
        "RobertaForSequenceClassification",
        "RobertaForTokenClassification",
        "RobertaModel",
    ],
    "minihf.models.camembert": [
        "CamembertConfig",
        "CamembertForCausalLM",
        "CamembertForMaskedLM",
        "CamembertForMultipleChoice",
        "CamembertForQuestionAnswering",
        "CamembertForSequenceClassification",
        "CamembertForTokenClassification",
        "CamembertModel",
    ],
    "minihf.models.xlm_roberta": [
        "XLMRobertaConfig",
        "XLMRobertaForCausalLM",
        "XLMRobertaForMaskedLM",
        "XLMRobertaForMultipleChoice",
        "XLMRobertaForQuestionAnswering",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForTokenClassification",
        "XLMRobertaModel",
    ],
    "minihf.models.electra": [
        "ElectraConfig",
        "ElectraForCausalLM",
        "ElectraForMaskedLM",
        "ElectraForMultipleChoice",
        "ElectraForPreTraining",
        "ElectraForQuestionAnswering",
        "ElectraForSequenceClassification",
        "ElectraForTokenClassification",
        "ElectraModel",
    ],
    "minihf.models.gpt2": [
        "GPT2Config",
        "GPT2DoubleHeadsModel",
        "GPT2ForQuestionAnswering",
        "GPT2ForSequenceClassification",
        "GPT2ForTokenClassification",
        "GPT2LMHeadModel",
        "GPT2Model",
    ],
    "minihf.models.openai_gpt": [
        "OpenAIGPTConfig",
        "OpenAIGPTDoubleHeadsModel",
        "OpenAIGPTForSequenceClassification",
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTModel",
    ],
    "minihf.models.mistral": [
        "MistralConfig",
        "MistralForCausalLM",
        "MistralForQuestionAnswering",
        "MistralForSequenceClassification",
        "MistralForTokenClassification",
        "MistralModel",
    ],
    "minihf.models.mixtral": [
        "MixtralConfig",
        "MixtralForCausalLM",
        "MixtralForQuestionAnswering",
        "MixtralForSequenceClassification",
        "MixtralForTokenClassification",
        "MixtralModel",
    ],
    "minihf.models.llama": [
        "LlamaConfig",
        "LlamaForCausalLM",
        "LlamaForQuestionAnswering",
        "LlamaForSequenceClassification",
        "LlamaForTokenClassification",
        "LlamaModel",
    ],
    "minihf.models.marian": [
        "MarianConfig",
        "MarianForCausalLM",
        "MarianMTModel",
        "MarianModel",
    ],
    "minihf.models.pegasus": [
        "PegasusConfig",
        "PegasusForCausalLM",
        "PegasusForConditionalGeneration",
        "PegasusModel",
    ],
    "minihf.models.t5": [
        "T5Config",
        "T5EncoderModel",
        "T5ForConditionalGeneration",
        "T5ForQuestionAnswering",
        "T5ForSequenceClassification",
        "T5ForTokenClassification",
        "T5Model",
    ],
    "minihf.models.mt5": [
        "MT5Config",
        "MT5EncoderModel",
        "MT5ForConditionalGeneration",
        "MT5ForQuestionAnswering",
        "MT5ForSequenceClassification",
        "MT5ForTokenClassification",
        "MT5Model",
    ],
    "minihf.generation.config": ["GenerationConfig"],
    "minihf.generation.processors": ["LogitsProcessor", "LogitsProcessorList"],
    "minihf.generation.stopping": ["StoppingCriteria", "StoppingCriteriaList"],
    "minihf.generation.streaming": ["BaseStreamer", "TextIteratorStreamer", "TextStreamer"],
    "minihf.fast.weights": ["decode_in"],
    "minihf.checkpoints.hub": ["CheckpointError"],
    "minihf.data.chunking": ["ConstantLengthDataset", "constant_length", "context_windows", "group_texts"],
    "minihf.data.collators": [
        "DataCollatorForMultipleChoice",
        "DataCollatorForSeq2Seq",
        "DataCollatorForTokenClassification",
        "DataCollatorWithFlattening",
        "DataCollatorWithPadding",
        "DefaultDataCollator",
        "default_data_collator",
    ],
    "minihf.data.masking": ["DataCollatorForLanguageModeling", "DataCollatorForWholeWordMask"],
    "minihf.nn.cache": ["Cache"],
    "minihf.tokenization": [
        "AutoTokenizer",
        "BatchEncoding",
        "BertTokenizer",
        "BertTokenizerFast",
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
        "PreTrainedTokenizerFast",
    ],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [*_HOME_OF]


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"minihf has no {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
