"""What must hold in a run of mends.py, whoever mends first: see there. Here is what the applications wrote, who knew of what, and where it must be now."""
import json

import mend_model
from mend_servers import Failure


class Birth:
    "a row that an application inserted: for tag, by team and label"

    def __init__(self, table, name, by, number=None):
        self.table, self.name, self.by, self.number = table, name, by, number


class Write:
    def __init__(self, step, table, row, column, value, by):
        self.step, self.table, self.row, self.column, self.value, self.by = step, table, row, column, value, by


class Death:
    "rows: {(table, row)} as its author saw them, cascades too"

    def __init__(self, step, rows, by):
        self.step, self.rows, self.by = step, rows, by


class By:
    "who: server, dot, stamp, what he knew, and in which order he did it"

    def __init__(self, server, dot, stamp, knew, order):
        self.server, self.dot, self.stamp, self.knew, self.order = server, dot, stamp, knew, order

    def had_seen(self, other):
        return self.order > other.order if self.server == other.server else self.knew[other.dot[0]] >= other.dot[1]


def born_of(value):
    "the row for which a value was written: 't17', ('t17', 'a') for a tag, the key for a note"
    name = value.split("/")[0]
    return tuple(name.split(":")) if ":" in name else name


class Checks:
    "births: (table, row) -> the insertions of this row; writes and deaths: what the applications did; looks: what each server shows and has"

    def __init__(self, count):
        self.count = count
        self.births, self.writes, self.deaths = {}, [], []

    # -- which rows may be one
    def may_be(self, team):
        "the teams that may have become one with this: inserted with one number, not knowing of each other; and so on"
        found, new = {team}, [team]
        while new:
            born = self.births.get(("team", new.pop()))
            if not born:  # its insertion was refused
                continue
            x = born[0]
            for (table, name), (y, *_) in self.births.items():
                if table == "team" and name not in found and y.number == x.number and not x.by.had_seen(y.by) and not y.by.had_seen(x.by):
                    found.add(name)
                    new.append(name)
        return found

    def as_seen(self, by, table, name, rows, have):
        "all rows that are this one for the author: first the one that it named"
        team = name if table == "team" else name[0] if table == "tag" else None
        if team is None or ("team", team) not in self.births:
            return [name]
        shown = {born_of(row[2]) for row in rows["team"]}
        known = lambda b: b.by.dot[0] == by.server or have[b.by.dot[0]] >= b.by.dot[1]
        same = [t for t in self.may_be(team) if t not in shown and known(self.births[("team", t)][0])]
        same = [team] + sorted(t for t in same if t != team)
        return same if table == "team" else [(t, name[1]) for t in same]

    def teams(self, rows):
        """id -> team. What was written to a row that two teams were for its author, and that somebody who did not know it took apart meanwhile,
        tells of either: the one that no other row tells of"""
        written = {w.value: w.row for w in self.writes if w.table == "team" and w.column == "name"}
        of = {row[0]: written.get(row[2], [born_of(row[2])]) for row in rows["team"]}
        found = {}
        for number, names in sorted(of.items(), key=lambda item: len(item[1])):
            free = [name for name in names if name not in found.values()]
            found[number] = free[0] if free else names[0]
        return found

    # -- what must hold after each step
    def fail(self, kind, r, text):
        raise Failure(kind, f"server {r}: {text}")

    def numbers(self, r, table):
        rows = self.looks[r]["rows"]
        return self.teams(rows) if table == "team" else {row[0]: born_of(row[2]) for row in rows[table]}

    def check_shown(self, r):
        look = self.looks[r]
        rows = look["rows"]
        if look["parked"]:
            self.fail("hidden", r, f"{look['parked']} changes are parked; shown:\n{table_of(rows)}")
        if not look["settled"]:
            self.fail("hidden", r, f"at rest and not settled; shown:\n{table_of(rows)}")
        teams = self.check_blend(r, rows)
        for row in rows["match"]:
            self.check_reference(r, "match", row, teams.get(row[1]), self.meant(r, born_of(row[2])), row[1])
        for row in rows["tag"]:
            team, label = born_of(row[2])
            self.check_reference(r, "tag", row, teams.get(row[0]), [team], row[0])
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
            names = list(self.numbers(r, table).values())
            values = [row[2] for row in rows[table]]
            for name in names:
                if (table, name) not in self.births or names.count(name) > 1 or len(values) > len(set(values)):
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
        if not any(hangs_on in self.may_be(team) for team in meant):
            self.fail("reference", r, f"{table} {row} was put under team {' or '.join(meant)}, and is shown under number {number}, which is "
                                      f"{'nobody' if hangs_on is None else 'team ' + hangs_on}:\n{table_of(self.looks[r]['rows'])}")

    def meant(self, r, match):
        "the teams that it may hang on: of what r has, those that nobody knowingly replaced"
        have = self.looks[r]["have"]
        put = [w for w in self.writes if w.column == "team" and w.row[0] == match and have[w.by.dot[0]] >= w.by.dot[1]]
        return [w.value for w in put if not any(o is not w and o.by.had_seen(w.by) for o in put)]

    def check_rows(self, r, rows):
        have = self.looks[r]["have"]
        dead = {row for d in self.deaths if have[d.by.dot[0]] >= d.by.dot[1] for row in d.rows}
        shown = self.shown(rows)
        for (table, name), births in self.births.items():
            lives = (table, name) not in dead
            if table == "tag":  # by its key: a deletion of either counts
                lives = not self.one_of(table, name) & dead
            if lives and any(have[b.by.dot[0]] >= b.by.dot[1] for b in births) and not self.one_of(table, name) & shown:
                self.fail("row", r, f"{table} {name} is not shown, and nobody deleted it; shown:\n{table_of(rows)}")

    def one_of(self, table, name):
        if table == "team":
            return {(table, t) for t in self.may_be(name)}
        return {(table, (t, name[1])) for t in self.may_be(name[0])} if table == "tag" else {(table, name)}

    def shown(self, rows):
        teams = self.teams(rows)
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
        teams = self.teams(rows)
        numbers = {teams[row[0]]: row[1] for row in rows["team"]}
        hangs_on = {born_of(row[2]): self.numbers(0, "team").get(row[1]) for row in rows["match"]}
        for w in self.writes:
            if w.column == "number":
                is_shown = w.value in [numbers.get(t) for t in self.may_be(w.row[0])]
            elif w.column == "team":
                is_shown = hangs_on.get(w.row[0]) in self.may_be(w.value)
            else:
                is_shown = (w.table, w.column, w.value) in shown
            if is_shown or (w.table, w.column, w.by.server, w.by.stamp) in self.conflicts:
                continue
            mine = lambda table, names: table == w.table and set(w.row) & set(names)
            if any(o is not w and o.column == w.column and mine(o.table, o.row) and o.by.had_seen(w.by) for o in self.writes):
                continue
            if any(d.rows & {(w.table, name) for name in w.row} and d.by.had_seen(w.by) for d in self.deaths):
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
                later = [b.by for b in self.births[(table, name)]] + [o.by for o in self.deaths if (table, name) in o.rows]
                if any(by.had_seen(d.by) for by in later):
                    continue
                self.fail("death", d.by.server, f"the deletion of {table} {name} (step {d.step}) neither holds nor is an open conflict; shown:\n"
                                                f"{table_of(rows)}\nopen conflicts {sorted(self.conflicts, key=repr)}")


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
