"""NodeParameters: every field is a described, bounded parameter; files name only declared ones."""

from dataclasses import fields, replace

import pytest
from small_bag import make

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.ros.declaration import (
    declare,
    find_files_of_others,
    find_unknown,
    make_descriptor,
)
from alpamayo_ros.ros.parameter_tables import format_markdown_table
from alpamayo_ros.ros.parameters import NodeParameters
from alpamayo_ros.shipped import find_shipped

FIELDS = {row.name: row for row in fields(NodeParameters)}
GOOD = {'rig': 'synthetic', 'engine': 'constant_velocity'}
LIVE = {
    'num_samples',
    'seed',
    'temperature',
    'top_p',
    'greedy',
    'max_tokens',
    'flow_steps',
}
LIVE |= {'reasoning', 'noise_temperature', 'guidance_weight', 'sample_choice'}
LIVE |= {'answer_while_active'}


class FakeNode:
    """Declares parameters and remembers the descriptors."""

    def __init__(self, **overrides):
        self.overrides, self.declared = overrides, {}

    def declare_parameter(self, name, default, described):
        """Return a parameter with the default or what overrides it."""
        self.declared[name] = described
        value = self.overrides.get(name, default)
        return type('Parameter', (), {'value': value})


@pytest.mark.parametrize('row', FIELDS.values(), ids=FIELDS)
def test_every_parameter_is_described_and_its_default_is_allowed(row):
    facts = row.metadata
    assert facts['description'].endswith('.')
    assert type(row.default).__name__ == row.type
    if facts['choices']:
        assert row.default in facts['choices']
    if facts['low'] is not None:
        assert facts['low'] <= row.default <= facts['high']
    elif row.type in ('int', 'float'):
        assert facts['choices']


def test_what_defines_the_model_is_read_only_and_sampling_is_live():
    node = FakeNode(**GOOD)
    declare(node, make)
    assert {name for name, d in node.declared.items() if not d.read_only} == LIVE


def test_a_bound_becomes_a_range_of_the_descriptor():
    (limits,) = make_descriptor(FIELDS['temperature'], make).floating_point_range
    assert (limits.from_value, limits.to_value) == (0.01, 5.0)
    (limits,) = make_descriptor(FIELDS['num_samples'], make).integer_range
    assert (limits.from_value, limits.to_value) == (1, 64)
    described = make_descriptor(FIELDS['on_invalid'], make)
    assert described.additional_constraints == 'one of: stop, hold, flag, publish_invalid'


@pytest.mark.parametrize('name', [name for name, row in FIELDS.items() if row.type == 'float'])
def test_a_floating_point_parameter_takes_whole_numbers(name):
    assert make_descriptor(FIELDS[name], make).dynamic_typing
    facts = FIELDS[name].metadata
    if facts['choices'] or facts['high'] >= 1:
        value = declare(FakeNode(**GOOD, **{name: 4 if facts['choices'] else 1}), make)
        assert type(getattr(value, name)) is float


def test_limits_of_the_rig_are_the_defaults_and_a_parameter_goes_first(tmp_path):
    text = find_shipped('config/rigs', '.yaml')['r1'].read_text(encoding='utf-8')
    rig = tmp_path / 'car.yaml'
    rig.write_text(f'max_skew_s: 0.1\nodometry_max_gap_s: 0.3\n{text}', encoding='utf-8')
    given = {**GOOD, 'rig': str(rig)}
    expected = ContextLimits(max_skew_s=0.1, odometry_max_gap_s=0.3)
    assert declare(FakeNode(**given), make).limits == expected
    parameters = declare(FakeNode(**given, max_skew_s=0.02), make)
    assert parameters.limits == replace(expected, max_skew_s=0.02)


@pytest.mark.parametrize('value', ['warm', True, [1.0]])
def test_what_is_no_number_is_refused_at_start_and_later(value):
    with pytest.raises(BadInput, match='^temperature: .* is not a number$'):
        declare(FakeNode(**GOOD, temperature=value), make)
    with pytest.raises(BadInput, match='^temperature: .* is not a number$'):
        NodeParameters(**GOOD).with_changes({'temperature': value})


@pytest.mark.parametrize(
    ('name', 'is_for_us'),
    [
        ('alpamayo', True),
        ('/alpamayo', True),
        ('/**', True),
        ('/*', True),
        ('/**/alpamayo', True),
        ('alpamayo_node', False),
        ('/front/alpamayo', False),
        ('/*/*', False),
    ],
)
def test_a_parameter_file_for_another_node_is_named(name, is_for_us, tmp_path):
    file = tmp_path / 'other.yaml'
    file.write_text(f"'{name}':\n  ros__parameters:\n    on_invalid: hold\n", encoding='utf-8')
    arguments = ['--ros-args', '-p', 'bits:=2', '--params-file', str(file)]
    found = list(find_files_of_others(arguments, '/alpamayo'))
    text = f'{file}: it has parameters of {name}, none of /alpamayo'
    assert found == ([] if is_for_us else [text])


def test_an_override_that_nobody_declares_is_named_with_the_likely_one():
    found = list(
        find_unknown(
            ['on_invald', 'seed', 'use_sim_time', 'zzz'], {'seed', 'use_sim_time'}.__contains__
        )
    )
    text = 'the node has no such parameter, its value is ignored'
    assert found == [f'on_invald: {text}; did you mean on_invalid?', f'zzz: {text}']


@pytest.mark.parametrize(
    'values, message',
    [
        ({'rig': ''}, 'rig: required'),
        ({'engine': 'alpamayo'}, 'checkpoint: required for engine=alpamayo'),
        ({'engine': 'none'}, "engine: 'none' is not one of alpamayo, constant_velocity"),
        ({'bits': 3.0}, "bits: '3.0' is not one of 1.58, 2.0, 4.0, 8.0, 16.0"),
        ({'device': 'tpu'}, "device: 'tpu' is not one of cpu, cuda, cuda:N"),
        ({'expired_path': 'keep'}, "expired_path: 'keep' is not one of drop, trim, publish"),
        ({'top_p': 0.0}, r'top_p: 0.0 is not in 0.01 \.\.\. 1.0'),
        ({'max_input_age_s': 60.0}, r'max_input_age_s: 60.0 is not in 0.05 \.\.\. 10.0'),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_those_that_are(values, message):
    with pytest.raises(BadInput, match=f'^{message}'):
        NodeParameters(**{**GOOD, **values})


def test_a_live_change_is_checked_as_a_whole_and_leaves_the_old_values():
    before = NodeParameters(**GOOD)
    after = before.with_changes(
        {'num_samples': 6, 'qos_overrides./odometry.subscription.depth': 3}
    )
    assert (before.sampling.num_samples, after.sampling.num_samples) == (1, 6)
    with pytest.raises(BadInput, match='max_tokens: 0 is not in 1'):
        before.with_changes({'num_samples': 2, 'max_tokens': 0})


def test_the_defaults_are_those_of_the_model_so_that_live_and_offline_agree():
    assert NodeParameters(**GOOD).sampling == SamplingOptions()


def test_the_table_names_every_parameter_once():
    rows = format_markdown_table().splitlines()[2:]
    assert [row.split('`')[1] for row in rows] == list(FIELDS)
