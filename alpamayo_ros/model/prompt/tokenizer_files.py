"""Reads tokenizer and chat template of a VLM folder; no file in it can make code run.

tokenizer.json is read by the tokenizers library alone: the settings beside it differ between
transformers 4 and 5, and Alpamayo needs none of them. Knows no model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...files import read_json, read_text, require_file

SETTINGS = 'tokenizer_config.json'


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
    try:
        tokenizer = tokenizers.Tokenizer.from_str(read_text(path))
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  the library raises nothing more precise
        versions = f'tokenizers {tokenizers.__version__}, transformers {__version__}'
        reason = ' '.join(str(error).split())
        raise BadInput(
            f'{path}: {versions} cannot read it as a tokenizer: {reason}; expected the '
            'tokenizer.json of a Qwen3-VL folder; a newer one needs a newer tokenizers'
        ) from None
    _add_missing_tokens(tokenizer, folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=10**9
    )


def _load_from_vocabulary(folder: Path) -> Any:
    """Tokenizer of a folder without tokenizer.json."""
    from transformers import Qwen2TokenizerFast, __version__

    require_file(folder / 'merges.txt')
    for name in ('vocab.json', SETTINGS):
        if name != SETTINGS or os.path.lexists(folder / name):
            read_json(folder / name)
    try:
        return Qwen2TokenizerFast.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001  the kind depends on the version
        reason = ' '.join(str(error).split())
        raise BadInput(
            f'{folder}: transformers {__version__} makes no tokenizer of vocab.json, merges.txt '
            f'and {SETTINGS}: {reason}; expected those of a Qwen3-VL folder'
        ) from None


def _add_missing_tokens(tokenizer: Any, folder: Path) -> None:
    """Add tokens that stand in tokenizer_config.json only, as transformers does."""
    from tokenizers import AddedToken

    path = folder / SETTINGS
    if not os.path.lexists(path):  # a link to nothing is refused, not left out
        return
    listed = read_json(path).get('added_tokens_decoder') or {}
    if not isinstance(listed, dict):
        raise BadInput(f'{path}: added_tokens_decoder is no object, expected ids to tokens')
    for number in sorted(listed, key=lambda key: int(key) if key.isdigit() else -1):
        content = listed[number].get('content') if isinstance(listed[number], dict) else None
        if not number.isdigit() or not isinstance(content, str):
            raise BadInput(
                f'{path}: added_tokens_decoder has {number!r}: {listed[number]!r}, '
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
