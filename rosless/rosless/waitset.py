"""A DDS wait set that returns which of its entities have triggered. Knows no executor.

The binding only counts them, and asking all of 50 entities after each message costs more than
taking the message.
"""

import ctypes

from cyclonedds.core import DDSException, Entity, WaitSet
from cyclonedds.internal import dds_c_t


class TriggerWaitSet(WaitSet):
    """Wait set whose `wait_for_triggered` returns entities."""

    def __init__(self, participant):
        super().__init__(participant)
        self._entities: dict[int, Entity] = {}  # address that was attached with one -> that one

    def attach(self, entity: Entity) -> None:
        """Attach an entity, unless it is."""
        super().attach(entity)
        self._note()

    def detach(self, entity: Entity) -> None:
        """Detach an entity, if it is attached."""
        super().detach(entity)
        self._note()

    def _note(self) -> None:
        self._entities = {ctypes.addressof(mark): entity for entity, mark in self.attached}

    def wait_for_triggered(self, limit_ns: int) -> set[Entity]:
        """Entities that are triggered, waited for; empty after the limit.

        Raises:
            DDSException: the wait set is gone.
        """
        marks = (dds_c_t.attach * len(self._entities))()
        count = self._waitset_wait(self._ref, marks, len(marks), limit_ns)
        if count < 0:
            raise DDSException(count, 'while waiting')
        entities = self._entities
        # what was attached or detached meanwhile is looked at in the next wait
        return {entities[mark] for mark in marks[:count] if mark in entities}
