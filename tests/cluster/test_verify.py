"""`verify` compares what is really in the tables: a row that changed behind every back is found and named."""
import os

import harness
from harness import ClusterTest, poll, shell

SCHEMA = ("CREATE TABLE item(id TEXT PRIMARY KEY, v INT); CREATE TABLE num(id INTEGER PRIMARY KEY, v INT); CREATE TABLE pair(a INT, b TEXT, v INT, PRIMARY KEY(a, b));"
          "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 2000) INSERT INTO item SELECT 'key' || i, i FROM s;"
          "INSERT INTO num SELECT v, v FROM item WHERE v <= 60; INSERT INTO pair VALUES (1, 'x', 1), (2, 'y', 2);")


def unnoticed(node, sql, db="app.db"):
    """A write without any trigger, ours included."""
    shell(node.path(db), ".dbconfig enable_trigger off", sql)


class Verify(ClusterTest):
    def test_equal(self):
        c = self.cluster(3, SCHEMA)
        c[1].sql("UPDATE item SET v = -v WHERE v % 2")
        c.converge()
        for n in c:
            done = n.cli("verify")
            self.assertEqual(done.code, 0, done)
            self.assertIsInstance(n.cli("--json", "verify").json(), dict)
        for what in ("app.db", "app.db/item"):
            self.assertEqual(c[0].cli("verify", what).code, 0)

    def test_rows_gone_behind_our_back(self):
        """Too many to be believed, so that they are not taken for deletions, and stay different."""
        c = self.cluster(3, SCHEMA)
        unnoticed(c[1], "DELETE FROM num WHERE id BETWEEN 21 AND 50;")
        done = c[0].cli("verify")
        self.assertEqual(done.code, 1, done)
        self.assertIn("num", done.out + done.err)
        found = c[0].cli("--json", "verify")
        self.assertEqual(found.code, 1)
        keys = [d["key"] for d in found.json()["differences"]]
        self.assertEqual(sorted(keys), [[i] for i in range(21, 51)])
        self.assertEqual(c[2].cli("verify", "app.db/num").code, 1)
        self.assertEqual(c[2].cli("verify", "app.db/item").code, 0)

    def test_changes_behind_our_back_are_found_by_themselves(self):
        c = self.cluster(2, SCHEMA)
        unnoticed(c[1], "UPDATE item SET v = 777777 WHERE id = 'key123'; DELETE FROM num WHERE id = 2; INSERT INTO pair VALUES (9, 'extra', 1);")
        for table, row in (("item WHERE v = 777777", 1), ("num", 59), ("pair", 3)):
            poll(lambda: c[0].sql("SELECT count(*) FROM " + table) == [(row,)], what=table)
        c.converge()
        self.assertEqual(c[0].cli("verify").code, 0)

    def test_a_write_while_verifying_is_not_a_difference(self):
        c = self.cluster(2, SCHEMA)
        con = c[0].connect()
        for i in range(8):
            con.execute("UPDATE item SET v = v + 1 WHERE id = 'key%d'" % i)
            done = c[1].cli("verify")
            self.assertEqual(done.code, 0, done)
        con.close()

    def test_a_table_that_cannot_be_read(self):
        """Damage that nothing else has met yet: the table is not passed over."""
        a = self.make("n0")
        a.script(SCHEMA, journal="DELETE")
        a.start()
        self.assertEqual(a.cli("wait").code, 0)
        self.assertEqual(a.cli("verify").code, 0)
        a.stop()
        with open(a.path("app.db"), "r+b") as f:
            root = int(shell(a.path("app.db"), "SELECT rootpage FROM sqlite_schema WHERE name = 'item'"))
            f.seek((root - 1) * 4096)
            f.write(os.urandom(4096))
        a.start()
        done = a.cli("verify")
        self.assertEqual(done.code, 1, done)
        self.assertIn("item cannot be read", done.out)

    def test_unknown_names(self):
        c = self.cluster(2, SCHEMA)
        for what in ("nothing.db", "app.db/nothing"):
            done = c[0].cli("verify", what)
            self.assertIn(done.code, (1, 2), done)
            self.assertIn("nothing", done.err)
            self.assertEqual(len(done.err.strip().splitlines()), 1)


if __name__ == "__main__":
    harness.main()
