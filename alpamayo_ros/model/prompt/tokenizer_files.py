"""Reads tokenizer and chat template of a VLM folder; no file in it can make code run.

tokenizer.json is read by the tokenizers library alone: the settings beside it differ between
transformers 4 and 5, and Alpamayo needs none of them. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import os
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...files import read_json, read_text, require_file

SETTINGS = 'tokenizer_config.json'
LARGEST_ID = 1_000_000  # of a token; the vocabulary of the release has 155,697


def load_tokenizer(folder: Path) -> Any:
    """Fast tokenizer of a folder: tokenizer.json, or vocab.json and merges.txt.

    Raises BadInput for files that are absent or that this version cannot read.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast, __version__

    path = folder / 'tokenizer.json'
    if not os.path.lexists(path) and os.path.lexists(folder / 'vocab.json'):
        return _load_from_vocabulary(folder)
    require_file(path)
    versions = f'tokenizers {tokenizers.__version__}, transformers {__version__}'
    what = f'{path}: {versions} cannot read it as a tokenizer'
    expected = 'the tokenizer.json of a Qwen3-VL folder; a newer one needs a newer tokenizers'
    with _refuse_failure(what, expected):
        tokenizer = tokenizers.Tokenizer.from_str(read_text(path))
        _check_ids(tokenizer.get_vocab(with_added_tokens=False), path)
        _add_missing_tokens(tokenizer, folder)
        return PreTrainedTokenizerFast(  # it copies the tokenizer by way of its text
            tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=10**9
        )


@contextmanager
def _refuse_failure(what: str, expected: str) -> Iterator[None]:
    """Raise BadInput for whatever the tokenizers library raises, a panic of its Rust included."""
    try:
        yield
    except BadInput:
        raise
    except BaseException as error:  # a panic is no Exception, and its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
            raise
        reason = ' '.join(str(error).split())
        raise BadInput(f'{what}: {reason:.300}; expected {expected}') from None


def _check_ids(vocabulary: Mapping[str, Any], path: Path) -> None:
    """Raise BadInput unless each token has an id of its own, none beyond LARGEST_ID.

    The library counts up to the largest id where it writes a tokenizer, and drops one of two
    tokens with the same id.
    """
    owners: dict[int, str] = {}
    for token, number in vocabulary.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise BadInput(f'{path}: the id of {token!r:.80} is {number!r:.80}, expected a number')
        if not 0 <= number <= LARGEST_ID:
            raise BadInput(
                f'{path}: the id of {token!r:.80} is {number}, expected 0 to {LARGEST_ID}'
            )
        if owners.setdefault(number, token) != token:
            raise BadInput(
                f'{path}: {owners[number]!r:.80} and {token!r:.80} have the id {number}, '
                'expected one token of an id'
            )


def _load_from_vocabulary(folder: Path) -> Any:
    """Tokenizer of a folder without tokenizer.json."""
    from transformers import Qwen2TokenizerFast, __version__

    require_file(folder / 'merges.txt')
    _check_ids(read_json(folder / 'vocab.json'), folder / 'vocab.json')
    if os.path.lexists(folder / SETTINGS):
        read_json(folder / SETTINGS)
    what = (
        f'{folder}: transformers {__version__} makes no tokenizer of vocab.json, merges.txt and '
        f'{SETTINGS}'
    )
    with _refuse_failure(what, 'those of a Qwen3-VL folder'):
        return Qwen2TokenizerFast.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )


def _add_missing_tokens(tokenizer: Any, folder: Path) -> None:
    """Add tokens that stand in tokenizer_config.json only, as transformers does."""
    from tokenizers import AddedToken

    path = folder / SETTINGS
    if not os.path.lexists(path):  # a link to nothing is refused, not left out
        return
    listed = read_json(path).get('added_tokens_decoder') or {}
    if not isinstance(listed, dict):
        raise BadInput(f'{path}: added_tokens_decoder is no object, expected ids to tokens')
    for number in sorted(listed, key=lambda key: int(key) if key.isdecimal() else -1):
        content = listed[number].get('content') if isinstance(listed[number], dict) else None
        if not number.isdecimal() or not isinstance(content, str):
            raise BadInput(
                f'{path}: added_tokens_decoder has {number!r:.80}: {listed[number]!r:.80}, '
                'expected an id and an object with content'
            )
        if tokenizer.token_to_id(content) is None:
            special = bool(listed[number].get('special'))
            tokenizer.add_tokens([AddedToken(content, special=special, normalized=False)])


def load_chat_template(folder: Path) -> tuple[str, Path]:
    """Chat template of a folder and the file that holds it; of several, the one named default."""
    jinja = folder / 'chat_template.jinja'
    if os.path.lexists(jinja):
        return read_text(jinja), jinja
    for name in ('chat_template.json', SETTINGS):
        path = folder / name
        if not os.path.lexists(path):
            continue
        templates = read_json(path)
        if templates.get('chat_template') is not None:
            return _choose_default(templates['chat_template'], path), path
        if name == 'chat_template.json':
            keys = ', '.join(templates) or 'nothing'
            raise BadInput(f'{path}: it holds {keys}, expected the key chat_template')
    raise BadInput(
        f'{folder}: no chat template, expected chat_template.jinja, chat_template.json or the key '
        f'chat_template in {SETTINGS}'
    )


def _choose_default(value: Any, path: Path) -> str:
    """The template of a value that is one text, or names to texts, or a list of named texts."""
    named = value
    if isinstance(value, list):
        named = {
            entry.get('name'): entry.get('template') for entry in value if isinstance(entry, dict)
        }
    if isinstance(named, dict):
        if 'default' not in named:
            names = ', '.join(str(name) for name in named) or 'none'
            raise BadInput(f'{path}: chat templates {names}, expected one named default')
        named = named['default']
    if not isinstance(named, str) or not named.strip():
        raise BadInput(f'{path}: the chat template is {named!r:.80}, expected text')
    return named.removeprefix('\ufeff')
