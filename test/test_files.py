"""One function names, in one line, the files that downloads leave in place of others."""

import re

import pytest

from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import read_json, read_text, require_file

POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 11422654\n'


def explain(read, path, content):
    """Say in one line that begins with the path why a file of such content cannot be read."""
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f'{path}: ')
    assert '\n' not in text
    return text


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (POINTER, r'a Git LFS pointer of a file of 11,422,654 bytes, .*git lfs pull'),
        (b'\xef\xbb\xbf' + POINTER, 'a Git LFS pointer'),
        (b'', 'an empty file'),
        (bytes(4096), 'filled with zeros'),
        (b'<!DOCTYPE html><html>Sign in</html>', 'a web page'),
        (b'\n<html><head></head></html>', 'a web page'),
        (b'Entry not found', 'an error message of a server'),
        (b'PK\x03\x04\0\0', 'a zip archive'),
        (bytes(257).replace(b'\0', b'a') + b'ustar', 'a tar archive'),
    ],
)
def test_stand_in_is_named_with_what_was_expected(tmp_path, content, reason):
    text = explain(require_file, tmp_path / 'drive_0.mcap', content)
    assert re.search(reason, text)
    assert 'expected' in text


@pytest.mark.parametrize('ending', ['.incomplete', '.part', '.crdownload', '.aria2'])
def test_absent_file_with_an_unfinished_download_beside_it(tmp_path, ending):
    (tmp_path / f'tokenizer.json{ending}').write_bytes(b'{')
    with pytest.raises(BadInput, match=f'unfinished download of it .tokenizer.json{ending}'):
        require_file(tmp_path / 'tokenizer.json')


def test_unfinished_download_of_the_hub_is_found(tmp_path):
    cache = tmp_path / '.cache/huggingface/download'
    cache.mkdir(parents=True)
    (cache / 'model.safetensors.0a1b.incomplete').write_bytes(b'x')
    with pytest.raises(BadInput, match=r'download/model\.safetensors\.0a1b\.incomplete'):
        require_file(tmp_path / 'model.safetensors')


def test_a_link_to_a_blob_that_the_hub_has_not_finished(tmp_path):
    (tmp_path / 'blobs').mkdir()
    link = tmp_path / 'model.safetensors'
    link.symlink_to('blobs/0a1b')
    with pytest.raises(BadInput, match='a link to blobs/0a1b, which is not there$'):
        require_file(link)
    (tmp_path / 'blobs/0a1b.incomplete').write_bytes(b'x')
    with pytest.raises(BadInput, match=r'not there, but an unfinished .*0a1b\.incomplete'):
        require_file(link)


def test_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(BadInput, match='a folder, expected a file'):
        require_file(tmp_path)


@pytest.mark.parametrize('content', [b'\x80\x02}', b'{"a": 1}', b'\x00\x01', b'SQLite format 3\0'])
def test_other_content_is_left_to_its_reader(tmp_path, content):
    path = tmp_path / 'file'
    path.write_bytes(content)
    require_file(path)


def test_byte_order_mark_is_no_part_of_text_or_json(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_text(path) == '{"a": 1}'
    assert read_json(path) == {'a': 1}


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'{"a": [1, 2', 'the file ends in the middle: download it again'),
        ('{"a": "ä"}'.encode('utf-16'), 'not UTF-8 text .byte 0., expected UTF-8'),
        (b'[1, 2]', 'expected a JSON object, found list'),
        (b'[' * 100_000, 'not readable as JSON'),
    ],
)
def test_json_that_cannot_be_used_is_one_line(tmp_path, content, reason):
    assert re.search(reason, explain(read_json, tmp_path / 'config.json', content))
