"""A Lanelet2 map: routes of Autoware name lanelets by number, and the map has their points.

Read are files in Autoware's form, OSM XML whose nodes carry local_x and local_y in metres of the
map frame; a node without them, with latitude and longitude alone, needs a projection that the file
does not name. Knows no ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput

CHANGE_M = 1.0  # a gap between two lanelets of a route above this is a change of lanes
CUT_M = 5.0  # taken from both ends of a change, so that it is no turn
POINTS = 20  # of a centre line

Array = NDArray[np.float64]


class LaneletMap:
    """Bounds of the lanelets of a file. Raises BadInput for one that cannot be read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._points: dict[str, tuple[float, float]] = {}
        self._ways: dict[str, list[str]] = {}
        self._bounds: dict[int, tuple[list[str], list[str]]] = {}  # ways, left and right
        try:
            for _, element in ElementTree.iterparse(self.path):
                self._take(element)
        except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
            text = f'{type(error).__name__}: {error}'
            raise BadInput(f'{path}: expected a Lanelet2 map in OSM XML: {text}') from error
        if not self._bounds:
            raise BadInput(f'{path}: no lanelet in it, expected a Lanelet2 map')
        if not self._points:
            raise BadInput(f'{path}: no node with local_x and local_y, as maps of Autoware have')

    def trace(self, numbers: Sequence[int]) -> Array:
        """Points (N, 2) along the centres of lanelets, one after the other.

        Raises ValueError for a lanelet that the map does not have.
        """
        lines = [self._find_centre(number) for number in numbers]
        for i in range(len(lines) - 1):
            if np.linalg.norm(lines[i + 1][0] - lines[i][-1]) > CHANGE_M:
                lines[i], lines[i + 1] = _cut(lines[i][::-1])[::-1], _cut(lines[i + 1])
        return np.concatenate(lines) if lines else np.zeros((0, 2))

    def _take(self, element: ElementTree.Element) -> None:
        """Keep what a finished element says; the file may be larger than its content here."""
        if element.tag not in ('node', 'way', 'relation'):
            return
        tags = {tag.attrib['k']: tag.attrib['v'] for tag in element.iter('tag')}
        if element.tag == 'node' and 'local_x' in tags:
            place = float(tags['local_x']), float(tags['local_y'])
            self._points[element.attrib['id']] = place
        elif element.tag == 'way':
            self._ways[element.attrib['id']] = [x.attrib['ref'] for x in element.iter('nd')]
        elif tags.get('type') == 'lanelet':
            sides = {'left': list[str](), 'right': list[str]()}
            for member in element.iter('member'):
                if member.attrib['role'] in sides:
                    sides[member.attrib['role']].append(member.attrib['ref'])
            self._bounds[int(element.attrib['id'])] = sides['left'], sides['right']
        element.clear()

    def _find_centre(self, number: int) -> Array:
        if number not in self._bounds:
            raise ValueError(f'lanelet {number} is not in {self.path}')
        left, right = (self._join(number, ways) for ways in self._bounds[number])
        straight = np.linalg.norm(left[[0, -1]] - right[[0, -1]], axis=1).sum()
        if np.linalg.norm(left[[0, -1]] - right[[-1, 0]], axis=1).sum() < straight:
            right = right[::-1]
        centre = (_resample(left) + _resample(right)) / 2
        ahead, across = centre[1] - centre[0], left[0] - right[0]
        is_reversed = ahead[0] * across[1] - ahead[1] * across[0] < 0  # the left must be left
        return centre[::-1] if is_reversed else centre

    def _join(self, number: int, ways: Sequence[str]) -> Array:
        """Points of a bound, whose ways may each run either way."""
        parts = []
        for way in ways:
            names = self._ways.get(way, [])
            if missing := [name for name in names if name not in self._points]:
                raise ValueError(f'lanelet {number}: node {missing[0]} has no local_x and local_y')
            parts.append(np.array([self._points[name] for name in names]))
        if not parts or any(len(part) < 2 for part in parts):
            raise ValueError(f'lanelet {number} has no left or no right bound in {self.path}')
        joined = parts[0]
        for part in parts[1:]:
            ends = [np.linalg.norm(joined[i] - part[j]) for i in (0, -1) for j in (0, -1)]
            nearest = int(np.argmin(ends))
            joined = joined[::-1] if nearest in (0, 1) else joined  # it goes on at its start
            joined = np.concatenate([joined, part[::-1] if nearest in (1, 3) else part])
        return joined


def _resample(line: Array) -> Array:
    """POINTS points of a line at equal distances along it."""
    ways = np.append(0.0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum())
    wanted = np.linspace(0.0, ways[-1], POINTS)
    return np.stack([np.interp(wanted, ways, line[:, axis]) for axis in (0, 1)], axis=1)


def _cut(line: Array) -> Array:
    """The line without its first CUT_M; its last point at least."""
    ways = np.append(0.0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum())
    return line[min(int(np.searchsorted(ways, CUT_M)), len(line) - 1) :]
