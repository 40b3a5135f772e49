"""The broker of one machine: topics over the bus between the processes of `gows.run`.

state   what is known of each topic that is kept, and of what is under way
core    KeptCore: what the other parts share: the topics, sending, timers, and subscribers that wait
sync    KeptSync: compares topics with other processes, and fetches what is missing here
home    KeptHome: numbers topics, and becomes the process that does
topics  KeptTopics: publishes, and handles what other processes send; the rules, and the messages
broker  LocalBroker: what the server calls
"""

from gows.brokers.local.broker import LocalBroker, home_of

__all__ = ["LocalBroker", "home_of"]
