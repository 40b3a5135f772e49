"""Topics: who subscribes to what, the history of a topic, who is present, and the subprotocol gows.v1.

asking         asks functions of the user's, plain ones and coroutines
names          which names topics and patterns may have
patterns       finds the patterns that stand for a topic
publication    a message to a topic, its position, and the events beside it
subscriptions  which connections get what is published
history        the latest publications of topics that are kept
lost           tells subscribers that missed something
presence       who is in which topic, in all processes
notices        who joins and leaves, told together
recovery       what a client gets of the past
requests       reads what clients send
subprotocol    gows.v1: answers what clients ask
"""
