"""Videos of cameras: packets to frames, losses, and the same frames in node and replay."""

from dataclasses import replace
from fractions import Fraction
import threading

import av
import numpy as np
import pytest
from small_bag import START_NS, drive, header, image_topic, make, write, write_rig
from test_pipeline import Bench

from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.data_types import NANOSECONDS, Frame, Rejection, VideoPacket
from alpamayo_ros.replay import recorded_pictures
from alpamayo_ros.replay.recorded_pictures import read_picture
from alpamayo_ros.replay.recordings import BagItem, split_bags
from alpamayo_ros.replay.replay import Replay, Schedule
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.diagnostics.status import ERROR, WARN
from alpamayo_ros.ros.inputs import to_image
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.video import bitstream, decoder, decoder_thread
from alpamayo_ros.video.bitstream import PictureCounter, is_key
from alpamayo_ros.video.decoder import VideoDecoder
from alpamayo_ros.video.decoder_thread import DecoderThread

COUNT, KEYS, SIZE = 41, 8, (64, 48)
GRID = 10**8
LOW_DELAY = {'preset': 'ultrafast', 'tune': 'zerolatency'}
OPTIONS = {
    'h264': ('libx264', LOW_DELAY),
    'h264 high': ('libx264', {'tune': 'zerolatency', 'x264-params': 'cqm=jvt:scenecut=0'}),
    'hevc': ('libx265', LOW_DELAY | {'x265-params': 'log-level=none:repeat-headers=1'}),
    'refresh': ('libx264', LOW_DELAY | {'intra-refresh': '1'}),
    'both ways': ('libx264', {'x264-params': 'bframes=1:b-adapt=0:b-pyramid=none:scenecut=0'}),
}


def encode(name):
    """COUNT packets at 10 Hz of a picture that grows brighter, a key frame every KEYS."""
    codec, options = OPTIONS[name]
    context = av.CodecContext.create(codec, 'w')
    context.width, context.height = SIZE
    context.pix_fmt, context.gop_size, context.options = 'yuv420p', KEYS, options
    context.time_base, context.framerate = Fraction(1, 10), Fraction(10)
    coded = []
    for number in range(COUNT):
        pixels = np.full((SIZE[1], SIZE[0], 3), level(number), np.uint8)
        pixels[:24, number : number + 20] = 255 - level(number)
        picture = av.VideoFrame.from_ndarray(pixels, format='rgb24')
        picture.pts = number
        coded += context.encode(picture)
    coded += context.encode(None)
    kind = 'hevc' if name == 'hevc' else 'h264'
    return [
        VideoPacket(START_NS + packet.pts * GRID, kind, np.frombuffer(bytes(packet), np.uint8))
        for packet in coded
    ]


def level(number):
    return 40 + 4 * number


@pytest.fixture(scope='module')
def videos():
    """Packets by the name of their options."""
    return {name: encode(name) for name in OPTIONS}


def decode(packets):
    """Results of packets, one after the other: a stamp for each frame, or the reason."""
    video, found = VideoDecoder(), []
    for packet in packets:
        result = video.decode(packet)
        refused = isinstance(result, Rejection)
        assert not refused or (result.t0_ns, result.reason) == (packet.stamp_ns, 'no_key_frame')
        found += [result.detail] if refused else result
    return found


def numbers(frames):
    return [(frame.stamp_ns - START_NS) // GRID for frame in frames if isinstance(frame, Frame)]


@pytest.mark.parametrize('name', list(OPTIONS))
def test_each_packet_is_a_frame_with_its_stamp_and_its_picture(videos, name):
    frames = decode([replace(packet, frame_id='front') for packet in videos[name]])
    late = 1 if name == 'both ways' else 0  # what came behind the last picture
    assert numbers(frames) == list(range(COUNT - late))
    for number, frame in enumerate(frames):
        assert (frame.encoding, frame.width, frame.height, frame.step) == ('rgb8', 64, 48, 192)
        assert frame.frame_id == 'front'
        pixels = frame.data.reshape(48, 64, 3)
        assert np.abs(pixels[36:].astype(int) - level(number)).max() <= 6


@pytest.mark.parametrize('name', ['h264', 'h264 high', 'hevc'])
def test_a_video_begins_at_a_key_frame_and_again_at_one_after_a_loss(videos, name):
    whole = decode(videos[name])
    frames = decode(videos[name][3:12] + videos[name][13:])
    kept = [*range(8, 12), *range(16, COUNT)]
    assert numbers(frames) == kept
    codec = videos[name][0].codec
    assert frames[:5] == [f'{codec}: waits for a key frame, since none has come'] * 5
    assert frames[9:12] == [f'{codec}: waits for a key frame, since packets are missing'] * 3
    for frame in frames:
        if isinstance(frame, Frame):
            twin = whole[(frame.stamp_ns - START_NS) // GRID]
            np.testing.assert_array_equal(frame.data, twin.data)


def test_a_video_without_key_frames_goes_on_once_its_picture_is_whole(videos):
    assert not any(is_key('h264', videos['refresh'][k].data.tobytes()) for k in range(1, 7))
    frames = decode(videos['refresh'][:5] + videos['refresh'][6:])
    found = numbers(frames)
    assert found[:5] == list(range(5))
    assert 8 < found[5] <= 30
    assert found[5:] == list(range(found[5], COUNT))


def test_a_lost_picture_that_no_other_one_refers_to_costs_itself_only(videos):
    packets = videos['both ways']
    heads = [[u[0] for u in bitstream.split_units(p.data.tobytes())] for p in packets]
    lost = next(k for k, units in enumerate(heads) if k > 8 and not units[-1] & 0x60)
    gone = (packets[lost].stamp_ns - START_NS) // GRID
    frames = decode(packets[:lost] + packets[lost + 1 :])
    assert all(isinstance(frame, Frame) for frame in frames)
    assert numbers(frames) == [k for k in range(COUNT - 1) if k != gone]


def test_a_lost_picture_behind_one_that_no_other_refers_to_is_noticed(videos):
    packets = videos['both ways']
    assert [(p.stamp_ns - START_NS) // GRID for p in packets[:5]] == [0, 2, 1, 4, 3]
    frames = decode(packets[:3] + packets[4:])
    assert numbers(frames)[:2] == [0, 1]
    assert not {3, 4, 5} & set(numbers(frames))
    assert 'h264: waits for a key frame, since packets are missing' in frames


def test_a_damaged_packet_is_a_loss(videos):
    packets = list(videos['h264'])
    data = packets[3].data.copy()
    data[12:] = 0
    packets[3] = replace(packets[3], data=data)
    frames = decode(packets)
    assert numbers(frames) == [0, 1, 2, *range(8, COUNT)]


def test_stamps_that_jump_back_are_another_recording(videos):
    frames = decode(videos['h264'][8:20] + videos['h264'][4:12])
    assert numbers(frames) == [*range(8, 20), *range(8, 12)]
    assert frames[12] == 'h264: waits for a key frame, since the stamps jumped back'


def test_a_counter_that_may_leave_numbers_out_shows_no_loss():
    counter = PictureCounter()
    # profile 66, set 0, 4 bits of frame_num, order of type 2, one reference; gaps allowed or not
    for gaps, expected in ((0x00, True), (0x80, False)):
        counter.misses(b'\0\0\1\x67\x42\0\x1e\xda' + bytes([gaps, 0x80]))
        # macroblock 0, slice of type 0 and set 0, then frame_num
        slices = [b'\0\0\1\x41' + bytes([0xE0 | number << 1, 0x80]) for number in (0, 1, 3)]
        assert [counter.misses(data) for data in slices] == [False, False, expected]
        counter = PictureCounter()


@pytest.mark.parametrize('data', [b'\0\0\0\x09\x67\x42\0\x1e', b'\xff\xd8\xff\xe0' * 4])
def test_packets_without_start_code_are_refused(data):
    packet = VideoPacket(START_NS, 'h264', np.frombuffer(data, np.uint8))
    with pytest.raises(ValueError, match='h264 packet without start code: expected Annex B'):
        VideoDecoder().decode(packet)


def test_a_picture_that_is_too_large_is_not_decoded(videos, monkeypatch):
    monkeypatch.setattr(decoder, 'MAX_PIXELS', 64 * 48 - 1)
    assert numbers(decode(videos['h264'])) == []
    monkeypatch.setattr(decoder, 'MAX_PIXELS', 192 * 176)  # FFmpeg counts a border too
    assert len(numbers(decode(videos['h264']))) == COUNT


def test_without_pyav_a_video_is_refused_with_what_to_install(videos, monkeypatch):
    monkeypatch.setattr(decoder, 'av', None)
    with pytest.raises(ValueError, match=r"h264 needs PyAV: pip install 'alpamayo_ros\[video\]'"):
        VideoDecoder().decode(videos['h264'][0])


def foxglove(packet, codec='h264'):
    stamp = header(packet.stamp_ns).stamp
    kind = 'foxglove_msgs/msg/CompressedVideo'
    return make(kind, timestamp=stamp, frame_id='front', data=packet.data, format=codec)


def ffmpeg(packet, encoding='h264'):
    kind = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
    return make(kind, header=header(packet.stamp_ns, 'front'), data=packet.data, encoding=encoding)


def compressed(packet, codec='h264'):
    kind = 'sensor_msgs/msg/CompressedImage'
    return make(kind, header=header(packet.stamp_ns, 'front'), data=packet.data, format=codec)


@pytest.mark.parametrize('message', [foxglove, ffmpeg, compressed])
def test_three_types_of_message_hold_one_packet(videos, message):
    packet = replace(videos['h264'][0], frame_id='front')
    for text, codec in (('h264', 'h264'), ('h265', 'hevc'), ('HEVC', 'hevc')):
        found = to_image(message(packet, text))
        assert replace(found, data=None) == replace(packet, codec=codec, data=None)
        np.testing.assert_array_equal(found.data, packet.data)


def test_an_encoding_of_ffmpeg_may_name_the_formats_before_it(videos):
    message = ffmpeg(videos['hevc'][0], 'hevc;yuv420p;bgr8;bgr8')
    assert to_image(message).codec == 'hevc'


@pytest.mark.parametrize(
    ('message', 'text'),
    [(foxglove, "CompressedVideo format 'av1'"), (ffmpeg, "FFMPEGPacket encoding 'av1'")],
)
def test_other_codecs_are_refused_by_name(videos, message, text):
    with pytest.raises(ValueError, match=f'{text} is not one of h264, h265, hevc'):
        to_image(message(videos['h264'][0], 'av1'))


@pytest.fixture(scope='module')
def rig_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rig')
    path = write_rig(folder)
    topic = f'    topic: {image_topic("front_wide")}\n'
    text = path.read_text().replace(topic, f'{topic}    type: foxglove_msgs/msg/CompressedVideo\n')
    path.write_text(text)
    return path


def with_video(packets, lost=()):
    """A drive whose anchor camera sends a video; packets of these numbers are lost."""
    topic = image_topic('front_wide')
    messages = [x for x in drive(seconds=4.0) if x[1] != topic]
    messages += [
        (packet.stamp_ns + 20_000_000, topic, foxglove(packet))
        for number, packet in enumerate(packets)
        if number not in lost
    ]
    return sorted(messages, key=lambda message: message[0])


@pytest.fixture(scope='module')
def lossy(videos, tmp_path_factory):
    """A drive with a loss, as messages and as a bag."""
    messages = with_video(videos['h264'], lost=(18,))
    return messages, write(tmp_path_factory.mktemp('lossy') / 'bag', messages)


class Keeps(ConstantVelocityEngine):
    """Keeps the pictures of the anchor camera of every context."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def infer(self, context, seed):
        """Predict."""
        self.seen[context.t0_ns] = [x.data.tobytes() for x in context.frames['front_wide']]
        return super().infer(context, seed)


def test_node_and_replay_infer_the_same_t0_from_the_same_pictures(lossy, rig_file):
    messages, bag_path = lossy
    rig, live, offline = load_rig(rig_file), Keeps(), Keeps()
    bench = Bench(rig, live)
    for message in messages:
        bench.feed([message])
        if message[1] == image_topic('front_wide'):
            bench.run_one()  # what the decoder's thread has posted
            while bench.pipeline.worker.pending:
                bench.run_one()
    counts = bench.fates()
    with Bag(bag_path) as bag:
        refused = [
            line['reason']
            for line in Replay(bag, rig, offline, Schedule(period_ns=0)).lines()
            if 'topic' in line
        ]
    assert refused == ['no_key_frame'] * 5
    assert counts['inferred'] == len(live.seen) > 15
    del live.seen[START_NS + 15 * GRID]  # before the replay begins
    assert live.seen == offline.seen
    found = bench.reports.fates()
    waiting = [START_NS + k * GRID for k in range(19, 24)]
    assert [found[t0] for t0 in waiting] == [('rejected', 'no_key_frame')] * 5
    monitor = bench.pipeline.monitors['front_wide']
    assert (monitor.received, monitor.refused) == (40, 5)
    text = 'front_wide: h264: waits for a key frame, since packets are missing'
    assert monitor.last_refusal == text
    assert ('warning', text) in bench.log


def test_a_video_that_never_begins_says_so_in_the_status_of_its_input(videos, rig_file):
    bench = Bench(load_rig(rig_file))
    for message in with_video(videos['h264'][1:7]):
        bench.feed([message])
        if message[1] == image_topic('front_wide'):
            bench.run_one()
    status = bench.status('input/front_wide')
    assert status.message == 'front_wide: h264: waits for a key frame, since none has come'
    # the video may begin at any time; the input itself is an error as long as nothing came
    assert (status.level, bench.status('context').level) == (ERROR, WARN)


def test_what_a_decoder_refuses_is_a_bad_message(rig_file):
    bench = Bench(load_rig(rig_file))
    packet = VideoPacket(START_NS, 'h264', np.arange(9, dtype=np.uint8))
    bench.feed([(START_NS, image_topic('front_wide'), foxglove(packet))])
    bench.run_one()
    assert bench.pipeline.anchors.fates == {('rejected', 'bad_message'): 1}
    assert 'without start code' in bench.pipeline.monitors['front_wide'].last_refusal


def test_a_decoder_that_is_behind_refuses_packets(videos, monkeypatch):
    monkeypatch.setattr(decoder_thread, 'MOST_WAITING', 2)
    gate, done = threading.Event(), []
    video = DecoderThread()
    monkeypatch.setattr(video._decoder, 'decode', lambda packet: gate.wait(10))
    packet = videos['h264'][0]
    assert [video.submit(packet, done.append) for _ in range(2)] == [None, None]
    refused = video.submit(packet, done.append)
    assert (refused.t0_ns, refused.reason) == (packet.stamp_ns, 'decoder_behind')
    assert refused.detail == 'h264: 2 packets wait to be decoded'
    gate.set()
    video._pool.shutdown()
    assert [decoded.result() for decoded in done] == [True, True]
    assert len(video._last) == 2


def test_a_single_picture_is_decoded_from_the_key_frame_before_it(videos, lossy, monkeypatch):
    monkeypatch.setattr(recorded_pictures, 'SPANS_NS', (2 * GRID, None))
    expected = {x.stamp_ns: x.data for x in decode(videos['h264'])}
    topic = image_topic('front_wide')
    with Bag(lossy[1]) as bag:
        for number in (15, 25):  # more than two packets behind a key frame, and fewer
            stamp_ns = START_NS + number * GRID
            found = read_picture(bag, topic, stamp_ns, stamp_ns + 20_000_000)
            np.testing.assert_array_equal(found.ravel(), expected[stamp_ns])
        assert read_picture(bag, topic, stamp_ns, stamp_ns) is None
        with pytest.raises(ValueError, match='no key frame before it'):
            read_picture(bag, topic, START_NS + 20 * GRID, START_NS + 20 * GRID + 20_000_000)


def test_a_bag_with_a_video_is_not_cut_into_spans(lossy, rig_file):
    item = BagItem('drive', lossy[1])
    assert split_bags([item], load_rig(rig_file), GRID, NANOSECONDS // 2) == [item]
