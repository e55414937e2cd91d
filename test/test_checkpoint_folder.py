"""A file of a checkpoint folder that cannot be used is named in one line."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
import torch

from alpamayo_ros.errors import BadInput
from alpamayo_ros.hub import resolve_checkpoint
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.runtime.load import load_model

MODEL = Path(__file__).parent / 'golden/model'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 11422654\n'
WITHOUT_IMAGES = (
    '{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}'
)
FILES = (
    'config.json',
    'model.safetensors',
    'vlm/config.json',
    'vlm/tokenizer.json',
    'vlm/tokenizer_config.json',
    'vlm/chat_template.json',
)


def load(folder):
    """Load weights and processor, as an engine does."""
    load_model(folder)
    return Processor(load_config(folder), folder)


def edit(path, change):
    """Change a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refusal(folder):
    """Text of the BadInput that loading raises; it is one line."""
    with pytest.raises(BadInput) as error:
        load(folder)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(
    ('content', 'message'), [(POINTER, 'Git LFS pointer'), (b'', 'an empty file'), (b'{"a', ': ')]
)
def test_file_that_is_not_what_its_name_says(checkpoint_copy, name, content, message):
    (checkpoint_copy / name).write_bytes(content)
    text = refusal(checkpoint_copy)
    assert text.startswith(f'{checkpoint_copy / name}: ')
    assert message in text


def test_weights_that_were_cut_short_say_how_much_is_there(checkpoint_copy):
    path = checkpoint_copy / 'model.safetensors'
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert f'{len(whole) - 1000:,} of {len(whole):,} bytes' in refusal(checkpoint_copy)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('config.json', lambda v: v.update(expert_cfg=None), 'expert_cfg is None'),
        ('config.json', lambda v: v.update(dtype='float8_e4m3fn'), "'float8_e4m3fn' is not one"),
        (
            'config.json',
            lambda v: v.update(compression_config={'quant_method': 'compressed-tensors'}),
            'quantized by compressed-tensors',
        ),
        ('vlm/config.json', lambda v: v['text_config'].update(hidden_act='gelu'), "is 'gelu'"),
        (
            'vlm/config.json',
            lambda v: v['vision_config'].update(in_channels=1),
            'in_channels is 1',
        ),
        (
            'vlm/config.json',
            lambda v: v['text_config']['rope_scaling'].update(rope_type='yarn'),
            "rope_type is 'yarn', expected 'default'",
        ),
        (
            'vlm/config.json',
            lambda v: v['text_config'].update(rope_parameters={'rope_theta': 1.0}),
            'rope_theta is stated as 1.0 and as',
        ),
        (
            'vlm/config.json',
            lambda v: v['text_config']['rope_scaling'].update(mrope_section=[24, 20, 20]),
            r'mrope_section \[24, 20, 20\] is 64 in all, expected half of head_dim',
        ),
        ('config.json', lambda v: v.update(action_space_cfg=[]), r'action_space_cfg is \[\]'),
        ('config.json', lambda v: v.pop('diffusion_cfg'), "'diffusion_cfg' is missing"),
        ('config.json', lambda v: v.update(traj_token_ids=[1]), r'traj_token_ids is \[1\]'),
        ('config.json', lambda v: v['traj_token_ids'].pop('history'), "'history' is missing"),
        ('config.json', lambda v: v.update(vocab_size='many'), "vocab_size is 'many'"),
        ('config.json', lambda v: v.update(vocab_size=None), 'vocab_size is None'),
        ('config.json', lambda v: v.update(vocab_size=10**400), 'vocab_size has 401 digits'),
        ('config.json', lambda v: v.update(min_pixels=10**8), 'more than max_pixels'),
        ('config.json', lambda v: v.update(max_pixels=0), 'max_pixels is 0, expected at least 1'),
        ('config.json', lambda v: v.update(tokens_per_history_traj=47), '16 poses are 48 tokens'),
        ('config.json', lambda v: v['diffusion_cfg'].update(int_method='rk4'), 'rk4'),
        ('config.json', lambda v: v.update(model_type=['a']), r"model_type is \['a'\]"),
        ('vlm/config.json', lambda v: v.update(text_config=None), 'text_config is None'),
        (
            'vlm/config.json',
            lambda v: v['vision_config'].update(num_heads=5),
            'expected a multiple of num_heads, 5',
        ),
        ('vlm/config.json', lambda v: v.pop('vision_config'), "'vision_config' is missing"),
        (
            'vlm/config.json',
            lambda v: v['vision_config'].update(deepstack_visual_indexes=3),
            'deepstack_visual_indexes is 3',
        ),
        (
            'vlm/config.json',
            lambda v: v['text_config']['rope_scaling'].update(mrope_section=[4, 2]),
            r'mrope_section is \[4, 2\], expected a list of 3',
        ),
        (
            'vlm/tokenizer.json',
            lambda v: v['pre_tokenizer'].update(type='NotYetKnown'),
            'tokenizers [0-9.]+, transformers [0-9.]+ cannot read it',
        ),
        ('vlm/tokenizer.json', lambda v: v.pop('model'), 'cannot read it as a tokenizer'),
        (  # Rust panics
            'vlm/tokenizer.json',
            lambda v: v['model'].update(continuing_subword_prefix='x' * 9),
            'cannot read it as a tokenizer: ',
        ),
        (
            'vlm/tokenizer.json',
            lambda v: v['model']['vocab'].update({'Ġsa': 2**31}),
            "the id of 'Ġsa' is 2147483648, expected 0 to 1000000",
        ),
        (
            'vlm/tokenizer.json',
            lambda v: v['model']['vocab'].update({'Ġsa': 3}),
            "'Ġsa'.* have the id 3, expected one token of an id",
        ),
        (
            'vlm/tokenizer_config.json',
            lambda v: v.update(added_tokens_decoder={'431': {'x': ['y' * 4000]}}),
            r"has '431': \{'x': \['y{60,80}, expected an id",
        ),
        (
            'config.json',
            lambda v: v['diffusion_cfg'].update(_target_=['a']),
            r"unknown _target_ \['a'\]",
        ),
        (
            'config.json',
            lambda v: v['traj_tokenizer_cfg'].update(action_space_cfg='x'),
            "config.json: 'x', expected a block with _target_",
        ),
        (
            'config.json',
            lambda v: v.update(traj_tokenizer_cfg=v['diffusion_cfg']),
            'FlowMatching stands where DiscreteTrajectoryTokenizer or DeltaTrajectoryTokenizer is',
        ),
        (
            'config.json',
            lambda v: v.pop('hist_traj_tokenizer_cfg'),
            'DiscreteTrajectoryTokenizer stands where DeltaTrajectoryTokenizer is expected',
        ),
        (
            'config.json',
            lambda v: v['traj_tokenizer_cfg'].update(num_bins='1'),
            "num_bins is '1', expected a number",
        ),
        (
            'config.json',
            lambda v: v['action_space_cfg'].update(n_waypoints=float('inf')),
            'n_waypoints is inf, expected a whole number',
        ),
        (
            'config.json',
            lambda v: v['action_space_cfg'].update(accel_bounds=[-9.8, 'x']),
            "accel_bounds is 'x', expected a number",
        ),
        (
            'config.json',
            lambda v: v['hist_traj_tokenizer_cfg'].update(predict_yaw='x'),
            "predict_yaw is 'x', expected true or false",
        ),
        (
            'vlm/tokenizer_config.json',
            lambda v: v.update(added_tokens_decoder={'x': 1}),
            'expected an id',
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template=None, template='x'),
            'expected the key chat_template',
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template='{% if x %}'),
            'cannot be rendered: Unexpected end of template',
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template='{{ messages[9].role + 1 }}'),
            'cannot be rendered',
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template=WITHOUT_IMAGES),
            "writes '<.image_pad.>' 0 times",
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template=v['chat_template'].replace('<|vision_end|>', '')),
            "writes '<.vision_end.>' 0 times for a prompt of 2 images, expected 2",
        ),
        (
            'vlm/chat_template.json',
            lambda v: v.update(chat_template=[{'name': 'tool_use', 'template': 'x'}]),
            'chat templates tool_use, expected one named default',
        ),
        ('vlm/chat_template.json', lambda v: v.update(chat_template=7), 'chat template is 7'),
        (
            'config.json',
            lambda v: v.update(max_pixels=1e308),
            'max_pixels is 1e.308, expected a whole number up to 100,000,000',
        ),
        (
            'config.json',
            lambda v: v.update(traj_vocab_size=10**8),
            'end at 100,000,533, expected at most vocab_size, 4,561',
        ),
    ],
)
def test_value_that_cannot_be_used_is_named_with_its_file(checkpoint_copy, name, change, message):
    edit(checkpoint_copy / name, change)
    with pytest.raises(BadInput, match=message) as error:
        load(checkpoint_copy)
    assert '\n' not in str(error.value)
    # a block is built without its folder at hand: its class is named instead
    assert str(error.value).startswith((f'{checkpoint_copy / name}: ', f'{name}: '))


def test_sizes_whose_product_no_tensor_has_are_one_line(checkpoint_copy):
    sizes = dict.fromkeys(('patch_size', 'temporal_patch_size'), 10**8)
    edit(checkpoint_copy / 'vlm/config.json', lambda v: v['vision_config'].update(sizes))
    with pytest.raises(BadInput, match='^config.json: sizes that are too large for a tensor: .*$'):
        load(checkpoint_copy)


def test_absent_tokenizer_is_named(checkpoint_copy):
    for name in ('tokenizer.json', 'vocab.json'):
        (checkpoint_copy / 'vlm' / name).unlink(missing_ok=True)
    assert refusal(checkpoint_copy) == f'{checkpoint_copy}/vlm/tokenizer.json: no such file'


def test_tokenizer_of_vocabulary_and_merges_has_the_same_ids(checkpoint_copy):
    """A folder of transformers 4.4x has no tokenizer.json."""
    want = load(checkpoint_copy).prompt_text((1,), 4)
    text = load(checkpoint_copy).tokenize_prompt(want, [(4, 6)] * 4)
    (checkpoint_copy / 'vlm/tokenizer.json').unlink()
    assert load(checkpoint_copy).tokenize_prompt(want, [(4, 6)] * 4).equal(text)


@pytest.mark.parametrize('kind', ['text', 'list', 'two', 'dict', 'json list', 'mark', 'jinja'])
def test_chat_template_in_every_form_gives_the_same_prompt(checkpoint_copy, kind):
    want = load(checkpoint_copy).prompt_text((1, 2), 4)
    path, settings = (
        checkpoint_copy / 'vlm/chat_template.json',
        checkpoint_copy / 'vlm/tokenizer_config.json',
    )
    template = json.loads(path.read_text())['chat_template']
    named = [{'name': 'default', 'template': template}]
    forms = {
        'text': template,
        'list': named,
        'two': [{'name': 'tool_use', 'template': 'x'}, *named],
        'dict': {'default': template, 'tool_use': 'x'},
    }
    if kind in forms:
        path.unlink()
        edit(settings, lambda v: v.update(chat_template=forms[kind]))
    elif kind == 'json list':
        path.write_text(json.dumps({'chat_template': named}))
    elif kind == 'mark':  # a byte order mark inside of the value
        path.write_text(json.dumps({'chat_template': '\ufeff' + template}))
    else:
        (checkpoint_copy / 'vlm/chat_template.jinja').write_bytes(
            b'\xef\xbb\xbf' + template.encode()
        )
    assert load(checkpoint_copy).prompt_text((1, 2), 4) == want


@pytest.mark.parametrize(
    'settings',
    [
        {'extra_special_tokens': ['<|im_start|>']},  # transformers 5
        {'extra_special_tokens': {'a': '<|im_start|>'}},  # transformers 4
        {'tokenizer_class': 'TokenizersBackend', 'is_local': True},
        {'backend': 'tokenizers', 'add_bos_token': None},
    ],
)
def test_settings_of_both_transformers_are_of_no_account(checkpoint_copy, settings):
    want = load(checkpoint_copy)
    text = want.prompt_text((1,), 4)
    edit(checkpoint_copy / 'vlm/tokenizer_config.json', lambda v: v.update(settings))
    other = load(checkpoint_copy)
    assert other.ids == want.ids
    ids = [p.tokenize_prompt(text, [(4, 6)] * 4) for p in (want, other)]
    assert ids[0].equal(ids[1])


def test_another_spelling_of_the_dtype(checkpoint_copy):
    edit(checkpoint_copy / 'config.json', lambda v: v.update(dtype='torch.float32'))
    assert load_config(checkpoint_copy).dtype == 'float32'


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.int8, torch.bool])
def test_weights_of_another_kind_of_number_are_named(checkpoint_copy, dtype):
    path, name = checkpoint_copy / 'model.safetensors', 'expert.layers.0.mlp.up_proj.weight'
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].to(dtype)}, path)
    assert f'{path}: {name} is ' in (text := refusal(checkpoint_copy))
    assert 'expected one of F64, F32, F16, BF16' in text


@pytest.mark.parametrize(
    ('ending', 'tool'),
    [('.qweight', 'GPTQ or AWQ'), ('.weight.absmax', 'bitsandbytes'), ('.weight._data', 'quanto')],
)
def test_tool_that_packed_the_weights_is_named_by_their_names(checkpoint_copy, ending, tool):
    path, name = checkpoint_copy / 'model.safetensors', 'expert.layers.0.mlp.up_proj'
    tensors = load_file(path)
    save_file(tensors | {name + ending: tensors[f'{name}.weight'].clone()}, path)
    assert tool in refusal(checkpoint_copy)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model-Q4_K_M.gguf', 'own.safetensors'])
def test_weights_under_another_name_are_named(checkpoint_copy, name):
    (checkpoint_copy / 'model.safetensors').rename(checkpoint_copy / name)
    assert f'model.safetensors: no such file, but {name}: ' in refusal(checkpoint_copy)


@pytest.mark.parametrize('name', ['model.safetensors.index.json', *FILES])
def test_link_to_a_file_that_is_gone_is_named(checkpoint_copy, name):
    path = checkpoint_copy / name
    path.unlink(missing_ok=True)
    path.symlink_to('blobs/0a1b')
    assert refusal(checkpoint_copy).startswith(f'{path}: a link to blobs/0a1b, which is not there')


@pytest.mark.parametrize('inside', ['small', 'snapshots/0a1b'])
def test_folder_around_a_checkpoint_names_the_one_inside(checkpoint_copy, tmp_path, inside):
    (tmp_path / 'around' / inside).parent.mkdir(parents=True)
    checkpoint_copy.rename(tmp_path / 'around' / inside)
    with pytest.raises(BadInput, match=f'no config.json in it; did you mean .*{inside}'):
        resolve_checkpoint(tmp_path / 'around')
