"""Every way in which applications write: many processes and threads, journal modes and changes of them, VACUUM, attached databases, a huge
transaction, no busy timeout, and somebody who drops what is ours. Statement by statement: tests/unit/test_store_engine_writers.c."""
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time

import harness
from harness import ClusterTest, poll

TABLES = ("CREATE TABLE team(id INTEGER PRIMARY KEY, number INT UNIQUE, name TEXT, n INT DEFAULT 0);"
          "CREATE TABLE member(id INTEGER PRIMARY KEY AUTOINCREMENT, team INT REFERENCES team(id) ON DELETE CASCADE, name TEXT);"
          "CREATE TABLE setting(key TEXT PRIMARY KEY, value) WITHOUT ROWID; CREATE TABLE tag(a INT, b TEXT, note, PRIMARY KEY(a, b));")


def equal(test, cluster, dbs=("app.db",)):
    """All nodes hold the same, say so, and their files are sound."""
    cluster.converge(dbs=dbs)
    done = cluster[0].cli("verify")
    test.assertEqual(done.code, 0, done)
    for node in cluster:
        for db in dbs:
            test.assertEqual(node.sql("PRAGMA integrity_check", db=db), [("ok",)])


class Process:
    """A program of its own that writes until it is told to end; it must end well."""

    def __init__(self, code, *args):
        self.proc = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)

    def end(self):
        out, err = self.proc.communicate("end\n", timeout=60 * harness.SLOW)
        if self.proc.returncode != 0:
            raise AssertionError("a writer failed: %s" % err[-2000:])
        return out


# Threads that write each its own way, to keys of their own; names and numbers are taken from each other.
CROWD = """
import random, sqlite3, sys, threading
path, base, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ended, errors, count = threading.Event(), [], [0]

def work(which):
    rnd = random.Random(seed * 10 + which)
    con = sqlite3.connect(path, timeout=60, isolation_level=None)
    con.execute("PRAGMA foreign_keys = %d" % (which % 2))
    con.execute("PRAGMA recursive_triggers = %d" % (which == 2))
    first = base + which * 1000
    while not ended.is_set():
        key, number = first + rnd.randrange(30), base + rnd.randrange(60)
        what = rnd.randrange(9)
        if what == 0:
            con.execute("INSERT OR REPLACE INTO team(id, number, name) VALUES (?, ?, ?)", (key, number, "replaced by %d" % which))
        elif what == 1:
            con.execute("UPDATE OR REPLACE team SET number = ? WHERE id = ?", (number, key))
        elif what == 2:
            con.execute("INSERT INTO team(id, number) VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + 1", (key, number))
        elif what == 3:
            con.execute("DELETE FROM team WHERE id = ?", (key,))
        elif what == 4:
            con.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", ("s%d" % key, rnd.choice(["same", rnd.random()])))
        elif what == 5:
            con.execute("INSERT OR IGNORE INTO tag VALUES (?, ?, 'ignored or not')", (key, "t%d" % rnd.randrange(3)))
        elif what == 6:
            con.execute("UPDATE tag SET a = a + 1, note = ? WHERE a = ? AND NOT EXISTS (SELECT 1 FROM tag AS o WHERE o.a = tag.a + 1)", (count[0], key))
        else:
            con.execute("BEGIN IMMEDIATE")
            con.execute("INSERT OR IGNORE INTO team(id, number) VALUES (?, ?)", (key, number))
            con.execute("SAVEPOINT inner")
            con.execute("DELETE FROM setting WHERE key = ?", ("s%d" % key,))
            con.execute("DELETE FROM team WHERE id = ?", (first + rnd.randrange(30),))
            con.execute("ROLLBACK TO inner" if rnd.random() < 0.5 else "RELEASE inner")
            con.execute("COMMIT" if rnd.random() < 0.8 else "ROLLBACK")
        count[0] += 1
    con.close()

def guarded(which):
    try:
        work(which)
    except Exception as e:
        errors.append(repr(e))
        ended.set()

threads = [threading.Thread(target=guarded, args=(i,)) for i in range(3)]
[t.start() for t in threads]
sys.stdin.readline()
ended.set()
[t.join() for t in threads]
sys.exit(errors and str(errors)) if errors else print(count[0])
"""


class Crowds(ClusterTest):
    def crowd(self, journal):
        c = self.cluster(2, TABLES, journal=journal)
        seed = int(os.environ.get("STARLING_SEED", random.randrange(10**6)))
        print("STARLING_SEED=%d" % seed)
        writers = [Process(CROWD, c[i > 2].path(), 100000 * (i + 1), seed + i) for i in range(4)]
        end = time.monotonic() + 3
        while time.monotonic() < end:  # an operator beside them
            harness.shell(c[0].path(), "PRAGMA busy_timeout = 60000;", "UPDATE team SET name = 'by the shell' WHERE id %% 7 = %d;" % random.randrange(7))
        print("%s: %s statements" % (journal, " + ".join(w.end().strip() for w in writers)))
        equal(self, c)

    def test_processes_and_threads(self):
        self.crowd("WAL")

    def test_processes_and_threads_in_delete_mode(self):
        self.crowd("DELETE")

    def test_rows_that_sqlite_numbers_and_replace_throws_out(self):
        """REPLACE by a name, as many programs keep a key-value table: each write is another row. The number of the newest row is used again."""
        c = self.cluster(2, "CREATE TABLE kv(id INTEGER PRIMARY KEY, name TEXT UNIQUE, value);")
        code = ("import sqlite3, sys; con = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
                "for i in range(400): con.execute('REPLACE INTO kv(name, value) VALUES (?, ?)', ('name %d' % (i * 7 % 30), i))\n"
                "sys.stdin.readline()")
        for p in [Process(code, c[0].path()) for _ in range(3)]:
            p.end()
        equal(self, c)
        self.assertEqual(c[1].sql("SELECT count(*) FROM kv"), [(30,)])


class Journals(ClusterTest):
    def test_an_admin_page_that_sets_delete_mode(self):
        """SQLite itself refuses to leave WAL while anybody else has the file open. So nothing hangs and nothing breaks; with the node stopped it works."""
        c = self.cluster(2, TABLES, ports=True)
        pool = [c[0].connect() for _ in range(5)]
        for con in pool:
            con.execute("SELECT count(*) FROM team").fetchall()
        page = c[0].connect(timeout=30)
        began = time.monotonic()
        with self.assertRaisesRegex(sqlite3.OperationalError, "locked"):
            page.execute("PRAGMA journal_mode = DELETE")
        self.assertLess(time.monotonic() - began, 5 * harness.SLOW, "it waited for its whole busy timeout")
        for con in pool:
            con.close()
        with self.assertRaisesRegex(sqlite3.OperationalError, "locked"):  # also without the pool: the node has it open
            page.execute("PRAGMA journal_mode = DELETE")
        self.assertIn("WAL, which can be left only while starlingd is stopped", c[0].cli("doctor").out)
        page.execute("INSERT INTO team(number, name) VALUES (1, 'after it was refused')")
        c[1].sql("INSERT INTO setting VALUES ('from there', 1)")
        equal(self, c)
        c[0].stop()
        self.assertEqual(page.execute("PRAGMA journal_mode = DELETE").fetchone(), ("delete",))
        page.execute("UPDATE team SET name = 'in DELETE mode'")
        c[0].restart()
        c[1].sql("INSERT INTO setting VALUES ('and back', 1)")
        equal(self, c)
        self.assertEqual(c[0].sql("PRAGMA journal_mode"), [("delete",)])
        page.close()

    def test_modes_changed_while_everybody_writes(self):
        c = self.cluster(2, TABLES, journal="DELETE")
        writers = [Process(CROWD, c[i].path(), 100000 * (i + 1), i) for i in range(2)]
        con = c[0].connect(timeout=0.05)
        changed = set()
        for mode in ("TRUNCATE", "PERSIST", "DELETE", "WAL", "DELETE"):
            refused = 0
            while mode not in changed or mode == "DELETE":
                try:
                    changed.add(con.execute("PRAGMA journal_mode = %s" % mode).fetchone()[0].upper())
                    break
                except sqlite3.OperationalError as e:
                    self.assertIn("locked", str(e))
                    refused += 1
                    if refused > (20 if "WAL" in changed else 2000):
                        break
            time.sleep(0.1)  # paces the changes: the others write in this mode
        con.close()
        for w in writers:
            w.end()
        self.assertIn("WAL", changed)
        equal(self, c)
        self.assertEqual(c[0].sql("PRAGMA journal_mode"), [("wal",)])


class Maintenance(ClusterTest):
    def test_vacuum(self):
        c = self.cluster(2, TABLES + "CREATE TABLE keyless(a, b);")
        writers = [Process(CROWD, c[i].path(), 100000 * (i + 1), i) for i in range(2)]
        copies = []
        for i in range(6):
            c[i % 2].sql("INSERT INTO keyless VALUES (?, randomblob(2000))", (i,))
            c[i % 2].sql("DELETE FROM keyless WHERE a < ?", (i - 2,))
            c[0].sql("VACUUM", timeout=60)
            copies.append(os.path.join(self.root, "copy%d.db" % i))
            c[1].sql("VACUUM INTO '%s'" % copies[-1], timeout=60)
        for w in writers:
            w.end()
        c.wait()
        tables = ("team", "member", "setting", "tag")
        self.assertEqual(c[0].dump(tables=tables), c[1].dump(tables=tables))
        for path in copies:  # an ordinary database, with or without a node
            con = harness.connect(path)
            con.execute("INSERT OR REPLACE INTO setting VALUES ('in the copy', 1)")
            self.assertEqual(con.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            con.close()

    def test_attached_databases(self):
        """One transaction in several files is one commit in each of them."""
        for journal in ("WAL", "DELETE"):
            with self.subTest(journal):
                nodes = [self.make("%s%d" % (journal, i)) for i in range(2)]
                for db in ("app.db", "more/other.db"):
                    nodes[0].script(TABLES, db=db, journal=journal)
                nodes[1].join = [nodes[0]]
                for n in nodes:
                    n.start()
                for db in ("app.db", "more/other.db"):
                    poll(lambda: nodes[1].has_tables("team", "setting", db=db), 20)
                con = nodes[0].connect()
                con.execute("ATTACH ? AS other", (nodes[0].path("more/other.db"),))
                con.execute("ATTACH ':memory:' AS scratch")
                con.execute("CREATE TABLE scratch.team(id INTEGER PRIMARY KEY, number)")
                for i in range(30):
                    con.execute("BEGIN")
                    con.execute("INSERT INTO main.team(number, name) VALUES (?, 'main')", (i,))
                    con.execute("INSERT INTO other.team(number, name) SELECT number, 'other' FROM main.team WHERE number = ?", (i,))
                    con.execute("INSERT INTO scratch.team(number) VALUES (?)", (i,))
                    con.execute("REPLACE INTO other.setting VALUES ('last', ?)", (i,))
                    con.execute("DELETE FROM main.team WHERE number = ?", (i - 20,))
                    con.execute("COMMIT" if i % 5 else "ROLLBACK")
                con.close()
                c = harness.Cluster.__new__(harness.Cluster)
                c.test, c.db, c.nodes = self, "app.db", nodes
                equal(self, c, ("app.db", "more/other.db"))
                self.assertEqual(nodes[1].sql("SELECT count(*) FROM team", db="more/other.db"), [(24,)])
                for n in nodes:
                    n.stop()


class Huge(ClusterTest):
    def test_a_million_rows_in_one_transaction(self):
        c = self.cluster(2, "CREATE TABLE log(id INTEGER PRIMARY KEY, what TEXT, n INT);")
        con = c[0].connect(timeout=60)
        began = time.monotonic()
        con.execute("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1000000) INSERT INTO log(what, n) SELECT 'row ' || i, i FROM s")
        con.close()
        wrote = time.monotonic() - began
        c.wait(120)
        self.assertEqual(c[1].sql("SELECT count(*), sum(n) FROM log"), c[0].sql("SELECT count(*), sum(n) FROM log"))

        def most(node):
            with open("/proc/%d/status" % node.proc.pid) as f:
                return next(int(line.split()[1]) // 1024 for line in f if line.startswith("VmHWM:"))
        print("written in %.1f s, everywhere after %.1f s; at most %s MiB" % (wrote, time.monotonic() - began, [most(n) for n in c]))
        if not harness.sanitized():
            for n in c:
                self.assertLess(most(n), 160)


class Impatient(ClusterTest):
    def test_an_application_without_a_busy_timeout(self):
        """It may be told "database is locked" beside remote changes, as beside any second writer, and loses nothing by it."""
        c = self.cluster(2, TABLES)
        writer = Process(CROWD, c[1].path(), 100000, 1)
        con, refused, done = c[0].connect(timeout=0), 0, 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                con.execute("INSERT INTO setting VALUES (?, 'mine')", ("n%d" % done,))
                done += 1
            except sqlite3.OperationalError as e:
                self.assertEqual(str(e), "database is locked")
                refused += 1
        writer.end()
        con.close()
        print("%d of %d refused" % (refused, refused + done))
        self.assertIn("needs a busy timeout: PRAGMA busy_timeout", c[0].cli("doctor").out)
        equal(self, c)
        self.assertEqual(c[1].sql("SELECT count(*) FROM setting WHERE value = 'mine'"), [(done,)])


class Dropped(ClusterTest):
    """Somebody drops what is ours while the application writes: it is put back at once, and what was written meanwhile is found."""
    def drop(self, *what):
        c = self.cluster(2, TABLES)
        done, failures, written, stop = threading.Event(), [], [0], threading.Event()

        def write():
            con = c[0].connect()
            while not stop.is_set():
                try:
                    # SQLite reads the schema anew with a statement that can run: a connection that never reads would go on being told "no such table".
                    con.execute("SELECT 1 FROM team WHERE number = ?", (written[0],)).fetchall()
                    con.execute("INSERT OR IGNORE INTO team(number, name) VALUES (?, 'team')", (written[0],))
                    con.execute("UPDATE team SET n = n + 1 WHERE number = ?", (written[0] // 2,))
                    written[0] += 1
                except sqlite3.OperationalError as e:
                    failures.append((time.monotonic(), str(e)))
                time.sleep(0.0005)  # paces the load
            con.close()
        thread = threading.Thread(target=write)
        thread.start()
        con = c[0].connect()
        schema = lambda: sorted(n.split("_")[-1] for n, in con.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_starling*'"))
        try:
            poll(lambda: written[0] > 50)
            before = schema()
            for name in what or [n for n, in con.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_starling_[0-9]*'").fetchall()]:
                con.execute("DROP %s %s" % ("TABLE" if name in ("_starling_dirty", "_starling_mark") else "TRIGGER", name))
            began = time.monotonic()
            poll(lambda: schema() == before, what="put back")
            took = time.monotonic() - began
            wrote = written[0]
            poll(lambda: written[0] > wrote + 50)
        finally:
            stop.set()
            thread.join()
            con.close()
        spread = failures[-1][0] - failures[0][0] if failures else 0
        print("put back within %.1f ms; %d writes failed within %.1f ms" % (took * 1000, len(failures), spread * 1000))
        self.assertEqual({f[1].split(":")[0] for f in failures} - {"no such table", "database schema has changed"}, set())
        self.assertLess(spread, 1 * harness.SLOW)
        equal(self, c)
        self.assertEqual(c[1].sql("SELECT count(*) FROM team"), c[0].sql("SELECT count(*) FROM team"))

    def test_the_table_of_notes(self):
        self.drop("_starling_dirty")

    def test_the_marks(self):
        self.drop("_starling_mark")

    def test_the_triggers(self):
        self.drop()


if __name__ == "__main__":
    harness.main()
