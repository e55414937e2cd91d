"""Breaks the node's logic in 100 places, one after the other, and tells which tests notice.

Run: python test/mutants_node.py [FIRST LAST], numbers of mutants. The exit status is 1 if more
than two survive, or if a mutant's text is no longer in its file.
"""

from __future__ import annotations

import sys

from mutants import run_mutants

MOST_SURVIVORS = 2
PIPELINE, WORKER, ANCHORS = 'test_pipeline.py', 'test_worker.py', 'test_anchors.py'
POLICY, OUTPUTS, DIAGNOSTICS = 'test_policy.py', 'test_outputs.py', 'test_diagnostics.py'
CONTEXT, VALIDITY, INPUTS = 'test_context.py', 'test_validity.py', 'test_inputs.py'
LIFECYCLE, REMAPS, RIG = 'test_lifecycle.py', 'test_remaps.py', 'test_rig.py'
VIDEO, EGO = 'test_video.py', 'test_ego.py'
TREE, CHAIN = 'test_transform_tree.py', 'test_transform_chain.py'
CALIBRATIONS = 'test_calibrations.py'
JUMPS, LOG, RETIMING = 'test_odometry_jumps.py', 'test_log_throttle.py', 'test_retiming.py'

# File below alpamayo_ros/, text, its replacement, tests of which one should fail.
MUTANTS = (
    # what may go out, and when
    ('ros/publishing/policy.py', "return state == 'active' or", 'return True or', POLICY),
    ('ros/publishing/policy.py', "(state == 'inactive' and is_requested)", 'is_requested', POLICY),
    ('ros/publishing/policy.py', "or 'non_finite' in wrong)", ')', POLICY),
    ('ros/publishing/policy.py', 'return left_ns <= 0 or', 'return left_ns < 0 or', POLICY),
    ('ros/publishing/policy.py', 'max((now_ns - t0_ns) // GRID_NS, 0)',
     'max((now_ns - t0_ns) // GRID_NS - 1, 0)', POLICY),
    ('ros/publishing/policy.py', "flagged = refused and policies.on_invalid == 'flag'",
     "flagged = policies.on_invalid == 'flag'", POLICY),
    ('ros/publishing/publication.py',
     'held is None or now_ns >= held.prediction.t0_ns + HORIZON_NS', 'held is None', POLICY),
    ('ros/publishing/publication.py', 'held, self._held, self.decision = self._held, None, None',
     'held, self.decision = self._held, None', POLICY),
    ('ros/publishing/publication.py', 'self._held, self.path_stamp_ns = plan, prediction.t0_ns',
     'self._held, self.path_stamp_ns = plan, now_ns', POLICY),
    ('ros/publishing/publication.py', 'self.path_stamp_ns = held.prediction.t0_ns', 'pass',
     POLICY),
    # the pipeline: pauses, epochs, requests
    ('ros/pipeline.py', "self.worker.discard('paused')", 'pass', PIPELINE),
    ('ros/pipeline.py', "self.worker.discard('reset')", 'pass', PIPELINE),
    ('ros/pipeline.py',
     'self._infers_next = self._infers_next and bool(question)', 'pass', PIPELINE),
    ('ros/pipeline.py', 'seed = derive_seed(self.parameters.seed, context.t0_ns)',
     'seed = self.parameters.seed', PIPELINE),
    ('ros/pipeline.py', "self.state == 'active' and age_s >", 'age_s >', PIPELINE),
    ('ros/receiving/receiver.py',
     'self.vehicle is None or pose.stamp_ns > self.vehicle.stamp_ns', 'self.vehicle is None',
     PIPELINE),
    ('ros/publishing/results.py', "self._anchors.settle('failed', reason)", 'pass', PIPELINE),
    ('ros/publishing/results.py', "        self.failure = ''\n        self.served = self.pub",
     '        self.served = self.pub', PIPELINE),
    ('ros/publishing/results.py', 'self._log.report_error(reason', 'self._log.warn(reason',
     PIPELINE),
    # anchors: what becomes of each t0
    ('ros/anchors.py', "self._decide_fate(stamp, 'dropped', 'overtaken')",
     "self._decide_fate(stamp, 'dropped', 'rate_limit')", ANCHORS),
    ('ros/anchors.py', 'self._due_ns - self._period_ns // 4', 'self._due_ns', ANCHORS),
    ('ros/anchors.py', 'abs(age_ns) > self._age_ns', 'age_ns > self._age_ns', PIPELINE),
    ('ros/anchors.py', 'self._epoch, self._due_ns = self.buffer.epoch, 0',
     'self._epoch = self.buffer.epoch', ANCHORS),
    # the log and the statuses
    ('ros/diagnostics/log_throttle.py', 'self._written_s.get(reason, -PERIOD_S)',
     'max(self._written_s.values(), default=-PERIOD_S)', LOG),
    ('ros/diagnostics/log_throttle.py', '>= PERIOD_S:', '>= 0:', LOG),
    ('ros/diagnostics/t0_status.py', 'self._is_silent = self._is_silent and not report.t0_ns',
     'self._is_silent = self._is_silent', DIAGNOSTICS),
    ('ros/diagnostics/node_statuses.py', 'if busy_s > limit_s:', 'if busy_s < limit_s:',
     DIAGNOSTICS),
    # the worker
    ('runtime/worker.py', '            self.failures_in_a_row = 0\n        elif',
     '            pass\n        elif', WORKER),
    ('runtime/worker.py', "elif result.reason not in ('bad_image', 'bad_question'):", 'else:',
     WORKER),
    ('runtime/worker.py', "if self.state == 'ready' and self._make_host is not None:",
     'if self._make_host is not None:', WORKER),
    ('runtime/serving/shared_frames.py', '        self._resting = [self',
     '        self._free += [self', 'test_engine_process.py'),
    ('runtime/worker.py', "discarded, self._discarded = self._discarded, ''",
     'discarded = self._discarded', WORKER),
    ('runtime/worker.py', "if self.state == 'loading':", 'if False:', WORKER),
    ('runtime/worker.py', 'if staleness:', 'if False:', WORKER),
    # validity of a path
    ('validity.py', "'lateral_acceleration': lateral.max() >= LATERAL_LIMIT_MPS2",
     "'lateral_acceleration': False", VALIDITY),
    ('validity.py', 'np.maximum(speed[:-1] ** 2, speed[1:] ** 2)', 'speed[1:] ** 2', VALIDITY),
    ('validity.py', 'abs(across) > JUMP_ACROSS_M', 'across > JUMP_ACROSS_M', VALIDITY),
    # videos, other sources of the motion
    ('video/bitstream.py', 'number not in (last, (last + 1) % (1 << self._bits))',
     'number < last', VIDEO),
    ('video/bitstream.py', 'if is_key or unit[0] & 0x60:', 'if True:', VIDEO),
    ('video/decoder.py', 'if not self._waits_since or is_key(self._codec, data):', 'if True:',
     VIDEO),
    ('video/decoder.py', 'packet.stamp_ns < self._newest_ns - BACK_NS', 'False', VIDEO),
    ('video/decoder_thread.py', 'if len(self._last) >= MOST_WAITING:', 'if False:', VIDEO),
    ('ros/anchors.py', 'if name == self.rig.anchor and why.t0_ns:', 'if False:', VIDEO),
    ('ros/receiving/ego.py', 'if gap_ns > TWIST_GAP_NS:', 'if False:', EGO),
    ('ros/receiving/ego.py', 'if not (has_later or is_last or waited_ns > TWIST_GAP_NS):',
     'if not (has_later or is_last):', EGO),
    ('ros/receiving/ego.py', '(yaw_rate * r[1] if r[1] else 0.0)', '0.0', EGO),
    ('ros/receiving/ego.py', 'left * (lateral_mps + yaw_rate * r[0])', 'left * lateral_mps', EGO),
    ('ros/receiving/ego.py', '                    poses += self._release(is_last=True)\n', '',
     EGO),
    ('rig.py', "== 'use' and ego.has_twist", "== 'use'", EGO),
    ('ros/receiving/field_of_view.py', '> TOLERANCE * nominal', '> 2 * TOLERANCE * nominal',
     'test_calibrations.py'),
    # the inputs and their history
    ('context/buffer.py', 'is_behind = step_ns < -LATE_NS and not is_copy',
     'is_behind = step_ns < -COPY_NS and not is_copy', CONTEXT),
    ('context/ego_history.py', 'if after - before > max_gap_ns:',
     'if after - before > 2 * max_gap_ns:', CONTEXT),
    ('context/frame_selection.py', 'if spreads[-1] > max_skew_ns:', 'if False:', CONTEXT),
    ('context/odometry_jumps.py', 'JUMP_M, JUMP_ACCELERATION_MPS2, STAMP_JITTER_S = 0.25,',
     'JUMP_M, JUMP_ACCELERATION_MPS2, STAMP_JITTER_S = 0.6,', JUMPS),
    ('ros/publishing/retiming.py', 'speeds = np.maximum(wanted[1:] + gap_mps * decay, 0.0)',
     'speeds = wanted[1:] + gap_mps * decay', RETIMING),
    # the lifecycle
    ('ros/lifecycle.py', 'return FAILURE', 'pass', LIFECYCLE),
    ('ros/lifecycle.py', "return self._enter('inactive', self.pipeline.deactivate)",
     "return self._enter('active', self.pipeline.deactivate)", LIFECYCLE),
    ('ros/lifecycle.py', "        self._enter('finalized', self.pipeline.deactivate)\n", '',
     LIFECYCLE),
    ('ros/lifecycle.py', "is_paused = self.pipeline.state == 'inactive'", 'is_paused = False',
     LIFECYCLE),
    ('ros/lifecycle.py', "if self.pipeline.state == 'loading':", 'if False:', LIFECYCLE),
    ('ros/lifecycle.py', "if self.pipeline.state == 'failed':\n            self.unload()", 'pass',
     LIFECYCLE),
    ('ros/lifecycle.py', 'sys.excepthook(*sys.exc_info())', 'pass', LIFECYCLE),
    ('ros/lifecycle.py', 'service.callback = answer', 'pass', LIFECYCLE),
    ('runtime/worker.py', "has_failed = self.state == 'failed'", 'has_failed = False', WORKER),
    # questions, and names of inputs
    ('ros/publishing/questions.py', 'if self._answer is not None:', 'if False:', PIPELINE,
     'question'),
    ('ros/publishing/questions.py', 'elif reply.has_ended:', 'elif True:', PIPELINE, 'question'),
    ('ros/pipeline.py', "if self.state == 'active' and not self.parameters.answer_while_active:",
     "if self.state == 'active':", PIPELINE, 'question'),
    ('ros/pipeline.py', 'self._infers_next or self.questions.waiting', 'self._infers_next',
     PIPELINE, 'question'),
    ('ros/pipeline.py', 'isinstance(found, Context) and not self.questions.waiting:',
     'isinstance(found, Context):', PIPELINE, 'question'),
    ('runtime/worker.py', 'if self._waiting is not None and self._waiting.question:', 'if False:',
     WORKER),
    ('runtime/worker.py', "'' if job.question else self._find_staleness(job.context)",
     'self._find_staleness(job.context)', WORKER),
    ('rig.py', "else f'{namespace.rstrip(\"/\")}/{value}'", "else f'/{value}'", RIG),
    ('ros/remaps.py', 'if expand(source, node) == full', 'if source == name', REMAPS),
    # late paths, and the choice among samples
    ('ros/publishing/retiming.py', 'driven_m -= np.cumsum', 'driven_m -= 0 * np.cumsum', RETIMING),
    ('ros/publishing/retiming.py', 'np.where(allowed > limit_mps, -SLOWING_MPS2, 0.0)',
     'np.where(allowed > limit_mps, 0.0, 0.0)', RETIMING),
    ('ros/publishing/policy.py', 'trusted_mps if is_slowed else math.inf', 'trusted_mps', POLICY),
    ('ros/publishing/policy.py', 'if not speed_mps > trusted_mps:', 'if speed_mps > trusted_mps:',
     POLICY),
    ('ros/publishing/trusted_speed.py', 'max(age_s + period_s, ', 'max(age_s, ', POLICY),
    ('ros/publishing/trusted_speed.py', 'KEPT = 50', 'KEPT = 500', POLICY),
    ('ros/publishing/trusted_speed.py', '_PERCENTILE = 90', '_PERCENTILE = 100', POLICY),
    ('ros/publishing/publication.py', '        self._times = LateTimes()\n        if held',
     '        if held', POLICY),
    ('ros/diagnostics/node_statuses.py', 'if TOO_FAST in served.prediction.checks:', 'if False:',
     DIAGNOSTICS),
    ('validity.py', 'NEAR_M = 2.0', 'NEAR_M = 4.0', VALIDITY),
    ('validity.py', '    others[chosen] = False\n', '', VALIDITY),
    # transforms, and what comes from them
    ('transform_tree.py', 'if gap_ns > GAP_NS:', 'if False:', TREE),
    ('transform_tree.py', 'p + part * (p_after - p)', 'p', TREE),
    ('transform_tree.py', 'if len(parents) > 1 and end not in parents:', 'if False:', TREE),
    ('transform_tree.py', "raise NoTransform(f'the transforms are a ring: {ring}')", 'return',
     TREE),
    ('transform_tree.py', 'link.stamp_ns < links[-1].stamp_ns - GAP_NS', 'False', TREE),
    ('transform_tree.py', 'return offset, geometry.multiply(inverse, pose[1])',
     'return offset, pose[1]', TREE),
    ('ros/receiving/transform_chain.py', '(link.child, link.parent) == own',
     'link.child == own[0]', EGO),
    ('ros/receiving/transform_chain.py', ' and self._waiting[-1] - stamp_ns <= GAP_NS', '', CHAIN),
    ('ros/receiving/ego.py', 'key = frame, self.tree.static_count', 'key = frame, 0', CHAIN),
    ('ros/receiving/ego.py', 'if axle is None or axle.position_m is not None:',
     'if axle is None:', CHAIN),
    ('ros/receiving/calibrations.py', 'if counts[x] == 1', 'if counts[x]', CALIBRATIONS),
    ('ros/receiving/calibrations.py', 'del self.wanted[name], self._faults[name]',
     'del self._faults[name]', CALIBRATIONS),
    # a clock that went back, and what was asked for
    ('ros/publishing/policy.py', 'return t0_ns > now_ns + FUTURE_NS', 'return False', POLICY),
    ('ros/publishing/publication.py', 'if is_ahead(held.prediction.t0_ns, now_ns):', 'if False:',
     PIPELINE),
    ('ros/pipeline.py', '        self._infers_next = False\n        self.results.reset',
     '        self.results.reset', PIPELINE),
    ('ros/pipeline.py', 'monitor.type_name != TF_TYPE', 'True', PIPELINE),
)  # fmt: skip


if __name__ == '__main__':
    sys.exit(run_mutants(MUTANTS, MOST_SURVIVORS))
