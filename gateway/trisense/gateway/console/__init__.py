"""The operators' page and what feeds it: static files, a snapshot and a WebSocket of changes."""
