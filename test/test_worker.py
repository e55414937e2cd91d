"""The worker: newest wins, errors are values, one thread owns the engine."""

from dataclasses import replace
import queue
import threading

import pytest
from small_bag import PICTURE

from alpamayo_ros.data_types import Frame, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.images import ImageError
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime import memory, start
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.runtime.serving.jobs import EngineHere, EngineLost, InferenceJob
from alpamayo_ros.runtime.worker import Worker

LIMIT_S = 10.0
NVML = 'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1131'


class Gate(ConstantVelocityEngine):
    """Waits for a permit before each inference and raises what the permit is."""

    def __init__(self):
        super().__init__()
        self.permits = queue.Queue()
        self.started = threading.Semaphore(0)
        self.threads = set()

    def infer(self, context, seed):
        """Wait, then raise or predict."""
        self.threads.add(threading.get_ident())
        self.started.release()
        permit = self.permits.get(timeout=LIMIT_S)
        if isinstance(permit, BaseException):
            raise permit
        return super().infer(context, seed)


class Owner:
    """The owner's side: what is posted waits until it is run."""

    def __init__(self, **options):
        self.posted = queue.Queue()
        self.results = []
        self.worker = Worker(lambda *call: self.posted.put(call), self.results.append, **options)

    def run_one(self):
        """Run what was posted first; wait for it."""
        function, *arguments = self.posted.get(timeout=LIMIT_S)
        function(*arguments)

    def load(self, engine):
        """Load an engine and wait until it is there."""
        self.worker.load(lambda: EngineHere(lambda: engine))
        self.run_one()


@pytest.fixture
def context():
    return start.make_warm_up_context(load_rig('synthetic'))


@pytest.fixture
def job(context):
    """Return a function: number to a job at that t0."""
    return lambda number: InferenceJob(replace(context, t0_ns=number), number, SamplingOptions())


def test_the_newest_of_the_waiting_contexts_is_inferred_and_the_older_one_comes_back(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    assert owner.worker.submit(job(1)) is None  # runs
    assert owner.worker.submit(job(2)) is None  # waits
    assert owner.worker.submit(job(3)) == job(2)
    assert owner.worker.pending == 2
    for _ in range(2):
        engine.permits.put('go')
        owner.run_one()
    assert [result.prediction.t0_ns for result in owner.results] == [1, 3]
    assert owner.worker.pending == 0


def test_an_error_is_delivered_and_the_next_context_is_served(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    for number, permit in enumerate((KeyError('weights'), 'go')):
        owner.worker.submit(job(number))
        engine.permits.put(permit)
        owner.run_one()
    first, second = owner.results
    assert (first.prediction, first.reason, first.detail) == (
        None,
        'engine_error',
        "KeyError: 'weights'",
    )
    assert second.prediction.t0_ns == 1
    assert owner.worker.state == 'ready'


@pytest.mark.parametrize(
    'error', [RuntimeError(NVML), MemoryError(), RuntimeError('CUDA out of memory')]
)
def test_every_form_of_out_of_memory_has_its_reason(job, error):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    owner.worker.submit(job(1))
    engine.permits.put(error)
    owner.run_one()
    assert owner.results[0].reason == 'out_of_memory'
    assert not memory.is_out_of_memory(RuntimeError('shape mismatch'))


def test_inference_stops_after_failures_in_a_row_and_a_load_starts_it_again(job):
    owner, engine = Owner(max_failures=2), Gate()
    owner.load(engine)
    for permit in (RuntimeError('a'), 'go', RuntimeError('b'), RuntimeError('c')):
        owner.worker.submit(job(1))
        engine.permits.put(permit)
        owner.run_one()
    assert owner.worker.state == 'failed'
    assert owner.worker.error == '2 failures in a row: RuntimeError: c'
    owner.worker.submit(job(5))
    assert owner.posted.empty()  # nothing was begun
    owner.load(engine)
    assert owner.worker.state == 'ready'


def test_a_question_keeps_its_place_however_old_and_a_bad_one_is_no_failure(job):
    ages = iter(['', 'too old'])
    owner = Owner(max_failures=1, find_staleness=lambda context: next(ages))
    engine = Gate()
    owner.load(engine)
    owner.worker.submit(job(1))  # runs
    engine.answer = lambda context, question, seed: (f'{question} {seed}', True)
    assert owner.worker.submit(replace(job(2), question='What?')) is None
    newer = job(3)
    assert owner.worker.submit(newer) is newer
    engine.permits.put('go')
    owner.run_one()
    owner.run_one()
    assert owner.results[1].reply == ('What? 2', True)

    def refuse(context, question, seed):
        raise BadInput('no question')

    engine.answer = refuse
    owner.worker.submit(replace(job(4), question='What?'))
    owner.run_one()
    assert (owner.results[2].reason, owner.results[2].detail) == ('bad_question', 'no question')
    assert owner.worker.state == 'ready'


def test_a_broken_image_is_no_failure_of_the_engine_and_names_its_camera(job, context):
    owner, engine = Owner(max_failures=1), Gate()
    owner.load(engine)
    broken = Frame(context.t0_ns - 10**8, 'jpeg', PICTURE[:200])
    frames = {**context.frames}
    frames['front_tele'] = (*frames['front_tele'][:2], broken, frames['front_tele'][3])
    owner.worker.submit(replace(job(1), context=replace(context, frames=frames)))
    engine.permits.put(ImageError('truncated'))
    owner.run_one()
    (result,) = owner.results
    assert result.reason == 'bad_image'
    assert result.detail.startswith('front_tele: frame at t0-0.10 s: jpeg of 200 bytes')
    assert owner.worker.state == 'ready'


def test_a_failed_load_is_a_state_and_the_worker_can_load_again():
    owner = Owner()

    def fail():
        raise BadInput('no weights here')

    owner.worker.load(fail)
    assert owner.worker.state == 'loading'
    owner.run_one()
    assert (owner.worker.state, owner.worker.error) == ('failed', 'no weights here')
    owner.worker.unload()
    assert (owner.worker.state, owner.worker.error) == ('failed', 'no weights here')
    owner.run_one()
    owner.load(Gate())
    assert (owner.worker.state, owner.worker.error) == ('ready', '')


def test_loading_and_inference_share_one_thread_that_is_not_the_owners(job):
    owner, engine, loaders = Owner(), Gate(), []

    def make():
        loaders.append(threading.get_ident())
        return engine

    owner.worker.load(lambda: EngineHere(make))
    owner.run_one()
    owner.worker.submit(job(1))
    engine.permits.put('go')
    owner.run_one()
    assert set(loaders) == engine.threads
    assert threading.get_ident() not in engine.threads


def test_what_waits_and_what_runs_is_discarded_when_the_model_is_unloaded(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    owner.worker.submit(job(1))
    owner.worker.submit(job(2))
    owner.worker.unload()
    engine.permits.put('go')
    owner.run_one()  # the inference that ran
    owner.run_one()
    found = [(r.job.seed, r.reason, r.is_discarded, r.prediction) for r in owner.results]
    assert found == [(2, 'not_ready', True, None), (1, 'not_ready', True, None)]
    assert owner.worker.state == 'unloaded'


def test_a_load_that_was_overtaken_changes_nothing():
    owner, engine = Owner(), Gate()
    owner.worker.load(lambda: EngineHere(lambda: engine))
    owner.worker.unload()
    owner.run_one()
    owner.run_one()
    assert owner.worker.state == 'unloaded'


def test_the_options_of_the_job_reach_the_engine_and_the_whole_time_is_told(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    owner.worker.submit(replace(job(1), options=SamplingOptions(num_samples=3)))
    engine.permits.put('go')
    owner.run_one()
    prediction = owner.results[0].prediction
    assert len(prediction.samples) == 3
    assert prediction.timing_ms['total'] >= prediction.timing_ms['action']


def test_stop_does_not_wait_for_a_long_inference(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    owner.worker.submit(job(1))
    assert engine.started.acquire(timeout=LIMIT_S)
    assert owner.worker.busy_s > 0
    assert owner.worker.stop(limit_s=0.05) is False
    engine.permits.put('go')
    assert owner.worker.stop(limit_s=LIMIT_S) is True
    assert owner.posted.empty()  # nobody is called back after the end


def test_a_job_after_a_discard_is_served(job):
    owner, engine = Owner(), Gate()
    owner.load(engine)
    owner.worker.submit(job(1))
    owner.worker.discard('paused')
    owner.worker.submit(job(2))
    for _ in range(2):
        engine.permits.put('go')
        owner.run_one()
    assert [(r.job.seed, r.reason) for r in owner.results] == [(1, 'paused'), (2, '')]


def test_a_job_that_is_too_old_when_its_turn_comes_is_not_begun(job):
    ages = {1: '', 2: 't0 is 5.08 s old, limit 0.5 s'}
    owner = Owner(find_staleness=lambda context: ages[context.t0_ns])
    engine = Gate()
    owner.load(engine)
    owner.worker.submit(job(1))
    owner.worker.submit(job(2))
    engine.permits.put('go')
    owner.run_one()
    assert [(r.job.seed, r.reason, r.detail) for r in owner.results] == [
        (1, '', ''),
        (2, 'stale_input', ages[2]),
    ]
    assert (owner.worker.pending, owner.posted.empty()) == (0, True)


def test_a_load_during_a_load_is_the_same_load():
    owner, made = Owner(), []
    for _ in range(20):
        owner.worker.load(lambda: made.append(1) or EngineHere(Gate))
    owner.run_one()
    assert (made, owner.worker.state, owner.posted.empty()) == ([1], 'ready', True)


class Doomed(EngineHere):
    """A host that is lost with the jobs and checks of some numbers."""

    def __init__(self, lost):
        super().__init__(ConstantVelocityEngine)
        self.lost, self.is_lost, self.is_closed, self.interrupts = lost, False, False, 0

    def run(self, job):
        """Do a job, or be lost."""
        self.is_lost = job.seed in self.lost
        self.check()
        return super().run(job)

    def check(self):
        """Raise when it is lost."""
        if self.is_lost:
            raise EngineLost('engine_died', 'ended with SIGKILL')

    def close(self):
        """Note it."""
        self.is_closed = True

    def interrupt(self):
        """Count it."""
        self.interrupts += 1


def test_a_lost_engine_is_loaded_again_and_the_next_context_is_served(job):
    owner, made = Owner(), []
    owner.worker.load(lambda: made.append(Doomed(lost=(1,))) or made[-1])
    owner.run_one()
    owner.worker.submit(job(1))
    owner.worker.submit(job(2))
    owner.run_one()  # the loss
    assert (owner.worker.state, owner.worker.restarts) == ('loading', 1)
    assert owner.worker.error == 'ended with SIGKILL; restart 1'
    owner.run_one()  # the load
    assert (owner.worker.state, owner.worker.error) == ('ready', '')
    assert (len(made), made[0].is_closed, owner.worker.failures_in_a_row) == (2, True, 1)
    owner.worker.submit(job(3))
    owner.run_one()
    assert [(r.job.seed, r.reason, r.is_discarded) for r in owner.results] == [
        (2, 'not_ready', True),
        (1, 'engine_died', False),
        (3, '', False),
    ]
    assert owner.worker.failures_in_a_row == 0


def test_an_engine_that_is_lost_too_often_in_a_row_is_not_loaded_again(job):
    owner = Owner(max_failures=2)
    owner.worker.load(lambda: Doomed(lost=(1, 2)))
    owner.run_one()
    for number in (1, 2):
        owner.worker.submit(job(number))
        owner.run_one()
        if number == 1:
            owner.run_one()  # the load
    assert (owner.worker.state, owner.worker.restarts) == ('failed', 1)
    assert owner.worker.error == '2 failures in a row: ended with SIGKILL'
    assert owner.posted.empty()


def test_an_engine_that_is_lost_while_idle_is_noticed_by_a_check():
    owner, made = Owner(), []
    owner.worker.load(lambda: made.append(Doomed(lost=())) or made[-1])
    owner.run_one()
    owner.worker.check()
    owner.run_one()
    assert (owner.worker.state, owner.worker.restarts) == ('ready', 0)
    made[0].is_lost = True
    owner.worker.check()
    owner.run_one()
    assert (owner.worker.state, owner.worker.restarts) == ('loading', 1)
    owner.run_one()
    assert owner.worker.state == 'ready' and len(made) == 2


def test_only_a_job_that_runs_is_interrupted_by_a_load(job):
    owner, made = Owner(), []

    def make():
        made.append(Doomed(lost=()))
        return made[-1]

    for number in (1, 2):
        owner.worker.load(make)
        owner.run_one()
        if number == 1:
            owner.worker.submit(job(1))
            owner.run_one()
    assert [host.interrupts for host in made] == [0, 0]
    owner.worker.submit(job(2))
    owner.worker.unload()
    assert made[-1].interrupts == 1
