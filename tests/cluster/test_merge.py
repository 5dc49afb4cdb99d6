"""Writes on servers that do not see each other: merged by column, the last write wins, what loses is kept, nothing is blended."""
import harness
from harness import ClusterTest, holds, poll, time_passes

BOOK = ("CREATE TABLE book(id TEXT PRIMARY KEY, title TEXT, author TEXT, pages INT);"
        "INSERT INTO book VALUES ('a', 'Title', 'Author', 100), ('b', 'Other', 'Nobody', 200);")
NUMBERED = "CREATE TABLE entry(id INTEGER PRIMARY KEY, who TEXT, text TEXT);"
SEEN_S = 2.2  # what arrived within the last 2 s does not count as seen by an author


class Merge(ClusterTest):
    def apart(self, script, n=3, seen=True):
        """A cluster whose first two nodes do not exchange data for now; capture goes on. seen: what was there before counts as known to
        whoever writes, so that only writes apart from each other are conflicts."""
        c = self.cluster(n, script)
        if seen:
            time_passes(SEEN_S)
        for node in c.nodes[:2]:
            self.assertEqual(node.cli("pause").code, 0)
            poll(lambda: node.status()["node"]["state"] == "paused")
        return c

    def together(self, c):
        for node in c.nodes[:2]:
            self.assertEqual(node.cli("resume").code, 0)

    def drained(self, *nodes):
        for n in nodes:
            poll(lambda: n.database()["pending"] == 0)

    def open_conflicts(self, c):
        """The number of open conflicts, which must be the same everywhere."""
        counts = c.conflicts()
        self.assertEqual(len(set(counts)), 1, "conflicts differ between servers: %s" % counts)
        return counts[0]

    def test_different_columns_both_survive(self):
        c = self.apart(BOOK)
        c[0].sql("UPDATE book SET title = 'New title' WHERE id = 'a'")
        c[1].sql("UPDATE book SET author = 'New author', pages = 101 WHERE id = 'a'")
        self.together(c)
        c.converge()
        self.assertEqual(c[2].sql("SELECT * FROM book WHERE id = 'a'"), [("a", "New title", "New author", 101)])
        self.assertEqual(self.open_conflicts(c), 0)

    def test_same_column_last_write_wins_and_the_loser_is_recorded(self):
        c = self.apart(BOOK, seen=False)
        c[0].sql("UPDATE book SET title = 'first' WHERE id = 'a'")
        self.drained(c[0])
        time_passes(0.05)
        c[1].sql("UPDATE book SET title = 'second' WHERE id = 'a'")
        self.together(c)
        c.converge()
        self.assertEqual(c[2].sql("SELECT title FROM book WHERE id = 'a'"), [("second",)])
        self.assertGreater(self.open_conflicts(c), 0)

    def test_the_same_value_twice_is_harmless(self):
        c = self.apart(BOOK, seen=False)
        for n in c.nodes[:2]:
            n.sql("UPDATE book SET title = 'agreed' WHERE id = 'a'")
        self.together(c)
        c.converge()
        self.assertEqual(c[2].sql("SELECT title FROM book WHERE id = 'a'"), [("agreed",)])
        self.open_conflicts(c)

    def test_knowingly_overwritten_is_no_conflict(self):
        c = self.cluster(2, BOOK)
        c[0].sql("UPDATE book SET title = 'one' WHERE id = 'a'")
        c.converge()
        time_passes(SEEN_S)
        c[1].sql("UPDATE book SET title = 'two' WHERE id = 'a'")
        c.converge()
        self.assertEqual(self.open_conflicts(c), 0)

    def test_a_later_write_settles_a_conflict(self):
        c = self.apart(BOOK, seen=False)
        for i, n in enumerate(c.nodes[:2]):
            n.sql("UPDATE book SET title = ? WHERE id = 'a'", ("by %d" % i,))
        self.together(c)
        c.converge()
        self.assertGreater(self.open_conflicts(c), 0)
        time_passes(SEEN_S)
        c[2].sql("UPDATE book SET title = 'settled' WHERE id = 'a'")
        c.converge()
        self.assertEqual(self.open_conflicts(c), 0)
        self.assertEqual(c[0].sql("SELECT title FROM book WHERE id = 'a'"), [("settled",)])

    def delete_against_update(self, delete_first):
        c = self.apart(BOOK)
        steps = [(c[0], "DELETE FROM book WHERE id = 'a'"), (c[1], "UPDATE book SET title = 'kept?' WHERE id = 'a'")]
        for node, sql in steps if delete_first else reversed(steps):
            node.sql(sql)
            self.drained(node)
            time_passes(0.03)
        self.together(c)
        c.converge()
        for n in c:
            self.assertEqual(n.sql("SELECT count(*) FROM book WHERE id = 'a'"), [(0,)], "a deletion came back")
        self.assertGreater(self.open_conflicts(c), 0)

    def test_update_after_a_delete_elsewhere_stays_deleted_and_is_recorded(self):
        self.delete_against_update(True)

    def test_delete_after_an_update_elsewhere_stays_deleted_and_is_recorded(self):
        self.delete_against_update(False)

    def test_deleted_just_after_it_arrived(self):
        """Whether or not an author is taken to have seen what came in just before: every server must say the same."""
        c = self.apart(BOOK, seen=False)
        c[0].sql("UPDATE book SET title = 'zero' WHERE id = 'b'")
        c[1].sql("DELETE FROM book")
        self.together(c)
        c.converge()
        self.open_conflicts(c)

    def test_deleted_on_both_sides(self):
        c = self.apart(BOOK)
        for n in c.nodes[:2]:
            n.sql("DELETE FROM book WHERE id = 'a'")
        self.together(c)
        c.converge()
        self.assertEqual(c[2].sql("SELECT count(*) FROM book"), [(1,)])
        self.assertEqual(self.open_conflicts(c), 0)

    def test_the_same_given_key_is_the_same_row(self):
        c = self.apart(BOOK, seen=False)
        c[0].sql("INSERT INTO book(id, title) VALUES ('254', 'poofs')")
        self.drained(c[0])
        time_passes(0.05)
        c[1].sql("INSERT INTO book(id, title, pages) VALUES ('254', 'The poofs', 7)")
        self.together(c)
        c.converge()
        self.assertEqual(c[2].sql("SELECT title, pages FROM book WHERE id = '254'"), [("The poofs", 7)])
        self.assertGreater(self.open_conflicts(c), 0)

    def test_deleted_here_and_inserted_again_there(self):
        c = self.cluster(3, BOOK)
        c[0].sql("DELETE FROM book WHERE id = 'a'")
        c.converge()
        c[1].sql("INSERT INTO book VALUES ('a', 'reborn', NULL, 1)")
        c.converge()
        self.assertEqual(c[2].sql("SELECT * FROM book WHERE id = 'a'"), [("a", "reborn", None, 1)])

    def test_two_rows_under_one_number_are_never_blended(self):
        c = self.apart(NUMBERED, seen=False)
        mine = [("n0", "written by the first"), ("n1", "written by the second")]
        for n, row in zip(c.nodes[:2], mine):
            n.sql("INSERT INTO entry(who, text) VALUES (?, ?)", row)
        self.together(c)
        for n in c:
            self.eventually(n, "SELECT who, text FROM entry ORDER BY who", mine)
        c.converge()
        for n in c:
            self.assertEqual(n.sql("SELECT count(*) FROM entry WHERE id = 1"), [(1,)], "one of them keeps its number")
            self.assertEqual(n.sql("SELECT max(id) < 100 FROM entry"), [(1,)], "the other's is a little above")
            self.assertEqual(n.database()["parked"], 0)
            listed = n.json("conflicts")["conflicts"]
            self.assertEqual([(x["kind"], x["column"], x["loser"]["value"]) for x in listed], [("number", "id", 1)])
        # both go on, also over a restart of the server that had the renumbered row
        c[1].kill()
        c[1].restart()
        c[0].sql("UPDATE entry SET text = 'changed by n0' WHERE who = 'n1'")
        c[1].sql("DELETE FROM entry WHERE who = 'n0'")
        for n in c:
            self.eventually(n, "SELECT who, text FROM entry", [("n1", "changed by n0")])
        c.converge()

    def test_many_numbers_taken_twice(self):
        c = self.apart(NUMBERED, n=2, seen=False)
        for n in c:
            n.sql("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40) INSERT INTO entry(who, text) SELECT ?, 'text ' || i FROM s", (n.name,))
        self.together(c)
        c.converge()
        for n in c:
            self.assertEqual(n.sql("SELECT who, count(*), count(DISTINCT text) FROM entry GROUP BY who ORDER BY who"), [("n0", 40, 40), ("n1", 40, 40)])
        c[0].sql("UPDATE entry SET text = 'changed' WHERE who = 'n1' AND text = 'text 3'")
        self.eventually(c[1], "SELECT who FROM entry WHERE text = 'changed'", [("n1",)])
        self.assertEqual(c[1].sql("SELECT who FROM entry WHERE text = 'text 3'"), [("n0",)])

    def test_unique_clash(self):
        c = self.apart("CREATE TABLE user(id TEXT PRIMARY KEY, mail TEXT UNIQUE, name TEXT);", n=2, seen=False)
        c[0].sql("INSERT INTO user VALUES ('u0', 'same@x', 'zero')")
        time_passes(0.02)
        c[1].sql("INSERT INTO user VALUES ('u1', 'same@x', 'one')")
        self.together(c)
        for n in c:
            self.eventually(n, "SELECT * FROM user ORDER BY id", [("u0", None, "zero"), ("u1", "same@x", "one")])
        c.converge()
        for n in c:
            lost = n.json("conflicts")["conflicts"]
            self.assertEqual([(x["kind"], x["column"], x["loser"]["value"]) for x in lost], [("unique", "mail", "same@x")])
        c[0].sql("UPDATE user SET mail = 'other@x' WHERE id = 'u1'")
        c.converge()
        c[1].cli("conflicts", "resolve", lost[0]["id"], "--keep", "loser")
        for n in c:
            self.eventually(n, "SELECT * FROM user ORDER BY id", [("u0", "same@x", "zero"), ("u1", "other@x", "one")])
        c.converge()

    def test_columns_that_break_a_check_together(self):
        c = self.apart("CREATE TABLE span(id TEXT PRIMARY KEY, low INT, high INT, CHECK(low < high)); INSERT INTO span VALUES ('s', 1, 9);", n=2, seen=False)
        c[0].sql("UPDATE span SET low = 7")
        time_passes(0.02)
        c[1].sql("UPDATE span SET high = 4")
        self.together(c)
        for n in c:
            self.eventually(n, "SELECT low, high FROM span", [(1, 4)])
        c.converge()
        for n in c:
            self.assertEqual([(x["kind"], x["column"], x["loser"]["value"]) for x in n.json("conflicts")["conflicts"]], [("constraint", "low", 7)])

    def test_a_child_under_a_deleted_parent(self):
        c = self.apart("CREATE TABLE team(id TEXT PRIMARY KEY, name TEXT); CREATE TABLE note(id TEXT PRIMARY KEY, team TEXT REFERENCES team(id), text TEXT);"
                       "INSERT INTO team VALUES ('t', 'ten');", n=2, seen=False)
        c[0].sql("DELETE FROM team")
        c[1].sql("INSERT INTO note VALUES ('n', 't', 'scouted')")
        self.together(c)
        for n in c:
            self.eventually(n, "SELECT team.name, note.text FROM team, note WHERE team.id = note.team", [("ten", "scouted")])
        c.converge()
        for n in c:
            self.assertEqual([(x["kind"], x["table"]) for x in n.json("conflicts")["conflicts"]], [("orphan", "team")])

    def test_a_constraint_only_one_server_has(self):
        c = self.cluster(2, "CREATE TABLE t(id TEXT PRIMARY KEY, v INT);")
        c[1].script("BEGIN; DROP TABLE t; CREATE TABLE t(id TEXT PRIMARY KEY, v INT NOT NULL CHECK(v > 0)); COMMIT;", journal=None)
        c[0].sql("INSERT INTO t VALUES ('bad', NULL), ('worse', -1), ('good', 1)")
        self.eventually(c[1], "SELECT id FROM t", [("good",)], deadline=20)
        poll(lambda: c[1].database()["parked"] == 2)
        c[0].sql("UPDATE t SET v = 5")
        self.eventually(c[1], "SELECT count(*) FROM t", [(3,)])

    def test_three_servers_write_the_same_cell(self):
        network = self.network()
        c = self.cluster(3, BOOK, network=network)
        for node in c:
            network.isolate(node)
        for node in c:
            poll(lambda: node.alive() == 1)
        for round_ in range(3):
            for i, node in enumerate(c):
                node.sql("UPDATE book SET title = ?, pages = ? WHERE id = 'a'", ("round %d by %d" % (round_, i), i))
                time_passes(0.02)
        network.heal_all()
        c.converge()
        self.assertEqual(c[0].sql("SELECT title, pages FROM book WHERE id = 'a'"), [("round 2 by 2", 2)])
        # two columns, two losers each
        self.assertGreaterEqual(self.open_conflicts(c), 2)


if __name__ == "__main__":
    harness.main()
