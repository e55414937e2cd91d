"""An engine in a process of its own: equal results, shared frames, and every way to lose it."""

from dataclasses import replace
from functools import partial
import json
import os
from pathlib import Path
import queue
import signal
import subprocess
import sys
import threading

import numpy as np
from process_table import is_running, wait_for_end
import pytest
from small_bag import PICTURE
import toy_engines

from alpamayo_ros.data_types import Frame, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime import memory
from alpamayo_ros.runtime.serving.engine_process import EngineProcess
from alpamayo_ros.runtime.serving.jobs import (
    EngineHere,
    EngineLost,
    InferenceFailed,
    InferenceJob,
    explain_error,
)
from alpamayo_ros.runtime.start import make_warm_up_context
from alpamayo_ros.runtime.worker import Worker

LIMIT_S = 30.0


@pytest.fixture(scope='module')
def context():
    return make_warm_up_context(load_rig('synthetic'))


@pytest.fixture(scope='module')
def process():
    """Return a host that outlives the jobs that fail in it."""
    host = EngineProcess(toy_engines.start, LIMIT_S)
    yield host
    host.close()


def job(context, seed=0):
    return InferenceJob(context, seed, SamplingOptions(num_samples=2))


def test_both_hosts_give_the_same_prediction(process, context):
    here = EngineHere(toy_engines.start)
    local, remote = here.run(job(context)), process.run(job(context))
    assert np.array_equal(local.samples, remote.samples)
    assert replace(local, samples=0, actions=0, texts=(), timing_ms={}) == replace(
        remote, samples=0, actions=0, texts=(), timing_ms={}
    )
    assert process.provenance() == here.provenance()
    pids = [json.loads(found.texts[0])['pid'] for found in (local, remote)]
    assert pids == [os.getpid(), process.pid] and here.pid == os.getpid()


def test_questions_are_answered_in_the_process_and_bad_ones_named(process, context):
    ask = partial(replace, job(context))
    reply = process.run(ask(question='What is ahead?'))
    assert reply == (f'What is ahead? {process.pid}', True)
    assert process.run(ask(question='For ever?')).has_ended is False
    with pytest.raises(InferenceFailed, match='a question about nothing') as failed:
        process.run(ask(question='Nothing?'))
    assert explain_error(failed.value)[0] == 'bad_question'


def test_frames_are_mapped_and_those_of_the_last_context_are_not_sent_again(process, context):
    rng, last_sums = np.random.default_rng(0), []
    process.run(job(replace(context, frames={})))
    rows = {
        camera: tuple(
            replace(frame, data=rng.integers(0, 256, 10_000, dtype=np.uint8)) for frame in frames
        )
        for camera, frames in context.frames.items()
    }
    for kept in (0, 12, 12, 12, 12):
        facts = json.loads(process.run(job(replace(context, frames=rows))).texts[0])
        sums = [int(frame.data.sum()) for row in rows.values() for frame in row]
        assert (facts['mapped'], facts['kept']) == (16, kept)
        assert facts['sums'] == sums
        assert facts['last sums'] == last_sums  # the last job's frames stay as they were
        last_sums = sums
        rows = {
            camera: (*row[1:], replace(row[3], data=row[3].data[::-1].copy()[: -100 * kept - 1]))
            for camera, row in rows.items()
        }


def test_a_job_goes_out_in_a_few_kilobytes_and_files_are_used_again(process, context, monkeypatch):
    sent, send = [], process._connection._send_bytes
    monkeypatch.setattr(
        process._connection, '_send_bytes', lambda data: sent.append(len(data)) or send(data)
    )
    for _ in range(4):
        fresh = {
            camera: tuple(replace(frame, data=frame.data[:9999]) for frame in row)
            for camera, row in context.frames.items()
        }
        process.run(job(replace(context, frames=fresh)))
    assert len(sent) == 4 and max(sent) < 20_000
    files = [os.readlink(link) for link in Path('/proc/self/fd').iterdir() if link.is_symlink()]
    assert sum('memfd:frame' in file for file in files) <= 2 * 32  # a map has a copy
    assert len(os.listdir(f'/proc/{process.pid}/fd')) < 40


@pytest.mark.parametrize(
    'seed, reason, detail',
    [
        (toy_engines.RAISE, 'engine_error', "KeyError: 'weights'"),
        (toy_engines.RUN_OUT_OF_MEMORY, 'out_of_memory', f'RuntimeError: {toy_engines.NVML}'),
    ],
)
def test_an_error_comes_back_with_its_reason_and_the_process_stays(
    process, context, seed, reason, detail
):
    with pytest.raises(InferenceFailed) as caught:
        process.run(job(context, seed))
    assert explain_error(caught.value) == (reason, detail)
    assert not isinstance(caught.value, EngineLost)
    process.check()


def test_a_broken_image_is_named_by_the_process(process, context):
    broken = Frame(context.t0_ns - 10**8, 'jpeg', PICTURE[:200])
    frames = {**context.frames}
    frames['front_tele'] = (*frames['front_tele'][:2], broken, frames['front_tele'][3])
    with pytest.raises(InferenceFailed) as caught:
        process.run(job(replace(context, frames=frames), toy_engines.DECODE))
    reason, detail = explain_error(caught.value)
    assert reason == 'bad_image'
    assert detail.startswith('front_tele: frame at t0-0.10 s: jpeg of 200 bytes')


@pytest.mark.parametrize(
    'seed, reason, detail',
    [
        (toy_engines.HANG, 'engine_hung', 'the inference took longer than 0.2 s'),
        (toy_engines.DIE, 'engine_died', "the engine's process ended with status 7"),
        (toy_engines.LOSE_GPU, 'gpu_lost', 'RuntimeError: CUDA error: an illegal memory access'),
    ],
)
def test_an_engine_that_hangs_dies_or_loses_its_gpu_is_lost_and_its_process_ended(
    context, seed, reason, detail
):
    host = EngineProcess(toy_engines.start, limit_s=0.2)
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(EngineLost) as caught:
        host.run(job(context, seed))
    assert caught.value.reason == reason and str(caught.value).startswith(detail)
    assert not is_running(host.pid)
    assert len(os.listdir('/proc/self/fd')) == before - 1  # neither files nor the pipe


def test_a_kill_in_the_middle_of_an_inference_or_before_one_is_noticed(context):
    host = EngineProcess(toy_engines.start, LIMIT_S)
    threading.Timer(0.2, os.kill, (host.pid, signal.SIGKILL)).start()
    for work in (lambda: host.run(job(context, toy_engines.HANG)), host.check):
        with pytest.raises(EngineLost, match="^the engine's process ended with SIGKILL$"):
            work()


def test_a_hung_engine_is_ended_at_once_when_it_is_unloaded_or_the_node_ends(context):
    posted, results = queue.Queue(), []
    worker = Worker(lambda *call: posted.put(call), results.append)

    def run_one():
        function, *arguments = posted.get(timeout=LIMIT_S)
        function(*arguments)

    for end in (worker.unload, lambda: worker.stop(LIMIT_S)):
        worker.load(partial(EngineProcess, toy_engines.start, 60.0))
        run_one()
        pid = worker.engine_pid
        worker.submit(job(context, toy_engines.HANG))
        end()
        if not worker._stopped:
            run_one()  # the inference
            run_one()  # the unload
        wait_for_end(pid)
    assert [(result.reason, result.is_discarded) for result in results] == [('not_ready', True)]
    assert worker.restarts == 0


@pytest.mark.parametrize(
    'start, text',
    [
        (toy_engines.fail_to_start, 'no such folder'),
        (toy_engines.die_at_start, "the engine's process ended with status 9"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_bad_input(start, text):
    with pytest.raises(BadInput, match=f'^{text}$'):
        EngineProcess(start, LIMIT_S)


def test_the_process_ends_with_a_node_that_is_killed():
    code = (
        'import time, toy_engines\n'
        'from alpamayo_ros.runtime.serving.engine_process import EngineProcess\n'
        'print(EngineProcess(toy_engines.start, 9.0).pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    node = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, env=environment)
    pid = int(node.stdout.readline())
    node.kill()
    node.wait()
    node.stdout.close()
    wait_for_end(pid)


def test_a_gpu_is_lost_when_it_fails_to_synchronize(monkeypatch):
    import torch

    def fail():
        raise RuntimeError('CUDA error: device-side assert triggered')

    assert not memory.is_gpu_lost()
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    assert not memory.is_gpu_lost()
    monkeypatch.setattr(torch.cuda, 'synchronize', fail)
    assert memory.is_gpu_lost()
