"""An invented building and its people, for `zonecast demo`."""
