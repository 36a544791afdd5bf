"""A folder's files made into a tokenizer, and back.

`tokenizer.json` is taken as it stands, never rebuilt; only where there is none does a family build its engine from its
vocabulary files (CTRL and Marian always do, and save those again: no `tokenizer.json` can say how they cut words).
Beside it, `tokenizer_config.json` tells the roles of tokens and the limits. Folders of older releases tell part of that
in `special_tokens_map.json` and `added_tokens.json`, which count unless the config lists its added tokens. Chat
templates lie in files of their own, which come before what the config says: `chat_template.jinja` is the default,
`additional_chat_templates/NAME.jinja` are others.
"""

import copy
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

from minihf.checkpoints.files import read_json, write_json
from minihf.checkpoints.hub import CheckpointError, Source, shortened
from minihf.tokenization.chat import named_templates
from minihf.tokenization.engines import ENDS, PARTS, adjust
from minihf.tokenization.sentencepiece import charsmap_of
from minihf.tokenization.vocabulary import EXTRA, SPECIAL_TOKENS

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
CHAT, CHATS = "chat_template.jinja", "additional_chat_templates"
FACTS = (
    "model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces",
    "split_special_tokens", "chat_template",
)  # fmt: skip
SHAPING = (*PARTS, *ENDS, "keep_accents", "legacy", "trim_offsets")  # what an engine is made of
OPTIONS = (*FACTS, *SPECIAL_TOKENS, *EXTRA, *PARTS, *ENDS)
# Keys that name a class, code, or places on the machine that wrote the file.
NOT_KEPT = (
    "tokenizer_class", "auto_map", "name_or_path", "tokenizer_file", "vocab_file", "merges_file",
    "special_tokens_map_file", "backend", "files_loaded", "is_local", "local_files_only", "init_inputs",
)  # fmt: skip


def load(cls: type["Tokenizer"], source: Source, options: dict[str, Any]) -> "Tokenizer":
    """The tokenizer of class `cls` that a source holds; options come before what its files say.

    Raises:
        TypeError: unknown options. FileNotFoundError: no tokenizer there. CheckpointError: files that are broken.
    """
    options = dict(options)
    if options.pop("trust_remote_code", False):
        raise ValueError("minihf never runs code that a checkpoint brings along; leave trust_remote_code out")
    for name in ("use_fast", *cls.idle):  # there is one kind
        options.pop(name, None)
    taken = dict.fromkeys((*OPTIONS, *cls.options))
    if unknown := options.keys() - taken:
        raise TypeError(
            f"unknown options: {', '.join(sorted(unknown))}. A tokenizer takes {', '.join(taken)}; where to look: "
            "revision, subfolder, token, cache_dir, local_files_only, force_download"
        )
    if options.get("sp_model_kwargs") and not cls.keeps_files:
        raise ValueError(f"sp_model_kwargs={options['sp_model_kwargs']!r}: this engine does not sample, as that would")
    file = None if cls.keeps_files else source.find(FILE)
    source = source.pinned(file) if file else source
    settings = read_settings(source, options)
    if cls.complete:
        settings = cls.complete(settings)
    engine, files = (None, {}) if file else _built(cls, source, settings, options)
    names = (*FACTS, *SPECIAL_TOKENS, EXTRA[0], "added_tokens_decoder")
    known = {name: settings.pop(name) for name in names if name in settings}
    try:
        tokenizer = cls(engine, tokenizer_file=file, name_or_path=source.name, settings=settings, **known)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if file:
        _adjust(tokenizer, options, source)
        return tokenizer
    if cls.keeps_files:
        tokenizer.files = files
    ids, added = tokenizer.get_vocab(), known["added_tokens_decoder"]
    misplaced = {str(token): index for index, token in added.items() if ids[str(token)] != index}
    if misplaced:
        raise CheckpointError(f"{source}: the vocabulary leaves no place for added tokens at their ids: {misplaced}")
    tokenizer.backend_tokenizer.post_processor = cls.template(tokenizer)
    return tokenizer


def read_settings(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """What the files beside the vocabulary say, with the options over it; tokens that have flags are AddedTokens."""
    settings = _read(source, CONFIG) | _read_chats(source)
    former = "added_tokens_decoder" not in settings
    if former:
        settings |= _read(source, "special_tokens_map.json")
    settings = {name: value for name, value in (settings | options).items() if name not in NOT_KEPT}
    settings.setdefault("model_max_length", settings.pop("max_len", None))

    extra = [settings.pop(name, None) or [] for name in EXTRA]
    if not all(isinstance(tokens, list | tuple | dict) for tokens in extra):
        raise CheckpointError(f"{source}: {' and '.join(EXTRA)} are {extra}; lists of tokens were expected")
    listed = [token for tokens in extra for token in (tokens.values() if isinstance(tokens, dict) else tokens)]
    settings[EXTRA[0]] = [_token(token, special=True) for token in listed]
    special = {name: _token(settings[name], special=True) for name in SPECIAL_TOKENS if name in settings}
    try:
        decoder = settings.pop("added_tokens_decoder", None) or {}
        added = {int(index): _token(token) for index, token in decoder.items()}
        if former:
            roles = {str(token) for token in (*special.values(), *settings[EXTRA[0]])}
            for content, index in _read(source, "added_tokens.json").items():
                added[int(index)] = AddedToken(content, normalized=content not in roles, special=content in roles)
        if not all(isinstance(token, AddedToken) for token in added.values()):
            raise ValueError(f"{added} are not all tokens")
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: the added tokens are no mapping between ids and tokens: {error}") from error
    return settings | special | {"added_tokens_decoder": added}


def facts(tokenizer: "Tokenizer") -> dict[str, Any]:
    """The arguments that make such a tokenizer over another engine."""
    roles = tokenizer.family_tokens | tokenizer.special_tokens_map
    return {name: getattr(tokenizer, name) for name in (*FACTS, *roles)}


def save(tokenizer: "Tokenizer", folder: Path) -> tuple[str, ...]:
    """`Tokenizer.save_pretrained`, which documents it."""
    engine = tokenizer.backend_tokenizer
    config = tokenizer.settings | facts(tokenizer)
    chats = _chat_files(config.pop("chat_template"))
    if tokenizer.extra_special_tokens:
        config["additional_special_tokens"] = tokenizer.extra_special_tokens  # the name that every release reads
    # With these in the config, nobody reads a special_tokens_map.json left over from an earlier save.
    added = engine.get_added_tokens_decoder()
    config["added_tokens_decoder"] = {index: token.__getstate__() for index, token in added.items()}
    named = tokenizer.keeps_name or (tokenizer.rebuilt_alike and _is_usual(tokenizer))
    config["tokenizer_class"] = type(tokenizer).__name__ if named else "PreTrainedTokenizerFast"
    files = tokenizer.files if tokenizer.keeps_files else {FILE: engine.to_str(pretty=True).encode()}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as aside:
        for name, content in files.items():
            Path(aside, name).write_bytes(content)
            os.replace(Path(aside, name), folder / name)
        _save_chats(chats, folder, Path(aside))
    write_json(folder / CONFIG, config)
    return tuple(str(folder / name) for name in (CONFIG, *chats, *files))


def _is_usual(tokenizer: "Tokenizer", settings: dict[str, Any] | None = None) -> bool:
    """Whether the family would build this very engine: the reference does, where the config names a family."""
    if tokenizer.build is None:
        return False
    engine = _rebuilt(tokenizer, tokenizer.settings if settings is None else settings)
    return _parts(engine) == _parts(tokenizer.backend_tokenizer)


def _rebuilt(tokenizer: "Tokenizer", settings: dict[str, Any]) -> Engine:
    """What the family makes of the engine's vocabulary; where no part depends on it, of an empty one."""
    engine, tokenizer = tokenizer.backend_tokenizer, copy.copy(tokenizer)
    tokenizer.settings = settings
    vocab, rest = {}, []
    if tokenizer.algorithm == "Unigram":
        pieces = json.loads(engine.to_str())["model"]["vocab"]
        vocab, rest = [(piece, score) for piece, score in pieces], charsmap_of(engine.normalizer)
    built = tokenizer.build(vocab, rest, settings | facts(tokenizer))
    built.post_processor = tokenizer.template(tokenizer)
    return built


def _parts(engine: Engine) -> dict[str, Any]:
    parts = json.loads(engine.to_str())
    model = {name: value or None for name, value in parts["model"].items() if name not in ("vocab", "merges")}
    return {name: parts[name] for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")} | model


def _adjust(tokenizer: "Tokenizer", options: dict[str, Any], source: Source) -> None:
    """Change the engine of a `tokenizer.json` as the caller asks.

    Raises:
        ValueError: an option that does not apply to it.
    """
    asked = [name for name in options if name in SHAPING and name in tokenizer.options]
    if asked and _is_usual(tokenizer, read_settings(source, {})):
        built = _rebuilt(tokenizer, tokenizer.settings)
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            setattr(tokenizer.backend_tokenizer, part, getattr(built, part))
        adjust(tokenizer, {name: options[name] for name in ENDS if name in options})
        return
    if strange := [name for name in asked if name not in (*PARTS, *ENDS)]:
        raise ValueError(
            f"{', '.join(strange)} does not apply: this {FILE} is not what a {type(tokenizer).__name__} is otherwise; "
            "change tokenizer.backend_tokenizer yourself"
        )
    adjust(tokenizer, options)


def _built(
    cls: type["Tokenizer"], source: Source, settings: dict[str, Any], options: dict[str, Any]
) -> tuple[Engine, dict[str, bytes]]:
    """The engine that a family makes of its vocabulary files, and what is in these."""
    if strange := [name for name in options if name in (*PARTS, *ENDS) and name not in cls.options]:
        raise ValueError(f"{', '.join(strange)}: {cls.__name__} has no such option, only {', '.join(cls.options)}")
    paths = [source.find(name) for name in cls.vocab_files]
    if not paths or None in paths:
        wanted = " and ".join(map(repr, cls.vocab_files))
        files = f"not {wanted}" if cls.keeps_files else f"neither {FILE!r} nor {wanted}" if wanted else f"no {FILE!r}"
        raise FileNotFoundError(f"{source} has {files}; it holds {shortened(source.names())}")
    more = [path for name in cls.more_files if (path := source.find(name))]
    if cls.mask_takes_space and isinstance(mask := settings.get("mask_token", cls.family_tokens["mask_token"]), str):
        settings["mask_token"] = AddedToken(mask, lstrip=True, normalized=False, special=True)
    try:
        vocab, rest, added = cls.read(*map(str, paths), settings)
        engine = cls.build(vocab, rest, settings)
        engine.add_tokens(added)
    except Exception as error:  # the engine raises nothing more precise
        raise CheckpointError(f"{', '.join(map(str, paths))}: {error}") from error
    return engine, {path.name: path.read_bytes() for path in (*paths, *more)} if cls.keeps_files else {}


def _chat_files(templates: Any) -> dict[str, bytes]:
    """File name -> chat template. ValueError for names that no file can have, and for text that is no Unicode."""
    templates = named_templates(templates)
    named = templates if isinstance(templates, dict) else {} if templates is None else {"default": templates}
    if unfit := [name for name in named if not name or set(name) & set("/\\:\0")]:
        raise ValueError(f"chat templates are saved under their names, and {unfit} are no names of files; rename them")
    return {CHAT if name == "default" else f"{CHATS}/{name}.jinja": text.encode() for name, text in named.items()}


def _save_chats(files: dict[str, bytes], folder: Path, aside: Path) -> None:
    """Write these chat templates, and leave none of an earlier save behind."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (aside / CHAT).write_bytes(content)
        os.replace(aside / CHAT, folder / name)
    for path in (folder / CHAT, *(folder / CHATS).glob("*.jinja")):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink(missing_ok=True)


def _read_chats(source: Source) -> dict[str, Any]:
    """`chat_template` as files of its own have it: one, or several by name."""
    found = {"default": source.find(CHAT)}
    place = Path(source.name, source.subfolder, CHATS)
    if Path(source.name).is_dir():
        others = sorted(path.name for path in place.glob("*.jinja"))
    else:  # asking the hub for a list costs a request, which checkpoints without chats are spared
        listed = map(Path, source.names() if found["default"] else [])
        others = [path.name for path in listed if path.parent == Path(CHATS) and path.suffix == ".jinja"]
    for name in others:
        found[name.removesuffix(".jinja")] = source.find(f"{CHATS}/{name}")
    try:
        texts = {name: path.read_text("utf-8") for name, path in found.items() if path}
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source}: a chat template is no text in UTF-8: {error}") from error
    if texts.keys() == {"default"}:
        return {"chat_template": texts["default"]}
    return {"chat_template": texts} if texts else {}


def _token(value: Any, special: bool = False) -> Any:
    """A JSON object with flags -> AddedToken; what is none is left for the vocabulary to judge."""
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return value
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    flags = {name: bool(value[name]) for name in names if value.get(name) is not None}
    return AddedToken(value["content"], **flags | ({"special": True} if special else {}))


def _read(source: Source, name: str) -> dict[str, Any]:
    path = source.find(name)
    return {} if path is None else read_json(path)
