"""Text to ids and back, over the engines of the `tokenizers` library."""

from minihf.tokenization.auto import (
    AlbertTokenizer,
    AutoTokenizer,
    BartTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    CTRLTokenizer,
    DistilBertTokenizer,
    ElectraTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    MT5Tokenizer,
    OpenAIGPTTokenizer,
    PegasusTokenizer,
    RobertaTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)
from minihf.tokenization.encoding import BatchEncoding
from minihf.tokenization.tokenizer import Tokenizer

# The reference once had two kinds of tokenizer, and code names either; here there is one.
PreTrainedTokenizer = PreTrainedTokenizerFast = Tokenizer
AlbertTokenizerFast = AlbertTokenizer
BartTokenizerFast = BartTokenizer
BertTokenizerFast = BertTokenizer
CTRLTokenizerFast = CTRLTokenizer
CamembertTokenizerFast = CamembertTokenizer
DistilBertTokenizerFast = DistilBertTokenizer
ElectraTokenizerFast = ElectraTokenizer
GPT2TokenizerFast = GPT2Tokenizer
LlamaTokenizerFast = LlamaTokenizer
MBart50TokenizerFast = MBart50Tokenizer
MBartTokenizerFast = MBartTokenizer
MT5TokenizerFast = MT5Tokenizer
MarianTokenizerFast = MarianTokenizer
OpenAIGPTTokenizerFast = OpenAIGPTTokenizer
PegasusTokenizerFast = PegasusTokenizer
RobertaTokenizerFast = RobertaTokenizer
T5TokenizerFast = T5Tokenizer
XLMRobertaTokenizerFast = XLMRobertaTokenizer

__all__ = [
    "AlbertTokenizer",
    "AlbertTokenizerFast",
    "AutoTokenizer",
    "BartTokenizer",
    "BartTokenizerFast",
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "CTRLTokenizer",
    "CTRLTokenizerFast",
    "CamembertTokenizer",
    "CamembertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraTokenizer",
    "ElectraTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "MBart50Tokenizer",
    "MBart50TokenizerFast",
    "MBartTokenizer",
    "MBartTokenizerFast",
    "MT5Tokenizer",
    "MT5TokenizerFast",
    "MarianTokenizer",
    "MarianTokenizerFast",
    "OpenAIGPTTokenizer",
    "OpenAIGPTTokenizerFast",
    "PegasusTokenizer",
    "PegasusTokenizerFast",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "RobertaTokenizer",
    "RobertaTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "Tokenizer",
]
