"""Open conflicts: listed alike on every server, decided on one of them, closed on all; and who wrote what a row holds."""
import harness
from harness import ClusterTest, poll, time_passes

SCRIPT = ("CREATE TABLE book(id TEXT PRIMARY KEY, title, pages INTEGER);"
          "CREATE TABLE chapter(id INTEGER PRIMARY KEY, book TEXT REFERENCES book(id) ON DELETE CASCADE, text);"
          "CREATE TABLE place(x INTEGER, y TEXT, note TEXT, PRIMARY KEY(x, y));"
          "INSERT INTO book VALUES('edit1', 'start', 1), ('edit2', 'start', 1), ('edit3', 'start', 1), ('back', 'start', 1),"
          "('gone', 'start', 1), ('again', 'start', 1);"
          "INSERT INTO chapter VALUES(1, 'back', 'one'), (2, 'back', 'two'), (3, 'gone', 'three');"
          "INSERT INTO place VALUES(1, 'a', 'start');")
SEEN_S = 2.2  # what arrived within the last 2 s does not count as seen by an author


class Conflicts(ClusterTest):
    def apart(self):
        c = self.cluster(2, SCRIPT)
        time_passes(SEEN_S)
        for n in c:
            self.assertEqual(n.cli("pause").code, 0)
        poll(lambda: all(n.status()["node"]["state"] == "paused" for n in c))
        return c

    def write_apart(self, c):
        c[0].sql("UPDATE book SET title = 'zero' WHERE id <> 'again'")
        c[0].sql("DELETE FROM book WHERE id = 'again'")
        c[0].sql("UPDATE place SET note = 'zero'")
        poll(lambda: c[0].database()["pending"] == 0)
        time_passes(0.02)
        c[1].sql("UPDATE book SET title = 'one' WHERE id LIKE 'edit%'")
        con = c[1].connect()
        con.executescript("PRAGMA foreign_keys=ON; DELETE FROM book WHERE id IN ('back', 'gone')")
        con.close()
        c[1].sql("INSERT OR REPLACE INTO book VALUES('again', 'inserted', 2)")
        c[1].sql("UPDATE place SET note = 'one'")
        for n in c:
            self.assertEqual(n.cli("resume").code, 0)
        c.converge()

    def listed(self, c):
        lists = [sorted(n.json("conflicts")["conflicts"], key=lambda x: x["id"]) for n in c]
        self.assertEqual(lists[0], lists[1])
        return {(x["table"],) + tuple(x["key"].values()): x for x in lists[0]}

    def test_every_way_of_deciding(self):
        c = self.apart()
        self.write_apart(c)
        open_ = self.listed(c)
        self.assertEqual(len(open_), 7, open_)
        self.assertEqual(c.conflicts(), [7, 7])
        one = open_["book", "edit1"]
        self.assertEqual((one["kind"], one["column"], one["state"], one["db"]), ("update-update", "title", "open", "app.db"))
        self.assertEqual((one["winner"]["value"], one["winner"]["name"]), ("one", c[1].name))
        self.assertEqual((one["loser"]["value"], one["loser"]["name"]), ("zero", c[0].name))
        self.assertEqual(one["loser"]["node"], c[0].status()["node"]["id"])
        self.assertEqual(open_["place", 1, "a"]["key"], {"x": 1, "y": "a"})
        self.assertEqual(open_["book", "back"]["kind"], "update-delete")
        self.assertTrue(open_["book", "again"]["loser"]["deleted"])

        text = c[0].cli("conflicts").out
        for part in (one["id"], "app.db/book", '"edit1"', "title", '"one"', '"zero"', c[0].name, "the deletion", "the row"):
            self.assertIn(part, text)
        self.assertIn("starling conflicts", c[0].cli("status").out)
        show = c[1].cli("conflicts", "show", one["id"])
        self.assertEqual(show.code, 0)
        self.assertIn('loser   "zero"  by %s' % c[0].name, show.out)

        def decide(n, row, *how, says):
            done = n.cli("conflicts", "resolve", open_[row]["id"], *how)
            self.assertEqual(done.code, 0, done)
            self.assertIn(says, done.out)
        decide(c[0], ("book", "edit1"), "--keep", "loser", says='title is again "zero"')
        decide(c[1], ("book", "edit2"), "--keep", "winner", says='title stays "one"')
        decide(c[1], ("book", "edit3"), "--set", "title=b=c", "--set", "pages=17", says="written")
        decide(c[0], ("book", "back"), "--keep", "loser", says="it is back, and with it 2 rows that were deleted together with it")
        decide(c[1], ("book", "gone"), "--keep", "winner", says="it stays deleted")
        decide(c[0], ("book", "again"), "--keep=loser", says="it is deleted")
        decide(c[0], ("place", 1, "a"), "--set", 'note={"base64":"AP8="}', says="written")
        c.converge()
        self.assertEqual(self.listed(c), {})
        self.assertEqual(c.conflicts(), [0, 0])
        self.assertEqual(c[1].sql("SELECT * FROM book ORDER BY id"), [
            ("back", "zero", 1), ("edit1", "zero", 1), ("edit2", "one", 1), ("edit3", "b=c", 17)])
        self.assertEqual(c[1].sql("SELECT * FROM chapter ORDER BY id"), [(1, "back", "one"), (2, "back", "two")])
        self.assertEqual(c[1].sql("SELECT note FROM place"), [(b"\0\xff",)])
        self.assertIn("no open conflicts", c[1].cli("conflicts", "list").out)
        again = c[0].cli("conflicts", "resolve", one["id"], "--keep", "loser")
        self.assertEqual((again.code, len(again.err.splitlines())), (1, 1), again)
        self.assertIn("no open conflict is called", again.err)

    def test_why(self):
        c = self.apart()
        self.write_apart(c)
        why = c[0].json("why", "app.db", "book", "edit1")
        title = next(x for x in why["columns"] if x["column"] == "title")
        self.assertEqual((title["value"], title["name"]), ("one", c[1].name))
        self.assertEqual([(b["value"], b["name"]) for b in title["beat"]], [("zero", c[0].name)])
        done = c[1].cli("why", "app.db", "place", '[1, "a"]', "note")
        self.assertEqual(done.code, 0, done)
        self.assertIn('note = "one"  by %s' % c[1].name, done.out)
        self.assertIn('beat "zero"  by %s' % c[0].name, done.out)
        self.assertIn("deleted  by %s" % c[1].name, c[0].cli("why", "app.db", "book", "gone").out)
        self.assertIn('text = "one"', c[0].cli("why", "app.db", "chapter", "1").out)
        for words, code, part in (
                (("why", "app.db", "book", "nobody"), 1, "never had a row"),
                (("why", "app.db", "nothing", "1"), 1, "no table"),
                (("why", "other.db", "book", "1"), 1, "no such database"),
                (("why", "app.db", "place", "1"), 1, "JSON array"),
                (("why", "app.db", "book"), 2, "usage"),
                (("conflicts", "frob"), 2, "list, show ID or resolve ID"),
                (("conflicts", "show"), 2, "show ID"),
                (("conflicts", "show", "0123456789abcdef"), 1, "no open conflict"),
                (("conflicts", "resolve", "x"), 2, "--keep"),
                (("conflicts", "resolve", "x", "--keep", "both"), 2, "--keep"),
                (("conflicts", "resolve", "x", "--keep", "loser", "--set", "a=1"), 2, "--keep"),
                (("conflicts", "resolve", "x", "--set", "a"), 2, "not COL=VALUE"),
                (("conflicts", "resolve", "--keep", "loser"), 2, "which conflict"),
                (("conflicts", "resolve", "x", "--split", "--keep", "loser"), 2, "--split")):
            done = c[0].cli(*words)
            self.assertEqual((done.code, len(done.err.splitlines())), (code, 1), (words, done))
            self.assertIn(part, done.err)


if __name__ == "__main__":
    harness.main()
