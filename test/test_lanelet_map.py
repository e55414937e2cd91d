"""Routes of lanelets: points from a map file, whichever way its lines run."""

import numpy as np
import pytest

from alpamayo_ros.context.lanelet_map import LaneletMap
from alpamayo_ros.context.route_text import describe_route
from alpamayo_ros.errors import BadInput

# number: left and right bound, m: ahead, to the left at a junction, and the lane beside it
LANELETS = {
    1: ([(0, 2), (50, 2)], [(0, -2), (50, -2)]),
    2: ([(50, 2), (58, 4), (60, 12)], [(50, -2), (62, 0), (64, 12)]),
    3: ([(60, 12), (60, 60)], [(64, 12), (64, 60)]),
    4: ([(50, 6), (100, 6)], [(50, 2), (100, 2)]),
}


def write_map(folder, turn=lambda line: line, local=True, split=False):
    """A map of LANELETS; turn: of the points of each bound."""
    lines, ways, relations, count = [], [], [], 0
    for number, bounds in LANELETS.items():
        members = ''
        for side, bound in zip(('left', 'right'), bounds, strict=True):
            points = turn(bound)
            parts = [points[:2], points[1:][::-1]] if split and len(points) > 2 else [points]
            for part in parts:
                refs = ''
                for x, y in part:
                    count += 1
                    tags = f'<tag k="local_x" v="{x}"/><tag k="local_y" v="{y}"/>' * local
                    lines.append(f'<node id="n{count}" lat="0" lon="0">{tags}</node>')
                    refs += f'<nd ref="n{count}"/>'
                way = f'w{len(ways)}'
                ways.append(f'<way id="{way}">{refs}</way>')
                members += f'<member type="way" role="{side}" ref="{way}"/>'
        kind = '<tag k="type" v="lanelet"/>'
        relations.append(f'<relation id="{number}">{members}{kind}</relation>')
    path = folder / 'map.osm'
    path.write_text(f'<osm>{"".join(lines + ways + relations)}</osm>')
    return path


@pytest.mark.parametrize('split', [False, True])
@pytest.mark.parametrize('turn', [lambda line: line, lambda line: line[::-1]])
def test_a_route_runs_along_the_centres_whichever_way_the_bounds_are_drawn(tmp_path, turn, split):
    points = LaneletMap(write_map(tmp_path, turn, split=split)).trace([1, 2, 3])
    assert points[0] == pytest.approx([0, 0]) and points[-1] == pytest.approx([62, 60])
    assert np.abs(points[points[:, 0] < 50][:, 1]).max() == pytest.approx(0)
    assert describe_route(points, (20.0, 0.0), 0.0).text == 'Turn left in 41m'


def test_bounds_that_run_against_each_other_are_turned(tmp_path):
    turns = iter([False, True] * len(LANELETS))
    path = write_map(tmp_path, lambda line: line[::-1] if next(turns) else line)
    assert LaneletMap(path).trace([1])[0] == pytest.approx([0, 0])


def test_a_change_of_lanes_is_no_turn(tmp_path):
    points = LaneletMap(write_map(tmp_path)).trace([1, 4])
    assert points[-1] == pytest.approx([100, 4])
    assert describe_route(points, (20.0, 0.0), 0.0).text == 'Continue straight'


def test_what_the_map_does_not_have_is_named(tmp_path):
    lanelets = LaneletMap(write_map(tmp_path))
    with pytest.raises(ValueError, match=r'lanelet 9 is not in .*map\.osm'):
        lanelets.trace([1, 9])
    assert lanelets.trace([]).shape == (0, 2)
    with pytest.raises(BadInput, match='no node with local_x and local_y'):
        LaneletMap(write_map(tmp_path, local=False))


@pytest.mark.parametrize(
    'text', ['', 'not xml', '<osm><node/></osm>', '<osm></osm>', '<osm><way id="1"/></osm>']
)
def test_what_is_no_map_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / 'map.osm'
    path.write_text(text)
    with pytest.raises(BadInput, match=r'map\.osm: ') as refused:
        LaneletMap(path)
    assert '\n' not in str(refused.value)
    with pytest.raises(BadInput, match=r'gone\.osm: .*No such file'):
        LaneletMap(tmp_path / 'gone.osm')
