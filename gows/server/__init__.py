"""The server: listeners, upgrades, limits, health, metrics, publishing, and how it ends.

admission  who may connect, and how many connections of one client
gate       what becomes of a connection that was accepted
signals    SIGINT and SIGTERM
health     /-/live and /-/ready
drain      the end: connections are closed one after the other
publisher  what is published to topics, and who gets it
remote     the connections in other processes
metrics    /-/metrics
gateway    an ASGI application, which something further up serves
settings   ServerOptions
serving    a server inside a running asyncio loop
server     Server
accept     accept(): a request becomes a WebSocket
routes     the WebSocket and the script for clients that use topics
"""
