"""HTTP/1.1 without I/O: heads, chunks and header fields as bytes. No socket, no clock, no thread."""
