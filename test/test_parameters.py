"""NodeParameters: every field is a described, bounded parameter; files name only declared ones."""

from dataclasses import fields

import pytest
from small_bag import make

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.ros.parameters import NodeParameters, declare, descriptor, markdown_table

FIELDS = {row.name: row for row in fields(NodeParameters)}
GOOD = {'rig': 'synthetic', 'engine': 'constant_velocity'}
LIVE = {'num_samples', 'seed', 'temperature', 'top_p', 'greedy', 'max_tokens', 'flow_steps'}


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
    (limits,) = descriptor(FIELDS['temperature'], make).floating_point_range
    assert (limits.from_value, limits.to_value) == (0.01, 5.0)
    (limits,) = descriptor(FIELDS['num_samples'], make).integer_range
    assert (limits.from_value, limits.to_value) == (1, 64)
    described = descriptor(FIELDS['on_invalid'], make)
    assert described.additional_constraints == 'one of: stop, hold, flag'


def test_bits_may_be_given_as_an_integer():
    assert descriptor(FIELDS['bits'], make).dynamic_typing
    assert declare(FakeNode(**GOOD, bits=4), make).bits == 4.0


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
    after = before.changed({'num_samples': 6, 'qos_overrides./odometry.subscription.depth': 3})
    assert (before.sampling.num_samples, after.sampling.num_samples) == (1, 6)
    with pytest.raises(BadInput, match='max_tokens: 0 is not in 1'):
        before.changed({'num_samples': 2, 'max_tokens': 0})


def test_the_defaults_are_those_of_the_model_so_that_live_and_offline_agree():
    assert NodeParameters(**GOOD).sampling == SamplingOptions()


def test_the_table_names_every_parameter_once():
    rows = markdown_table().splitlines()[2:]
    assert [row.split('`')[1] for row in rows] == list(FIELDS)
