"""One run of mends.py: a schedule of steps, and what the applications of the servers do at each."""
import random
import sys

import mend_model
from mend_checks import Birth, By, Checks, Death, Write, born_of, difference, repr_of
from mend_servers import Failure, Late, sql

KINDS = "note drop-note team match name number score repoint drop-team drop-match tag untag late".split()
WEIGHTS = {"note": 2, "team": 2, "match": 2}
INSERTS = {"team": 0, "number": 0, "match": 1}  # with one_inserts: on which server; so numbers and UNIQUE values never clash by themselves
ROUNDS_MAX = 40


class Step:
    "draw: the seed of whatever it chooses"

    def __init__(self, number, verb, server, draw, kind=None, other=None):
        self.number, self.verb, self.server, self.draw, self.kind, self.other = number, verb, server, draw, kind, other


def schedule(seed, kinds):
    "how many servers, and the steps"
    rnd, count, steps = random.Random(seed), 2 + seed % 3, []
    add = lambda *args: steps.append(Step(len(steps), *args))
    for _ in range(30 + seed % 80):
        r, other = rnd.randrange(count), rnd.randrange(count)
        if rnd.random() < 0.5:
            add("time", r, 0)
        if rnd.random() < 0.6:
            add("act", r, rnd.getrandbits(32), rnd.choice(kinds), other)
        elif other != r:
            add("deliver", r, rnd.getrandbits(32), None, other)
    return count, steps


class Run(Checks):
    def __init__(self, engine, seed, kinds, only=None, trace=False, one_inserts=False):
        self.engine, self.seed, self.tracing, self.one_inserts = engine, seed, trace, one_inserts
        self.kinds = [k for k in kinds for _ in range(WEIGHTS.get(k, 1))]
        count, steps = schedule(seed, self.kinds)
        super().__init__(count)
        self.steps = [s for s in steps if only is None or str(s.number) in only]
        self.without, self.parts = {n for n in only or () if n.startswith("-")}, []  # statements of transactions
        self.trace = []    # lines
        self.after = {}    # batch -> what its author had
        self.moved = [False] * self.count  # a number changed hands here since time last passed
        self.given = [{} for _ in range(self.count)]  # number of a team that changed hands: whose it was
        self.step = None

    # -- what happens
    def go(self):
        self.looks = self.engine.open(self.count)
        self.knew = [list(look["have"]) for look in self.looks]
        for self.step in self.steps:
            getattr(self, self.step.verb)()
        self.step = None
        self.everyone_hears_everything()
        self.at_last()

    def say(self, server, text, number=None):
        number = number or ("" if self.step is None else self.step.number)
        self.trace.append(f"{number:>6} server {server}: {text}")
        if self.tracing:
            print(self.trace[-1], file=sys.stderr)

    def time(self, server=None):
        server = self.step.server if server is None else server
        self.say(server, "time passes")
        self.engine.time(server)
        self.knew[server], self.moved[server], self.given[server] = list(self.looks[server]["have"]), False, {}

    def deliver(self):
        r, other = self.step.server, self.step.other
        rnd, news = random.Random(self.step.draw), self.news(r, other)
        if news:
            self.hear(r, rnd.sample(news, min(len(news), rnd.randrange(1, 6))))
        if "late" in self.kinds and self.given[r] and rnd.random() < 0.5:
            self.act("late")

    def news(self, r, other):
        mine, theirs = self.looks[r]["have"], self.looks[other]["have"]
        return [(o, v) for o in range(self.count) for v in range(mine[o] + 1, theirs[o] + 1)]

    def hear(self, r, batches):
        if self.engine.one_by_one:
            self.hear_one_by_one(r, set(batches))
        else:
            self.hear_at_once(r, batches)

    def hear_at_once(self, r, batches):
        self.say(r, "hears " + " ".join(f"{o}:{v}" for o, v in batches))
        before = self.looks[r]["rows"]
        self.looked(r, self.engine.deliver(r, batches))
        self.moves(r, before)
        self.moved[r] |= len(batches) > 1 or bool(self.looks[r]["made"])  # numbers that were on show in between count, too
        self.check_shown(r)

    def hear_one_by_one(self, r, batches):
        "those whose causes are here"
        ready = True
        while ready:
            have = self.looks[r]["have"]
            ready = sorted((o, v) for o, v in batches if v == have[o] + 1 and all(h >= a for h, a in zip(have, self.after[(o, v)])))
            if ready:
                batches.discard(ready[0])
                self.hear_at_once(r, ready[:1])

    def moves(self, r, before):
        "did a number go to another row?"
        for table in mend_model.NUMBERED:
            now = {row[0]: born_of(row[2]) for row in self.looks[r]["rows"][table]}
            gone = {row[0]: born_of(row[2]) for row in before[table] if now.get(row[0], born_of(row[2])) != born_of(row[2])}
            self.moved[r] |= any(now.get(row[0]) != born_of(row[2]) for row in before[table])
            if table == "team":  # one that is gone, and comes again, is not the row that the number still means
                here = set(now.values())
                self.given[r].update({n: None if n in self.given[r] or team not in here else team for n, team in gone.items()})

    def looked(self, r, look, own=()):
        self.looks[r] = look
        for made in look["made"]:
            self.after[(r, made[0])] = [made[0] - 1 if o == r else h for o, h in enumerate(look["have"])]
        mends = [f"{r}:{v} ({m})" for v, _, m, _ in look["made"] if v not in own]
        if own:
            self.say(r, "  that is " + " ".join(f"{r}:{v}" for v in sorted(own)))
        if mends:
            self.say(r, "mends: " + " ".join(mends))

    def everyone_hears_everything(self):
        rnd = random.Random(self.seed)
        for _ in range(ROUNDS_MAX):
            quiet = True
            pairs = [(r, o) for r in range(self.count) for o in range(self.count) if r != o]
            rnd.shuffle(pairs)
            for r, other in pairs:
                news = self.news(r, other)
                if news:
                    quiet = False
                    rnd.shuffle(news)
                    self.hear(r, news)
            for r in range(self.count):
                had = self.looks[r]["have"]
                self.looked(r, self.engine.later(r))
                quiet &= had == self.looks[r]["have"]
            if quiet:
                return
        raise Failure("ends", f"there is news after {ROUNDS_MAX} rounds of telling everyone everything")

    def act(self, first=None):
        "a transaction of one statement or a few; sometimes while the node is down, sometimes as batches arrive"
        r, rnd = self.step.server, random.Random(self.step.draw)
        first = first or self.step.kind
        parts = 1 if rnd.random() < 0.7 or self.engine.one_by_one or first == "late" else rnd.randrange(2, 5)
        way = 1 if first == "late" else rnd.random()
        away, batches = way < 0.04, []
        if away:
            self.time(r)
            self.engine.away(r)
        elif way < 0.2 and not self.engine.one_by_one:
            news = self.news(r, self.step.other)
            batches = rnd.sample(news, min(len(news), rnd.randrange(1, 4)))
        before, rows, notes = self.looks[r], self.looks[r]["rows"], []
        for part in range(parts):
            name = f"{self.step.number}.{part}" if part else str(self.step.number)
            kind = rnd.choice([k for k in self.kinds if k != "late"] or [first]) if part else first
            made = self.late(rnd, name, r, rows) if kind == "late" else self.statement(rnd, kind, name, rows)
            if not made or "-" + name in self.without or self.one_inserts and r != INSERTS.get(kind, r):
                continue
            statement, note = made
            if not notes:
                if self.moved[r] and not away and kind != "late":  # a number that was just given away still means the row that had it
                    self.time(r)
                self.engine.begin(r)
            self.say(r, ("" if notes else "while the node is away: " if away else "") + sql(*statement), name)
            rows, seen = self.engine.run(r, statement), rows
            notes.append((note, seen))
            self.parts += [name] * (parts > 1)
        look = self.engine.commit(r, batches) if notes else None
        if away:
            look = self.engine.back(r)
        if look:
            self.acted(r, before, look, notes, batches)
        elif batches:
            self.hear(r, batches)

    def acted(self, r, before, look, notes, batches):
        "the batches that came of it: one, or none if it changed nothing"
        if batches:
            self.say(r, "at once it hears " + " ".join(f"{o}:{v}" for o, v in batches))
        elif look["committed"] != look["rows"] and not self.given[r]:
            self.fail("commit", r, f"the application wrote\n{difference(look['committed'], look['rows'])}")
        own = [m for m in look["made"] if m[3]]
        if not batches and len(own) < len(look["made"]):
            self.fail("commit", r, f"a local write needed a mend: batches [version, stamp, mends, other changes] {look['made']}")
        if not own and look["committed"] != before["rows"] or self.engine.one_batch and len(own) > 1:
            self.fail("commit", r, f"a transaction of {len(notes)} statements made the batches {look['made']}")
        self.looked(r, look, {m[0] for m in own})
        version = before["have"][r]
        for i, (note, seen) in enumerate(notes if own else ()):
            mine = own[min(i, len(own) - 1)]
            knew = list(self.knew[r])
            knew[r] = version
            note(By(r, (r, mine[0]), mine[1], knew, (mine[0], i)), seen, before["have"])
        if self.engine.one_batch:
            self.forget(r, version + 1, before["rows"], look["committed"])
        self.moves(r, look["committed"])
        self.moved[r] |= bool(batches)
        self.check_shown(r)

    def forget(self, r, version, before, committed):
        "rows that a transaction made and deleted again, deletions of what it had made, and values that it set back never were"
        was, is_ = self.shown(before), self.shown(committed)
        for d in self.deaths:
            if d.by.dot == (r, version):
                never = {row for row in d.rows if not self.one_of(*row) & was}
                for row in never:
                    if row in is_:
                        continue
                    self.writes = [w for w in self.writes if (w.table, w.row[0]) != row or w.by.dot != d.by.dot]
                    self.births[row] = [b for b in self.births.get(row, ()) if b.by.dot != d.by.dot]
                    if not self.births[row]:
                        del self.births[row]
                d.rows -= never
        self.deaths = [d for d in self.deaths if d.rows]
        then, now = self.settings(before), self.settings(committed)
        same = {cell for cell, value in then.items() if now.get(cell) == value}
        self.writes = [w for w in self.writes if w.by.dot != (r, version) or (w.row[0], w.column) not in same]

    @staticmethod
    def settings(rows):
        "what a transaction may leave as it was: values that are not made for one write"
        teams = {row[0]: born_of(row[2]) for row in rows["team"]}
        return {(born_of(row[2]), "number"): row[1] for row in rows["team"]} | {(born_of(row[2]), "team"): teams.get(row[1]) for row in rows["match"]}

    # -- the statements
    def statement(self, rnd, kind, n, rows):
        "(verb, table, row, values) and what to note of it; None if nothing here fits"
        pick = lambda table: rnd.choice(sorted(rows[table], key=repr_of(table))) if rows[table] else None
        if kind == "note":
            return self.write_note(rnd, n, rows)
        if kind == "drop-note":
            row = pick("note")
            return row and (("delete", "note", {"key": row[0]}, {}), self.death_of("note", row[0]))
        if kind in ("team", "number"):
            free = sorted(set(range(12)) - {row[1] for row in rows["team"]})
            number = rnd.choice(free) if free else None
            row = pick("team")
            if number is None or kind == "number" and not row:
                return None
            if kind == "number":
                return ("update", "team", {"id": row[0]}, {"number": number}), self.write_of("team", born_of(row[2]), {"number": number})
            values = {"number": number, "name": f"t{n}/{n}"}
            return ("insert", "team", {}, values), self.birth_of("team", f"t{n}", values, number=number)
        if kind == "name":
            row = pick("team")
            return row and self.update("team", row, "name", born_of(row[2]), n)
        if kind == "score":
            row = pick("match")
            return row and self.update("match", row, "score", born_of(row[2]), n)
        if kind in ("drop-team", "drop-match"):
            row = pick(kind[5:])
            return row and (("delete", kind[5:], {"id": row[0]}, {}), self.death_of(kind[5:], born_of(row[2])))
        if kind == "match":
            row = pick("team")
            values = row and {"team": row[0], "score": f"m{n}/{n}"}
            return row and (("insert", "match", {}, values), self.birth_of("match", f"m{n}", values | {"team": born_of(row[2])}))
        if kind == "repoint":
            row = pick("match")
            others = sorted((team for team in rows["team"] if row and team[0] != row[1]), key=repr_of("team"))
            team = others and rnd.choice(others)
            return team and (("update", "match", {"id": row[0]}, {"team": team[0]}),
                             self.write_of("match", born_of(row[2]), {"team": born_of(team[2])}))
        return self.write_tag(kind, pick, rnd, n, rows)

    def late(self, rnd, n, r, rows):
        "a request that read its team's number before that was given to another"
        now = {born_of(row[2]): row[0] for row in rows["team"]}
        late = [(number, team) for number, team in self.given[r].items() if team in now and number in now.values()]
        if not late:
            return None
        number, team = rnd.choice(sorted(late))
        values = {"team": Late(number), "score": f"m{n}/{n}"}
        values["team"].now = now[team]
        return ("insert", "match", {}, values), self.birth_of("match", f"m{n}", values | {"team": team})

    def write_note(self, rnd, n, rows):
        key = rnd.choice("xyz")
        columns = rnd.choice([["a"], ["b"], ["a", "b"]]) if key in [row[0] for row in rows["note"]] else ["a", "b"]
        values = {c: f"{key}/{n}{c}" for c in columns}
        if key in [row[0] for row in rows["note"]]:
            return ("update", "note", {"key": key}, values), self.write_of("note", key, values)
        return ("insert", "note", {}, {"key": key} | values), self.birth_of("note", key, values)

    def write_tag(self, kind, pick, rnd, n, rows):
        if kind == "untag":
            row = pick("tag")
            team = row and self.team_numbered(rows, row[0])
            return row and (("delete", "tag", {"team": row[0], "label": row[1]}, {}), self.death_of("tag", (team, row[1])))
        row, label = pick("team"), rnd.choice("ab")
        if not row:
            return None
        team = born_of(row[2])
        values = {"note": f"{team}:{label}/{n}"}
        if [row[0], label] in [t[:2] for t in rows["tag"]]:
            return ("update", "tag", {"team": row[0], "label": label}, values), self.write_of("tag", (team, label), values)
        return (("insert", "tag", {}, {"team": row[0], "label": label} | values),
                self.birth_of("tag", (team, label), values))

    def update(self, table, row, column, born, n):
        values = {column: f"{born}/{n}"}
        return ("update", table, {"id": row[0]}, values), self.write_of(table, born, values)

    @staticmethod
    def team_numbered(rows, number):
        return next(born_of(row[2]) for row in rows["team"] if row[0] == number)

    def birth_of(self, table, name, values, number=None):
        def note(by, before, have):
            born = Birth(table, name, by, number)
            self.births.setdefault((table, name), []).append(born)
            self.write_of(table, name, values)(by, before, have)
        return note

    def write_of(self, table, name, values):
        def note(by, before, have):
            rows = self.as_seen(by, table, name, before, have)
            self.writes += [Write(self.step.number, table, rows, c, v, by) for c, v in values.items()]
            for born in self.births.get((table, name), ()):
                if born.by.dot == by.dot and "number" in values:  # in one transaction: that is what it was inserted with
                    born.number = values["number"]
        return note

    def death_of(self, table, name):
        def note(by, before, have):
            dead = {(table, n) for n in self.as_seen(by, table, name, before, have)}
            if table == "team":
                number = next(row[0] for row in before["team"] if born_of(row[2]) == name)
                for row in before["match"]:
                    if row[1] == number:
                        dead.add(("match", born_of(row[2])))
                for row in before["tag"]:
                    if row[0] == number:
                        dead |= {("tag", n) for n in self.as_seen(by, "tag", (name, row[1]), before, have)}
            self.deaths.append(Death(self.step.number, dead, by))
        return note
