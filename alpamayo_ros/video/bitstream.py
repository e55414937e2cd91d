"""Reads from the bytes of H.264 and H.265 where a video can begin and what of it is missing.

Byte streams with start codes (ITU-T H.264 and H.265, Annex B). Syntax of parameter sets and
slices: H.264, 7.3.2.1 and 7.3.3; types of units: table 7-1 of either.
"""

from __future__ import annotations

from collections.abc import Iterator

START_CODE = b'\0\0\1'
SLICE, IDR_SLICE, INFORMATION, SEQUENCE = 1, 5, 6, 7  # unit types of H.264
RECOVERY_POINT = 6  # type of information: pictures are whole soon after it, without an IDR picture
RANDOM_ACCESS = range(16, 24)  # unit types of H.265
HEAD_BYTES = 128  # of a unit that are looked at; sets with many scaling lists are cut off
WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles


def split_units(data: bytes) -> Iterator[bytes]:
    """The first bytes of each unit of a packet, without what keeps start codes out of them."""
    at = data.find(START_CODE)
    while at >= 0:
        yield data[at + 3 : at + 3 + HEAD_BYTES].replace(b'\0\0\3', b'\0\0')
        at = data.find(START_CODE, at + 3)


def is_key(codec: str, data: bytes) -> bool:
    """Whether decoding can begin with a packet; codec: 'h264' or 'hevc'."""
    heads = [unit[:2] for unit in split_units(data) if len(unit) > 1]
    if codec == 'hevc':
        return any(head[0] >> 1 & 0x3F in RANDOM_ACCESS for head in heads)
    return any(
        head[0] & 0x1F == IDR_SLICE
        or (head[0] & 0x1F == INFORMATION and head[1] == RECOVERY_POINT)
        for head in heads
    )


class PictureCounter:
    """Follows frame_num of H.264, which rises by one with every picture that others refer to.

    A decoder of H.264 conceals missing pictures without a word; one of H.265 knows them by name.
    """

    def __init__(self) -> None:
        self._bits = 0  # of frame_num; 0: not known, or the stream may leave numbers out
        self._before_slice_bits = 0
        self._last: int | None = None

    def misses(self, data: bytes) -> bool:
        """Whether pictures are missing between the packet before and this one."""
        for unit in split_units(data):
            kind = unit[0] & 0x1F if unit else 0
            try:
                if kind == SEQUENCE:
                    self._read_sequence(_Bits(unit[1:]))
                elif kind in (SLICE, IDR_SLICE) and self._bits:
                    return self._follow(unit, kind == IDR_SLICE)
            except IndexError:  # a unit that is cut off: the decoder will say so
                continue
        return False

    def _follow(self, unit: bytes, is_key: bool) -> bool:
        bits = _Bits(unit[1:])
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.read_golomb()
        bits.read(self._before_slice_bits)
        number, last = bits.read(self._bits), self._last
        if is_key or unit[0] & 0x60:  # others refer to it
            self._last = number
        if is_key or last is None:
            return False
        return number not in (last, (last + 1) % (1 << self._bits))

    def _read_sequence(self, bits: _Bits) -> None:
        profile = bits.read(24) >> 16  # constraints and level behind it
        bits.read_golomb()  # seq_parameter_set_id
        self._before_slice_bits = 0
        if profile in WITH_CHROMA_FORMAT:
            self._skip_formats(bits)
        number_bits = bits.read_golomb() + 4
        order = bits.read_golomb()
        if order == 0:
            bits.read_golomb()
        elif order == 1:
            bits.read(1)
            bits.read_golomb(), bits.read_golomb()
            for _ in range(bits.read_golomb()):
                bits.read_golomb()
        bits.read_golomb()  # max_num_ref_frames
        may_leave_out = bits.read(1)
        self._bits = 0 if may_leave_out else number_bits

    def _skip_formats(self, bits: _Bits) -> None:
        chroma = bits.read_golomb()
        if chroma == 3 and bits.read(1):  # separate_colour_plane_flag
            self._before_slice_bits = 2
        bits.read_golomb(), bits.read_golomb()  # bit depths
        bits.read(1)
        if bits.read(1):
            for k in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if k < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.read_golomb()
            following = (last + (code + 1 >> 1) * (1 if code % 2 else -1)) % 256
        last = following or last


class _Bits:
    """Bits of some bytes from the first one on; IndexError behind the end."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, 'big'), 8 * len(data)

    def read(self, count: int) -> int:
        """Unsigned number of so many bits."""
        self._left -= count
        if self._left < 0:
            raise IndexError('end of the unit')
        return self._number >> self._left & (1 << count) - 1

    def read_golomb(self) -> int:
        """Unsigned Exp-Golomb code (H.264, 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
