"""From a name, a `model_type` or the files that there are to a family of tokenizers."""

from pathlib import Path
from typing import Any

from minihf.checkpoints.files import read_json
from minihf.checkpoints.hub import Source
from minihf.tokenization import folder
from minihf.tokenization.families import (
    BertTokenizer,
    DistilBertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    OpenAIGPTTokenizer,
    RobertaTokenizer,
)
from minihf.tokenization.marian import MarianTokenizer
from minihf.tokenization.mbart import MBart50Tokenizer, MBartTokenizer
from minihf.tokenization.pieced import CTRLTokenizer
from minihf.tokenization.tokenizer import Tokenizer
from minihf.tokenization.unigram import (
    AlbertTokenizer,
    CamembertTokenizer,
    PegasusTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

# model_type -> family. The reference gives DistilBERT's models BERT's tokenizer, and with it token types, which they
# refuse; and Mistral's none of its own.
BY_MODEL_TYPE: dict[str, type[Tokenizer]] = {
    "albert": AlbertTokenizer,
    "bart": RobertaTokenizer,
    "bert": BertTokenizer,
    "camembert": CamembertTokenizer,
    "ctrl": CTRLTokenizer,
    "distilbert": DistilBertTokenizer,
    "electra": BertTokenizer,
    "gpt2": GPT2Tokenizer,
    "llama": LlamaTokenizer,
    "marian": MarianTokenizer,
    "mbart": MBartTokenizer,
    "mbart50": MBart50Tokenizer,
    "mistral": LlamaTokenizer,
    "mixtral": LlamaTokenizer,
    "mt5": T5Tokenizer,
    "openai-gpt": OpenAIGPTTokenizer,
    "pegasus": PegasusTokenizer,
    "roberta": RobertaTokenizer,
    "t5": T5Tokenizer,
    "xlm-roberta": XLMRobertaTokenizer,
}
# Families that share another's tokenizer have their own name for it.
BartTokenizer = RobertaTokenizer
ElectraTokenizer = BertTokenizer
MT5Tokenizer = T5Tokenizer
SHARED = {"BartTokenizer": BartTokenizer, "ElectraTokenizer": ElectraTokenizer, "MT5Tokenizer": MT5Tokenizer}
BY_CLASS = {family.__name__: family for family in BY_MODEL_TYPE.values()} | SHARED
NO_FAMILY = ("PreTrainedTokenizer", "Tokenizer", "TokenizersBackend", "PythonBackend")  # "Fast" at the end left out
# A file that one family only has -> that family.
BY_FILE = {"source.spm": MarianTokenizer, "tokenizer.model": LlamaTokenizer, "vocab.txt": BertTokenizer}


class AutoTokenizer:
    """Loads the tokenizer of a folder or a hub name, whichever family it is."""

    def __init__(self):
        raise TypeError("AutoTokenizer is not made but loaded: AutoTokenizer.from_pretrained(name_or_path)")

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path, *, tokenizer_type: str | None = None, config: Any = None, **options: Any
    ) -> Tokenizer:
        """Load a tokenizer.

        Args:
            name_or_path: a folder, or a name such as "bert-base-uncased".
            tokenizer_type: the family, as the `model_type` of its models: "bert", "gpt2". Without it that which
                `tokenizer_config.json` names, or else `config.json`.
            config: the model's config, instead of the one that lies beside the tokenizer.
            options: where to look: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`;
                what is to be other than the files say: special tokens (`pad_token="<pad>"`), `model_max_length`,
                `padding_side`, `truncation_side`, `model_input_names`, `clean_up_tokenization_spaces`,
                `split_special_tokens`, `chat_template`, `extra_special_tokens`, and the options of the family.

        Raises:
            FileNotFoundError: no such folder or repository, or no tokenizer in it.
            CheckpointError: files that are broken. ValueError, TypeError: options that are unknown or do not apply.
        """
        source, options = Source.split(name_or_path, options)
        if tokenizer_type is None:
            family = _family(source, config)
        elif tokenizer_type in BY_MODEL_TYPE:
            family = BY_MODEL_TYPE[tokenizer_type]
        else:
            raise ValueError(f"tokenizer_type={tokenizer_type!r} is unknown; known are {', '.join(BY_MODEL_TYPE)}")
        return folder.load(family, source, options)


def _family(source: Source, config: Any) -> type[Tokenizer]:
    """What the files say; where they say nothing, the family whose vocabulary files are there."""
    paths = [source.find(name) for name in (folder.CONFIG, "config.json")]
    stated, model = (read_json(path) if path else {} for path in paths)
    if config is not None:
        model = {name: getattr(config, name, None) for name in ("tokenizer_class", "model_type")}
    name = str(stated.get("tokenizer_class") or model.get("tokenizer_class") or "").removesuffix("Fast")
    kind = str(model.get("model_type") or "")
    family = BY_CLASS.get(name, Tokenizer) if name else BY_MODEL_TYPE.get(kind, Tokenizer)
    if family is not Tokenizer or source.find(folder.FILE):
        return family
    unknown = name if name not in ("", *NO_FAMILY) else kind if kind not in ("", *BY_MODEL_TYPE) else ""
    if unknown:
        raise ValueError(
            f"{source} has no {folder.FILE!r}, and from other files only these are built: "
            f"{', '.join(sorted(BY_CLASS))}; no {unknown}. Save it with the tokenizer.save_pretrained of transformers, "
            "which writes that file"
        )
    for file, candidate in BY_FILE.items():
        if source.find(file):
            return candidate
    if all(source.find(file) for file in GPT2Tokenizer.vocab_files):
        return GPT2Tokenizer
    if shared := [file for file in ("spiece.model", "sentencepiece.bpe.model") if source.find(file)]:
        raise ValueError(
            f"{source} has a {shared[0]!r}, as several families have, and nothing that tells which it is; pass "
            f"tokenizer_type=, one of {', '.join(BY_MODEL_TYPE)}, or load it with its class"
        )
    return family
