"""Executable specification of Starling's merge rules for rows that SQLite numbered, references, UNIQUE values, and the mends of what a
merge would break. merge_model.py has the rules for rows whose key the application gives, step by step; here are all of them.

Four tables stand for every shape that matters (SCHEMA): a given key; rows numbered by SQLite with a UNIQUE column; numbered rows with a
reference; a given key that contains a reference.

State of a replica. Per (table, identity) and column: the siblings, that is the writes that no later author had seen; the one with the
highest stamp is the value. Per row: the last insert and the last death; it lives if the insert is newer (an update does not bring a
deleted row back). A set of "same row" facts. A version vector. A batch carries two vectors: `after`, all that its author had applied,
which orders delivery; and `knew`, the same less what came in the last moments (an application may have read before and written after),
which alone decides what was seen. Each of several rows that are one keeps what was written to it: what they show is put together. Somebody who does not know that
two are one, and gives one of them another UNIQUE value, takes them apart by that. A violated constraint is mended by a write whose stamp derives from what it mends, so that two
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
        self.insert = None                       # its dot
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
        self.parted, self.doubts = {}, []   # pairs taken apart -> dots; (identity, column, dot) of values that may take some apart

    # ---- identity
    def root(self, identity, seen=None):
        "the identity that stands for this one, by the facts known (to the author of `seen`)"
        known = lambda dot: seen is None or not unseen(dot, seen)
        parents = {}
        for a, b, dot in self.facts:
            if known(dot) and not any(map(known, self.parted.get((a, b), ()))):
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
        for (t, identity) in self.rows:
            if t == table:
                out.setdefault(self.canonical(t, identity), ({}, [False], []))[2].append(identity)
        for identity, (cells, alive, members) in out.items():
            members.sort()
            alive[0] = any(self.rows[(table, m)].alive() for m in members)
            for m in members:
                for col, siblings in self.telling(table, m, members).items():
                    if siblings:
                        cells[col] = max(cells.get(col, (NEVER, None)), max(siblings.values()), key=lambda w: w[0])
            if table in NUMBERED and identity in members:  # a unified row keeps its root's number
                cells["id"] = max(self.rows[(table, identity)].cells["id"].values())
        return out

    # ---- rows that are one
    def saw(self, dot, other):
        return not unseen(other, self.log[dot][3])

    def knew_one(self, table, dot, a, b):
        return self.canonical(table, a, self.log[dot][3]) == self.canonical(table, b, self.log[dot][3])

    def telling(self, table, m, members):
        "column -> siblings of this member that count for what all of them show"
        row, others = self.rows[(table, m)], [o for o in members if o != m]
        if not others:
            return row.cells
        living = [o for o in members if self.rows[(table, o)].alive()]
        counts = lambda col, d, w: not self.replaced(table, m, col, d, others) and (
            not living or m in living or (m == members[0] if col == "id" else self.meant(table, m, d, w, living, members)))
        return {col: {d: w for d, w in siblings.items() if counts(col, d, w)} for col, siblings in row.cells.items()}

    def replaced(self, table, m, col, dot, others):
        "in another one, by who knew that it is this one"
        return col != "id" and any(w[0][1] != "mend" and d != self.rows[(table, o)].birth and self.saw(d, dot) and self.knew_one(table, d, m, o)
                                   for o in others for d, w in self.rows[(table, o)].cells.get(col, {}).items())

    def meant(self, table, m, dot, write, living, members):
        "a dead one's: for one that lives, and unknown to who deleted it"
        return not self.deleted_knowing(table, m, dot, members) and (write[0][1] == "mend" or any(self.knew_one(table, dot, m, o) for o in living))

    def deleted_knowing(self, table, m, dot, members):
        return any(stamp > self.rows[(table, o)].inserted and (o == m or self.knew_one(table, d, o, m)) and not unseen(dot, seen)
                   for o in members for d, (stamp, seen) in self.rows[(table, o)].deaths.items())

    def open_deaths(self, table, m, members):
        "of a living one: those that neither who inserted it again had seen, nor who inserted another one, knowing that it is this one"
        again = [(o, self.rows[(table, o)].insert) for o in members if o != m and self.rows[(table, o)].insert]
        return [(stamp, None) for d, (stamp, _) in self.rows[(table, m)].deaths.items()
                if not any(self.saw(i, d) and self.knew_one(table, i, m, o) for o, i in again)]

    def take_apart(self):
        "the mend of a doubt: who gave one of two another UNIQUE value knew of no other, and nobody wrote to what they became"
        for table in UNIQUE:
            for identity, col, dot in [d[1:] for d in self.doubts if d[0] == table]:
                for a, b in sorted({f[:2] for f in self.facts if identity in f[:2] and f[:2] not in self.parted}):
                    cells = [self.rows[(table, i)].cells for i in (identity, b if a == identity else a)]
                    mine, other = (max((c.get(col) or {None: (NEVER, None)}).items(), key=lambda x: x[1][0]) for c in cells)
                    used = any(w[0][1] != "mend" and self.knew_one(table, d, a, b) for c in cells for siblings in c.values() for d, w in siblings.items())
                    if mine[0] == dot and mine[1][1] != other[1][1] and not used:
                        return ("apart", a, b)
        self.doubts = []
        return None

    def alive(self, table):
        return {i: (cells, members) for i, (cells, a, members) in self.view(table).items() if a[0]}

    # ---- merging
    def merge(self, change, dot, seen):
        kind = change[0]
        if kind == "same":
            self.facts.append((min(change[1:]), max(change[1:]), dot))
            return
        if kind == "apart":
            self.parted.setdefault(change[1:], []).append(dot)
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
            row.inserted, row.insert = max((row.inserted, row.insert or ()), (stamp, dot if kind == "insert" else ()))
        for col, value in cells.items():
            if kind != "mend":
                self.overwrite(table, identity, col, seen)
            row.cells.setdefault(col, {})[dot] = (stamp, value)
            if kind != "mend" and col in UNIQUE.get(table, ()):
                self.doubts.append((table, identity, col, dot))

    def overwrite(self, table, identity, col, seen):
        "what the author had seen"
        r = self.rows[(table, identity)]
        r.cells[col] = {d: w for d, w in r.cells.get(col, {}).items() if unseen(d, seen)}

    @staticmethod
    def died_with(row, dot, siblings):
        "a mend took this value, and an older deletion knew the value"
        best = max(siblings.values())[0]
        return not row.alive() and best[1] == "mend" and any(not unseen(dot, seen) and stamp[0] < best[0] for stamp, seen in row.deaths.values())

    def conflicts(self):
        "open conflicts: what lost to a write whose author had not seen it"
        out = set()
        for t in COLUMNS:
            for cells, (alive,), members in self.view(t).values():
                for m in members:
                    row = self.rows[(t, m)]
                    for col, siblings in self.telling(t, m, members).items():
                        out |= {(t, m, col) + w for d, w in siblings.items()
                                if w[1] != cells[col][1] and not (len(members) == 1 and self.died_with(row, d, siblings))}
                        if not alive:
                            out |= {(t, m, col) + w for d, w in siblings.items() if not self.deleted_knowing(t, m, d, members)}
                    if row.alive():
                        out |= {(t, m, "(deleted)") + d for d in self.open_deaths(t, m, members)}
                    elif alive:
                        out |= {(t, m, col) + w for col, siblings in row.cells.items() for d, w in siblings.items()
                                if col != "id" and w[0][1] != "mend" and not self.replaced(t, m, col, d, [o for o in members if o != m])
                                and not self.deleted_knowing(t, m, d, members) and d not in self.telling(t, m, members).get(col, ())}
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

    def are_parted(self, rows, x, y):
        return any((min(a, b), max(a, b)) in self.parted for a in rows[x][1] for b in rows[y][1])

    def given_at_birth(self, table, x, col):
        "the row (x, or one that is the same) whose insert gave the value that x shows; None if a later write did"
        members = self.view(table)[x][2]
        held = [(write[0], dot, self.rows[(table, m)]) for m in members for dot, write in self.telling(table, m, members).get(col, {}).items()]
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
                    twice, parted = self.entered_twice(table, other, identity, col), self.are_parted(rows, other, identity)
                    if twice and not parted:
                        return ("same", other, identity)
                    loser = max(identity, other) if twice else min(identity, other, key=lambda i: rows[i][0][col][0])
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
            parted = self.take_apart()
            v = [parted] if parted else self.violations()
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
            identity = next((m for m in self.alive(table)[identity][1] if self.rows[(table, m)].alive()), identity)
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
