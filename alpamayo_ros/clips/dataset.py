"""The folder of the data set: which clips it holds, and where their files lie.

features.csv says in which chunk a feature of a clip is stored and under which name. Knows no video
and no poses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import csv
from dataclasses import dataclass
import json
from pathlib import Path, PurePosixPath
import re
from typing import Any
import zipfile

import pyarrow
import pyarrow.parquet as parquet

from ..errors import BadInput

_FIELD = re.compile(r'\{(\w+)(?::(0\d+)d)?\}')


class ClipError(ValueError):
    """A clip cannot be used. reason: a fixed name to count by; detail: a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Feature:
    """A row of features.csv: pattern of its chunks, and of the members by alias (may be empty)."""

    name: str
    chunk_path: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class ClipRow:
    """A row of clip_index.parquet."""

    clip_id: str
    chunk: int
    split: str
    is_valid: bool


class ClipFolder:
    """A folder in the layout of the data set; some chunks are enough.

    Raises BadInput when features.csv or clip_index.parquet is missing or has other columns.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.features = _read_features(folder / 'features.csv')
        self.rows = _read_index(folder / 'clip_index.parquet')

    def select(self, split: str | None, clip_ids: Collection[str] | None) -> list[str]:
        """Clip ids in the order of their names: of a split, of a list, or all whose ego is here.

        Raises BadInput for an id that the index does not name, and when nothing is left.
        """
        if clip_ids is not None:
            unknown = sorted(set(clip_ids) - set(self.rows))
            if unknown:
                raise BadInput(f'{self.path}: clip_index.parquet has no clip {unknown[0]}')
        wanted = [
            row.clip_id
            for row in self.rows.values()
            if (split is None or row.split == split)
            and (row.clip_id in clip_ids if clip_ids is not None else self._has_chunk(row))
        ]
        if not wanted:
            what = f'split {split}' if split else 'any split'
            raise BadInput(f'{self.path}: no clip of {what} here, expected chunks of egomotion')
        return sorted(wanted)

    def read_member(self, clip_id: str, feature: str, alias: str) -> bytes:
        """Bytes of one file of a clip; raises ClipError when chunk or member is missing."""
        row, known = self.rows[clip_id], self._feature(feature)
        path = self._chunk_path(row, known)
        if alias not in known.members:
            raise ClipError('member_missing', f'features.csv: {feature} has no file {alias}')
        name = _fill(known.members[alias], clip_id=clip_id)
        try:
            with zipfile.ZipFile(path) as chunk:
                return chunk.read(name)
        except FileNotFoundError:
            raise ClipError(
                'chunk_missing', f'{self._relative(path)}: not in the folder'
            ) from None
        except KeyError:
            raise ClipError('member_missing', f'{self._relative(path)}: no {name}') from None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ClipError('chunk_broken', f'{self._relative(path)}: {error}') from error

    def has_feature(self, clip_id: str, feature: str) -> bool:
        """Whether the chunk of a feature of this clip lies in the folder."""
        known = self.features.get(feature)
        return known is not None and self._chunk_path(self.rows[clip_id], known).is_file()

    def fingerprint(self) -> dict[str, Any]:
        """Facts that a resumed run must find again: the number of clips of the index."""
        return {'clips': len(self.rows)}

    def _has_chunk(self, row: ClipRow) -> bool:
        return self._chunk_path(row, self._feature('egomotion')).is_file()

    def _feature(self, name: str) -> Feature:
        if name not in self.features:
            raise ClipError('feature_missing', f'features.csv: no feature {name}')
        return self.features[name]

    def _chunk_path(self, row: ClipRow, feature: Feature) -> Path:
        inside = PurePosixPath(_fill(feature.chunk_path, chunk_id=row.chunk))
        if inside.is_absolute() or '..' in inside.parts:
            raise BadInput(f'{self.path}/features.csv: {inside} leads out of the folder')
        return self.path / inside

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def read_clip_list(path: Path) -> list[str]:
    """Ids of a text file, with spaces or line ends between them; raises BadInput for another."""
    try:
        return path.read_text(encoding='utf-8').split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f'{path}: not a list of clip ids: {error}') from error


def read_table(data: bytes, columns: Collection[str], name: str) -> dict[str, Any]:
    """Columns of a parquet file as numpy arrays; raises ClipError when it lacks one."""
    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ClipError('table_broken', f'{name}: not a parquet file: {error}') from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ClipError('table_broken', f'{name}: no column {missing[0]}')
    return {column: table[column].to_numpy() for column in columns}


def _read_features(path: Path) -> dict[str, Feature]:
    try:
        with path.open(newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        features = {
            row['feature']: Feature(
                row['feature'], row['chunk_path'], json.loads(row['clip_files_in_zip'] or '{}')
            )
            for row in rows
        }
    except FileNotFoundError:
        raise BadInput(f'{path}: not found, expected a folder of the data set') from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f'{path}: not the feature table of the data set: {error}') from error
    if 'egomotion' not in features:
        raise BadInput(f'{path}: no feature egomotion')
    return features


def _read_index(path: Path) -> dict[str, ClipRow]:
    try:
        table = parquet.read_table(path)
        ids, chunks, splits, valid = (
            table[name].to_pylist() for name in ('clip_id', 'chunk', 'split', 'clip_is_valid')
        )
    except FileNotFoundError:
        raise BadInput(f'{path}: not found, expected a folder of the data set') from None
    except (pyarrow.ArrowInvalid, KeyError, OSError) as error:
        raise BadInput(f'{path}: not the clip index of the data set: {error}') from error
    rows = [
        ClipRow(clip_id, int(chunk), split, bool(is_valid))
        for clip_id, chunk, split, is_valid in zip(ids, chunks, splits, valid, strict=True)
    ]
    return {row.clip_id: row for row in rows}


def _fill(pattern: str, **values: Any) -> str:
    """A pattern such as 'a.chunk_{chunk_id:04d}.zip' with its fields filled in.

    Not str.format, which would follow attributes that a file names.
    """

    def replace(match: re.Match[str]) -> str:
        name, digits = match.groups()
        if name not in values:
            raise BadInput(f'features.csv: {pattern}: expected the fields {", ".join(values)}')
        return format(values[name], f'{digits}d') if digits else str(values[name])

    return _FIELD.sub(replace, pattern)
