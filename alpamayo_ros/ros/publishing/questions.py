"""The service ~/ask: one question at a time waits for a context, then for the engine.

A question takes the engine from the paths for seconds. So it is asked while the node is inactive,
or when the parameter answer_while_active allows it. Knows no rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
import time

from ...runtime.serving.jobs import Result

CONTEXT_LIMIT_S = 5.0  # how long a question waits for inputs that can be served

Answer = Callable[[bool, str], None]  # success, and the answer or why there is none


class Questions:
    """The question that is open. `waiting`: its text until a context has taken it, else ''."""

    def __init__(self) -> None:
        self.waiting = ''
        self._since_s = 0.0
        self._answer: Answer | None = None

    def ask(self, question: str, refusal: str, answer: Answer) -> None:
        """Open a question, or answer at once: with a refusal, without words, during another one.

        answer is called once, soon or at the end of the inference.
        """
        if not question.strip():
            refusal = 'the question is empty'
        if self._answer is not None:
            refusal = 'another question is being answered'
        if refusal:
            answer(False, refusal)
            return
        self.waiting, self._since_s, self._answer = question, time.monotonic(), answer

    def take(self) -> str:
        """The text that waits, which a job now carries; '' where there is none."""
        question, self.waiting = self.waiting, ''
        return question

    def check(self, obstacle: str) -> None:
        """Give up a question that has waited too long; obstacle: what there is no context for."""
        if self.waiting and time.monotonic() - self._since_s > CONTEXT_LIMIT_S:
            self._close(False, f'no context within {CONTEXT_LIMIT_S:g} s: {obstacle}')

    def refuse(self, reason: str) -> None:
        """Give up a question that waits for a context."""
        if self.waiting:
            self._close(False, reason)

    def report(self, result: Result) -> None:
        """Answer with the result of the job that carried the question."""
        reply = result.reply
        if reply is None:
            self._close(False, ': '.join(filter(None, (result.reason, result.detail))))
        elif reply.has_ended:
            self._close(True, reply.text)
        else:
            tokens = result.job.options.max_tokens
            self._close(False, f'the answer did not end within {tokens} tokens: {reply.text}')

    def _close(self, is_answered: bool, text: str) -> None:
        answer, self._answer, self.waiting = self._answer, None, ''
        assert answer is not None
        answer(is_answered, text)
