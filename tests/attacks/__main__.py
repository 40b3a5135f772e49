"""All attacks: `python -m tests.attacks [--quick] [--only NAME] [--seconds S] [--size N]`.

A line for each: what it sent, what it cost the server, how long others waited. At the end, the failed ones again, with
their faults. Exit status 1 when one is not bounded.
"""

from __future__ import annotations

import argparse
import resource
import sys

from tests.attacks.kinds import ATTACKS
from tests.attacks.run import judge, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description="Attack a server, and measure it.")
    parser.add_argument("--quick", action="store_true", help="as in CI: some seconds each, those that CI has time for")
    parser.add_argument("--only", default="", metavar="NAME", help="only attacks with this in their name")
    parser.add_argument("--seconds", type=float, help="how long each lasts (default: five times as long as in CI)")
    parser.add_argument("--size", type=float, help="how many attackers, 1.0 (the default) being the full size")
    arguments = parser.parse_args()
    quick = arguments.quick
    chosen = [attack for attack in ATTACKS if arguments.only in attack.name and (attack.quick or not quick)]
    if not chosen:
        parser.error(f"no attack has {arguments.only!r} in its name; there are {', '.join(a.name for a in ATTACKS)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    failed: dict[str, str] = {}
    for number, attack in enumerate(chosen, 1):
        size = arguments.size or (attack.quick if quick else None) or 1.0
        cost = run(attack, arguments.seconds or attack.seconds * (1 if quick else 5), size)
        faults = "; ".join(judge(attack, cost))
        if faults:
            failed[attack.name] = faults
        print(f"{number:2}/{len(chosen)} {attack.name:42} {cost}{': ' if faults else ''}{faults}", flush=True)
    for name, faults in failed.items():
        print(f"failed: {name}: {faults}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
