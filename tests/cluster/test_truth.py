"""Status tells the truth: "in sync" is said of a peer only when that peer has acknowledged it, and turns red within seconds."""
import os
import time

import harness
from harness import ClusterTest, holds, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT);"


class Truth(ClusterTest):
    def in_sync(self, node, other):
        return (node.peer(other) or {}).get("in_sync")

    def test_equal_servers_say_so(self):
        c = self.cluster(3, ITEMS)
        c[0].sql("INSERT INTO item VALUES ('a', 1)")
        for n in c:
            for m in c:
                if n is not m:
                    poll(lambda: self.in_sync(n, m), what="%s says %s is in sync" % (n.name, m.name))
        entries = [n.database() for n in c]
        for e in entries:
            self.assertEqual((e["state"], e["error"], e["pending"], e["waiting"], e["parked"]), ("ok", None, 0, 0, 0))
            self.assertEqual((e["tables"], e["rows"]), (1, 1))
        self.assertEqual(len({e["digest"] for e in entries}), 1)
        self.assertEqual(len({str(sorted(e["version"].items())) for e in entries}), 1)
        before = entries[0]["digest"]
        c[1].sql("UPDATE item SET v = 2")
        c.converge()
        self.assertNotEqual(c[0].database()["digest"], before)
        c[2].sql("UPDATE item SET v = 1")
        c.converge()
        self.assertEqual(c[0].database()["digest"], before, "equal content, equal digest")

    def behind(self, c, silence, heal):
        """c[1] falls silent, then c[0] writes."""
        for n in c:
            poll(lambda: all(p["in_sync"] for p in n.status()["peers"]))
        silence()
        c[0].sql("INSERT INTO item VALUES ('unheard', 1)")
        done = c[0].cli("wait", "--converged", "--timeout", 1)
        self.assertEqual(done.code, 1, "equal, it says, while the other lacks a row: %r" % done)
        self.assertIn(c[1].name, done.out + done.err, "what is missing must be named")
        # from here on the write is drained: nothing may claim that the silent peer has it
        holds(lambda: not self.in_sync(c[0], c[1]), 1.0, "not in sync")
        poll(lambda: (c[0].peer(c[1])["they_lack"] or c[0].peer(c[1])["state"] != "alive"), 5)
        if len(c.nodes) > 2:
            self.eventually(c[2], "SELECT id FROM item", [("unheard",)])
        heal()
        poll(lambda: self.in_sync(c[0], c[1]) and self.in_sync(c[1], c[0]), 15, "in sync again")
        self.assertEqual(c[1].sql("SELECT id FROM item"), [("unheard",)])
        c.converge()

    def test_frozen_peer(self):
        c = self.cluster(3, ITEMS)
        self.behind(c, c[1].freeze, c[1].thaw)

    def test_paused_peer(self):
        c = self.cluster(3, ITEMS)
        self.behind(c, lambda: c[1].cli("pause"), lambda: c[1].cli("resume"))

    def test_killed_peer(self):
        c = self.cluster(2, ITEMS, ports=True)

        def silence():
            c[1].kill()
        # `wait` counts alive members only: a dead one is named by --members
        silence()
        c[0].sql("INSERT INTO item VALUES ('unheard', 1)")
        done = c[0].cli("wait", "--converged", "--members", 2, "--timeout", 1)
        self.assertEqual(done.code, 1, done)
        self.assertFalse(self.in_sync(c[0], c[1]))
        c[1].restart()
        poll(lambda: self.in_sync(c[0], c[1]))
        c.converge()

    def test_half_open_link(self):
        network = self.network()
        c = self.cluster(3, ITEMS, network=network)
        self.behind(c, lambda: network.isolate(c[1], "hole"), network.heal_all)

    def test_cut_link(self):
        """Only the link between two of three is cut: the third passes on what they say."""
        network = self.network()
        c = self.cluster(3, ITEMS, network=network)
        network.cut(c[0], c[1])
        c[0].sql("INSERT INTO item VALUES ('around the corner', 1)")
        self.eventually(c[1], "SELECT id FROM item", [("around the corner",)])
        network.heal_all()
        c.converge()

    def test_red_within_seconds_and_for_the_right_reason(self):
        c = self.cluster(2, ITEMS)
        poll(lambda: self.in_sync(c[0], c[1]))
        c[1].freeze()
        start = time.monotonic()
        poll(lambda: not self.in_sync(c[0], c[1]), 5, "a silent peer is not in sync")
        print("red %.1f s after the peer fell silent" % (time.monotonic() - start))
        self.assertGreater(poll(lambda: c[0].peer(c[1])["last_seen_ms"]), 100)
        c[1].thaw()
        poll(lambda: self.in_sync(c[0], c[1]))

    def test_wait_means_it(self):
        """After `wait --converged` the row is there to be read, every time."""
        c = self.cluster(2, ITEMS)
        for i in range(40):
            writer, reader = c[i % 2], c[1 - i % 2]
            writer.sql("INSERT INTO item VALUES (?, 1)", ("w%d" % i,))
            done = writer.cli("wait", "--converged", "--members", 2, "--timeout", 20)
            self.assertEqual(done.code, 0, done)
            self.assertEqual(reader.sql("SELECT count(*) FROM item WHERE id = ?", ("w%d" % i,)), [(1,)], "converged, it said")

    def test_in_sync_is_never_said_too_early(self):
        """A status taken after a commit was drained that says in_sync: the row must be on the other side."""
        c = self.cluster(2, ITEMS)
        reader, writer, honest = c[1].connect(), c[0].connect(), 0
        for i in range(60):
            before = c[0].database()["version"]
            writer.execute("INSERT INTO item VALUES (?, 1)", ("t%d" % i,))
            while True:
                status = c[0].status()
                entry = next(d for d in status["databases"] if d["name"] == "app.db")
                if entry["version"] != before:
                    break
            if status["peers"][0]["in_sync"]:
                honest += 1
                self.assertTrue(reader.execute("SELECT 1 FROM item WHERE id = ?", ("t%d" % i,)).fetchone(), "in sync without the row")
        writer.close(), reader.close()
        print("in sync already %d of 60 times" % honest)

    def test_a_database_in_error_is_nowhere_in_sync(self):
        c = self.cluster(2, ITEMS)
        poll(lambda: self.in_sync(c[0], c[1]))
        with open(c[0].path("notes.db"), "w") as f:
            f.write("no database at all\n" * 100)
        poll(lambda: (c[0].database("notes.db") or {}).get("state") == "error")
        status = c[0].status()
        self.assertFalse(status["peers"][0]["in_sync"], "in sync, it says, with a database in error")
        self.assertEqual((status["peers"][0]["we_lack"], status["peers"][0]["they_lack"]), (0, 0))
        self.assertIn("notes.db", status["peers"][0]["problem"])
        shown = c[0].cli("status").out
        self.assertIn("1 problem", shown)
        self.assertRegex(shown, "n1 is not in sync: notes.db is in error here")
        self.assertFalse(any(m["in_sync"] for m in c[0].json("members")["members"]))
        self.assertTrue(self.in_sync(c[1], c[0]), "the other one has all that there is")
        os.remove(c[0].path("notes.db"))
        poll(lambda: self.in_sync(c[0], c[1]))

    def test_a_busy_database_keeps_its_state(self):
        """While much is read: documented states only; that a worker did not answer in time is `busy`, beside it."""
        c = self.cluster(1, "CREATE TABLE item(id INTEGER PRIMARY KEY, v TEXT);")
        con = c[0].connect()
        con.execute("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 400000) INSERT INTO item SELECT i, 'x' FROM s")
        con.close()
        states = set()

        def look():
            entry = c[0].database()
            states.add(entry["state"])
            self.assertIsInstance(entry["busy"], bool)
            return entry
        poll(lambda: look()["rows"] == 400000, 60)
        poll(lambda: not look()["busy"], 60)
        self.assertLessEqual(states, {"ok", "error", "adopting", "snapshot"})

    def test_wait_members(self):
        c = self.cluster(2, ITEMS)
        self.assertEqual(c[0].cli("wait", "--members", 2, "--timeout", 5).code, 0)
        done = c[0].cli("wait", "--members", 3, "--timeout", 1)
        self.assertEqual(done.code, 1)
        self.assertTrue(done.err.strip(), "what is missing")
        late = self.make("n2", join=[c[0]])
        late.start()
        self.assertEqual(c[0].cli("wait", "--converged", "--members", 3, "--timeout", 15).code, 0)

    def test_a_write_lock_held_by_the_app(self):
        """While an app holds the write lock nothing can be shown there: not in sync, said so, and shown after."""
        c = self.cluster(2, ITEMS)
        con = c[1].connect()
        con.execute("BEGIN IMMEDIATE")
        c[0].sql("INSERT INTO item VALUES ('patience', 1)")
        self.assertEqual(c[0].cli("wait", "--converged", "--timeout", 1).code, 1)
        self.assertFalse(self.in_sync(c[0], c[1]))
        con.execute("INSERT INTO item VALUES ('mine', 1)")
        con.execute("COMMIT")
        con.close()
        self.eventually(c[1], "SELECT count(*) FROM item", [(2,)], deadline=5)
        c.converge()


if __name__ == "__main__":
    harness.main()
