"""Topics: who subscribes to what, the history of a topic, who is present, and the subprotocol gows.v1."""
