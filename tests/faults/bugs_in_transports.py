"""Known bugs in the transports."""

from __future__ import annotations

from typing import Final

from tests.faults.edits import Edit
from tests.faults.known_bug import KnownBug

BUGS_IN_TRANSPORTS: Final = (
    KnownBug(
        "event id of the last zone only",
        "Resumable",
        (
            Edit(
                "realtime.sse.codec:PositionVector.take",
                "{**self.marks, **dict(marks)}",
                "reached(dict(marks))",
            ),
        ),
        ("tests/realtime/test_sse_codec.py",),
        r"id: A=e1:2,B=e2:0",
    ),
    KnownBug(
        "connections dropped without a word at the end",
        "Drained",
        (
            Edit(
                "realtime.websocket.session:Session.end",
                "self.send_close(why.code, why.reason)",
                "reached(self.transport.abort())",
            ),
        ),
        (
            "tests/realtime/test_websocket_shutdown.py::test_clients_are_told_to_come_back_elsewhere",
        ),
        r"\(1006, ''\) == \(3001, 'shutdown'\)",
    ),
)
