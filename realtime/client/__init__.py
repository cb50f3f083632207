"""A client of the service: zones kept as they are there, in a few lines.

```python
from realtime.client import watch

async with watch("http://127.0.0.1:8000", ["F1-Z1"]) as zones:
    print(zones["F1-Z1"].users)
    async for change in zones:
        print(change)
```

It speaks the protocol of `docs/protocol.md` over WebSocket, and holds what that promises: each
zone moves by whole transactions, without a gap and without a repetition, over lost connections,
restarted nodes and renewed histories.
"""

from channels.changes import Change
from channels.events import (
    Changed as UserChanged,
)
from channels.events import Entered, Event, Left, User, Zone, ZoneChanged, ZoneDeleted
from channels.positions import Position
from realtime.client.errors import TokenRefusedError, WatchError, ZoneRefusedError
from realtime.client.options import WatchOptions
from realtime.client.tokens import Token
from realtime.client.updates import Changed, Gone, Replaced, Status, Update, ZoneState
from realtime.client.watch import Watch, watch
from realtime.client.zone import WatchedZone

__all__ = [
    "Change",
    "Changed",
    "Entered",
    "Event",
    "Gone",
    "Left",
    "Position",
    "Replaced",
    "Status",
    "Token",
    "TokenRefusedError",
    "Update",
    "User",
    "UserChanged",
    "Watch",
    "WatchError",
    "WatchOptions",
    "WatchedZone",
    "Zone",
    "ZoneChanged",
    "ZoneDeleted",
    "ZoneRefusedError",
    "ZoneState",
    "watch",
]
