"""Transactions as applications make them, by several processes and threads at once on two servers: keys that change places, rows before the rows
that they refer to (deferred foreign keys), savepoints that are rolled back, commits that are refused. Each thread keeps to keys of its own and knows
what it committed, so that in the end every row on every server is accounted for; and whoever reads meanwhile sees whole commits only."""
import json
import os
import random
import subprocess
import sys
import time

import harness
from harness import ClusterTest

TABLES = ("CREATE TABLE team(id INTEGER PRIMARY KEY, pos INT UNIQUE, boss INT REFERENCES team(id) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,"
          " n INT NOT NULL DEFAULT 0);"
          "CREATE TABLE member(id INTEGER PRIMARY KEY, slot TEXT UNIQUE NOT NULL,"
          " team INT NOT NULL REFERENCES team(id) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);"
          "CREATE TABLE step(a INT, b INT, v, PRIMARY KEY(a, b)) WITHOUT ROWID;"
          "CREATE TABLE account(id INTEGER PRIMARY KEY, owner INT, n INT);")
THREADS = 3

# A thread's model of its rows is what its transactions made, one dict a table; it takes the place of the committed one when COMMIT succeeds.
WRITER = r"""
import copy, json, random, sqlite3, sys, threading
path, first, seed, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
ended, errors, models, done = threading.Event(), [], {}, {"committed": 0, "refused": 0, "taken back": 0}

class Thread:
    def __init__(self, base):
        self.base, self.rnd = base, random.Random(seed * 100 + base)
        self.con = sqlite3.connect(path, timeout=60, isolation_level=None)
        self.con.execute("PRAGMA foreign_keys = ON")
        self.model = {"team": {}, "member": {}, "step": {}, "account": {}}

    def run(self, sql, *args):
        return self.con.execute(sql, args)

    def a_team(self):
        return self.rnd.choice(sorted(self.model["team"])) if self.model["team"] else None

    def new_team(self):
        free = [i for i in range(self.base, self.base + 30) if i not in self.model["team"]]
        return self.rnd.choice(free) if free else None

    def child_first(self):
        slot, team = "%d.%d" % (self.base, self.rnd.randrange(40)), self.new_team()
        if slot in self.model["member"] or team is None:
            return
        self.run("INSERT INTO member(slot, team) VALUES (?, ?)", slot, team)
        self.run("INSERT INTO team(id) VALUES (?)", team)
        self.model["member"][slot], self.model["team"][team] = team, [None, None, 0]

    def circle(self):
        a, b = self.new_team(), self.new_team()
        if a is None or a == b:
            return
        self.run("INSERT INTO team(id, boss) VALUES (?, ?), (?, ?)", a, b, b, a)
        self.model["team"][a], self.model["team"][b] = [None, b, 0], [None, a, 0]

    def rename(self, old, new):
        teams = self.model["team"]
        self.run("UPDATE team SET id = ? WHERE id = ?", new, old)
        teams[new] = teams.pop(old)
        for row in teams.values():
            row[1] = new if row[1] == old else row[1]
        for slot, team in self.model["member"].items():
            self.model["member"][slot] = new if team == old else team

    def swap_keys(self):
        a, b, over = self.a_team(), self.a_team(), self.base + 99
        if a is None or a == b:
            return
        self.rename(a, over)
        self.rename(b, a)
        self.rename(over, b)

    def swap_values(self):
        a, b = self.a_team(), self.a_team()
        if a is None or a == b:
            return
        teams = self.model["team"]
        self.run("UPDATE team SET pos = NULL WHERE id = ?", a)
        self.run("UPDATE team SET pos = ? WHERE id = ?", teams[a][0], b)
        self.run("UPDATE team SET pos = ?, n = n + 1 WHERE id = ?", teams[b][0], a)
        teams[a][0], teams[b][0] = teams[b][0], teams[a][0]
        teams[a][2] += 1

    def take_value(self):
        a, pos = self.a_team(), self.base + self.rnd.randrange(10)
        if a is None:
            return
        for other, row in self.model["team"].items():
            if row[0] == pos and other != a:
                self.run("UPDATE team SET pos = NULL WHERE id = ?", other)
                row[0] = None
        self.run("INSERT INTO team(id, pos) VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET pos = excluded.pos, n = n + 1", a, pos)
        self.model["team"][a][0] = pos
        self.model["team"][a][2] += 1

    def again(self):
        a = self.a_team()
        if a is None:
            return
        self.run("DELETE FROM team WHERE id = ?", a)
        self.run("INSERT INTO team(id, n) VALUES (?, 7)", a)
        self.model["team"][a] = [None, None, 7]

    def leave(self):
        a = self.a_team()
        if a is None:
            return
        self.run("DELETE FROM member WHERE team = ?", a)
        self.run("UPDATE team SET boss = NULL WHERE boss = ?", a)
        self.run("DELETE FROM team WHERE id = ?", a)
        del self.model["team"][a]
        self.model["member"] = {s: t for s, t in self.model["member"].items() if t != a}
        for row in self.model["team"].values():
            row[1] = None if row[1] == a else row[1]

    def shift(self):
        a = self.base + self.rnd.randrange(3)
        self.run("UPDATE step SET b = -b - 1 WHERE a = ?", a)
        self.run("UPDATE step SET b = -b WHERE a = ?", a)
        self.run("INSERT INTO step VALUES (?, 0, ?)", a, done["committed"])
        self.model["step"] = {(x, y + (x == a)): v for (x, y), v in self.model["step"].items()}
        self.model["step"][a, 0] = done["committed"]
        self.run("DELETE FROM step WHERE a = ? AND b > 5", a)
        self.model["step"] = {(x, y): v for (x, y), v in self.model["step"].items() if x != a or y <= 5}

    def pay(self):
        a, b, n = self.base + self.rnd.randrange(5), self.base + self.rnd.randrange(5), self.rnd.randrange(1, 50)
        for account, by in ((a, -n), (b, n)):
            self.run("UPDATE account SET n = n + ? WHERE id = ?", by, account)
            self.model["account"][account] += by

    def dangle(self):
        self.run("INSERT INTO member(slot, team) VALUES (?, ?)", "dangling %d" % self.base, self.base + 98)

    def some(self, depth=0):
        for _ in range(self.rnd.randrange(1, 4)):
            getattr(self, self.rnd.choice(("child_first", "circle", "swap_keys", "swap_keys", "swap_values", "take_value", "again", "leave", "shift", "pay")))()
            if depth < 2 and self.rnd.random() < 0.3:
                name, before = "s%d" % depth, copy.deepcopy(self.model)
                self.run("SAVEPOINT " + name)
                self.some(depth + 1)
                if self.rnd.random() < 0.5:
                    self.run("ROLLBACK TO " + name)
                    self.model = before
                    done["taken back"] += 1
                self.run("RELEASE " + name)

    def transaction(self):
        before, bad = copy.deepcopy(self.model), self.rnd.random() < 0.1
        self.run("BEGIN IMMEDIATE")
        self.some()
        if bad:
            self.dangle()
        try:
            self.run("COMMIT")
            if bad:
                raise SystemExit("a child without a parent was committed")
            done["committed"] += 1
        except sqlite3.IntegrityError:
            if not bad:
                raise
            self.run("ROLLBACK")
            self.model = before
            done["refused"] += 1

    def work(self):
        self.run("BEGIN IMMEDIATE")
        for i in range(5):
            self.run("INSERT INTO account VALUES (?, ?, 100)", self.base + i, self.base)
            self.model["account"][self.base + i] = 100
        self.run("COMMIT")
        while not ended.is_set():
            self.transaction()

def guarded(base):
    try:
        thread = Thread(base)
        models[base] = thread
        thread.work()
    except BaseException as e:
        errors.append("%d: %r" % (base, e))
        ended.set()

threads = [threading.Thread(target=guarded, args=(first + 1000 * i,)) for i in range(threads)]
[t.start() for t in threads]
sys.stdin.readline()
ended.set()
[t.join() for t in threads]
if errors:
    sys.exit(str(errors))
rows = {"team": [], "member": [], "step": [], "account": []}
for t in models.values():
    rows["team"] += [[i, *row] for i, row in t.model["team"].items()]
    rows["member"] += [[s, team] for s, team in t.model["member"].items()]
    rows["step"] += [[a, b, v] for (a, b), v in t.model["step"].items()]
    rows["account"] += [[i, n] for i, n in t.model["account"].items()]
json.dump({"rows": rows, "done": done}, sys.stdout)
"""
CONTENT = {"team": "SELECT id, pos, boss, n FROM team", "member": "SELECT slot, team FROM member", "step": "SELECT a, b, v FROM step",
           "account": "SELECT id, n FROM account"}


class Transactions(ClusterTest):
    def run_writers(self, journal, seconds):
        c = self.cluster(2, TABLES, journal=journal)
        seed = int(os.environ.get("STARLING_SEED", random.randrange(10**6)))
        print("STARLING_SEED=%d" % seed)
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, c[i % 2].path(), str(100000 * (i + 1)), str(seed + i), str(THREADS)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(4)]
        looks, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:  # what is paid is paid to somebody, in every moment, on every server
            for node in c:
                self.assertEqual(node.sql("SELECT owner, sum(n) FROM account GROUP BY owner HAVING sum(n) <> 500 OR count(*) <> 5"), [])
                self.assertEqual(node.sql("PRAGMA foreign_key_check"), [])
                looks += 1
        rows, done = {t: [] for t in CONTENT}, {}
        for w in writers:
            out, err = w.communicate("end\n", timeout=60 * harness.SLOW)
            self.assertEqual(w.returncode, 0, err[-2000:])
            told = json.loads(out)
            for table in rows:
                rows[table] += told["rows"][table]
            for what, n in told["done"].items():
                done[what] = done.get(what, 0) + n
        print("%s: %s transactions, %d looks" % (journal, done, looks))
        c.converge()
        for node in c:
            for table, sql in CONTENT.items():
                got, want = sorted(map(list, node.sql(sql)), key=repr), sorted(rows[table], key=repr)
                self.assertEqual(got, want, "%s of %s" % (table, node.name))
            self.assertEqual(node.sql("PRAGMA integrity_check"), [("ok",)])
        lost = [x for x in c[0].json("conflicts")["conflicts"] if (x["table"], x["kind"]) != ("member", "number")]
        self.assertEqual(lost, [], "each thread kept to its own keys")
        self.assertEqual(c[0].cli("verify").code, 0)

    def test_in_wal_mode(self):
        self.run_writers("WAL", float(os.environ.get("STARLING_SECONDS", 2)))

    def test_in_delete_mode(self):
        self.run_writers("DELETE", float(os.environ.get("STARLING_SECONDS", 1)))


if __name__ == "__main__":
    harness.main()
