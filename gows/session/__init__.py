"""Sessions: where a stream of the reactor, a WebSocket connection of the protocol and a handler of the user meet.

states      the events and flags of a session, and the tables of what leads where
traffic     counters of what was received and sent, and of how connections ended
handler     the callbacks of one connection, which the user writes
receiving   the budget of what is held of unfinished messages, and of those that wait for a handler
heartbeat   pings and timeouts: when a connection is looked at, and what is found
backlog     messages that are kept back for a peer that takes nothing
overflow    what peers do not take: the counts, the budget of what waits for all, who waits for room
awaiting    … coroutines that wait for room, or for the end
policy      … what becomes of a message for such a peer: one class for each policy
owner       what a session needs from its server
context     what the sessions with equal options share, and where it is found
writer      a message that is written in pieces
sending     one connection: what is written, in any thread
delivering  … what the handler is called with, in a worker or in the loop
session     … what is read, and deadlines, in the loop's thread
websocket   the user's side of one connection
fanout      one message to very many connections
"""
