"""The database file is replaced under the node: restored, copied away and back, deleted and made anew, cloned. Nothing that others hold is lost or
undone, and no version is used twice."""
import os
import shutil
import sqlite3

import harness
from harness import ClusterTest, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT, w TEXT); CREATE TABLE n(id INTEGER PRIMARY KEY, v);"
TAILS = ("", "-wal", "-shm", "-journal")


def fill(node, count, prefix="r"):
    con = node.connect()
    con.execute("BEGIN")
    con.executemany("INSERT INTO item VALUES (?, ?, 'first')", [("%s%d" % (prefix, i), i) for i in range(count)])
    con.execute("COMMIT")
    con.close()


def backup(node, to):
    source, copy = sqlite3.connect(node.path()), sqlite3.connect(to)
    source.backup(copy)
    source.close(), copy.close()


class Replaced(ClusterTest):
    def start_with_rows(self, n=2, rows=60):
        c = self.cluster(n, ITEMS)
        fill(c[0], rows)
        c[0].sql("INSERT INTO n(v) VALUES (1), (2)")
        c.converge()
        return c

    def write_on(self, c):
        """After a copy was taken: more than any rescan would take for deletions."""
        fill(c[0], 60, "later")
        c[0].sql("UPDATE item SET w = 'second' WHERE v < 5")
        c[1].sql("DELETE FROM item WHERE id = 'r7'")
        c[1].sql("UPDATE item SET w = 'remote' WHERE id = 'r9'")
        c[1].sql("INSERT INTO n(v) VALUES (3)")
        c.converge()
        return c[1].dump()

    def settled_as(self, c, before):
        c.converge()
        self.assertEqual(c[1].dump(), before)

    def test_an_older_copy_is_renamed_over_it(self):
        c = self.start_with_rows()
        backup(c[0], self.root + "/copy")
        before = self.write_on(c)
        for tail in TAILS[1:]:
            if os.path.exists(c[0].path() + tail):
                os.unlink(c[0].path() + tail)
        os.rename(self.root + "/copy", c[0].path())
        self.settled_as(c, before)
        c[0].sql("UPDATE item SET w = 'goes on' WHERE id = 'r1'")
        self.eventually(c[1], "SELECT w FROM item WHERE id = 'r1'", [("goes on",)])

    def test_an_older_copy_is_copied_over_it(self):
        """cp onto the file itself: the inode stays, and so do a -wal and a -shm that belong to the other content."""
        c = self.start_with_rows()
        backup(c[0], self.root + "/copy")
        before = self.write_on(c)
        shutil.copyfile(self.root + "/copy", c[0].path())
        self.settled_as(c, before)
        c[0].sql("UPDATE item SET w = 'goes on' WHERE id = 'r1'")
        self.eventually(c[1], "SELECT w FROM item WHERE id = 'r1'", [("goes on",)])
        self.assertEqual(c[0].sql("PRAGMA integrity_check"), [("ok",)])

    def test_the_file_is_whole_while_the_application_is_stopped(self):
        """Without the node, the last connection of the application would leave one file, and people copy it."""
        c = self.start_with_rows()
        con = c[0].connect()
        for i in range(40):
            con.execute("BEGIN")
            con.executemany("INSERT INTO item VALUES (?, ?, ?)", [("big%d.%d" % (i, k), i, "x" * 3000) for k in range(40)])
            con.execute("COMMIT")
        con.close()
        c.converge()

        def whole():
            shutil.copyfile(c[0].path(), self.root + "/away")
            con = sqlite3.connect(self.root + "/away")
            try:
                return con.execute("SELECT count(*) FROM item").fetchone() == (1660,) and con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            finally:
                con.close()
        poll(whole, 20, "everything is in the file itself")
        c[1].sql("DELETE FROM item WHERE id LIKE 'big1%'")
        c[1].sql("INSERT INTO n(v) VALUES (77)")
        self.eventually(c[0], "SELECT v FROM n WHERE v = 77", [(77,)])
        c.converge()
        before = c[1].dump()
        poll(lambda: os.path.getsize(c[0].path() + "-wal") == 0, 20, "nothing is left beside the file")
        shutil.copyfile(self.root + "/away", c[0].path())
        poll(lambda: c[0].log_lines("older copy"), what="the copy is noticed")
        c.converge()
        self.assertEqual(c[1].dump(), before)
        self.assertEqual(c[0].sql("PRAGMA integrity_check"), [("ok",)])

    def test_copied_away_and_back(self):
        """As an updater does it, while the application holds connections and everything is in the WAL."""
        for way in ("copy", "rename"):
            with self.subTest(way):
                a = self.make("a" + way)
                a.script(ITEMS)
                pool = [a.connect() for _ in range(3)]
                a.start()
                b = self.make("b" + way, join=[a]).start()
                poll(lambda: b.has_tables("item", "n"))
                pool[0].executemany("INSERT INTO item VALUES (?, ?, 'first')", [("r%d" % i, i) for i in range(50)])
                self.eventually(b, "SELECT count(*) FROM item", [(50,)])
                shutil.copyfile(a.path(), self.root + "/away")
                b.sql("UPDATE item SET w = 'meanwhile' WHERE id = 'r1'")
                self.eventually(a, "SELECT w FROM item WHERE id = 'r1'", [("meanwhile",)])
                if way == "copy":
                    shutil.copyfile(self.root + "/away", a.path())
                else:
                    os.rename(self.root + "/away", a.path())
                    for con in pool:
                        con.close()
                    pool = [a.connect() for _ in range(3)]
                pool[1].execute("UPDATE item SET w = 'after' WHERE id = 'r2'")
                self.eventually(b, "SELECT w FROM item WHERE id = 'r2'", [("after",)])
                self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
                self.assertEqual(a.dump(), b.dump())
                self.assertEqual(a.sql("SELECT count(*) FROM item"), [(50,)])
                self.assertEqual(a.sql("PRAGMA integrity_check"), [("ok",)])
                for con in pool:
                    con.close()

    def test_the_wal_is_deleted(self):
        c = self.start_with_rows()
        before = self.write_on(c)
        os.unlink(c[0].path() + "-wal")
        self.settled_as(c, before)
        c[0].sql("UPDATE item SET w = 'goes on' WHERE id = 'r1'")
        self.eventually(c[1], "SELECT w FROM item WHERE id = 'r1'", [("goes on",)])
        self.assertEqual(c[0].sql("PRAGMA integrity_check"), [("ok",)])

    def test_deleted_and_made_anew(self):
        c = self.start_with_rows()
        before = self.write_on(c)
        for tail in TAILS:
            if os.path.exists(c[0].path() + tail):
                os.unlink(c[0].path() + tail)
        poll(lambda: c[0].database()["state"] == "error", what="a file that is gone is red")
        conflicts = c[1].database()["conflicts"]
        self.assertEqual(c[1].dump(), before)
        c[0].script(ITEMS + "INSERT INTO item VALUES ('r1', 0, 'default'), ('own', 1, 'x');")
        self.eventually(c[1], "SELECT v FROM item WHERE id = 'own'", [(1,)])
        c.converge()
        self.assertEqual(c[0].sql("SELECT w FROM item WHERE id = 'r1'"), [("second",)])
        self.assertEqual(c[1].sql("SELECT count(*) FROM item"), [(len(before["item"][1]) + 1,)])
        self.assertEqual(c[1].database()["conflicts"], conflicts + 2, "what lost is listed")

    def test_deleted_and_fetched_at_the_next_start(self):
        c = self.start_with_rows()
        before = self.write_on(c)
        for tail in TAILS:
            if os.path.exists(c[0].path() + tail):
                os.unlink(c[0].path() + tail)
        poll(lambda: c[0].database()["state"] == "error")
        self.assertIn("restart", c[0].database()["error"])
        c[0].stop()
        c[0].restart()
        poll(lambda: c[0].has_tables("item", "n"), 20)
        self.settled_as(c, before)

    def test_uninstalled_written_and_started_again(self):
        c = self.start_with_rows()
        self.assertEqual(c[0].cli("uninstall").code, 0)
        c[0].wait_end()
        c[0].sql("DELETE FROM item WHERE v < 3")
        c[0].sql("UPDATE item SET w = 'without' WHERE id = 'r9'")
        c[1].sql("UPDATE item SET w = 'remote' WHERE id = 'r8'")
        c[0].restart()
        self.eventually(c[1], "SELECT count(*), sum(w = 'without'), sum(w = 'remote') FROM item", [(57, 1, 1)])
        c.converge()

    def test_many_rows_that_are_gone_are_asked_for(self):
        for verb, left in (("accept", 10), ("restore", 60)):
            with self.subTest(verb):
                a = self.make("a" + verb)
                a.script(ITEMS)
                a.start()
                b = self.make("b" + verb, join=[a]).start()
                poll(lambda: b.has_tables("item", "n"))
                fill(a, 60)
                self.eventually(b, "SELECT count(*) FROM item", [(60,)])
                self.assertEqual(a.cli("uninstall").code, 0)
                a.wait_end()
                a.sql("DELETE FROM item WHERE v >= 10")
                a.restart()
                poll(lambda: a.database()["parked"] == 50, what="red")
                self.assertEqual(a.cli("wait", "--timeout", 1).code, 1)
                self.assertEqual(b.sql("SELECT count(*) FROM item"), [(60,)])
                self.assertIn("starling tables", a.cli("tables").out)
                self.assertEqual(a.cli("doctor").code, 1)
                self.assertEqual(a.cli("tables", verb, "app.db").code, 2)
                self.assertEqual(a.cli("tables", verb, "app.db/n").code, 1)
                self.assertEqual(a.cli("tables", verb, "app.db/item").code, 0)
                self.eventually(b, "SELECT count(*) FROM item", [(left,)])
                self.eventually(a, "SELECT count(*) FROM item", [(left,)])
                self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)

    def test_a_copy_in_a_second_instance(self):
        """The database alone, with our tables, beside the first on the same machine."""
        a = self.make("n0")
        a.script(ITEMS)
        a.start()
        fill(a, 20)
        poll(lambda: a.cli("wait", "--timeout", 5).code == 0)
        b = self.make("n1")
        backup(a, b.path())
        b.start()
        poll(lambda: b.database()["rows"] == 20)
        self.assertNotEqual(a.ready["id"], b.ready["id"])
        a.sql("INSERT INTO item VALUES ('a', 1, '')")
        b.sql("INSERT INTO item VALUES ('b', 1, '')")
        for n in (a, b):
            self.assertEqual(n.cli("wait", "--timeout", 10).code, 0)
        self.assertFalse(set(a.database()["version"]) & set(b.database()["version"]), "no origin is used by both")

    def test_a_cloned_instance_folder(self):
        """Everything copied, the key too: two nodes with one identity are told apart, and said."""
        c = self.start_with_rows()
        c[1].stop()
        clone = self.make("clone", join=[c[0]])
        shutil.rmtree(clone.instance)
        shutil.copytree(c[1].instance, clone.instance, ignore=shutil.ignore_patterns("admin.sock", "lock"))
        c[1].restart()
        poll(lambda: c[0].alive() == 2)
        clone.start()
        for n in (c[1], clone):
            poll(lambda: n.log_lines("node.key"), 20, "%s says that its key is used twice" % n.name)
            poll(lambda: n.cli("doctor").code == 1 and "node.key" in n.cli("doctor").out, 20, "%s: doctor says how to mend it" % n.name)
        clone.stop()
        os.unlink(os.path.join(clone.instance, ".starling", "node.key"))
        clone.restart()
        poll(lambda: c[0].alive() == 3)
        clone.sql("UPDATE item SET w = 'clone' WHERE id = 'r1'")
        c[1].sql("UPDATE item SET w = 'original' WHERE id = 'r2'")
        c.nodes.append(clone)
        c.converge()
        self.assertEqual(c[0].sql("SELECT w FROM item WHERE id IN ('r1', 'r2') ORDER BY id"), [("clone",), ("original",)])


if __name__ == "__main__":
    harness.main()
