"""alpamayo_verify on the reference tensors, and that it notices what is wrong or absent."""

import hashlib
import json
from pathlib import Path
import shutil

import numpy as np
import pytest

from alpamayo_ros.cli.verify import main
from alpamayo_ros.verify.golden import STAGES, run_stage
from alpamayo_ros.verify.golden_model import compare_model

GOLDEN = Path(__file__).parent / 'golden'


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / 'golden'
    shutil.copytree(GOLDEN, folder)
    return folder


def summary(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def edit(path, **changes):
    with np.load(path) as file:
        fields = {key: file[key] for key in file.files}
    for key, change in changes.items():
        key = key.replace('__', '.')
        changed = change(fields.pop(key))
        if changed is not None:
            fields[key] = changed
    np.savez(path, **fields)


def test_reference_files_are_the_ones_of_the_checksums():
    for line in (GOLDEN / 'SHA256SUMS').read_text().splitlines():
        digest, _, name = line.partition('  ')
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize(('stage', 'files', 'run'), STAGES)
def test_stage_holds(stage, files, run):
    rows = list(run_stage(stage, GOLDEN, files, run))
    assert bool(rows) == (stage != 'vocabulary')  # its file came with 1.5
    assert [row for row in rows if not row.passed] == []
    assert [row for row in rows if row.error is None] == []


def test_model_holds_and_velocities_are_within_1e_5():
    rows = list(compare_model(GOLDEN))
    assert [row for row in rows if not row.passed] == []
    velocities = [row.error for row in rows if row.what == 'expert velocities']
    assert len(velocities) == 3
    assert max(velocities) < 1e-5


def test_command_ends_with_json_and_status_zero(capsys):
    assert main([str(GOLDEN)]) == 0
    last = summary(capsys)
    assert last['ok'] is True
    assert last['failed'] == []
    assert last['rows'] == last['passed'] + last['not_checked'] > 150


def test_one_wrong_value_fails_its_row_only(copy, capsys):
    def nudge(v):
        v[0, 0] += 1e-3
        return v

    edit(copy / 'model/case_greedy.npz', v_steps=nudge)
    assert main([str(copy)]) == 1
    failed = summary(capsys)['failed']
    assert [(row['stage'], row['what']) for row in failed] == [('greedy', 'expert velocities')]


@pytest.mark.parametrize(
    'name', ['metrics.npz', 'smart_resize.json', 'model/meta.json', 'action_in_proj.safetensors']
)
def test_absent_file_is_a_failed_row(copy, capsys, name):
    (copy / name).unlink()
    assert main([str(copy)]) == 1
    out = capsys.readouterr().out
    assert 'expected file is absent' in out
    assert json.loads(out.splitlines()[-1])['ok'] is False


def test_truncated_file_is_a_failed_row(copy, capsys):
    path = copy / 'flow_matching.npz'
    path.write_bytes(path.read_bytes()[:2000])
    assert main([str(copy)]) == 1
    assert 'not a readable npz file' in capsys.readouterr().out


def test_absent_field_is_not_checked_and_said_so(copy, capsys):
    edit(copy / 'model/case_greedy.npz', cache_k__0=lambda v: None, noise=lambda v: v)
    assert main([str(copy)]) == 0
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if x.startswith('greedy') and 'cache_k.0' in x)
    assert 'not checked' in line
    assert json.loads(out.splitlines()[-1])['not_checked'] == 11


def test_other_sample_and_step_counts_are_read_from_the_files(copy, capsys):
    """One of two samples and the first flow step only: still a complete case."""
    rows = ('raw_sequences', 'sequences', 'rope_deltas', 'prefill_last_logits', 'decode_logits')
    rows += ('expert_attention_mask', 'noise', 'expert_inputs_embeds_step0')
    rows += tuple(f'cache_{x}__{i}' for x in 'kv' for i in range(3))
    changes = dict.fromkeys(rows, lambda v: v[:1])
    changes |= dict.fromkeys(('x_steps', 't_steps', 'v_steps'), lambda v: v[:1, :1])
    changes |= dict.fromkeys(('prefill_position_ids', 'expert_position_ids'), lambda v: v[:, :1])
    changes |= dict.fromkeys(
        ('image_embeds', 'deepstack__0', 'deepstack__1'), lambda v: v[: len(v) // 2]
    )
    changes |= dict.fromkeys(('action', 'pred_xyz', 'pred_rot'), lambda v: None)
    edit(copy / 'model/case_sampled.npz', **changes)
    meta = json.loads((copy / 'model/meta.json').read_text())
    case = meta['meta']['sampled']
    case['num_samples'] = 1
    case['decoded'] = case['decoded'][:1]
    for block in ('cot', 'meta_action', 'answer'):
        case[block] = [[case[block][0][0][:1]]]
    (copy / 'model/meta.json').write_text(json.dumps(meta))
    assert main([str(copy)]) == 0, capsys.readouterr().out


def test_checkpoint_folder_is_checked_by_itself(capsys):
    assert main([str(GOLDEN / 'model')]) == 0
    assert summary(capsys)['passed'] == 7


def test_folder_of_neither_kind_is_bad_input(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert len(error.splitlines()) == 1
