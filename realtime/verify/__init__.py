"""Whether nodes, their clients and the tables agree: `zonecast verify`."""
