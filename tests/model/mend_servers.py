"""The servers that mends.py moves: the real ones (tests/model/servers), or the specification behind the same face."""
import json
import subprocess

import mend_model


class Failure(Exception):
    def __init__(self, kind, text):
        super().__init__(text)
        self.kind, self.text = kind, text


class Late(int):
    "the number of a team when the application read it; `now`: what it has become"


class Engine:
    "the real one: tests/model/servers"

    def __init__(self, program):
        self.program, self.process = program, None

    one_batch = True    # comes of a transaction; what it made and deleted again never was
    one_by_one = False  # single statements, and batches with their causes first

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

    def begin(self, r):
        self.ask(f"begin {r}")

    def run(self, r, statement):
        return self.ask(f"try {r} {sql(*statement)}")["rows"]

    def commit(self, r, batches):
        return self.ask(f"commit {r} " + listed(batches))

    def away(self, r):
        self.ask(f"away {r}")

    def back(self, r):
        return self.ask(f"back {r}")

    def time(self, r):
        self.ask(f"time {r}")

    def deliver(self, r, batches):
        return self.ask(f"deliver {r} " + listed(batches))

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

    one_batch, one_by_one = False, False

    def open(self, count):
        names = "ABCDEFGH"[:count]
        self.replicas, self.told, self.gone = [self.replica(n, names) for n in names], [0] * count, None
        return [self.look(r) for r in range(count)]

    def look(self, r):
        me, made = self.replicas[r], []
        for version in range(self.told[r] + 1, me.vv[me.me] + 1):
            changes = me.log[(me.me, version)][4]
            mends = sum(c[0] in ("same", "apart", "mend", "revive") for c in changes)
            made.append([version, "" if changes[0][0] in ("same", "apart") else str(changes[0][4][0]), mends, len(changes) - mends])
        self.told[r] = me.vv[me.me]
        return {"rows": me.show(), "have": list(me.vv.values()), "made": made, "settled": True, "digest": "", "parked": 0}

    def begin(self, r):
        pass

    def run(self, r, statement):
        "each of a transaction's statements is a batch of its own: nothing comes in between"
        self.replicas[r].act(*statement[:3], {c: getattr(v, "now", v) for c, v in statement[3].items()})
        return self.replicas[r].show()

    def commit(self, r, batches):
        if self.gone == r:
            return None
        committed = self.replicas[r].show()
        self.replicas[r].mend()
        return self.deliver(r, batches) | {"committed": committed}

    def away(self, r):
        self.gone = r
        self.replicas[r].held.clear()

    def back(self, r):
        self.gone = None
        return self.look(r) | {"committed": self.replicas[r].show()}

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


def listed(batches):
    return " ".join(f"{o} {v}" for o, v in batches)


def literal(value):
    return "NULL" if value is None else str(value) if isinstance(value, int) else "'" + value + "'"


def sql(verb, table, row, values):
    where = " AND ".join(f"{c}={literal(v)}" for c, v in row.items())
    if verb == "insert":
        return f"INSERT INTO {table}({','.join(values)}) VALUES({','.join(map(literal, values.values()))})"
    if verb == "update":
        return f"UPDATE {table} SET {','.join(f'{c}={literal(v)}' for c, v in values.items())} WHERE {where}"
    return f"DELETE FROM {table} WHERE {where}"
