"""Decompresses files and payloads by their first bytes, whatever metadata.yaml says."""

from __future__ import annotations

from pathlib import Path
import sys

import lz4.frame

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError, decompress
else:
    from backports.zstd import ZstdDecompressor, ZstdError, decompress

ZSTD_MAGIC, LZ4_MAGIC = b'\x28\xb5\x2f\xfd', b'\x04\x22\x4d\x18'
MAGIC_BYTES = 4
_PIECE_BYTES = 1 << 20

ERRORS = (ZstdError, RuntimeError, EOFError)  # lz4 raises RuntimeError


def is_compressed(head: bytes) -> bool:
    """Whether bytes begin as a zstd or lz4 frame does; no CDR payload and no storage does."""
    return head[:MAGIC_BYTES] in (ZSTD_MAGIC, LZ4_MAGIC)


def decompress_bytes(data: bytes) -> bytes:
    """Content of a frame; raises one of ERRORS when it is damaged."""
    if data[:MAGIC_BYTES] == LZ4_MAGIC:
        return bytes(lz4.frame.decompress(data))
    return decompress(data)


def decompress_file(source: Path, target: Path) -> str:
    """Decompress a file as far as it goes; says in a sentence what is missing, '' if nothing."""
    is_lz4 = source.open('rb').read(MAGIC_BYTES) == LZ4_MAGIC
    frame = lz4.frame.LZ4FrameDecompressor() if is_lz4 else ZstdDecompressor()
    with source.open('rb') as packed, target.open('wb') as plain:
        while piece := packed.read(_PIECE_BYTES):
            try:
                while piece:
                    plain.write(frame.decompress(piece))
                    piece = b''
                    if frame.eof:  # frames may follow one another
                        piece = frame.unused_data or b''
                        frame = lz4.frame.LZ4FrameDecompressor() if is_lz4 else ZstdDecompressor()
            except ERRORS as error:
                if not plain.tell():
                    return f'cannot be decompressed: {error}'
                return f'the compressed file is damaged at byte {packed.tell()}: {error}'
    return ''
