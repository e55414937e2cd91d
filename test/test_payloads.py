"""Payloads of recorded messages: damaged frames, types that fit, encodings of a database."""

import apsw
import pytest
from small_bag import ODOMETRY, drive, write

from alpamayo_ros.bags.payloads import decode_payload, decompress_payload, find_fitting_types
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.errors import BadInput

ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


@pytest.fixture(scope='module')
def database(tmp_path_factory):
    return write(tmp_path_factory.mktemp('database') / 'bag', drive(1), 'sqlite3')


@pytest.fixture(scope='module')
def odometry(database):
    with Bag(database) as bag:
        return next(bag.messages([ODOMETRY]))[2]


def test_a_damaged_frame_is_no_message(odometry):
    assert decompress_payload(odometry) == odometry
    assert decompress_payload(ZSTD_MAGIC + b'\xff' * 50) == b''
    with pytest.raises(ValueError, match=f'the payload is not a {ODOMETRY_TYPE}'):
        decode_payload(b'', ODOMETRY_TYPE)


def test_a_type_fits_only_if_it_takes_the_whole_payload(odometry):
    """An Odometry begins with a Header."""
    types = ['std_msgs/msg/Header', ODOMETRY_TYPE]
    assert find_fitting_types([odometry], types) == [ODOMETRY_TYPE]
    assert find_fitting_types([odometry, odometry[:-100]], types) == []


def test_a_topic_of_a_database_in_another_encoding_is_named(database):
    (file,) = database.glob('*.db3')
    apsw.Connection(str(file)).execute("UPDATE topics SET serialization_format = 'cbor'")
    with Bag(database) as bag, pytest.raises(BadInput, match='is encoded as cbor, expected cdr'):
        bag.require({ODOMETRY: [ODOMETRY_TYPE]})
