"""Which pipeline does a task, with which head, and by which checkpoint where nobody names one: one table."""

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minihf.checkpoints.files import read_json
from minihf.checkpoints.hub import Source
from minihf.models.architectures import ARCHITECTURES, class_for
from minihf.models.auto import AutoConfig, config_class_at
from minihf.models.base import Model
from minihf.models.config import FILE_NAME, Config
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import as_device
from minihf.tokenization import AutoTokenizer, Tokenizer

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    module: str
    pipeline: str
    checkpoint: str | None = None
    revision: str | None = None


# The checkpoints and their commits are those of the reference: the current one's, and 4.57.6 for what it has dropped.
TASKS = {
    "feature-extraction": Task(
        "feature_extraction", "FeatureExtractionPipeline", "distilbert/distilbert-base-cased", "6ea8117"
    ),
    "fill-mask": Task("fill_mask", "FillMaskPipeline", "distilbert/distilroberta-base", "fb53ab8"),
    "question-answering": Task(
        "question_answering",
        "QuestionAnsweringPipeline",
        "distilbert/distilbert-base-cased-distilled-squad",
        "564e9b5",
    ),
    "summarization": Task("text2text", "SummarizationPipeline", "sshleifer/distilbart-cnn-12-6", "a4f8f3e"),
    "text-classification": Task(
        "text_classification",
        "TextClassificationPipeline",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        "714eb0f",
    ),
    "text-generation": Task("text_generation", "TextGenerationPipeline", "openai-community/gpt2", "607a30d"),
    "text2text-generation": Task("text2text", "Text2TextGenerationPipeline", "google-t5/t5-base", "a9723ea"),
    "token-classification": Task(
        "token_classification",
        "TokenClassificationPipeline",
        "dbmdz/bert-large-cased-finetuned-conll03-english",
        "4c53496",
    ),
    "translation": Task("text2text", "TranslationPipeline"),
    "zero-shot-classification": Task(
        "zero_shot", "ZeroShotClassificationPipeline", "facebook/bart-large-mnli", "d7645e1"
    ),
}
# Which pair of languages there is a checkpoint for, where nobody names one: "translation_en_to_fr".
TRANSLATED = {("en", to): TASKS["text2text-generation"][2:] for to in ("fr", "de", "ro")}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
# What a checkpoint's head is for. A class may bear several names (DistilBERT was pretrained as ForMaskedLM): the first
# that fits counts.
TASK_OF_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForSeq2SeqLM": "text2text-generation",
    "ForCausalLM": "text-generation",
    "ForMaskedLM": "fill-mask",
    "Model": "feature-extraction",
}
HOLD_MASKED_LM = ("BertForPreTraining", "AlbertForPreTraining")  # beside another head


def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    config: str | Path | Config | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device: int | str | torch.device | None = None,
    device_map: str | torch.device | None = None,
    dtype: str | torch.dtype | None = "auto",
    batch_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    torch_dtype: str | torch.dtype | None = None,
    framework: str | None = None,
    use_fast: bool = True,
    trust_remote_code: bool | None = None,
    **options: Any,
) -> Pipeline:
    """Text in, answers out: `pipeline("sentiment-analysis")("I love this.")`.

    Args:
        task: "text-classification" (or "sentiment-analysis"), "token-classification" ("ner"), "question-answering",
            "fill-mask", "feature-extraction", "zero-shot-classification", "text-generation", "text2text-generation",
            "summarization", "translation", "translation_en_to_fr". None: what the checkpoint's head is for.
        model: a folder, a hub name, or a model of minihf. None: the checkpoint that the course uses for the task.
        config: instead of the checkpoint's.
        tokenizer: a folder, a hub name, or a tokenizer; None: it lies beside the model.
        revision, token: of the hub: branch, tag or commit, and the secret that opens private repositories.
        device: "cpu", "cuda:1", a number (of a GPU; -1 is the CPU), a `torch.device`; None: the GPU where there is one.
        device_map: the same, as `from_pretrained` has it; "auto" is None.
        dtype: of the parameters, while loading: "auto" is the file's.
        batch_size: how many rows go through the model together; None: as many as make good use of it. No answer
            depends on it.
        model_kwargs: further options of `from_pretrained`, such as `{"cache_dir": ...}`.
        torch_dtype, framework, use_fast: of former releases: `dtype`, only "pt", and there is one kind of tokenizer.
        trust_remote_code: only False: minihf runs no code that a checkpoint brings.
        options: the task's own, for all calls: see its class.

    Raises:
        KeyError: a task that there is not. FileNotFoundError: no such checkpoint, or no tokenizer in it.
        ValueError, TypeError: a model whose head does not fit the task; options that are unknown or contradict.
    """
    if trust_remote_code:
        raise ValueError("minihf runs no code that a checkpoint brings: leave trust_remote_code out")
    if framework not in (None, "pt"):
        raise ValueError(f'framework={framework!r}: minihf is PyTorch, "pt"; leave it out')
    if task is None and model is None:
        raise ValueError(f"pass a task, a model, or both; tasks are {', '.join(known_tasks())}")
    entry = None if task is None else find(task)
    loading = dict(model_kwargs or {})
    if model is None:
        if entry.checkpoint is None:
            raise ValueError(f"{task!r} has no checkpoint of its own: pass model=, or choose translation_en_to_fr")
        model, revision = entry.checkpoint, revision or entry.revision
        logger.warning("no model was named, so it is %s (revision %s)", model, revision)
    if isinstance(model, Model):
        given = {"revision": revision, "config": config, "model_kwargs": model_kwargs, "torch_dtype": torch_dtype}
        given = [name for name, value in given.items() if value is not None] + ["dtype"] * (dtype not in ("auto", None))
        if given:
            raise ValueError(f"{', '.join(given)}: for loading, but model= is loaded already; change the model itself")
        if tokenizer is None:
            raise ValueError("model= is an object, which does not know its tokenizer: pass tokenizer= as well")
        source, names = None, [cls.__name__ for cls in type(model).__mro__]
        saved = type(model).__name__
    elif isinstance(model, str | Path):
        where = {"revision": revision, "token": token, **loading}
        source, _ = Source.split(model, where)
        saved = (read_json(source.get(FILE_NAME)).get("architectures") or [None])[0]
        names = [saved]
    else:
        raise TypeError(f"model= is a {type(model).__name__}; expected a folder, a hub name or a model of minihf")
    if entry is None:
        task = task_of(saved, model)
        entry = find(task)
    cls = getattr(import_module(f"minihf.pipelines.{entry.module}"), entry.pipeline)
    check_head(cls, task, names)
    if device is not None and device_map is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r} say the same: pass one of them")
    place = as_device(device if device_map in (None, "auto") else device_map)
    if source is not None:
        if isinstance(config, str | Path):
            config = AutoConfig.from_pretrained(config, token=token)
        dtype = dtype if torch_dtype is None else torch_dtype
        kind = config or config_class_at(source.get(FILE_NAME))
        model = class_for(kind.model_type, cls.head).from_pretrained(
            model, **{"config": config, "dtype": dtype, "device_map": place, **where}
        )
    if tokenizer is None:
        tokenizer = source.name
    if not isinstance(tokenizer, Tokenizer):
        own = source is not None and str(tokenizer) == source.name
        places = {name: getattr(source, name) for name in ("revision", "subfolder", "cache_dir")} if own else {}
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, token=token, **places)
    return cls(model, tokenizer, task=task, device=place, batch_size=batch_size, source=source, **options)


def known_tasks() -> list[str]:
    return sorted([*TASKS, *ALIASES])


def find(task: str) -> Task:
    """The entry of a task, by its name or an alias; translation_xx_to_yy is a name for any two languages.

    Raises:
        KeyError: there is no such task.
    """
    asked = str(task)
    match asked.split("_"):
        case ["translation", source, "to", target]:
            return Task(*TASKS["translation"][:2], *TRANSLATED.get((source, target), ()))
    name = ALIASES.get(asked, asked)
    if name not in TASKS:
        begun = [known for known in known_tasks() if asked and known.startswith(asked.lower())]
        near = begun or get_close_matches(asked.lower(), known_tasks(), n=1)
        raise KeyError(
            f"unknown task {task!r}" + (f"; did you mean {near[0]!r}?" if near else ".") + " There are: "
            f"{', '.join(known_tasks())}"
        )
    return TASKS[name]


def task_of(architecture: str | None, model: Any) -> str:
    """What a class is for."""
    heads = {head for _, classes in ARCHITECTURES.values() for head, name in classes.items() if name == architecture}
    if architecture in HOLD_MASKED_LM:
        heads.add("ForMaskedLM")
    for head, task in TASK_OF_HEAD.items():
        if head in heads:
            return task
    raise ValueError(
        f"what {model if isinstance(model, str | Path) else 'this model'} is for cannot be told from its class, "
        f"{architecture}: pass the task, one of {', '.join(known_tasks())}"
    )


def check_head(cls: type[Pipeline], task: str, names: list[str | None]) -> None:
    """A checkpoint of another head would be given an untrained one, and answer at random.

    Raises:
        ValueError: the class that was saved, one of `names`, is known and has no head for the task.
    """
    every = {name: head for _, classes in ARCHITECTURES.values() for head, name in classes.items()}
    fitting = {classes.get(cls.head) for _, classes in ARCHITECTURES.values()}
    if cls.head == "ForMaskedLM":
        fitting |= {*HOLD_MASKED_LM}
    known = [name for name in names if name in every]
    if cls.head == "Model" or not known or fitting & set(known):
        return
    raise ValueError(
        f"{known[0]} has no head for {task!r}, which a {cls.head} has: such a model would answer at random. Choose a "
        "checkpoint that was trained for the task"
    )
