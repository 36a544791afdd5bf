"""From the `model_type` of a config to its architecture's classes: one table."""

from importlib import import_module

# model_type -> (module, {task: class}).
ARCHITECTURES: dict[str, tuple[str, dict[str, str]]] = {
    "bert": (
        "bert",
        {
            "Config": "BertConfig",
            "Model": "BertModel",
            "ForPreTraining": "BertForPreTraining",
            "ForMaskedLM": "BertForMaskedLM",
            "ForCausalLM": "BertLMHeadModel",
            "ForNextSentencePrediction": "BertForNextSentencePrediction",
            "ForSequenceClassification": "BertForSequenceClassification",
            "ForMultipleChoice": "BertForMultipleChoice",
            "ForTokenClassification": "BertForTokenClassification",
            "ForQuestionAnswering": "BertForQuestionAnswering",
        },
    ),
    "ctrl": (
        "ctrl",
        {
            "Config": "CTRLConfig",
            "Model": "CTRLModel",
            "ForPreTraining": "CTRLLMHeadModel",
            "ForCausalLM": "CTRLLMHeadModel",
            "ForSequenceClassification": "CTRLForSequenceClassification",
        },
    ),
    "openai-gpt": (
        "openai_gpt",
        {
            "Config": "OpenAIGPTConfig",
            "Model": "OpenAIGPTModel",
            "ForPreTraining": "OpenAIGPTLMHeadModel",
            "ForCausalLM": "OpenAIGPTLMHeadModel",
            "ForDoubleHeads": "OpenAIGPTDoubleHeadsModel",
            "ForSequenceClassification": "OpenAIGPTForSequenceClassification",
        },
    ),
    "distilbert": (
        "distilbert",
        {
            "Config": "DistilBertConfig",
            "Model": "DistilBertModel",
            "ForPreTraining": "DistilBertForMaskedLM",
            "ForMaskedLM": "DistilBertForMaskedLM",
            "ForSequenceClassification": "DistilBertForSequenceClassification",
            "ForMultipleChoice": "DistilBertForMultipleChoice",
            "ForTokenClassification": "DistilBertForTokenClassification",
            "ForQuestionAnswering": "DistilBertForQuestionAnswering",
        },
    ),
    "albert": (
        "albert",
        {
            "Config": "AlbertConfig",
            "Model": "AlbertModel",
            "ForPreTraining": "AlbertForPreTraining",
            "ForMaskedLM": "AlbertForMaskedLM",
            "ForSequenceClassification": "AlbertForSequenceClassification",
            "ForMultipleChoice": "AlbertForMultipleChoice",
            "ForTokenClassification": "AlbertForTokenClassification",
            "ForQuestionAnswering": "AlbertForQuestionAnswering",
        },
    ),
    "roberta": (
        "roberta",
        {
            "Config": "RobertaConfig",
            "Model": "RobertaModel",
            "ForPreTraining": "RobertaForMaskedLM",
            "ForMaskedLM": "RobertaForMaskedLM",
            "ForCausalLM": "RobertaForCausalLM",
            "ForSequenceClassification": "RobertaForSequenceClassification",
            "ForMultipleChoice": "RobertaForMultipleChoice",
            "ForTokenClassification": "RobertaForTokenClassification",
            "ForQuestionAnswering": "RobertaForQuestionAnswering",
        },
    ),
    "camembert": (
        "camembert",
        {
            "Config": "CamembertConfig",
            "Model": "CamembertModel",
            "ForPreTraining": "CamembertForMaskedLM",
            "ForMaskedLM": "CamembertForMaskedLM",
            "ForCausalLM": "CamembertForCausalLM",
            "ForSequenceClassification": "CamembertForSequenceClassification",
            "ForMultipleChoice": "CamembertForMultipleChoice",
            "ForTokenClassification": "CamembertForTokenClassification",
            "ForQuestionAnswering": "CamembertForQuestionAnswering",
        },
    ),
    "xlm-roberta": (
        "xlm_roberta",
        {
            "Config": "XLMRobertaConfig",
            "Model": "XLMRobertaModel",
            "ForPreTraining": "XLMRobertaForMaskedLM",
            "ForMaskedLM": "XLMRobertaForMaskedLM",
            "ForCausalLM": "XLMRobertaForCausalLM",
            "ForSequenceClassification": "XLMRobertaForSequenceClassification",
            "ForMultipleChoice": "XLMRobertaForMultipleChoice",
            "ForTokenClassification": "XLMRobertaForTokenClassification",
            "ForQuestionAnswering": "XLMRobertaForQuestionAnswering",
        },
    ),
    "electra": (
        "electra",
        {
            "Config": "ElectraConfig",
            "Model": "ElectraModel",
            "ForPreTraining": "ElectraForPreTraining",
            "ForMaskedLM": "ElectraForMaskedLM",
            "ForCausalLM": "ElectraForCausalLM",
            "ForSequenceClassification": "ElectraForSequenceClassification",
            "ForMultipleChoice": "ElectraForMultipleChoice",
            "ForTokenClassification": "ElectraForTokenClassification",
            "ForQuestionAnswering": "ElectraForQuestionAnswering",
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "Config": "GPT2Config",
            "Model": "GPT2Model",
            "ForPreTraining": "GPT2LMHeadModel",
            "ForCausalLM": "GPT2LMHeadModel",
            "ForDoubleHeads": "GPT2DoubleHeadsModel",
            "ForSequenceClassification": "GPT2ForSequenceClassification",
            "ForTokenClassification": "GPT2ForTokenClassification",
            "ForQuestionAnswering": "GPT2ForQuestionAnswering",
        },
    ),
    "marian": (
        "marian",
        {
            "Config": "MarianConfig",
            "Model": "MarianModel",
            "ForSeq2SeqLM": "MarianMTModel",
            "ForCausalLM": "MarianForCausalLM",
        },
    ),
    "pegasus": (
        "pegasus",
        {
            "Config": "PegasusConfig",
            "Model": "PegasusModel",
            "ForSeq2SeqLM": "PegasusForConditionalGeneration",
            "ForCausalLM": "PegasusForCausalLM",
        },
    ),
    "t5": (
        "t5",
        {
            "Config": "T5Config",
            "Model": "T5Model",
            "ForPreTraining": "T5ForConditionalGeneration",
            "ForSeq2SeqLM": "T5ForConditionalGeneration",
            "ForTextEncoding": "T5EncoderModel",
            "ForSequenceClassification": "T5ForSequenceClassification",
            "ForTokenClassification": "T5ForTokenClassification",
            "ForQuestionAnswering": "T5ForQuestionAnswering",
        },
    ),
    "mt5": (
        "mt5",
        {
            "Config": "MT5Config",
            "Model": "MT5Model",
            "ForSeq2SeqLM": "MT5ForConditionalGeneration",
            "ForTextEncoding": "MT5EncoderModel",
            "ForSequenceClassification": "MT5ForSequenceClassification",
            "ForTokenClassification": "MT5ForTokenClassification",
            "ForQuestionAnswering": "MT5ForQuestionAnswering",
        },
    ),
    "mistral": (
        "mistral",
        {
            "Config": "MistralConfig",
            "Model": "MistralModel",
            "ForCausalLM": "MistralForCausalLM",
            "ForSequenceClassification": "MistralForSequenceClassification",
            "ForTokenClassification": "MistralForTokenClassification",
            "ForQuestionAnswering": "MistralForQuestionAnswering",
        },
    ),
    "mixtral": (
        "mixtral",
        {
            "Config": "MixtralConfig",
            "Model": "MixtralModel",
            "ForCausalLM": "MixtralForCausalLM",
            "ForSequenceClassification": "MixtralForSequenceClassification",
            "ForTokenClassification": "MixtralForTokenClassification",
            "ForQuestionAnswering": "MixtralForQuestionAnswering",
        },
    ),
    "llama": (
        "llama",
        {
            "Config": "LlamaConfig",
            "Model": "LlamaModel",
            "ForCausalLM": "LlamaForCausalLM",
            "ForSequenceClassification": "LlamaForSequenceClassification",
            "ForTokenClassification": "LlamaForTokenClassification",
            "ForQuestionAnswering": "LlamaForQuestionAnswering",
        },
    ),
    "bart": (
        "bart",
        {
            "Config": "BartConfig",
            "Model": "BartModel",
            "ForPreTraining": "BartForConditionalGeneration",
            "ForMaskedLM": "BartForConditionalGeneration",
            "ForSeq2SeqLM": "BartForConditionalGeneration",
            "ForCausalLM": "BartForCausalLM",
            "ForSequenceClassification": "BartForSequenceClassification",
            "ForQuestionAnswering": "BartForQuestionAnswering",
        },
    ),
    "mbart": (
        "mbart",
        {
            "Config": "MBartConfig",
            "Model": "MBartModel",
            "ForMaskedLM": "MBartForConditionalGeneration",
            "ForSeq2SeqLM": "MBartForConditionalGeneration",
            "ForCausalLM": "MBartForCausalLM",
            "ForSequenceClassification": "MBartForSequenceClassification",
            "ForQuestionAnswering": "MBartForQuestionAnswering",
        },
    ),
}


def class_for(model_type: str, task: str) -> type:
    """The class of an architecture for a task ("Model", "ForMaskedLM", …; "Config").

    Raises:
        ValueError: minihf does not have that architecture, or the architecture has no such head.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type {model_type!r} is not one that minihf has: {', '.join(ARCHITECTURES)}")
    module, classes = ARCHITECTURES[model_type]
    if task == "ForTextEncoding" and "ForMaskedLM" in classes and "ForSeq2SeqLM" not in classes:
        task = "Model"  # which is an encoder, whole
    if task not in classes:
        without = ("Config", "ForDoubleHeads")  # an Auto class
        tasks = ", ".join(f"AutoModel{t.removeprefix('Model')}" for t in classes if t not in without)
        raise ValueError(f"{model_type} has no class for AutoModel{task}; it has {tasks}")
    return getattr(import_module(f"minihf.models.{module}"), classes[task])
