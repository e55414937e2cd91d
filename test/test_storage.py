"""Storage files as other writers and crashes leave them: what can be read, and what is said."""

import re
import shutil
import sqlite3

import pytest
import small_bag
from small_bag import ODOMETRY, image_topic
from small_mcap import write_mcap

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.bags.storage import normalize_type
from alpamayo_ros.errors import BadInput
from alpamayo_ros.replay.replay import require_topics
from alpamayo_ros.rig import load_rig

MESSAGES = small_bag.drive(seconds=1)
COMPRESSED, ODOMETRY_TYPE = 'sensor_msgs/msg/CompressedImage', 'nav_msgs/msg/Odometry'
POSES = sum(topic == ODOMETRY for _, topic, _ in MESSAGES)


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    return load_rig(small_bag.write_rig(tmp_path_factory.mktemp('rig')))


def read(path, rig):
    """Number of messages of the rig that are read, and the notes."""
    with Bag(path) as bag:
        require_topics(bag, rig)
        found = [bag.decode(topic, payload) for topic, _, payload in bag.messages(bag.topics)
                 if bag.topics[topic].startswith(('sensor', 'nav'))]  # fmt: skip
        return len(found), bag.notes


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize(
    ('pattern', 'instead'),
    [
        (r'reliability: \S+', 'reliability: best_effort'),
        (r'depth: \d+', 'depth: 99'),
        (r'offered_qos_profiles:(.|\n)*?(?=\n {6}message_count)', 'offered_qos_profiles: ""'),
        (r'storage_identifier: \w+', 'storage_identifier: ""'),
        (r'storage_identifier: \w+', 'storage_identifier: my_plugin'),
        (r'version: \d+', 'version: 99'),
        (r'type: nav_msgs/msg/Odometry', 'type: nav_msgs/Odometry'),
        (r'serialization_format: cdr', 'serialization_format: ""'),
        (r'(?s).*', '{[broken'),
    ],
)
def test_metadata_that_differs_from_the_storage_hides_no_message(
    tmp_path, rig, storage, pattern, instead
):
    folder = small_bag.write(tmp_path / 'bag', MESSAGES, storage)
    file = folder / 'metadata.yaml'
    file.write_text(re.sub(pattern, instead, file.read_text(), count=1))
    assert read(folder, rig)[0] == len(MESSAGES)


@pytest.mark.parametrize(
    'options',
    [
        {'profile': ''},
        {'compression': 'lz4'},
        {'compression': ''},
        {'per_chunk': 0},
        {'names': {COMPRESSED: 'sensor_msgs/CompressedImage', ODOMETRY_TYPE: 'nav_msgs/Odometry'}},
        {'names': {COMPRESSED: 'sensor_msgs::msg::dds_::CompressedImage_'}},
        {'extra': [('/can', 'json', b'{}'), ('/pb', 'protobuf', b'\x08\x01')]},
    ],
)
def test_mcap_of_another_writer_is_read(tmp_path, rig, options):
    path = write_mcap(tmp_path / 'a.mcap', MESSAGES, **options)
    assert read(path, rig) == (len(MESSAGES), [])


def test_a_topic_without_a_schema_is_read_as_what_it_is(tmp_path, rig):
    count, notes = read(write_mcap(tmp_path / 'a.mcap', MESSAGES, has_schemas=False), rig)
    assert count == len(MESSAGES)
    assert f'{ODOMETRY} has no schema: read as {ODOMETRY_TYPE}' in notes


@pytest.mark.parametrize('per_chunk', [20, 0])
@pytest.mark.parametrize('kept', [0.3, 0.9, 1.0])
def test_mcap_without_its_end_is_read_up_to_there(tmp_path, rig, per_chunk, kept):
    path = write_mcap(tmp_path / 'a.mcap', MESSAGES, per_chunk=per_chunk, is_finished=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    count, notes = read(path, rig)
    assert (kept - 0.2) * len(MESSAGES) < count <= kept * len(MESSAGES) + 5
    assert re.search(rf'no end: \d+ of {int(len(data) * kept)} bytes', notes[0])


def test_a_damaged_chunk_is_counted_and_the_others_are_read(tmp_path, rig):
    path = write_mcap(tmp_path / 'a.mcap', MESSAGES, per_chunk=20)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    path.write_bytes(data)
    count, notes = read(path, rig)
    assert len(MESSAGES) - 22 <= count < len(MESSAGES)
    assert '1 of 6 chunks cannot be read' in notes[0]


@pytest.mark.parametrize('kept', [0.4, 0.95])
@pytest.mark.parametrize('compression', ['none', 'file'])
def test_a_database_that_is_cut_off_is_read_up_to_there(tmp_path, rig, kept, compression):
    folder = small_bag.write(tmp_path / 'bag', small_bag.drive(4), 'sqlite3', compression)
    (file,) = folder.glob('*.db3*')
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    count, notes = read(folder, rig)
    assert 0 < count < len(small_bag.drive(4))
    assert 'damaged' in ' '.join(notes)


def homemade(path, with_qos=True):
    """A database with the least that a bag has, in write-ahead mode."""
    database = sqlite3.connect(path)
    database.execute('PRAGMA journal_mode=WAL')
    more = ', serialization_format TEXT, offered_qos_profiles TEXT' if with_qos else ''
    database.execute(f'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT{more})')
    database.execute('CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data)')
    numbers = {}
    for log_ns, topic, message in MESSAGES:
        if topic not in numbers:
            numbers[topic] = len(numbers) + 1
            row = (numbers[topic], topic, message.__msgtype__, 'cdr', '')[: 5 if with_qos else 3]
            database.execute(f'INSERT INTO topics VALUES({",".join("?" * len(row))})', row)
        data = bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))
        database.execute('INSERT INTO messages VALUES(NULL,?,?,?)', (numbers[topic], log_ns, data))
    database.commit()
    return database


@pytest.mark.parametrize('with_qos', [True, False])
def test_a_homemade_database_is_read(tmp_path, rig, with_qos):
    homemade(tmp_path / 'x_0.db3', with_qos).close()
    assert read(tmp_path / 'x_0.db3', rig) == (len(MESSAGES), [])


@pytest.mark.parametrize('value', [None, b'/odometry'])
@pytest.mark.parametrize('column', ['name', 'type'])
def test_a_topic_whose_name_or_type_is_no_text_leaves_the_others(tmp_path, rig, column, value):
    database = homemade(tmp_path / 'x_0.db3')
    row = {'name': '/other', 'type': 'std_msgs/msg/Empty'} | {column: value}
    database.execute('INSERT INTO topics VALUES(99,?,?,?,?)', (row['name'], row['type'], 0, ''))
    database.commit()
    database.close()
    count, notes = read(tmp_path / 'x_0.db3', rig)
    assert count == len(MESSAGES)
    assert ('topic 99 has the name' in ' '.join(notes)) == (column == 'name')


def test_what_a_crash_left_in_the_journal_is_read(tmp_path, rig):
    database = homemade(tmp_path / 'x_0.db3')
    crashed = tmp_path / 'crashed'
    crashed.mkdir()
    for file in tmp_path.glob('x_0.db3*'):
        shutil.copy(file, crashed)
    database.close()
    assert (crashed / 'x_0.db3-wal').stat().st_size > 0
    before = {file.name: file.read_bytes() for file in crashed.iterdir()}
    assert read(crashed / 'x_0.db3', rig)[0] == len(MESSAGES)
    assert {file.name: file.read_bytes() for file in crashed.iterdir()} == before


def test_a_folder_without_metadata_is_read_and_says_so(tmp_path, rig):
    write_mcap(tmp_path / 'a_0.mcap', MESSAGES[:40])
    write_mcap(tmp_path / 'a_1.mcap', MESSAGES[40:])
    count, notes = read(tmp_path, rig)
    assert count == len(MESSAGES)
    assert notes == ['there is no metadata.yaml: all files of the folder are read']


def test_a_file_that_is_missing_is_named_and_the_others_are_read(tmp_path, rig):
    folder = small_bag.write(tmp_path / 'bag', MESSAGES)
    metadata = folder / 'metadata.yaml'
    text = re.sub(r'( *- )bag.mcap', r'\1bag.mcap\n\1bag_1.mcap', metadata.read_text(), count=1)
    metadata.write_text(text)
    count, notes = read(folder, rig)
    assert count == len(MESSAGES)
    assert notes == ['1 of 2 files are missing: bag_1.mcap']


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'#ROSBAG V2.0\n', 'a bag of ROS 1, expected one of ROS 2: convert it with'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'a Git LFS pointer'),
        (b'', 'an empty file'),
        (b'<!DOCTYPE html>', 'a web page'),
        (bytes(4096), 'filled with zeros'),
        (b'\x1f\x8b\x08\0', 'a gzip archive, expected the file that is in it: unpack it'),
        (b'{"topic": 1}', 'expected MCAP or SQLite'),
        (b'SQLite format 3\0' + bytes(200), 'not a database of rosbag2'),
        (b'\x89MCAP0\r\n', 'the bag is empty'),
        (b'\x28\xb5\x2f\xfd' + b'\xff' * 50, 'cannot be decompressed'),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, said):
    path = tmp_path / 'a.mcap'
    path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(said)):
        Bag(path)


def test_the_metadata_stands_for_its_bag(tmp_path, rig):
    folder = small_bag.write(tmp_path / 'bag', MESSAGES)
    assert read(folder / 'metadata.yaml', rig) == read(folder, rig)


@pytest.mark.parametrize('ending', ['.part', '.crdownload'])
def test_the_only_file_of_a_bag_is_an_unfinished_download(tmp_path, ending):
    folder = small_bag.write(tmp_path / 'bag', MESSAGES)
    (folder / 'bag.mcap').rename(folder / f'bag.mcap{ending}')
    with pytest.raises(BadInput, match=rf'bag.mcap: no such file, but .*bag.mcap\{ending}'):
        Bag(folder)


def test_a_packed_file_beside_its_plain_one_is_read_once(tmp_path, rig):
    (tmp_path / 'a.mcap.zst').write_bytes(b'\x28\xb5\x2f\xfd')
    write_mcap(tmp_path / 'a.mcap', MESSAGES)
    count, notes = read(tmp_path, rig)
    assert count == len(MESSAGES)
    assert notes == ['there is no metadata.yaml: all files of the folder are read']


def test_log_times_beyond_64_bits_are_read(tmp_path, rig):
    late = [(log_ns + 2**63, topic, message) for log_ns, topic, message in MESSAGES]
    count, notes = read(write_mcap(tmp_path / 'a.mcap', late), rig)
    assert count == len(MESSAGES)
    assert 'it has two clocks' in notes[0]


def test_the_topic_whose_stamps_are_of_another_clock_is_named(tmp_path, rig):
    other = [
        (log_ns + 10**13, topic, message) if topic == ODOMETRY else (log_ns, topic, message)
        for log_ns, topic, message in MESSAGES
    ]
    notes = read(write_mcap(tmp_path / 'a.mcap', other), rig)[1]
    assert notes == [
        'it has two clocks: its log times are 1e+04 s ahead of the stamps of /odometry; '
        'the stamps decide'
    ]


def test_the_bag_inside_a_folder_is_named(tmp_path):
    small_bag.write(tmp_path / 'inside', MESSAGES)
    with pytest.raises(BadInput, match='did you mean .*inside'):
        Bag(tmp_path)


def test_a_topic_in_another_encoding_is_named(tmp_path, rig):
    messages = [m for m in MESSAGES if m[1] != ODOMETRY]
    path = write_mcap(tmp_path / 'a.mcap', messages, extra=[(ODOMETRY, 'ros1', b'\0' * 40)])
    with pytest.raises(BadInput, match=f'{ODOMETRY} is encoded as ros1, expected cdr: convert'):
        read(path, rig)


def test_counts_without_messages_are_an_error_that_says_so(tmp_path, rig):
    folder = small_bag.write(tmp_path / 'bag', MESSAGES)
    write_mcap(folder / 'bag.mcap', [m for m in MESSAGES if m[1] != ODOMETRY][:-1])
    extra = [(ODOMETRY, 'cdr', b'')]
    write_mcap(folder / 'bag.mcap', [m for m in MESSAGES if m[1] != ODOMETRY], extra=extra)
    with Bag(folder) as bag:
        assert bag.count(ODOMETRY) == 1
        assert bag.count(image_topic('front_wide')) == 11


@pytest.mark.parametrize(
    ('name', 'wanted'),
    [
        ('nav_msgs/Odometry', ODOMETRY_TYPE),
        ('nav_msgs::msg::dds_::Odometry_', ODOMETRY_TYPE),
        ('nav_msgs.msg.Odometry', ODOMETRY_TYPE),
        (ODOMETRY_TYPE, ODOMETRY_TYPE),
        ('foxglove.CompressedImage', 'foxglove/msg/CompressedImage'),
        ('', ''),
    ],
)
def test_types_in_other_spellings(name, wanted):
    assert normalize_type(name) == wanted
