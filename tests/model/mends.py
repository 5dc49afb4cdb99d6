#!/usr/bin/python3
"""Random schedules for rows that SQLite numbered, references, UNIQUE values and their mends: through the engine, or through the model.

    mends.py run SERVERS [OPTION]...   through the engine (SERVERS: the built tests/model/servers)
    mends.py found SERVERS             the same of the schedules that failed once (the file `found`)
    mends.py check [OPTION]...         through the model (mend_model.py): the driver and its expectations are right
    mends.py canary [OPTION]...        through models that are broken on purpose: each must be caught
      --first N --count N              seeds (by default 200 from a random one; --seconds N: as many as fit)
      --kinds K,K…                     only these statements: note drop-note team match name number score repoint drop-team
                                       drop-match tag untag late (a match whose team's number was just given to another)
      --one-inserts                    teams come from server 0 only, matches from server 1: no number is given twice
      --steps N,N…                     only these steps of the schedule, -N.N: without this statement (a failure prints the shortest list found)
      --exact                          run: the model beside the engine; both must show and list the same after each step
      --no-shrink --trace              do not look for a shorter one; print each step

A schedule is a list of steps: time passes on a server; its application commits (also while the node is down, or as batches arrive); some batches
arrive in any order. What a step does is drawn from its own number and from what the server shows, so any subset of the steps is a schedule
too. At last everyone hears everything.

Numbers, stamps and versions of mends are the engine's own business; who mends first, too. What must hold, and is checked here:
  commit     a statement shows what SQLite made of it, as one batch without any mend
  hidden     nothing is parked
  row        a row that nobody deleted is shown, on each server that has it: as itself or as one with a row that was entered twice
  blend      no row shows what was written for another; no row is shown twice
  reference  a row hangs on the team that its author meant
  ends       at last there is no more news
  converge   all servers show the same rows, and digests agree
  broken     no constraint is broken
  value      each value is shown, was overwritten or deleted by somebody who knew it, or is an open conflict
  death      each deletion holds, is known to whoever put the row back or deleted it again, or is an open conflict
  list       the lists of open conflicts agree, names too
Each value tells the row for which it was written: 't17/23' was written by step 23 for the team that step 17 made. So rows are known without
their numbers. Two rows may become one if both were inserted with one UNIQUE value by applications that did not know of each other.
"""
import argparse
import os
import sys
import time

import mend_model
from mend_run import KINDS, Run
from mend_servers import Engine, Failure, Model
from mend_twins import Twins


# ---- many runs
def attempt(engine, seed, args, only=None, trace=False):
    "the run, and its Failure or None"
    run = Run(engine, seed, args.kinds, only, trace, args.one_inserts)
    try:
        run.go()
        return run, None
    except Failure as f:
        return run, f


def shrink(engine, seed, args, run, failure, seconds=30):
    "drops steps, and then statements, while it fails in the same way"
    until = time.monotonic() + seconds

    def fails(only):
        other = attempt(engine, seed, args, set(only))
        return other if other[1] and other[1].kind == failure.kind else None

    keep = [str(s.number) for s in run.steps if run.step is None or s.number <= run.step.number]
    best = fails(keep)
    if not best:  # it does not repeat
        return None, (run, failure)
    size = max(1, len(keep) // 2)
    while time.monotonic() < until:
        at, dropped = 0, False
        while at < len(keep) and time.monotonic() < until:
            other = fails(keep[:at] + keep[at + size:])
            if other:
                keep, best, dropped = keep[:at] + keep[at + size:], other, True
            else:
                at += size
        if size == 1 and not dropped:
            break
        size = max(1, size // 2)
    for name in best[0].parts:
        other = time.monotonic() < until and fails(keep + ["-" + name])
        if other:
            keep, best = keep + ["-" + name], other
    return keep, best


def report(args, engine, seed, run, failure):
    steps = args.steps and sorted(args.steps)
    if args.shrink:
        steps, (run, failure) = shrink(engine, seed, args, run, failure)
    print(f"mends: seed {seed}, {run.count} servers: {failure.kind}: {failure.text}", file=sys.stderr)
    print("\n".join(run.trace), file=sys.stderr)
    kinds = "" if args.kinds == KINDS else f" --kinds {','.join(args.kinds)}"
    only = f" --steps={','.join(steps)}" if steps else ""
    program = (f"run {args.servers}" if args.verb == "run" else args.verb) + " --exact" * args.exact + " --one-inserts" * args.one_inserts
    print(f"repeat: {sys.argv[0]} {program} --first {seed} --count 1{kinds}{only} --trace", file=sys.stderr)


def seeds_of(args):
    until = time.monotonic() + args.seconds if args.seconds else None
    for seed in range(args.first, args.first + args.count if not until else 1 << 60):
        if until and time.monotonic() >= until:
            return
        yield seed


def many(args, engine):
    done = conflicts = 0
    for seed in seeds_of(args):
        run, failure = attempt(engine, seed, args, args.steps, args.trace)
        if failure:
            report(args, engine, seed, run, failure)
            return 1
        done, conflicts = done + 1, conflicts + len(run.conflicts)
    print(f"mends: {done} schedules hold, {conflicts} open conflicts listed")
    return 0


def found(args, engine):
    "what was found once"
    failed = done = 0
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "found"), encoding="utf-8") as lines:
        for seed, *steps in (line.split() for line in lines if not line.startswith("#")):
            args.steps, args.shrink, done = set(steps[0].split(",")) if steps else None, False, done + 1
            run, failure = attempt(engine, int(seed), args, args.steps, args.trace)
            if failure:
                report(args, engine, int(seed), run, failure)
                failed += 1
    print(f"mends: {done - failed} of {done} schedules that failed once hold")
    return 1 if failed else 0


# ---- models that are broken on purpose
def broken_models():
    class Replica(mend_model.Replica):
        pass

    def broken(name, **methods):
        return type(name, (Replica,), methods)

    def number_is_identity(self, table, values):
        identity, cells = Replica.born(self, table, values)
        return (cells["id"] if table in mend_model.NUMBERED else identity), cells

    def forgetful(self, table, identity, col, seen):
        self.rows[(table, identity)].cells.pop(col, None)

    def refers_by_number(self, table, values):
        identity, cells = Replica.born(self, table, values)
        if table == "match":  # whoever had it first
            cells["team"] = min(i for i, r in ((i, r) for (t, i), r in self.rows.items() if t == "team")
                                if values["team"] in [v for _, v in r.cells["id"].values()])
        return identity, cells

    return (broken("NumberIsIdentity", born=number_is_identity), broken("RefersByNumber", born=refers_by_number),
            broken("NoSiblings", overwrite=forgetful), broken("NoRenumbering", equal_numbers=lambda *_: None),
            broken("NoUnifying", equal_values=lambda *_: None), broken("NoReviving", orphan=lambda *_: None),
            broken("UnifiesAll", entered_twice=lambda *_: True),
            broken("UpdatesRevive", merge=lambda self, c, dot, seen: Replica.merge(self, ("insert",) + c[1:] if c[0] == "update" else c, dot, seen)),
            broken("HidesDeaths", conflicts=lambda self: {c for c in Replica.conflicts(self) if c[2] != "(deleted)"}),
            broken("HidesLosers", conflicts=lambda self: {c for c in Replica.conflicts(self) if c[2] == "(deleted)"}))


def canary(args):
    missed = []
    for model in broken_models():
        caught = None
        for seed in range(args.first, args.first + args.count):
            try:
                caught = attempt(Model(model), seed, args)[1]
            except (AssertionError, KeyError, StopIteration, ValueError) as e:  # it trips over itself
                caught = Failure(type(e).__name__, "")
            if caught:
                print(f"mends: {model.__name__} is caught by seed {seed}: {caught.kind}")
                break
        if not caught:
            missed.append(model.__name__)
    if missed:
        print(f"mends: not caught in {args.count} schedules: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def arguments():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("verb", choices=("run", "found", "check", "canary"))
    p.add_argument("servers", nargs="?")
    p.add_argument("--first", type=int, default=None)
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    p.add_argument("--steps", type=lambda text: set(text.split(",")), default=None)
    p.add_argument("--no-shrink", dest="shrink", action="store_false")
    p.add_argument("--one-inserts", action="store_true")
    p.add_argument("--exact", action="store_true")
    p.add_argument("--trace", action="store_true")
    args = p.parse_args()
    if (args.verb in ("run", "found")) != (args.servers is not None) or set(args.kinds) - set(KINDS):
        p.error("see above")
    if args.first is None:
        args.first = int(time.time()) % 100000 * 10000
    if args.steps is not None:
        args.shrink = False
    return args


def main():
    args = arguments()
    engine = Engine(args.servers) if args.servers else Model()
    if args.exact:
        engine = Twins(engine)
    print(f"mends: {args.verb} from seed {args.first}, statements {','.join(args.kinds)}")
    sys.stdout.flush()
    try:
        return canary(args) if args.verb == "canary" else found(args, engine) if args.verb == "found" else many(args, engine)
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main())
