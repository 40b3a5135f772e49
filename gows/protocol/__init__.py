"""The WebSocket protocol without I/O: bytes go in, events and bytes come out. No socket, no clock, no thread.

masking     payloads combined with their key
utf8        text that comes in pieces
frames      frames and close bodies as bytes
states      the states of a connection, and what may be sent in each
extensions  the field Sec-WebSocket-Extensions
deflate     permessage-deflate
handshake   the opening handshake
assembly    a message that is not complete yet
fastpath    messages that came in one frame and one read
rates       how much may come in a second
config      what many connections have in common
connection  Connection
metered     a Connection that is held to rates
prepared    one message for many connections
"""
