"""What a browser gets from a node: the module for pages, and the dashboard made with it."""

from __future__ import annotations
