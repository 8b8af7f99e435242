"""What a node may rely on of Handlers, in whichever world."""

from __future__ import annotations

import pytest

from tests.contract.rigs import HandlerRig


@pytest.mark.parametrize("exit_code", [0, 1, 3, 4, 5, 6, 7, 20, 255])
def test_the_exit_status_arrives_once_and_later(handler_rig: HandlerRig, exit_code: int) -> None:
    handler_rig.call(1, exit_code, 60)
    assert not handler_rig.recorder.handlers  # never from inside the call
    handler_rig.run_until(lambda: 1 in handler_rig.recorder.handlers)
    assert handler_rig.recorder.handlers == {1: (exit_code, "")}


def test_handlers_run_side_by_side_and_each_is_answered(handler_rig: HandlerRig) -> None:
    for number in range(1, 9):
        handler_rig.call(number, number, 60)
    handler_rig.run_until(lambda: len(handler_rig.recorder.handlers) == 8)
    assert handler_rig.recorder.handlers == {number: (number, "") for number in range(1, 9)}


def test_one_that_does_not_end_is_killed_in_its_time_and_holds_up_nobody(
    handler_rig: HandlerRig,
) -> None:
    handler_rig.call(1, None, 1)
    handler_rig.call(2, 4, 60)
    handler_rig.run_until(lambda: 2 in handler_rig.recorder.handlers)
    assert 1 not in handler_rig.recorder.handlers
    handler_rig.run_until(lambda: 1 in handler_rig.recorder.handlers)
    assert handler_rig.recorder.handlers[1][1] == "it did not end within 1 s and was killed"
