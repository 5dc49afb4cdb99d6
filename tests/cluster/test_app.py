"""The application's own transactions beside a node: capture never makes one fail; projections hardly ever."""
import os
import sqlite3
import subprocess
import sys
import threading
import time

import harness
from harness import ClusterTest, poll

TABLE = ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT NOT NULL DEFAULT 0, v TEXT);"
         "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20) INSERT INTO t(id, v) SELECT i, 'row ' || i FROM s;"
         "CREATE TABLE other(id INTEGER PRIMARY KEY, v TEXT);")


class Writer:
    """Commits one row every 10 ms to another node, so that this one shows about 100 changes a second. A process of its own, as an application on
    another server is: a thread would take turns with the one that is measured."""

    CODE = """
import sqlite3, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
count, due, every = 0, time.monotonic(), float(sys.argv[2])
while not ended.wait(max(0, due - time.monotonic())):
    con.execute("INSERT INTO other(v) VALUES (?)", ("change %d" % count,))
    count += 1
    due += every
con.close()
print(count)
"""

    def __init__(self, node, every=0.01):
        self.command = [sys.executable, "-c", self.CODE, node.path("app.db"), str(every)]

    def __enter__(self):
        self.proc = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        out, _ = self.proc.communicate(timeout=60)
        if self.proc.returncode != 0:
            raise AssertionError("the writer failed")
        self.count = int(out)


def repeat(count, transaction, rollback, every=0.0):
    """How many of `count` transactions were refused, and what was said."""
    failed, said, due = 0, set(), time.monotonic()
    for i in range(count):
        try:
            transaction(i)
        except sqlite3.OperationalError as e:
            failed += 1
            said.add(str(e))
            rollback()
        due += every
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)  # paces the load
    return failed, said


class CaptureOnly(ClusterTest):
    def node(self, journal="WAL"):
        node = self.make("n0")
        node.script(TABLE, journal=journal)
        node.start()
        poll(lambda: node.database()["state"] == "ok" and node.database()["rows"] == 20, what="captured")
        return node

    def check_all_captured(self, node):
        self.assertEqual(node.cli("wait", "--converged", "--timeout", 30).code, 0)
        other = self.make("n1", join=[node]).start()
        poll(lambda: other.has_tables("t"))
        poll(lambda: other.dump() == node.dump(), 20, "all that was written")

    def test_update_while_selecting(self):
        node = self.node()
        con = node.connect(timeout=0)

        def transaction(i):
            for (key,) in con.execute("SELECT id FROM t"):
                if not con.in_transaction:
                    con.execute("BEGIN")
                con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (key,))
            con.execute("COMMIT")
        self.assertEqual(repeat(2000, transaction, lambda: con.in_transaction and con.rollback()), (0, set()))
        con.close()
        self.assertEqual(node.sql("SELECT min(n), max(n) FROM t"), [(2000, 2000)])
        self.check_all_captured(node)

    def test_begin_select_update_commit(self):
        node = self.node()
        con = node.connect(timeout=0)

        def transaction(i):
            con.execute("BEGIN")
            n = con.execute("SELECT n FROM t WHERE id = ?", (i % 20 + 1,)).fetchone()[0]
            con.execute("UPDATE t SET n = ? WHERE id = ?", (n + 1, i % 20 + 1))
            con.execute("COMMIT")
        self.assertEqual(repeat(2000, transaction, lambda: con.in_transaction and con.rollback()), (0, set()))
        con.close()
        self.assertEqual(node.sql("SELECT sum(n) FROM t"), [(2000,)])
        self.check_all_captured(node)

    def test_python_with_its_default_transactions(self):
        node = self.node()
        con = node.connect(timeout=0, isolation_level="")

        def transaction(i):
            for key, in con.execute("SELECT id FROM t"):
                con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (key,))
            con.commit()
        self.assertEqual(repeat(300, transaction, con.rollback), (0, set()))
        con.close()

    def test_delete_mode_with_a_busy_timeout(self):
        node = self.node(journal="DELETE")
        con = node.connect(timeout=5)
        failed = repeat(300, lambda i: con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (i % 20 + 1,)), con.rollback)
        con.close()
        self.assertEqual(failed, (0, set()))
        self.check_all_captured(node)

    def test_a_dead_or_frozen_node_costs_nothing(self):
        node = self.node()
        con = node.connect(timeout=0)
        update = lambda i: con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (i % 20 + 1,))
        update(0)
        poll(lambda: node.database()["pending"] == 0)
        node.freeze()
        self.assertEqual(repeat(500, update, con.rollback), (0, set()))
        node.thaw()
        node.kill()
        self.assertEqual(repeat(500, update, con.rollback), (0, set()))
        con.execute("ALTER TABLE t ADD COLUMN later")
        con.close()
        node.restart()
        self.check_all_captured(node)

    @harness.unittest.skipIf(harness.sanitized(), "a sanitizer keeps memory of its own")
    def test_memory_goes_back_after_work(self):
        a = self.node()
        b = self.make("n1", join=[a]).start()
        poll(lambda: b.has_tables("t"))
        con = a.connect()
        for i in range(10):
            con.execute("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 10000) INSERT INTO t(v) SELECT hex(randomblob(30)) FROM s")
        con.close()
        self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 60).code, 0)

        def resident(node):
            with open("/proc/%d/statm" % node.proc.pid) as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        for n in (a, b):
            poll(lambda: resident(n) <= 8 << 20, 30, "%s is small again" % n.name)
            n.status()
            poll(lambda: resident(n) <= 8 << 20, 10, "%s is small again after a question" % n.name)

    def test_first_capture_does_not_block_writers(self):
        node = self.make("n0")
        node.script(TABLE + "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 200000) INSERT INTO other(v) SELECT 'old row ' || i FROM s;")
        con = node.connect(timeout=5)
        done, failed = threading.Event(), [0]

        def write():
            i = 0
            while not done.is_set():
                try:
                    con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (i % 20 + 1,))
                except sqlite3.OperationalError:
                    failed[0] += 1
                i += 1
                time.sleep(0.002)  # paces the load
        thread = threading.Thread(target=write)
        thread.start()
        try:
            node.start()
            poll(lambda: node.database()["rows"] >= 200020 and node.database()["state"] == "ok", 30)
        finally:
            done.set()
            thread.join()
            con.close()
        self.assertEqual(failed, [0])
        self.check_all_captured(node)


class BesideProjections(ClusterTest):
    def run_beside(self, count, every, make):
        c = self.cluster(2, TABLE)
        con = c[0].connect(timeout=5)
        with Writer(c[1]):
            poll(lambda: con.execute("SELECT count(*) FROM other").fetchone()[0] > 5)
            start, shown = time.monotonic(), con.execute("SELECT count(*) FROM other").fetchone()[0]
            failed, said = repeat(count, make(con), lambda: con.in_transaction and con.rollback(), every)
            took = time.monotonic() - start
            shown = con.execute("SELECT count(*) FROM other").fetchone()[0] - shown
        con.close()
        print("%d of %d failed beside %.0f projections/s %s" % (failed, count, shown / took, said or ""))
        self.assertGreater(shown / took, 50 / harness.SLOW, "changes of the other node were held back")
        c.converge()
        return failed

    def test_begin_select_update_commit(self):
        def make(con):
            def transaction(i):
                con.execute("BEGIN")
                n = con.execute("SELECT n FROM t WHERE id = ?", (i % 20 + 1,)).fetchone()[0]
                con.execute("UPDATE t SET n = ? WHERE id = ?", (n + 1, i % 20 + 1))
                con.execute("COMMIT")
            return transaction
        self.assertLessEqual(self.run_beside(3000, 0.002, make), 3)

    def test_autocommit(self):
        def make(con):
            return lambda i: con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (i % 20 + 1,))
        self.assertEqual(self.run_beside(2000, 0.001, make), 0)

    def test_begin_immediate(self):
        def make(con):
            def transaction(i):
                con.execute("BEGIN IMMEDIATE")
                n = con.execute("SELECT n FROM t WHERE id = ?", (i % 20 + 1,)).fetchone()[0]
                con.execute("UPDATE t SET n = ? WHERE id = ?", (n + 1, i % 20 + 1))
                con.execute("COMMIT")
            return transaction
        self.assertEqual(self.run_beside(2000, 0.001, make), 0)

    def test_delete_mode(self):
        c = self.cluster(2, TABLE, journal="DELETE")
        con = c[0].connect(timeout=10)
        with Writer(c[1], every=0.05) as writer:
            failed = repeat(150, lambda i: con.execute("UPDATE t SET n = n + 1 WHERE id = ?", (i % 20 + 1,)), con.rollback, 0.01)
        con.close()
        self.assertEqual(failed, (0, set()))
        self.assertGreater(writer.count, 5)
        c.converge()

    def test_the_same_row_from_both_sides(self):
        c = self.cluster(2, TABLE)
        cons = [n.connect(timeout=10) for n in c]
        for i in range(300):
            cons[i % 2].execute("UPDATE t SET v = ? WHERE id = 1", ("%d" % i,))
        for con in cons:
            con.close()
        c.converge()
        self.assertEqual(len(set(c.conflicts())), 1)


class LongReaders(ClusterTest):
    def test_a_long_reader_sees_its_snapshot_and_is_not_disturbed(self):
        c = self.cluster(2, TABLE)
        reader, writer = c[0].connect(), c[0].connect(timeout=5)
        reader.execute("BEGIN")
        self.assertEqual(reader.execute("SELECT count(*) FROM other").fetchone(), (0,))
        for i in range(50):
            c[1].sql("INSERT INTO other(v) VALUES ('while reading')")
            writer.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            self.assertEqual(reader.execute("SELECT count(*) FROM other").fetchone(), (0,), "a snapshot moved")
        reader.execute("COMMIT")
        start = time.monotonic()
        self.eventually(c[0], "SELECT count(*) FROM other", [(50,)], deadline=5)
        print("shown %.0f ms after the reader ended" % ((time.monotonic() - start) * 1000))
        reader.close(), writer.close()
        c.converge()

    def test_a_reader_that_never_ends_holds_nothing_up_for_ever(self):
        c = self.cluster(2, TABLE)
        reader = c[0].connect()
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM other").fetchone()
        c[1].sql("INSERT INTO other(v) VALUES ('patience')")
        self.eventually(c[0], "SELECT count(*) FROM other", [(1,)], deadline=15)
        self.assertEqual(reader.execute("SELECT count(*) FROM other").fetchone(), (0,))
        reader.execute("COMMIT")
        reader.close()


if __name__ == "__main__":
    harness.main()
