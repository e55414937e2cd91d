"""The node as a managed node of ROS 2: what each transition does to the pipeline.

This table is the one place where the states of the lifecycle and those of the node meet:

| state of the lifecycle | the model | state of the node (policy.STATES) |
| --- | --- | --- |
| unconfigured | there is none, or it has failed | unloaded, failed |
| inactive | it is being loaded, or is ready | loading, inactive |
| active | it is being loaded, or is ready | loading, active |
| finalized | there is none | unloaded, failed |

configure starts to load and succeeds at once: a load takes minutes, and the executor serves the
diagnostics meanwhile. activate may follow at once; paths begin when the model is ready. A model
that cannot be loaded, or that fails too often, takes the node back to unconfigured.
"""

from __future__ import annotations

from collections.abc import Callable
import sys
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from .pipeline import Pipeline

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class ManagedNode(LifecycleNode):
    """A lifecycle node around a pipeline, which a derived class makes.

    lifecycle: label of the present state, one of those above.
    """

    pipeline: Pipeline

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lifecycle = 'unconfigured'
        self._refuse_impossible_transitions()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load the model."""
        return self._enter('inactive', self.pipeline.load)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Serve, from the moment when the model is there."""
        if self.pipeline.state == 'failed':
            return FAILURE
        return self._enter('active', self.pipeline.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Pause; the model stays."""
        return self._enter('inactive', self.pipeline.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and its memory."""
        return self._enter('unconfigured', self.pipeline.unload)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Pause and free the model, for good."""
        self._enter('finalized', self.pipeline.deactivate)
        return self._enter('finalized', self.pipeline.unload)

    def load(self) -> None:
        """Load the model, anew where there is one, and serve, unless the node was paused.

        Does nothing while a load is under way.
        """
        if self.pipeline.state == 'loading':
            return
        is_paused = self.pipeline.state == 'inactive'
        self.unload()
        if self.lifecycle == 'unconfigured':
            self.trigger_configure()
            if not is_paused:
                self.trigger_activate()

    def unload(self) -> None:
        """Come back to unconfigured."""
        self.enable(False)
        if self.lifecycle == 'inactive':
            self.trigger_cleanup()

    def enable(self, is_wanted: bool) -> bool:
        """Activate or deactivate; return whether the node is now as it was wanted."""
        wanted = 'active' if is_wanted else 'inactive'
        if self.lifecycle in ('active', 'inactive') and self.lifecycle != wanted:
            (self.trigger_activate if is_wanted else self.trigger_deactivate)()
        return self.lifecycle == wanted

    def leave_failed_model(self) -> None:
        """Come back to unconfigured when the model has failed; its state says why."""
        if self.pipeline.state == 'failed':
            self.unload()

    def _enter(self, state: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            work()
        except Exception:  # rclpy takes it for an answer; here it ends the process, as elsewhere
            sys.excepthook(*sys.exc_info())
            raise
        self.lifecycle = state
        return SUCCESS

    def _refuse_impossible_transitions(self) -> None:
        """Answer a request for a transition that the state does not have.

        rclpy raises an error out of its own service, which would end the process
        (https://github.com/ros2/rclpy/issues/1209).
        """
        (service,) = (row for row in self.services if row.srv_name.endswith('/change_state'))
        change = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except RuntimeError as error:
                self.get_logger().warning(f'change_state: {" ".join(str(error).split())}')
                response.success = False
                return response

        service.callback = answer
