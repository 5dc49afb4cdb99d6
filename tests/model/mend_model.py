"""Executable specification of Starling's merge rules for rows that SQLite numbered, references, UNIQUE values, and the mends of what a
merge would break. merge_model.py has the rules for rows whose key the application gives, step by step; here are all of them.

Four tables stand for every shape that matters (SCHEMA): a given key; rows numbered by SQLite with a UNIQUE column; numbered rows with a
reference; a given key that contains a reference.

State of a replica. Per (table, identity) and column: the siblings, that is the writes that no later author had seen; the one with the
highest stamp is the value. Per row: the last insert and the last death; it lives if the insert is newer (an update does not bring a
deleted row back). A set of "same row" facts. A version vector. A batch carries two vectors: `after`, all that its author had applied,
which orders delivery; and `knew`, the same less what came in the last moments (an application may have read before and written after),
which alone decides what was seen. A violated constraint is mended by a write whose stamp derives from what it mends, so that two
replicas that find the same clash write the same; a mend never supersedes a person's value.

Open conflicts: siblings that are not the value (but for a mend's, where the row was deleted before it, with the sibling as its value); writes that no death's author had seen, in a dead row; deaths that no later author had
seen, in a living row; values of a row that was unified into another.
"""
import hashlib

SCHEMA = ("CREATE TABLE note(key TEXT PRIMARY KEY, a, b); "
          "CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER UNIQUE, name TEXT); "
          "CREATE TABLE match(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id) ON DELETE CASCADE, score TEXT); "
          "CREATE TABLE tag(team INTEGER REFERENCES team(id) ON DELETE CASCADE, label TEXT, note TEXT, PRIMARY KEY(team, label))")
COLUMNS = {"note": ("key", "a", "b"), "team": ("id", "number", "name"), "match": ("id", "team", "score"), "tag": ("team", "label", "note")}
NUMBERED = ("team", "match")
UNIQUE = {"team": ("number",)}
REFERENCES = {"match": ("team",), "tag": ("team",)}  # all to team
NEVER = (0, "")


def new_number(identity, clash, attempt):
    "a number a little above the clashing one, the same on every replica"
    h = hashlib.sha256(repr((identity, attempt)).encode()).digest()
    return clash + 1 + int.from_bytes(h[:4], "big") % (64 << min(attempt // 8, 20))


def unseen(dot, seen):
    return seen.get(dot[0], 0) < dot[1]


class Row:
    def __init__(self):
        self.cells = {}                          # column -> {dot: (stamp, value)}, the siblings
        self.inserted, self.died = NEVER, NEVER  # last insert, last death
        self.deaths = {}                         # dot -> (stamp, seen): deaths that no later author had seen
        self.birth, self.birth_stamp, self.born_seeing = None, NEVER, {}

    def alive(self):
        return self.inserted > self.died

    def seniority(self):
        "a row that was revived has no old rights to its number"
        return max(self.birth_stamp, self.died)


class Replica:
    def __init__(self, me, everyone):
        self.me, self.clock = me, 0
        self.vv = {n: 0 for n in everyone}  # version vector
        self.knew = dict(self.vv)           # the version vector a moment ago
        self.log, self.held = {}, []        # (origin, version) -> batch; batches waiting for their dependencies
        self.rows, self.facts = {}, []      # (table, identity) -> Row; ("same row" pairs, dot)

    # ---- identity
    def root(self, identity, seen=None):
        "the identity that stands for this one, by the facts known (to the author of `seen`)"
        parents = {}
        for a, b, dot in self.facts:
            if seen is None or not unseen(dot, seen):
                a, b = self.find(parents, a), self.find(parents, b)
                if a != b:
                    parents[max(a, b)] = min(a, b)
        return self.find(parents, identity)

    @staticmethod
    def find(parents, identity):
        while identity in parents:
            identity = parents[identity]
        return identity

    def canonical(self, table, identity, seen=None):
        "given keys may contain references: two of them become one row when what they point to does"
        return (self.root(identity[0], seen), identity[1]) if table == "tag" else self.root(identity, seen)

    def view(self, table):
        "canonical identity -> ({column: (stamp, value)}, [alive], member identities)"
        out = {}
        for (t, identity), row in self.rows.items():
            if t == table:
                cells, alive, members = out.setdefault(self.canonical(t, identity), ({}, [False], []))
                for col, siblings in row.cells.items():
                    cells[col] = max(cells.get(col, (NEVER, None)), max(siblings.values()), key=lambda w: w[0])
                alive[0] |= row.alive()
                members.append(identity)
        for identity, (cells, _, members) in out.items():
            if table in NUMBERED and identity in members:  # a unified row keeps its root's number
                cells["id"] = max(self.rows[(table, identity)].cells["id"].values())
        return out

    def alive(self, table):
        return {i: (cells, members) for i, (cells, a, members) in self.view(table).items() if a[0]}

    # ---- merging
    def merge(self, change, dot, seen):
        kind = change[0]
        if kind == "same":
            self.facts.append((min(change[1:]), max(change[1:]), dot))
            return
        _, table, identity, cells, stamp = change
        row = self.rows.setdefault((table, identity), Row())
        self.clock = max(self.clock, stamp[0])
        if kind == "delete":
            row.deaths = {d: w for d, w in row.deaths.items() if unseen(d, seen)} | {dot: (stamp, seen)}
            row.died = max(row.died, stamp)
            return
        if kind == "insert":
            if not row.birth:
                row.birth, row.birth_stamp, row.born_seeing = dot, stamp, seen
            row.deaths = {d: w for d, w in row.deaths.items() if unseen(d, seen)}
        if kind in ("insert", "revive"):
            row.inserted = max(row.inserted, stamp)
        for col, value in cells.items():
            if kind != "mend":
                self.overwrite(table, identity, col, seen)
            row.cells.setdefault(col, {})[dot] = (stamp, value)

    def overwrite(self, table, identity, col, seen):
        "what the author had seen is overwritten, in every row that he knew to be this one"
        mine = self.canonical(table, identity, seen)
        for (t, other), r in self.rows.items():
            if t == table and col in r.cells and self.canonical(t, other, seen) == mine and (col != "id" or other == identity):
                r.cells[col] = {d: w for d, w in r.cells[col].items() if unseen(d, seen)}
                if not r.cells[col]:
                    del r.cells[col]

    @staticmethod
    def died_with(row, dot, siblings):
        "a mend took this value, and an older deletion knew the value"
        best = max(siblings.values())[0]
        return not row.alive() and best[1] == "mend" and any(not unseen(dot, seen) and stamp[0] < best[0] for stamp, seen in row.deaths.values())

    def conflicts(self):
        "open conflicts: what lost to a write whose author had not seen it"
        out = set()
        for t in COLUMNS:
            for cells, _, members in self.view(t).values():
                for m in members:
                    row = self.rows[(t, m)]
                    for col, siblings in row.cells.items():
                        out |= {(t, m, col) + w for d, w in siblings.items()
                                if w[1] != cells[col][1] and not (len(members) == 1 and self.died_with(row, d, siblings))}
                        if not row.alive():
                            out |= {(t, m, col) + w for d, w in siblings.items() if all(unseen(d, s) for _, s in row.deaths.values())}
                    if row.alive():
                        out |= {(t, m, "(deleted)", st, None) for st, _ in row.deaths.values()}
        return out

    def stamp(self):
        self.clock += 1
        return (self.clock, self.me)

    def commit(self, changes):
        after = dict(self.vv)
        self.vv[self.me] += 1
        batch = (self.me, self.vv[self.me], after, self.knew | {self.me: after[self.me]}, changes)
        self.log[batch[:2]] = batch
        for c in changes:
            self.merge(c, batch[:2], batch[3])

    def receive(self, batch):
        if batch[1] > self.vv[batch[0]] and batch not in self.held:
            self.held.append(batch)
        ready = True
        while ready:
            ready = next((b for b in self.held
                          if b[1] == self.vv[b[0]] + 1 and all(self.vv[n] >= v for n, v in b[2].items())), None)
            if ready:
                self.held.remove(ready)
                origin, version, _, knew, changes = ready
                self.vv[origin], self.log[(origin, version)] = version, ready
                for c in changes:
                    self.merge(c, (origin, version), knew)
                self.mend()
        self.held = [b for b in self.held if b[1] > self.vv[b[0]]]

    # ---- mending
    def entered_twice(self, table, x, y, col):
        "both rows hold the value by an insert, and neither inserter knew of the other"
        a, b = self.given_at_birth(table, x, col), self.given_at_birth(table, y, col)
        return a and b and unseen(a.birth, b.born_seeing) and unseen(b.birth, a.born_seeing)

    def given_at_birth(self, table, x, col):
        "the row (x, or one that is the same) whose insert gave the value that x shows; None if a later write did"
        held = [(write[0], dot, self.rows[(table, m)]) for m in self.view(table)[x][2]
                for dot, write in self.rows[(table, m)].cells.get(col, {}).items()]
        _, dot, row = max(held, key=lambda w: w[0])
        return row if dot == row.birth else None

    def violations(self):
        "the mend of the first constraint that is broken, or nothing"
        for table in COLUMNS:
            rows = self.alive(table)
            found = self.equal_values(table, rows) or self.equal_numbers(table, rows) or self.orphan(table, rows)
            if found:
                return [found]
        return []

    def equal_values(self, table, rows):
        for col in UNIQUE.get(table, ()):
            holder = {}
            for identity in sorted(rows):
                stamp, value = rows[identity][0].get(col, (None, None))
                if value in holder:
                    other = holder[value]
                    if self.entered_twice(table, other, identity, col):
                        return ("same", other, identity)
                    loser = min(identity, other, key=lambda i: rows[i][0][col][0])
                    return ("mend", table, loser, {col: None}, self.after(stamp, rows[other][0][col][0]))
                if value is not None:
                    holder[value] = identity
        return None

    def equal_numbers(self, table, rows):
        if table not in NUMBERED:
            return None
        taken, used = {}, {c["id"][1] for c, _ in rows.values()}
        for identity in sorted(rows, key=lambda i: (self.rows[(table, i)].seniority(), i)):
            stamp, number = rows[identity][0]["id"]
            if number in taken:
                k = 0
                while new_number(identity, number, k) in used:
                    k += 1
                return ("mend", table, identity, {"id": new_number(identity, number, k)}, self.after(stamp, rows[taken[number]][0]["id"][0]))
            taken[number] = identity
        return None

    def orphan(self, table, rows):
        teams = self.alive("team") if table in REFERENCES else ()
        for identity, (cells, _) in rows.items():
            for col in REFERENCES.get(table, ()):
                ref = cells[col][1] if table in NUMBERED else identity[0]
                if self.root(ref) not in teams:
                    return ("revive", "team", ref, {}, self.after(self.rows[("team", ref)].died))
        return None

    @staticmethod
    def after(*stamps):
        return (max(stamps)[0] + 1, "mend")

    def mend(self):
        for _ in range(300):
            v = self.violations()
            if not v:
                return
            self.commit(v)
        raise AssertionError("mending does not end")

    # ---- the application
    def act(self, verb, table, row, values):
        "one statement: row is what it names (a key column -> value), in today's numbers"
        if verb == "insert":
            identity, cells = self.born(table, values)
            self.commit([("insert", table, identity, cells, self.stamp())])
            return
        identity = self.named(table, row)
        if verb == "update":
            if "team" in values:
                values = values | {"team": self.named("team", {"id": values["team"]})}
            self.commit([("update", table, identity, values, self.stamp())])
            return
        stamp, dead = self.stamp(), [(table, identity)]
        if table == "team":  # cascades
            dead += [("match", i) for i, (c, _) in self.alive("match").items() if self.root(c["team"][1]) == identity]
            dead += [("tag", i) for i in self.alive("tag") if i[0] == identity]
        self.commit([("delete", t, member, {}, stamp) for t, i in dead for member in self.alive(t)[i][1]])

    def born(self, table, values):
        "identity and columns of a new row"
        if table == "note":
            return values["key"], {c: v for c, v in values.items() if c != "key"}
        if table == "tag":
            return (self.named("team", {"id": values["team"]}), values["label"]), {"note": values["note"]}
        cells = {"id": max((c["id"][1] for c, _ in self.alive(table).values()), default=0) + 1} | values  # SQLite: max + 1
        if table == "match":
            cells["team"] = self.named("team", {"id": values["team"]})
        return (self.clock + 1, self.me, table), cells

    def named(self, table, row):
        if table == "note":
            return row["key"]
        if table == "tag":
            return (self.named("team", {"id": row["team"]}), row["label"])
        return next(i for i, (c, _) in self.alive(table).items() if c["id"][1] == row["id"])

    def show(self):
        "table -> rows as the application sees them: identities shown as today's numbers"
        number = {i: c["id"][1] for i, (c, _, _) in self.view("team").items()}
        out = {}
        for table, columns in COLUMNS.items():
            rows = []
            for i, (cells, _) in self.alive(table).items():
                row = {c: v for c, (_, v) in cells.items()}
                if table == "note":
                    row["key"] = i
                elif table == "tag":
                    row |= {"team": number[i[0]], "label": i[1]}
                elif table == "match":
                    row["team"] = number[self.root(row["team"])]
                rows.append([row.get(c) for c in columns])
            out[table] = sorted(rows, key=lambda r: r[:2])
        return out
