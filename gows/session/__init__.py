"""Sessions: where a stream of the reactor, a WebSocket connection of the protocol and a handler of the user meet."""
