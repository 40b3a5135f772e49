"""A simulator of several processes: real servers, buses, brokers and clients, in one thread and in virtual time.

`python -m tests.simulation --help` runs it; docs/explanation/design.md, "Simulation", says what it does.
"""
