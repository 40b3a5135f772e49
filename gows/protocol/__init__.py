"""The WebSocket protocol without I/O: bytes go in, events and bytes come out. No socket, no clock, no thread."""
