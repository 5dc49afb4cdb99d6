"""Servers whose clocks are wrong, or are set while they run: the node and the application beside it see a wall clock that the test shifts."""
import os
import struct

import harness
from harness import BUILD, ClusterTest, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v TEXT);"
SHIFT = os.path.join(BUILD, "tests", "libclockshift.so")
HOUR = 3600000


@harness.unittest.skipIf(harness.sanitized(), "a sanitizer wants to be preloaded first")
class Clocks(ClusterTest):
    def shifted(self, name, **kw):
        path = os.path.join(self.root, name + ".shift")
        env = {"LD_PRELOAD": SHIFT, "CLOCK_SHIFT": path}
        self.write_shift(path, 0)
        node = self.make(name, env=env, **kw)
        node.shift = lambda ms: self.write_shift(path, ms)
        node.app = lambda sql: self.done(harness.run(["sqlite3", "-batch", "-bail", node.path(), ".timeout 5000", sql], env=harness.environment(**env)))
        return node

    def write_shift(self, path, ms):
        with open(path, "r+b" if os.path.exists(path) else "wb") as f:
            f.write(struct.pack("<q", ms))

    def done(self, done):
        self.assertEqual((done.code, done.err), (0, ""), done)

    def pair(self):
        a = self.make("n0", port=harness.free_port())
        a.script(ITEMS)
        a.start()
        a.sql("INSERT INTO item VALUES ('both', 'old'), ('set', 'old')")
        b = self.shifted("n1", join=[a], port=harness.free_port()).start()
        poll(lambda: b.has_tables("item") and b.sql("SELECT count(*) FROM item") == [(2,)])
        return a, b

    def test_who_was_wrong_while_alone_does_not_win(self):
        """It writes first, three hours ahead; or last, three hours behind: the later write is shown, and the other one an open conflict."""
        for ahead in (3 * HOUR, -3 * HOUR):
            with self.subTest(ahead):
                a, b = self.pair()
                a.stop()
                poll(lambda: b.alive() == 1)
                b.shift(ahead)
                first, last = (b, a) if ahead > 0 else (a, b)
                for n in (first, last):
                    write = "UPDATE item SET v = 'by %s' WHERE id = 'both'" % n.name
                    if n is b:
                        b.app(write)
                        poll(lambda: b.database()["drained"] > 0)
                    else:
                        a.sql(write)  # its node is down: the note has the time
                    harness.time_passes(0.05)
                b.app("INSERT INTO item VALUES ('alone', 'x')")
                a.restart(rejoin=False)
                off = b if ahead > 0 else a  # of two that were alone, whose clocks are both possible, the one that is ahead takes the other's time
                poll(lambda: off.log_lines("the clock of this server is 1", "its writes get the cluster's time; set the clock"))
                for n in (a, b):
                    self.eventually(n, "SELECT id, v FROM item ORDER BY id", [("alone", "x"), ("both", "by " + last.name), ("set", "old")])
                    poll(lambda: [c["loser"]["value"] for c in n.json("conflicts")["conflicts"]] == ["by " + first.name], what="the open conflict")
                self.assertFalse(a.log_lines("in the future"))
                # later writes get the cluster's time, too; and a clock that is set right again disturbs nobody
                b.app("UPDATE item SET v = 'later' WHERE id = 'set'")
                self.eventually(a, "SELECT v FROM item WHERE id = 'set'", [("later",)])
                a.sql("UPDATE item SET v = 'last' WHERE id = 'set'")
                self.eventually(b, "SELECT v FROM item WHERE id = 'set'", [("last",)])
                b.shift(0)
                poll(lambda: b.log_lines("the clock of this server was set"))
                b.app("UPDATE item SET v = 'right' WHERE id = 'set'")
                self.eventually(a, "SELECT v FROM item WHERE id = 'set'", [("right",)])
                poll(lambda: a.alive() == 2 and a.peer(b)["in_sync"])
                a.stop()
                b.stop()
                for n in (a, b):
                    harness.shutil.rmtree(n.folder)

    def test_steps_of_a_clock_do_not_disturb_timers(self):
        a, b = self.pair()
        for ms in (HOUR, -HOUR, 0):
            b.shift(ms)
            poll(lambda: a.alive() == 2 and b.alive() == 2)
            b.app("UPDATE item SET v = 'at %d' WHERE id = 'set'" % ms)
            self.eventually(a, "SELECT v FROM item WHERE id = 'set'", [("at %d" % ms,)])
        self.assertFalse(b.log_lines("silent"))
        self.assertFalse(a.log_lines("refused"))


if __name__ == "__main__":
    harness.main()
