#!/usr/bin/python3
"""Random schedules for rows that SQLite numbered, references, UNIQUE values and their mends: through the engine, or through the model.

    mends.py run SERVERS [OPTION]...   through the engine (SERVERS: the built tests/model/servers)
    mends.py check [OPTION]...         through the model (mend_model.py): the driver and its expectations are right
    mends.py canary [OPTION]...        through models that are broken on purpose: each must be caught
      --first N --count N              seeds (by default 200 from a random one; --seconds N: as many as fit)
      --kinds K,K…                     only these statements: note drop-note team match name number score drop-team drop-match tag untag
      --steps N,N…                     only these steps of the schedule (a failure prints the shortest list that was found)
      --no-shrink --trace              do not look for a shorter one; print each step

A schedule is a list of steps: time passes on a server, its application runs a statement, or some batches arrive in any order. What a step does is
drawn from its own number and from what the server shows, so any subset of the steps is a schedule too. At last everyone hears everything.

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
import json
import random
import subprocess
import sys
import time

import mend_model

KINDS = "note drop-note team match name number score drop-team drop-match tag untag".split()
WEIGHTS = {"note": 2, "team": 2, "match": 2}
LETTER = {"team": "t", "match": "m"}
ROUNDS_MAX = 40


class Failure(Exception):
    def __init__(self, kind, text):
        super().__init__(text)
        self.kind, self.text = kind, text


# ---- the two engines
class Engine:
    "the real one: tests/model/servers"

    def __init__(self, program):
        self.program, self.process = program, None

    def ask(self, line):
        if not self.process:
            self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            self.process = None
            raise Failure("crash", f"the engine ended with {code} at: {line}")
        answer = json.loads(answer)
        for fault in ("error", "sql"):
            if fault in answer:
                raise Failure(fault, answer[fault])
        return answer

    def open(self, count):
        return self.ask(f"open {count} {mend_model.SCHEMA}")["servers"]

    def act(self, r, statement):
        return self.ask(f"act {r} {sql(*statement)}")

    def time(self, r):
        self.ask(f"time {r}")

    def deliver(self, r, batches):
        return self.ask(f"deliver {r} " + " ".join(f"{o} {v}" for o, v in batches))

    def later(self, r):
        self.ask("skip 2500")
        return self.ask(f"rest {r}")

    def conflicts(self, r):
        return self.ask(f"conflicts {r}")["conflicts"]

    def check(self, r):
        return self.ask(f"check {r}")

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


class Model:
    "the specification, behind the same face"

    def __init__(self, replica=mend_model.Replica):
        self.replica = replica

    def open(self, count):
        names = "ABCDEFGH"[:count]
        self.replicas, self.told = [self.replica(n, names) for n in names], [0] * count
        return [self.look(r) for r in range(count)]

    def look(self, r):
        me, made = self.replicas[r], []
        for version in range(self.told[r] + 1, me.vv[me.me] + 1):
            changes = me.log[(me.me, version)][4]
            mends = sum(c[0] in ("same", "mend", "revive") for c in changes)
            made.append([version, "" if changes[0][0] == "same" else str(changes[0][4][0]), mends])
        self.told[r] = me.vv[me.me]
        return {"rows": me.show(), "have": list(me.vv.values()), "made": made, "settled": True, "digest": "", "parked": 0}

    def act(self, r, statement):
        self.replicas[r].act(*statement)
        committed = self.replicas[r].show()
        self.replicas[r].mend()
        return self.look(r) | {"committed": committed}

    def time(self, r):
        self.replicas[r].knew = dict(self.replicas[r].vv)

    def deliver(self, r, batches):
        for o, v in batches:
            self.replicas[r].receive(self.replicas[o].log[(self.replicas[o].me, v)])
        return self.look(r)

    def later(self, r):
        return self.look(r)

    def conflicts(self, r):
        names = list(self.replicas[r].vv)
        origin = lambda who: names.index(who) if who in names else who
        return [{"id": repr(c), "table": c[0], "column": c[2], "stamp": str(c[3][0]), "origin": origin(c[3][1]), "value": c[4]}
                for c in sorted(self.replicas[r].conflicts(), key=repr)]

    def check(self, r):
        return {"integrity": [["ok"]], "foreign": [[v] for v in self.replicas[r].violations()]}

    def close(self):
        pass


# ---- schedules
class Step:
    "draw: the seed of whatever it chooses"

    def __init__(self, number, verb, server, draw, kind=None, other=None):
        self.number, self.verb, self.server, self.draw, self.kind, self.other = number, verb, server, draw, kind, other


def schedule(seed, kinds):
    "how many servers, and the steps"
    rnd, count, steps = random.Random(seed), 2 + seed % 3, []
    choice = [k for k in kinds for _ in range(WEIGHTS.get(k, 1))]
    add = lambda *args: steps.append(Step(len(steps), *args))
    for _ in range(30 + seed % 80):
        r, other = rnd.randrange(count), rnd.randrange(count)
        if rnd.random() < 0.5:
            add("time", r, 0)
        if rnd.random() < 0.6:
            add("act", r, rnd.getrandbits(32), rnd.choice(choice))
        elif other != r:
            add("deliver", r, rnd.getrandbits(32), None, other)
    return count, steps


def literal(value):
    return "NULL" if value is None else str(value) if isinstance(value, int) else "'" + value + "'"


def sql(verb, table, row, values):
    where = " AND ".join(f"{c}={literal(v)}" for c, v in row.items())
    if verb == "insert":
        return f"INSERT INTO {table}({','.join(values)}) VALUES({','.join(map(literal, values.values()))})"
    if verb == "update":
        return f"UPDATE {table} SET {','.join(f'{c}={literal(v)}' for c, v in values.items())} WHERE {where}"
    return f"DELETE FROM {table} WHERE {where}"


# ---- one run
class Birth:
    "a row that an application inserted: for tag, by team and label"

    def __init__(self, table, name, dot, knew, number=None, team=None):
        self.table, self.name, self.dot, self.knew, self.number, self.team = table, name, dot, knew, number, team


class Write:
    def __init__(self, step, table, row, column, value, by):
        self.step, self.table, self.row, self.column, self.value, self.by = step, table, row, column, value, by


class Death:
    "rows: {(table, row)} as its author saw them, cascades too"

    def __init__(self, step, rows, by):
        self.step, self.rows, self.by = step, rows, by


class By:
    "who: server, dot, stamp, and what he knew"

    def __init__(self, server, dot, stamp, knew):
        self.server, self.dot, self.stamp, self.knew = server, dot, stamp, knew

    def had_seen(self, other):
        return self.knew[other.dot[0]] >= other.dot[1]


def born_of(value):
    "the row for which a value was written: 't17', ('t17', 'a') for a tag, the key for a note"
    name = value.split("/")[0]
    return tuple(name.split(":")) if ":" in name else name


class Run:
    def __init__(self, engine, seed, kinds, only=None, trace=False):
        self.engine, self.seed, self.tracing = engine, seed, trace
        self.count, steps = schedule(seed, kinds)
        self.steps = [s for s in steps if only is None or s.number in only]
        self.trace = []                              # lines
        self.births, self.writes, self.deaths = {}, [], []
        self.moved = [False] * self.count            # a number changed hands here since time last passed
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

    def say(self, server, text):
        number = "" if self.step is None else self.step.number
        self.trace.append(f"{number:>4} server {server}: {text}")
        if self.tracing:
            print(self.trace[-1], file=sys.stderr)

    def time(self, server=None):
        server = self.step.server if server is None else server
        self.say(server, "time passes")
        self.engine.time(server)
        self.knew[server], self.moved[server] = list(self.looks[server]["have"]), False

    def deliver(self):
        r, other = self.step.server, self.step.other
        rnd, news = random.Random(self.step.draw), self.news(r, other)
        if news:
            self.hear(r, rnd.sample(news, min(len(news), rnd.randrange(1, 6))))

    def news(self, r, other):
        mine, theirs = self.looks[r]["have"], self.looks[other]["have"]
        return [(o, v) for o in range(self.count) for v in range(mine[o] + 1, theirs[o] + 1)]

    def hear(self, r, batches):
        self.say(r, "hears " + " ".join(f"{o}:{v}" for o, v in batches))
        before = {t: self.numbers(r, t) for t in mend_model.NUMBERED}
        self.looked(r, self.engine.deliver(r, batches))
        for table, numbers in before.items():
            now = self.numbers(r, table)
            self.moved[r] |= any(now.get(n, b) != b for n, b in numbers.items())
        self.check_shown(r)

    def looked(self, r, look):
        self.looks[r] = look
        if look["made"]:
            self.say(r, "mends: " + " ".join(f"{r}:{v} ({m})" for v, _, m in look["made"]))

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

    def act(self):
        r = self.step.server
        made = self.statement(r)
        if not made:
            return
        statement, note = made
        if self.moved[r] and statement[1] != "note":  # a number that was just given away still means the row that had it
            self.time(r)
        self.say(r, sql(*statement))
        version = self.looks[r]["have"][r] + 1
        knew = list(self.knew[r])
        knew[r] = version - 1
        before = self.looks[r]["rows"]
        look = self.engine.act(r, statement)
        if look["committed"] != look["rows"]:
            self.fail("commit", r, f"the application wrote\n{difference(look['committed'], look['rows'])}")
        if [m[0] for m in look["made"]] != [version] or look["made"][0][2]:
            self.fail("commit", r, f"a local write made the batches [version, stamp, mends] {look['made']}, expected one, without mends: "
                                   f"version {version}")
        self.looks[r] = look
        note(By(r, (r, version), look["made"][0][1], knew), before)
        self.check_shown(r)

    # -- the statements
    def statement(self, r):
        "(verb, table, row, values) and what to note of it; None if nothing here fits"
        rnd, kind, n, rows = random.Random(self.step.draw), self.step.kind, self.step.number, self.looks[r]["rows"]
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
            return row and (("insert", "match", {}, values), self.birth_of("match", f"m{n}", {"score": values["score"]}, team=born_of(row[2])))
        return self.write_tag(kind, pick, rnd, n, rows)

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
                self.birth_of("tag", (team, label), values, team=team))

    def update(self, table, row, column, born, n):
        values = {column: f"{born}/{n}"}
        return ("update", table, {"id": row[0]}, values), self.write_of(table, born, values)

    @staticmethod
    def team_numbered(rows, number):
        return next(born_of(row[2]) for row in rows["team"] if row[0] == number)

    def birth_of(self, table, name, values, number=None, team=None):
        def note(by, before):
            born = Birth(table, name, by.dot, by.knew, number, team)
            self.births.setdefault((table, name), []).append(born)
            self.write_of(table, name, values)(by, before)
        return note

    def write_of(self, table, name, values):
        def note(by, before):
            rows = self.as_seen(by.server, table, name, before)
            self.writes += [Write(self.step.number, table, rows, c, v, by) for c, v in values.items()]
        return note

    def death_of(self, table, name):
        def note(by, before):
            dead = {(table, n) for n in self.as_seen(by.server, table, name, before)}
            if table == "team":
                number = next(row[0] for row in before["team"] if born_of(row[2]) == name)
                for row in before["match"]:
                    if row[1] == number:
                        dead.add(("match", born_of(row[2])))
                for row in before["tag"]:
                    if row[0] == number:
                        dead |= {("tag", n) for n in self.as_seen(by.server, "tag", (name, row[1]), before)}
            self.deaths.append(Death(self.step.number, dead, by))
        return note

    # -- which rows may be one
    def may_be(self, team):
        "the teams that may have become one with this: inserted with one number, not knowing of each other; and so on"
        found, new = {team}, [team]
        while new:
            x = self.births[("team", new.pop())][0]
            for (table, name), (y, *_) in self.births.items():
                if table == "team" and name not in found and y.number == x.number and not knows(x, y) and not knows(y, x):
                    found.add(name)
                    new.append(name)
        return found

    def as_seen(self, r, table, name, rows):
        "all rows that are this one for the application on r: first the one that it named"
        team = name if table == "team" else name[0] if table == "tag" else None
        if team is None or ("team", team) not in self.births:
            return [name]
        shown = {born_of(row[2]) for row in rows["team"]}
        have = self.looks[r]["have"]
        same = [t for t in self.may_be(team) if t not in shown and have[self.births[("team", t)][0].dot[0]] >= self.births[("team", t)][0].dot[1]]
        same = [team] + sorted(t for t in same if t != team)
        return same if table == "team" else [(t, name[1]) for t in same]

    # -- what must hold after each step
    def fail(self, kind, r, text):
        raise Failure(kind, f"server {r}: {text}")

    def numbers(self, r, table):
        return {row[0]: born_of(row[2]) for row in self.looks[r]["rows"][table]}

    def check_shown(self, r):
        look = self.looks[r]
        rows = look["rows"]
        if look["parked"]:
            self.fail("hidden", r, f"{look['parked']} changes are parked; shown:\n{table_of(rows)}")
        if not look["settled"]:
            self.fail("hidden", r, f"at rest and not settled; shown:\n{table_of(rows)}")
        teams = self.check_blend(r, rows)
        for row in rows["match"]:
            self.check_reference(r, "match", row, teams.get(row[1]), self.births[("match", born_of(row[2]))][0].team, row[1])
        for row in rows["tag"]:
            team, label = born_of(row[2])
            self.check_reference(r, "tag", row, teams.get(row[0]), team, row[0])
            if label != row[1]:
                self.fail("blend", r, f"tag {row} shows what was written for label {label}")
        self.check_rows(r, rows)

    def check_blend(self, r, rows):
        "number -> team"
        for table, column in (("team", 0), ("team", 1), ("match", 0)):
            values = [row[column] for row in rows[table] if row[column] is not None]
            if len(values) != len(set(values)):
                self.fail("broken", r, f"{mend_model.COLUMNS[table][column]} of {table} is not unique:\n{table_of({table: rows[table]})}")
        for table in ("team", "match"):
            names = [born_of(row[2]) for row in rows[table]]
            for name in names:
                if (table, name) not in self.births or names.count(name) > 1:
                    self.fail("blend", r, f"{table} {name} is shown {names.count(name)} times:\n{table_of({table: rows[table]})}")
        for row in rows["note"]:
            if any(born_of(v) != row[0] for v in row[1:]):
                self.fail("blend", r, f"note {row} shows what was written for another")
        for row in rows["team"]:
            known = {w.value for w in self.writes if w.column == "number" and set(w.row) & self.may_be(born_of(row[2]))}
            if row[1] is not None and row[1] not in known:
                self.fail("blend", r, f"team {row}: nobody gave this team the number {row[1]}, but {sorted(known)}")
        return self.numbers(r, "team")

    def check_reference(self, r, table, row, hangs_on, meant, number):
        if hangs_on not in self.may_be(meant):
            self.fail("reference", r, f"{table} {row} was put under team {meant}, and is shown under number {number}, which is "
                                      f"{'nobody' if hangs_on is None else 'team ' + hangs_on}:\n{table_of(self.looks[r]['rows'])}")

    def check_rows(self, r, rows):
        have = self.looks[r]["have"]
        dead = {row for d in self.deaths if have[d.by.dot[0]] >= d.by.dot[1] for row in d.rows}
        shown = self.shown(rows)
        for (table, name), births in self.births.items():
            lives = (table, name) not in dead
            if table == "tag":  # by its key: a deletion of either counts
                lives = not self.one_of(table, name) & dead
            if lives and any(have[b.dot[0]] >= b.dot[1] for b in births) and not self.one_of(table, name) & shown:
                self.fail("row", r, f"{table} {name} is not shown, and nobody deleted it; shown:\n{table_of(rows)}")

    def one_of(self, table, name):
        if table == "team":
            return {(table, t) for t in self.may_be(name)}
        return {(table, (t, name[1])) for t in self.may_be(name[0])} if table == "tag" else {(table, name)}

    def shown(self, rows):
        teams = {row[0]: born_of(row[2]) for row in rows["team"]}
        return ({("note", row[0]) for row in rows["note"]} | {("team", name) for name in teams.values()}
                | {("match", born_of(row[2])) for row in rows["match"]} | {("tag", (teams.get(row[0]), row[1])) for row in rows["tag"]})

    # -- what must hold at last
    def at_last(self):
        first, rows = self.looks[0], self.looks[0]["rows"]
        lists = [sorted(self.engine.conflicts(r), key=lambda c: c["id"]) for r in range(self.count)]
        for r in range(self.count):
            self.check_shown(r)
            found = self.engine.check(r)
            if found["integrity"] != [["ok"]] or found["foreign"]:
                self.fail("broken", r, f"{found}:\n{table_of(self.looks[r]['rows'])}")
            if self.looks[r]["rows"] != rows:
                self.fail("converge", r, f"shows other rows than server 0:\n{difference(rows, self.looks[r]['rows'])}")
            if self.looks[r]["digest"] != first["digest"]:
                self.fail("converge", r, "shows the rows of server 0 under another digest")
            if lists[r] != lists[0]:
                only = lambda a, b: "".join(f"\n    {json.dumps(c)}" for c in a if c not in b)
                self.fail("list", r, f"lists other open conflicts than server 0:\n  only server 0{only(lists[0], lists[r])}\n  "
                                     f"only server {r}{only(lists[r], lists[0])}")
        self.conflicts = {(c["table"], c["column"], c["origin"], c["stamp"]) for c in lists[0]}
        self.check_values(rows)
        self.check_deaths(rows)

    def check_values(self, rows):
        shown = {(t, c, row[i]) for t, columns in mend_model.COLUMNS.items() for row in rows[t] for i, c in enumerate(columns)}
        numbers = {born_of(row[2]): row[1] for row in rows["team"]}
        for w in self.writes:
            if w.column == "number":
                is_shown = w.value in [numbers.get(t) for t in self.may_be(w.row[0])]
            else:
                is_shown = (w.table, w.column, w.value) in shown
            if is_shown or (w.table, w.column, w.by.server, w.by.stamp) in self.conflicts:
                continue
            mine = lambda table, names: table == w.table and w.row[0] in names
            if any(o is not w and o.column == w.column and mine(o.table, o.row) and o.by.had_seen(w.by) for o in self.writes):
                continue
            if any((w.table, w.row[0]) in d.rows and d.by.had_seen(w.by) for d in self.deaths):
                continue
            self.fail("value", w.by.server, f"{w.column}={w.value!r} of {w.table} {w.row[0]} (step {w.step}) is neither shown nor an open "
                                            f"conflict, and nobody who knew it overwrote or deleted it; shown:\n{table_of(rows)}\n"
                                            f"open conflicts {sorted(self.conflicts, key=repr)}")

    def check_deaths(self, rows):
        shown = self.shown(rows)
        for d in self.deaths:
            for table, name in d.rows:
                if (table, name) not in shown or len(self.one_of(table, name)) > 1 or (table, "(deleted)", d.by.server, d.by.stamp) in self.conflicts:
                    continue
                later = [b.knew for b in self.births[(table, name)]] + [o.by.knew for o in self.deaths if (table, name) in o.rows]
                if any(knew[d.by.server] >= d.by.dot[1] for knew in later):
                    continue
                self.fail("death", d.by.server, f"the deletion of {table} {name} (step {d.step}) neither holds nor is an open conflict; shown:\n"
                                                f"{table_of(rows)}\nopen conflicts {sorted(self.conflicts, key=repr)}")


def knows(x, y):
    "whoever made x knew of y"
    return x.knew[y.dot[0]] >= y.dot[1]


def repr_of(table):
    "an order that does not depend on numbers"
    return lambda row: row[0] if table == "note" else repr((born_of(row[2]), row[2]))


def table_of(rows):
    return "\n".join(f"    {t}({', '.join(mend_model.COLUMNS[t])}): {'  '.join(str(tuple(r)) for r in rows[t])}" for t in rows if rows[t])


def difference(expected, actual):
    lines = []
    for t in expected:
        lines += [f"    {t} expected {tuple(row)}" for row in expected[t] if row not in actual[t]]
        lines += [f"    {t} shown    {tuple(row)}" for row in actual[t] if row not in expected[t]]
    return "\n".join(lines)


# ---- many runs
def attempt(engine, seed, kinds, only=None, trace=False):
    "the run, and its Failure or None"
    run = Run(engine, seed, kinds, only, trace)
    try:
        run.go()
        return run, None
    except Failure as f:
        return run, f


def shrink(engine, seed, kinds, run, failure, seconds=30):
    "drops steps while it fails in the same way"
    best, until = (run, failure), time.monotonic() + seconds
    keep = [s.number for s in run.steps]
    if run.step is not None:
        keep = [n for n in keep if n <= run.step.number]
    size = max(1, len(keep) // 2)
    while True:
        at, dropped = 0, False
        while at < len(keep) and time.monotonic() < until:
            fewer = keep[:at] + keep[at + size:]
            other = attempt(engine, seed, kinds, set(fewer))
            if other[1] and other[1].kind == failure.kind:
                keep, best, dropped = fewer, other, True
            else:
                at += size
        if time.monotonic() >= until or size == 1 and not dropped:
            return keep, best
        size = max(1, size // 2)


def report(args, engine, seed, run, failure):
    steps = [s.number for s in run.steps]
    if args.shrink:
        steps, (run, failure) = shrink(engine, seed, args.kinds, run, failure)
    print(f"mends: seed {seed}, {run.count} servers: {failure.kind}: {failure.text}", file=sys.stderr)
    print("\n".join(run.trace), file=sys.stderr)
    kinds = "" if args.kinds == KINDS else f" --kinds {','.join(args.kinds)}"
    only = f" --steps {','.join(map(str, steps))}" if args.shrink else ""
    program = f"{args.verb} {args.servers}" if args.verb == "run" else args.verb
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
        run, failure = attempt(engine, seed, args.kinds, args.steps, args.trace)
        if failure:
            report(args, engine, seed, run, failure)
            return 1
        done, conflicts = done + 1, conflicts + len(run.conflicts)
    print(f"mends: {done} schedules hold, {conflicts} open conflicts listed")
    return 0


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
                caught = attempt(Model(model), seed, args.kinds)[1]
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
    p.add_argument("verb", choices=("run", "check", "canary"))
    p.add_argument("servers", nargs="?")
    p.add_argument("--first", type=int, default=None)
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    p.add_argument("--steps", type=lambda text: {int(n) for n in text.split(",")}, default=None)
    p.add_argument("--no-shrink", dest="shrink", action="store_false")
    p.add_argument("--trace", action="store_true")
    args = p.parse_args()
    if (args.verb == "run") != (args.servers is not None) or set(args.kinds) - set(KINDS):
        p.error("see above")
    if args.first is None:
        args.first = int(time.time()) % 100000 * 10000
    if args.steps is not None:
        args.shrink = False
    return args


def main():
    args = arguments()
    engine = Engine(args.servers) if args.verb == "run" else Model()
    print(f"mends: {args.verb} from seed {args.first}, statements {','.join(args.kinds)}")
    sys.stdout.flush()
    try:
        return canary(args) if args.verb == "canary" else many(args, engine)
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main())
