#!/usr/bin/python3
"""Servers that worked apart, statement by statement through the real engine: what tests/cluster/test_apart.py does with processes, many times.

    apart.py SERVERS [--first SEED] [--count N] [--operations N] [--phases N] [--nodes N] [--strict] [--shrink]
Each server's application runs its operations by itself, and its node finds a few transactions at a time; then the batches go to the others, all at once
or in pieces, until nothing new comes. All (two, or --nodes) must show the same rows, all that were there and none that was deleted, and park none. --phases N: the applications go
on after that, with the numbers that they knew, N times in all; then all must show the same rows, whatever these are. --strict: digests and lists of open
conflicts must agree, too. SERVERS is the built `servers`. A failure
prints its seed; --shrink, and what is left of its transactions."""
import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
sys.dont_write_bytecode = True
import test_apart  # noqa: E402

def knot():
    """Tables that refer to themselves and to each other, in a circle; few rows, so that numbers are freed and given again."""
    column = "id INTEGER PRIMARY KEY, number INTEGER, name VARCHAR(80)%s, data JSON, at VARCHAR, photo BLOB"
    refers = ", %s INTEGER REFERENCES %s(id)%s"
    parents = {"person": {"boss": "person", "team": "team"}, "team": {"lead": "person", "at_event": "event"}, "event": {"host": "team", "after": "event"}}
    script = "".join("CREATE TABLE %s(%s%s);" % (
        name, column % (" UNIQUE" if name == "team" else ""),
        "".join(refers % (c, to, " ON DELETE CASCADE" if c in ("boss", "at_event") else " ON DELETE SET NULL" if c == "after" else "")
                for c, to in refs.items())) for name, refs in parents.items())
    script += ("CREATE TABLE present(left_id INTEGER NOT NULL REFERENCES person(id) ON DELETE CASCADE, right_id INTEGER NOT NULL REFERENCES "
               "event(id) ON DELETE CASCADE, note VARCHAR, PRIMARY KEY (left_id, right_id));")
    tables = [test_apart.Table("knot.db", name, name == "team", refs) for name, refs in parents.items()]
    return script, tables + [test_apart.Table("knot.db", "present", False, {"left_id": "person", "right_id": "event"}, True)]


SHAPE = dict(test_apart.shape(), **{"knot.db": knot()})


class Restless(test_apart.Application):
    """Gives references other parents, too; what is refused was not said."""

    nodes = 2

    def operation(self, con, t, n):
        said, refused = len(self.node.said), self.done["refused"]
        super().operation(con, t, n)
        if self.done["refused"] > refused:
            del self.node.said[said:]

    def insert(self, con, t, n):
        """Now and then under a number of its own choice, which the other server may have given to another row, and never chooses itself."""
        super().insert(con, t, n)
        number = self.nodes * self.random.randrange(30) + self.server
        if self.random.random() < 0.15 and number not in self.ids(con, t.name):
            con.execute("UPDATE %s SET id = ? WHERE id = ?" % t.name, (number, con.execute("SELECT last_insert_rowid()").fetchone()[0]))
        return True

    def update(self, con, t, n):
        ids, parents = self.ids(con, t.name), list(t.parents.items())
        if not ids or not parents or self.random.random() < 0.5:
            return super().update(con, t, n)
        column, parent = self.random.choice(parents)
        con.execute("UPDATE %s SET %s = ? WHERE id = ?" % (t.name, column), (self.random.choice(self.ids(con, parent) + [None]), self.random.choice(ids)))
        return ids


class Recorder:
    """An application's server that is a database in memory; keeps what it was told."""

    def __init__(self):
        self.said = []

    def connect(self, db):
        con = sqlite3.connect(":memory:", isolation_level=None)
        con.executescript(SHAPE[db][0])
        con.set_trace_callback(self.said.append)
        return con


def transactions(db, server, seed, operations):
    """Lists of statements that write."""
    test_apart.DATABASES, test_apart.OPERATIONS = (db,), operations
    recorder = Recorder()
    Restless(recorder, server, seed, {db: SHAPE[db]}, False).work()
    out, inside, last = [], None, None
    for said in recorder.said:
        if said == last:  # once more for each trigger and cascade that it fires
            continue
        last, verb = said, said.split(None, 1)[0].upper()
        if verb == "BEGIN":
            inside = []
        elif verb == "COMMIT":
            out += [inside] if inside else []
            inside = None
        elif verb not in ("SELECT", "PRAGMA", "--"):
            if inside is None:
                out.append([said])
            else:
                inside.append(said)
    return out


class Servers:
    def __init__(self, program, sql, trace, count):
        self.trace, self.count, self.made, self.rows, self.parked = trace, count, [[] for _ in range(count)], [{}] * count, [0] * count
        self.sent = [[0] * count for _ in range(count)]  # to whom, from whom
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("open", count, sql)

    def ask(self, *words):
        line = " ".join(map(str, words))
        if self.trace:
            print(line)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the program ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def take(self, server, answer):
        if "made" in answer:  # not if the application's statement failed
            self.made[server].extend(m[0] for m in answer["made"])
            self.rows[server], self.parked[server] = answer["rows"], answer["parked"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def exchange(servers, rng):
    more, pieces = True, rng.random() < 0.5
    while more:
        more = False
        for to in rng.sample(range(servers.count), servers.count):
            for origin in rng.sample(range(servers.count), servers.count):
                sent, made = servers.sent[to][origin], servers.made[origin]
                if origin != to and sent < len(made):
                    count = rng.randint(1, len(made) - sent) if pieces else len(made) - sent
                    servers.sent[to][origin], more = sent + count, True
                    servers.take(to, servers.ask("deliver", to, *(w for version in made[sent:sent + count] for w in (origin, version))))


def born(servers, tables):
    """Who made each row says its column `data`, and no write changes that, but where two rows may be one."""
    plain = {t.name for t in tables if not t.unique and not t.pair}
    return {(name, row[3]) for rows in servers.rows for name in plain & set(rows) for row in rows[name]}


FIRST_REFERENCE = 6  # among the columns: id, number, name, data, at, photo


def lost(tables, before, after):
    """Nobody else knew of these rows: where two cannot be one, each is still there as it was, and refers to the same rows."""
    plain = {t.name: t for t in tables if not t.unique and not t.pair}
    now = {name: {row[3]: row for row in after[name]} for name in plain}
    of = {name: {row[0]: row[3] for row in after[name]} for name in plain}
    for rows in before:
        for name, t in plain.items():
            for row in rows.get(name, []):
                there = now[name].get(row[3])
                if there is None or there[1:FIRST_REFERENCE] != row[1:FIRST_REFERENCE]:
                    return "%s: was %s, is %s" % (name, row, there)
                for n, parent in enumerate(t.parents.values(), FIRST_REFERENCE):
                    meant = [r[3] for r in rows.get(parent, []) if r[0] == row[n]]
                    if parent in plain and meant and of[parent].get(there[n]) != meant[0]:
                        return "%s: %s referred to %s, and to %s now" % (name, row, meant[0], of[parent].get(there[n]))
    return None


def gone(tables, before, after, conflicts):
    """Where a UNIQUE name may make two rows one: those that had it in the end, on two servers, and no others; and each value of theirs is shown, or listed."""
    listed = {(c["table"], c["column"], str(c["loser"]["value"])) for c in conflicts}
    for t in tables:
        shown = {row[3]: row for row in after.get(t.name, [])} if t.unique else None
        for server, rows in enumerate(before if t.unique else ()):
            borns = [row[3] for row in rows.get(t.name, [])]
            for row in rows.get(t.name, []):
                if borns.count(row[3]) > 1:  # REPLACE of a row that had got another number
                    continue
                twins = {other[3] for n, others in enumerate(before) if n != server for other in others.get(t.name, []) if other[2] == row[2] is not None}
                there = [shown[born] for born in sorted(twins | {row[3]}) if born in shown]
                for n, column in enumerate(("number", "name", "data", "at"), 1):
                    if not there or (all(x[n] != row[n] for x in there) and (t.name, column, str(row[n])) not in listed):
                        return "%s: of server %d %s, and is %s" % (t.name, server, row, there)
    return None


def vanished(tables, start, before, after, conflicts):
    """What a server shows is there when all have heard of all, but what one of them had and deleted, or what lost where two gave one number."""
    listed = {(c["table"], c["loser"]["value"]) for c in conflicts if c["column"] == "data"}
    for t in tables:
        if t.unique or t.pair:
            continue
        had, has, shows = ([{row[3] for row in rows.get(t.name, [])} for rows in sides] for sides in (start, before, after))
        expected = set().union(*has) - set().union(*(x - y for x, y in zip(had, has)))
        for rows in start + before:  # two rows tell the same birth after REPLACE of one that had got another number: either may be deleted
            borns = [row[3] for row in rows.get(t.name, [])]
            expected -= {born for born in borns if borns.count(born) > 1}
        for n, born in enumerate(shows):
            missing = sorted(x for x in expected - born if (t.name, x) not in listed)
            if missing:
                return "%s: server %d does not show %s" % (t.name, n, missing[:3])
    return None


def unlike(what, sides):
    """Whether these lists, one of each server, differ from the first, and in what."""
    first = sorted(map(str, sides[0]))
    for n, side in enumerate(sides[1:], 1):
        other = sorted(map(str, side))
        if other != first:
            return "%s: only on server 0 %s, only on server %d %s" % (
                what, [r for r in first if r not in other][:3], n, [r for r in other if r not in first][:3])
    return None


def apart_still(servers, strict):
    found = next(filter(None, (unlike(name, [rows.get(name, []) for rows in servers.rows]) for name in servers.rows[0])), None)
    if found or any(servers.parked):
        return found or "parked: %s" % servers.parked
    digests, orphans, conflicts = ([servers.ask(word, server) for server in range(servers.count)] for word in ("rest", "check", "conflicts"))
    if orphans[0]["foreign"]:
        return "orphans: %s" % orphans[0]["foreign"]
    if not strict:
        return None
    if any(d["digest"] != digests[0]["digest"] for d in digests):
        return "digests: of the same rows"
    return unlike("conflicts", [c["conflicts"] for c in conflicts])


def difference(servers, tables, before):
    back = born(servers, tables) - {(name, row[3]) for rows in before for name in rows for row in rows[name] if len(row) > 3}
    if back:
        return "deleted before, and shown: %s" % sorted(back)[:3]
    missing, away = lost(tables, before, servers.rows[0]), gone(tables, before, servers.rows[0], servers.ask("conflicts", 0)["conflicts"])
    return "lost: " + missing if missing else away and "gone: " + away


def work_apart(servers, work):
    for _, server, statements, looks in work:
        servers.ask("begin", server)
        for statement in statements:
            servers.ask("try", server, statement)
        servers.take(server, servers.ask("commit" if looks else "pile", server))
    for server in range(servers.count):
        servers.take(server, servers.ask("rest", server))  # also after a statement that failed


def run(args, db, seed, work, trace=False):
    """What is wrong in the end, or None. work: (phase, server, statements, whether its node looks then) in order."""
    servers, rng = Servers(args.servers, SHAPE[db][0], trace, args.nodes), random.Random(seed)
    try:
        for phase in range(args.phases):
            start = list(servers.rows)
            work_apart(servers, [w for w in work if w[0] == phase])
            before = list(servers.rows)
            exchange(servers, rng)
            missing = None if any(servers.parked) else vanished(SHAPE[db][1], start, before, servers.rows, servers.ask("conflicts", 0)["conflicts"])
            if missing:
                return "vanished: phase %d, %s" % (phase, missing)
            if rng.random() < 0.5:  # else the applications go on with what they read before
                for server in range(servers.count):
                    servers.ask("time", server)
        for _ in range(5):
            if not any(servers.parked):
                break
            servers.ask("skip", 2000)  # what was parked is tried again after a second
            for server in range(servers.count):
                servers.take(server, servers.ask("rest", server))
            exchange(servers, rng)
        return apart_still(servers, args.strict) or (difference(servers, SHAPE[db][1], before) if args.phases == 1 else None)
    except RuntimeError as e:
        return str(e)
    finally:
        servers.close()


def fewer(items, wrong):
    """What is left of these when all is taken out without which it is wrong as well."""
    size = len(items) // 2
    while size:
        at, smaller = 0, False
        while at < len(items):
            rest = items[:at] + items[at + size:]
            if wrong(rest):
                items, smaller = rest, True
            else:
                at += size
        size = size if size == 1 and smaller else size // 2
    return items


def shrink(args, db, seed, work, found):
    kind = found.split(":")[0]
    work = fewer(work, lambda rest: (run(args, db, seed, rest) or "").startswith(kind))

    def joined(parts):
        return [(phase, server, [s for at, s in parts if at == n], looks) for n, (phase, server, _, looks) in enumerate(work)]

    parts = fewer([(n, s) for n, (_, _, statements, _) in enumerate(work) for s in statements],
                  lambda rest: (run(args, db, seed, joined(rest)) or "").startswith(kind))
    print(run(args, db, seed, joined(parts), trace=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("servers")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--operations", type=int, default=90)
    parser.add_argument("--phases", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    args = parser.parse_args()
    wrong, Restless.nodes = 0, args.nodes
    for seed in range(args.first, args.first + args.count):
        db = ("plans.db", "chats.db", "knot.db", "main.db", "users.db", "knot.db")[seed % 6]
        rng = random.Random(seed)
        often = rng.choice((0.03, 0.1, 0.3, 1))
        done = [transactions(db, server, seed * args.nodes + server, args.operations) for server in range(args.nodes)]
        work = [(n * args.phases // len(done[server]), server, t, rng.random() < often)
                for server in range(args.nodes) for n, t in enumerate(done[server])]
        found = run(args, db, seed, work)
        if found:
            wrong += 1
            print("apart: seed %d: %s" % (seed, found[:600]), flush=True)
            if args.shrink:
                shrink(args, db, seed, work, found)
                break
    print("apart: %d of %d groups of servers are equal" % (args.count - wrong, args.count))
    if wrong:
        print("repeat: tests/model/apart.py %s --first SEED --count 1 --operations %d --phases %d --nodes %d --shrink" % (
            args.servers, args.operations, args.phases, args.nodes))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
