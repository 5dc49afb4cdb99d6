"""Writers for the fault tests. Each remembers a row only after its COMMIT has returned, and touches only rows of its own, so that
what must be there at the end is known whatever happened in between."""
import random
import sqlite3
import subprocess
import sys
import threading
import time

from harness import _running, environment

SCHEMA = "CREATE TABLE log(id TEXT PRIMARY KEY, who TEXT NOT NULL, n INT NOT NULL, body TEXT); CREATE TABLE shared(id INTEGER PRIMARY KEY, %s);" % (
    ", ".join("c%d INT" % i for i in range(6))) + "".join("INSERT INTO shared(id) VALUES (%d);" % i for i in range(1, 9))


class Writer(threading.Thread):
    """Inserts, updates and deletes own rows in transactions of 1 to 6; also edits its own column of shared rows."""

    def __init__(self, node, number, seed, pause=0.004, db="app.db"):
        super().__init__()
        self.node, self.number, self.pause, self.db = node, number, pause, db
        self.random = random.Random(seed)
        self.rows, self.gone, self.shared = {}, set(), {}
        self.commits, self.refused, self.error = 0, 0, None
        self.ending = threading.Event()

    def run(self):
        try:
            con = self.node.connect(self.db, timeout=30)
            i = 0
            while not self.ending.is_set():
                i += 1
                self.transaction(con, i)
                time.sleep(self.random.random() * 2 * self.pause)  # paces the load
            con.close()
        except Exception as e:
            self.error = e

    def transaction(self, con, i):
        r, rows, gone, shared = self.random, {}, set(), {}
        try:
            con.execute("BEGIN IMMEDIATE")
            for k in range(r.choice((1, 1, 2, 6))):
                what = r.random()
                mine = list(self.rows)[-200:]
                if what < 0.6 or not mine:
                    key = "w%d-%d-%d" % (self.number, i, k)
                    rows[key] = (i, "x" * r.choice((0, 20, 300)))
                    con.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (key, "w%d" % self.number, *rows[key]))
                elif what < 0.8:
                    key = r.choice(mine)
                    if key not in gone:
                        rows[key] = (i, "updated")
                        con.execute("UPDATE log SET n = ?, body = ? WHERE id = ?", (*rows[key], key))
                elif what < 0.9:
                    key = r.choice(mine)
                    rows.pop(key, None)
                    gone.add(key)
                    con.execute("DELETE FROM log WHERE id = ?", (key,))
                else:
                    row = r.randrange(1, 9)
                    shared[row] = i
                    con.execute("UPDATE shared SET c%d = ? WHERE id = ?" % self.number, (i, row))
            con.execute("COMMIT")
        except sqlite3.OperationalError:
            self.refused += 1
            if con.in_transaction:
                con.rollback()
            return
        for key in gone:
            self.rows.pop(key, None)
        self.rows.update(rows)
        self.gone |= gone
        self.shared.update(shared)
        self.commits += 1

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error

    def missing(self, node, db=None):
        """What this writer committed and `node` does not show as it was."""
        con = node.connect(db or self.db)
        there = {r[0]: (r[1], r[2]) for r in con.execute("SELECT id, n, body FROM log WHERE who = ?", ("w%d" % self.number,))}
        shared = dict(con.execute("SELECT id, c%d FROM shared" % self.number))
        con.close()
        wrong = [(k, v, there.get(k)) for k, v in self.rows.items() if there.get(k) != v]
        wrong += [(k, "deleted", there[k]) for k in self.gone if k in there]
        wrong += [(k, "extra", v) for k, v in there.items() if k not in self.rows and k not in self.gone]
        wrong += [("shared %d" % k, v, shared.get(k)) for k, v in self.shared.items() if shared.get(k) != v]
        return wrong


PROGRAM = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
i = 0
while True:
    i += 1
    con.execute('BEGIN IMMEDIATE')
    for part in 'abc':
        con.execute('INSERT INTO log VALUES (?, ?, ?, ?)', ('%s-%d-%s' % (sys.argv[2], i, part), 'process', i, part))
    con.execute('COMMIT')
    sys.stdout.write('%s-%d\\n' % (sys.argv[2], i)); sys.stdout.flush()
"""


class ProcessWriter:
    """A program of its own, to be killed in the middle of whatever it does."""

    def __init__(self, node, name, db="app.db"):
        self.proc = subprocess.Popen([sys.executable, "-c", PROGRAM, node.path(db), name], stdout=subprocess.PIPE, env=environment())
        _running.add(self.proc)
        self.lines = []
        self.thread = threading.Thread(target=lambda: self.lines.extend(line.decode().strip() for line in self.proc.stdout if line.endswith(b"\n")))
        self.thread.start()

    def kill(self):
        """The transactions whose COMMIT returned."""
        self.proc.kill()
        self.proc.wait()
        _running.discard(self.proc)
        self.thread.join()
        self.proc.stdout.close()
        return self.lines
