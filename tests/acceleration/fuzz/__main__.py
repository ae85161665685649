"""``python -m tests.acceleration.fuzz``: seeds one after the other, for as long as one likes."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile

os.environ.setdefault("STRIATE_CACHE_DIR", tempfile.mkdtemp(prefix="striate-fuzz-"))

import torch

from .known import KNOWN, STEPS, WORDS
from .running import Coverage, Left, campaign, compare, dynamos, striates, taken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceleration.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, help="how many seeds; else as many as the time allows")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    parser.add_argument("--changes", type=int, default=12, help="changes a module")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds for making a failure small")
    parser.add_argument("--dynamo", action="store_true", help="test TorchDynamo with a backend that does nothing")
    parser.add_argument("--config", action="append", default=[], help="NAME=VALUE for TorchDynamo, with --dynamo")
    parser.add_argument("--without", action="append", default=[], help="a kind of step that isn't taken")
    parser.add_argument("--unknown", action="store_true", help="leaves out what known.py tells of")
    parser.add_argument("--known", action="store_true", help="tell which of TorchDynamo's deviations hold")
    parser.add_argument("--show", action="store_true", help="print the first seed's module and steps")
    options = parser.parse_args()
    left = Left(
        frozenset(options.without) | (STEPS if options.unknown else set()), frozenset(WORDS if options.unknown else ())
    )
    if options.show:
        source, steps = taken(options.seed, options.changes, left)
        print(source.text)
        print("\n".join(f"{step.line}    # {step.kind}" for step in steps))
        return 0
    torch.set_num_threads(1)
    coverage = Coverage()
    config = {name: eval(value) for name, _, value in (each.partition("=") for each in options.config)}
    subject = dynamos(coverage, **config) if options.dynamo else striates(coverage)
    if options.known:
        for case in KNOWN:
            result = compare(case.source, list(case.steps), subject)
            told = "the same" if result is None else f"step {result[0]}, {case.steps[result[0]]}: {result[1][:200]}"
            print(f"{case.name}: {told}", flush=True)
        return 0
    seconds = float("inf") if options.count else options.seconds
    failures = campaign(
        subject, coverage, options.seed, seconds, options.count, options.changes, options.shrink,
        lambda text: print(text, flush=True), left,
    )  # fmt: skip
    print(f"{len(failures)} failures; {coverage}")
    for kind, count in collections.Counter(each.kind for each in failures).most_common():
        print(f"{count:4} {kind} (taken {coverage.kinds[kind]} times)")
    for reason, count in coverage.breaks.most_common(12):
        print(f"{count:6} breaks: {reason.splitlines()[0] if reason else ''}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
