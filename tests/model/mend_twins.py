"""The engine and the model side by side: after each step both must show the same, up to numbers, and at last list the same open conflicts. Only
what is certain whoever mends first: single statements, and one batch at a time, causes first.

What the engine made in a step stands for what the model made. What the model mends and the engine does not publish goes out with the engine's
next batch of that server: a mend is the same whoever writes it."""
from mend_servers import Failure, Model, sql

COLUMNS = ("a", "b", "number", "name", "score", "note", "(deleted)")  # a reference has a number of its own on each side


class Twins:
    one_batch, one_by_one = True, True

    def __init__(self, engine):
        self.engine, self.model = engine, Model()

    def open(self, count):
        self.of = {}                                  # batch of the engine -> those of the model
        self.waiting = [[] for _ in range(count)]     # of the model, of which the engine published nothing yet
        self.stamps, self.writes = ({}, {}), 0        # (origin, stamp) -> which write, of the engine and of the model
        self.shown = [None] * count
        self.model.open(count)
        looks = self.engine.open(count)
        for r, look in enumerate(looks):
            self.shown[r] = look["rows"]
        return looks

    # -- the application
    def begin(self, r):
        self.engine.begin(r)

    def run(self, r, statement):
        self.shown[r] = self.engine.run(r, statement) if self.translated(r, statement) else None
        return self.shown[r]

    def translated(self, r, statement):
        "the same statement with the model's numbers"
        verb, table, row, values = statement
        rows, mine = self.shown[r], self.model.replicas[r].show()

        def number(t, n):
            name = next(x[2] for x in rows[t] if x[0] == n)
            found = [x[0] for x in mine[t] if x[2] == name]
            if not found:
                raise Failure("exact", f"server {r}: the model has no {t} {name}: {sql(*statement)}")
            return found[0]

        row, values = dict(row), dict(values)
        for t, where, column in ((table, row, "id"), ("team", row, "team"), ("team", values, "team")):
            if column in where:
                where[column] = number(t, getattr(where[column], "now", where[column]))
        self.model.run(r, (verb, table, row, values))
        return True

    def commit(self, r, batches):
        look, other = self.engine.commit(r, batches), self.model.commit(r, [])
        if other is not None:  # else the node is away
            self.wrote(r, look, other)
        return look

    def away(self, r):
        self.engine.away(r)
        self.model.away(r)

    def back(self, r):
        look, other = self.engine.back(r), self.model.back(r)
        self.wrote(r, look, other)
        return look

    def wrote(self, r, look, other):
        for made, stamps in zip((look["made"], other["made"]), self.stamps):
            for _, stamp, _, changes in made:
                if changes:
                    stamps[(r, stamp)] = self.writes
        self.writes += 1
        self.pair(r, look, other)

    # -- the rest
    def time(self, r):
        self.engine.time(r)
        self.model.time(r)

    def deliver(self, r, batches):
        look = self.engine.deliver(r, batches)
        self.pair(r, look, self.model.deliver(r, [m for b in batches for m in self.of[b]]))
        return look

    def later(self, r):
        look = self.engine.later(r)
        self.pair(r, look, self.model.look(r))
        return look

    def pair(self, r, look, other):
        self.waiting[r] += [(r, m[0]) for m in other["made"]]
        each = len(look["made"]) == len(self.waiting[r])
        for made in look["made"]:
            part = 1 if each else len(self.waiting[r])
            self.of[(r, made[0])], self.waiting[r] = self.waiting[r][:part], self.waiting[r][part:]
        self.shown[r] = look["rows"]
        mine, theirs = plain(look["rows"]), plain(other["rows"])
        if mine != theirs:
            raise Failure("exact", f"server {r} and the model differ (numbers of rows aside)\n"
                          + "\n".join(f"    {t} of the model  {row}" for t in theirs for row in theirs[t] if row not in mine[t])
                          + "\n" + "\n".join(f"    {t} of the engine {row}" for t in mine for row in mine[t] if row not in theirs[t]))

    def conflicts(self, r):
        self.hear_what_waited()
        listed = self.engine.conflicts(r)
        mine, theirs = (self.people(found, stamps) for found, stamps in zip((listed, self.model.conflicts(r)), self.stamps))
        if mine != theirs:
            raise Failure("exact", f"server {r} and the model list other open conflicts (table, column, value, origin, which write)\n"
                                   f"    only the model  {sorted(theirs - mine, key=repr)}\n    only the engine {sorted(mine - theirs, key=repr)}")
        return listed

    def hear_what_waited(self):
        waited = [b for some in self.waiting for b in some]
        self.waiting = [[] for _ in self.waiting]
        for r in range(len(self.waiting)):
            self.model.deliver(r, waited)

    @staticmethod
    def people(found, stamps):
        "those about what a person wrote"
        return {(c["table"], c["column"], c["value"], c["origin"], stamps[(c["origin"], c["stamp"])]) for c in found
                if c["column"] in COLUMNS and (c["origin"], c["stamp"]) in stamps}

    def check(self, r):
        return self.engine.check(r)

    def close(self):
        self.engine.close()


def plain(rows):
    "without numbers: references by the name of the team"
    team = {row[0]: row[2] for row in rows["team"]}
    return {"note": sorted(map(tuple, rows["note"])), "team": sorted(((n, name) for _, n, name in rows["team"]), key=repr),
            "match": sorted((score, team.get(t)) for _, t, score in rows["match"]),
            "tag": sorted((team.get(t), label, note) for t, label, note in rows["tag"])}
