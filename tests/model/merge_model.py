#!/usr/bin/python3
"""Executable specification of Starling's merge rules for rows whose key the application gives.

    merge_model.py check [SEEDS] [FIRST]      the model's own promises over random schedules
    merge_model.py schedules FIRST COUNT      schedules with all expectations, for model_driver

What a replica knows of a row
    per column  the siblings: the writes that no later author had seen. The highest stamp is the value shown.
    life        the last insert and the last death. The row is shown while the insert is the newer one, so an update that met
                a deletion does not bring the row back.
    deaths      those that no later author had seen, each with what its own author had seen.

A batch is what one replica committed: `after` is all that its author had applied, and orders delivery; `knew` is the same less what
came in the last moments (the application may have read before, and written after), and alone decides what was seen.

Open conflicts are what lost to somebody who did not know of it
    a sibling that is not the value;
    in a dead row, a write that none of its deaths' authors had seen;
    in a living row, a death that no later author had seen.

Values are SQL literals throughout ('t1', 17, 0.5, X'00', NULL): two values are the same if storage class and bytes are.
"""
import base64
import random
import sys
from collections import namedtuple

COLUMNS = ("a", "b")
NEVER = (0, -1)  # below every stamp; a stamp is (clock, replica)
NULL = "NULL"

Batch = namedtuple("Batch", "origin version after knew changes")
Change = namedtuple("Change", "kind key values stamp")  # kind: insert, update, delete; values: column -> literal
Write = namedtuple("Write", "stamp value")
Death = namedtuple("Death", "stamp knew")
Shape = namedtuple("Shape", "create key keys")  # CREATE TABLE, the key's columns, three keys as tuples of literals

SHAPES = (
    Shape("CREATE TABLE note(key TEXT PRIMARY KEY, a, b)", ("key",), (("'x'",), ("'y'",), ("'z'",))),
    Shape("CREATE TABLE note(key TEXT PRIMARY KEY, a, b) WITHOUT ROWID", ("key",), (("'x'",), ("''",), ("'1'",))),
    Shape("CREATE TABLE note(a, k1 TEXT, b, k2 INTEGER, PRIMARY KEY(k2, k1))", ("k2", "k1"),
          (("1", "'x'"), ("1", "'y'"), ("2", "'x'"))),
    Shape("CREATE TABLE note(key INTEGER PRIMARY KEY, a, b)", ("key",), (("1",), ("-7",), ("5000000000",))),
    Shape("CREATE TABLE note(b, key BLOB PRIMARY KEY, a)", ("key",), (("X'00'",), ("X'78'",), ("'x'",))),
)


def seen(dot, vector):
    origin, version = dot
    return vector[origin] >= version


class Row:
    def __init__(self):
        self.siblings = {column: {} for column in COLUMNS}  # column -> {dot: Write}
        self.inserted, self.died = NEVER, NEVER
        self.deaths = {}  # dot -> Death

    def alive(self):
        return self.inserted > self.died

    def winner(self, column):
        return max(self.siblings[column].values())

    def forget_deaths(self, knew):
        self.deaths = {dot: d for dot, d in self.deaths.items() if not seen(dot, knew)}

    def overwrite(self, column, stamp, knew):
        "a write replaces what its author had seen and what is not newer: one that was found long after it was made may be older"
        self.siblings[column] = {dot: w for dot, w in self.siblings[column].items() if w.stamp > stamp or not seen(dot, knew)}


class Replica:
    def __init__(self, me, count):
        self.me, self.clock = me, 0
        self.have = [0] * count  # version vector of what was applied
        self.knew = [0] * count  # the same, a moment ago
        self.log = {}            # (origin, version) -> Batch
        self.held = []           # batches that wait for what their authors had applied
        self.rows = {}           # key -> Row

    # ---- merging
    def merge(self, change, dot, knew):
        row = self.rows.setdefault(change.key, Row())
        self.clock = max(self.clock, change.stamp[0])
        if change.kind in ("insert", "delete"):
            row.forget_deaths(knew)
        if change.kind == "delete":
            row.deaths[dot] = Death(change.stamp, knew)
            row.died = max(row.died, change.stamp)
        if change.kind == "insert":
            row.inserted = max(row.inserted, change.stamp)
        for column, value in change.values.items():
            row.overwrite(column, change.stamp, knew)
            row.siblings[column][dot] = Write(change.stamp, value)

    def apply(self, batch):
        dot = (batch.origin, batch.version)
        self.have[batch.origin] = batch.version
        self.log[dot] = batch
        for change in batch.changes:
            self.merge(change, dot, batch.knew)

    def receive(self, batch):
        "applies the batch, and what waited for it, as soon as all that its author had applied is here"
        self.held.append(batch)
        progress = True
        while progress:
            self.held = [b for b in self.held if b.version > self.have[b.origin]]
            progress = False
            for b in self.held:
                if b.version == self.have[b.origin] + 1 and all(h >= a for h, a in zip(self.have, b.after)):
                    self.apply(b)
                    progress = True
                    break

    # ---- the application
    def commit(self, statements):
        """One transaction of (kind, key, values), noticed and sealed as one batch; None if it changed nothing. What counts is how the rows
        look afterwards: several statements on a row are one change, all changes of a batch have one stamp, and a row that was deleted and
        inserted again is inserted anew. A row that was replaced is inserted over itself: it lives, whatever others did to it, but a column
        that stayed as it was is not written."""
        before = self.show()
        rows, reborn, replaced = {key: dict(cells) for key, cells in before.items()}, set(), set()
        for kind, key, values in statements:
            if kind == "delete":
                del rows[key]
                reborn.add(key)
            else:
                rows.setdefault(key, {}).update(values)
            if kind == "replace":
                replaced.add(key)
        stamp = (self.clock + 1, self.me)
        changes = []
        for key in dict.fromkeys(key for _, key, _ in statements):
            if key not in rows:
                kind, values = "delete", {}
            elif key not in before or key in reborn:
                kind, values = "insert", rows[key]
            else:
                kind = "insert" if key in replaced else "update"
                values = {c: v for c, v in rows[key].items() if v != before[key][c]}
            if key in before and (kind != "update" or values) or key in rows and key not in before:
                changes.append(Change(kind, key, values, stamp))
        if not changes:
            return None
        knew = list(self.knew)
        knew[self.me] = self.have[self.me]  # one's own writes are always known
        batch = Batch(self.me, self.have[self.me] + 1, list(self.have), knew, changes)
        self.apply(batch)
        return batch

    def time_passes(self):
        self.knew = list(self.have)

    def show(self):
        return {key: {c: row.winner(c).value for c in COLUMNS} for key, row in self.rows.items() if row.alive()}

    def conflicts(self):
        "a set of (key, column or '(deleted)', stamp, value)"
        out = set()
        for key, row in self.rows.items():
            for column in COLUMNS:
                siblings = row.siblings[column]
                if not siblings:
                    continue
                shown = row.winner(column).value
                for dot, write in siblings.items():
                    lost = write.value != shown
                    unnoticed = not row.alive() and not any(seen(dot, d.knew) for d in row.deaths.values())
                    if lost or unnoticed:
                        out.add((key, column, write.stamp, write.value))
            if row.alive():
                out |= {(key, "(deleted)", d.stamp, NULL) for d in row.deaths.values()}
        return out


# ---- what SQL and the expectations look like
def where(shape, key):
    return " AND ".join(f"{column}={literal}" for column, literal in zip(shape.key, key))


def sql(shape, kind, key, values):
    if kind in ("insert", "replace"):
        names = ",".join(shape.key + tuple(values))
        return f"{kind.upper()} INTO note({names}) VALUES({','.join(key + tuple(values.values()))})"
    if kind == "update":
        return f"UPDATE note SET {','.join(f'{c}={v}' for c, v in values.items())} WHERE {where(shape, key)}"
    return f"DELETE FROM note WHERE {where(shape, key)}"


def as_listed(literal):
    "a literal as the list of conflicts has it: BLOBs go through JSON as base64"
    if literal.startswith("X'"):
        return "base64:" + base64.b64encode(bytes.fromhex(literal[2:-1])).decode()
    return literal


def rows_expected(replica):
    return sorted(" ".join(("row",) + key + tuple(cells[c] for c in COLUMNS)) for key, cells in replica.show().items())


def conflicts_expected(replica):
    return sorted(f"lost {','.join(map(as_listed, key))} {column} {stamp[0]} {stamp[1]} {as_listed(value)}"
                  for key, column, stamp, value in replica.conflicts())


# ---- random schedules
class Schedule:
    def __init__(self, seed):
        self.seed, self.random = seed, random.Random(seed)
        count = 2 + seed % 3
        self.replicas = [Replica(me, count) for me in range(count)]
        self.shape = SHAPES[self.random.randrange(len(SHAPES))]
        self.few_values = self.random.random() < 0.4  # then writers often agree, and updates often change nothing
        self.values_made = 0
        self.lines = [f"schedule {seed} {count}", f"table {self.shape.create}",
                      f"select SELECT {','.join(f'quote({c})' for c in self.shape.key + COLUMNS)} FROM note"]

    def value(self):
        self.values_made += 1
        n = self.random.randrange(4) if self.few_values else self.values_made
        kinds = [f"{n}", f"'t{n}'", f"{n}.5", f"X'{n % 256:02X}00'", NULL, f"{-n * 10 ** 9}", f"'{n}'"]
        return kinds[self.random.randrange(2 if self.few_values else len(kinds))]

    def expect(self, r):
        "what the replica must show now"
        replica = self.replicas[r]
        self.lines.append(f"have {r} {' '.join(map(str, replica.have))}")
        for name, lines in (("rows", rows_expected(replica)), ("conflicts", conflicts_expected(replica))):
            self.lines.append(f"{name} {r} {len(lines)}")
            self.lines += lines

    def statement(self, rows):
        "a random one that fits the rows shown, and what it makes of them"
        rnd = self.random
        key = rnd.choice(self.shape.keys)
        if key not in rows:
            kind, columns = "insert", COLUMNS
        elif rnd.random() < 0.3:
            kind, columns = "delete", ()
        elif rnd.random() < 0.2:
            kind, columns = "replace", COLUMNS
        else:
            kind, columns = "update", rnd.choice([("a",), ("b",), ("a", "b")])
        values = {c: self.value() for c in columns}
        if kind == "replace":  # by nearly what was there
            values = {c: rows[key][c] if rnd.random() < 0.6 else v for c, v in values.items()}
        rows = dict(rows)
        if kind == "delete":
            del rows[key]
        else:
            rows[key] = {**rows.get(key, {}), **values}
        return (kind, key, values), rows

    def act(self, r):
        "one random transaction; now and then the node is down meanwhile"
        replica, rnd = self.replicas[r], self.random
        rows, statements = replica.show(), []
        for _ in range(1 if rnd.random() < 0.7 else rnd.randrange(2, 5)):
            statement, rows = self.statement(rows)
            statements.append(statement)
        verb = "act"
        if rnd.random() < 0.04:
            self.time_passes(r)  # a restart takes longer than a moment
            replica.held.clear()  # and what waited is delivered again some day
            verb = "away"
        text = "; ".join(sql(self.shape, *statement) for statement in statements)
        self.lines.append(f"{verb} {r} {text if len(statements) == 1 else f'BEGIN; {text}; COMMIT'}")
        batch = replica.commit(statements)
        if batch:
            self.lines.append(f"made {r} {batch.version} {batch.changes[0].stamp[0]}")
        assert replica.show() == rows, "a replica does not show its own writes"
        self.expect(r)

    def time_passes(self, r):
        self.lines.append(f"time {r}")
        self.replicas[r].time_passes()

    def deliver(self, r, batches):
        for i, batch in enumerate(batches):
            more = i + 1 < len(batches) and self.random.random() < 0.5
            self.lines.append(f"{'queue' if more else 'deliver'} {r} {batch.origin} {batch.version}")
            self.replicas[r].receive(batch)
            if not more:
                self.expect(r)

    def news(self, r, other):
        mine = self.replicas[r]
        return [b for b in self.replicas[other].log.values() if b.version > mine.have[b.origin]]

    def play(self):
        rnd, count = self.random, len(self.replicas)
        for _ in range(20 + self.seed % 60):
            r, other = rnd.randrange(count), rnd.randrange(count)
            if rnd.random() < 0.5:
                self.time_passes(r)
            if rnd.random() < 0.6:
                self.act(r)
            else:  # some batches, in any order
                news = self.news(r, other)
                self.deliver(r, rnd.sample(news, min(len(news), rnd.randrange(1, 6))))
        pairs = [(r, other) for r in range(count) for other in range(count)]
        while any(self.news(r, other) for r, other in pairs):  # everyone hears everything
            r, other = rnd.choice(pairs)
            news = self.news(r, other)
            rnd.shuffle(news)
            self.deliver(r, news)
        self.lines.append("end")
        return self


# ---- the model's own promises
def not_settled(log, by):
    "(key, column, stamp, value) of each write that nobody knew of when he wrote the column anew or, if `by` has it, deleted the row"
    out = set()
    for batch in log:
        for change in batch.changes:
            for column, value in change.values.items():
                known_to = [b for b in log if seen((batch.origin, batch.version), b.knew)]
                if not any(c.key == change.key and c.kind in by and (c.kind == "delete" or column in c.values)
                           for b in known_to for c in b.changes):
                    out.add((change.key, column, change.stamp, value))
    return out


def check(schedule):
    first = schedule.replicas[0]
    shown, conflicts = first.show(), first.conflicts()
    for other in schedule.replicas[1:]:
        assert other.show() == shown, "replicas differ"
        assert other.conflicts() == conflicts, "the lists of open conflicts differ"
        assert not other.held, "a batch waits for ever"
    stranger = Replica(0, len(schedule.replicas))  # hears everything at once, in yet another order
    stranger.log = {}
    batches = list(first.log.values())
    schedule.random.shuffle(batches)
    for batch in batches:
        stranger.receive(batch)
    assert stranger.show() == shown and stranger.conflicts() == conflicts, "the order of arrival matters"
    unaware = not_settled(batches, ("insert", "update", "delete"))
    visible = {(key, c, w.stamp, w.value) for key, row in first.rows.items() if row.alive()
               for c in COLUMNS for w in row.siblings[c].values() if w.value == shown[key][c]}
    lost = unaware - visible - conflicts
    assert not lost, f"a value was lost: {lost}"
    invented = {c for c in conflicts if c[1] != "(deleted)"} - not_settled(batches, ("insert", "update"))
    assert not invented, f"a conflict that somebody knowingly settled: {invented}"
    return len(conflicts)


def main(argv):
    verb = argv[1] if len(argv) > 1 else "check"
    if verb == "schedules" and len(argv) == 4:
        first, count = int(argv[2]), int(argv[3])
        for seed in range(first, first + count):
            print("\n".join(Schedule(seed).play().lines))
        return 0
    if verb == "check" and len(argv) <= 4:
        count = int(argv[2]) if len(argv) > 2 else 500
        first = int(argv[3]) if len(argv) > 3 else 0
        conflicts = 0
        for seed in range(first, first + count):
            try:
                conflicts += check(Schedule(seed).play())
            except AssertionError as e:
                print(f"model: seed {seed}: {e}\nrepeat: {argv[0]} check 1 {seed}", file=sys.stderr)
                return 1
        print(f"model: {count} seeds hold, {conflicts} open conflicts listed")
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
