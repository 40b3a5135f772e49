"""Attacks on a server in a process of its own. The memory that they cost it, and the wait of others, are bounded.

`victim` is the server, `bystander` an honest client whose echo is timed meanwhile, `kinds` the attacks with their
bounds.
`python -m tests.attacks` (`make attacks`) runs all of them at full size, with `--quick` those of CI. `fuzz` sends
mutated requests and frames to servers of many kinds.
"""
