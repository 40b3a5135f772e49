"""HTTP/1.1 without I/O: heads, chunks and header fields as bytes. No socket, no clock, no thread.

dates           dates in header fields
headers         header fields
answer          the fields of an answer, given as bytes
chunked         bodies in chunks
head            the heads of requests and responses, and the bodies behind them
forwarded       Forwarded and X-Forwarded-…
proxy_protocol  the PROXY header, versions 1 and 2
"""
