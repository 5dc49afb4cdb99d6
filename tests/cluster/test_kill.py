"""kill -9, again and again, of nodes and writers: whatever was committed is on every server at the end.

STARLING_KILLS: how many (default 200); STARLING_SEED: repeats a run's choices."""
import os
import random
import time

import harness
from harness import ClusterTest, poll, time_passes
from writers import SCHEMA, ProcessWriter, Writer

KILLS = int(os.environ.get("STARLING_KILLS", "200"))
SEED = int(os.environ.get("STARLING_SEED", random.SystemRandom().randrange(1 << 32)))


class Kill(ClusterTest):
    def faults(self, kills, journal, gap):
        rng = random.Random(SEED)
        print("seed %d, %d kills, journal %s" % (SEED, kills, journal), flush=True)
        c = self.cluster(3, SCHEMA, ports=True, journal=journal)
        writers = [Writer(n, i, rng.random()) for i, n in enumerate(c)]
        time_passes(2.2)  # what came in within the last 2 s does not count as seen: it would be a conflict
        for w in writers:
            w.start()
        committed, process, process_node = [], None, 0
        start = time.monotonic()
        try:
            for k in range(kills):
                node = rng.choice(c.nodes)
                time.sleep(rng.random() * gap)  # a random moment is the point
                node.kill()
                if rng.random() < 0.2:  # also while it recovers
                    node.spawn()
                    time.sleep(rng.random() * 0.06)
                    node.kill()
                node.restart()
                if k % 20 == 5:
                    process_node = rng.randrange(3)
                    process = ProcessWriter(c[process_node], "p%d" % k)
                elif k % 20 == 7 and process:
                    committed += process.kill()
                    process = None
        finally:
            if process:
                committed += process.kill()
            for w in writers:
                w.ending.set()
            for w in writers:
                w.join()
        for w in writers:
            self.assertIsNone(w.error)
        print("%.0f s, %d commits of threads, %d of killed programs, %d refused" % (
            time.monotonic() - start, sum(w.commits for w in writers), len(committed), sum(w.refused for w in writers)), flush=True)
        self.assertEqual(sum(w.refused for w in writers), 0, "BEGIN IMMEDIATE with a busy timeout never fails because of us")
        if kills >= 10:
            self.assertTrue(committed)
        for n in c:
            poll(lambda: n.alive() == 3, what="%s sees all again" % n.name)
        c.converge(60)
        for n in c:
            for w in writers:
                wrong = w.missing(n)
                self.assertEqual(wrong[:5], [], "seed %d: %d rows of writer %d are wrong on %s" % (SEED, len(wrong), w.number, n.name))
            con = n.connect()
            there = {}
            for key, in con.execute("SELECT id FROM log WHERE who = 'process'"):
                there.setdefault(key.rsplit("-", 1)[0], []).append(key)
            con.close()
            self.assertEqual([t for t in committed if t not in there][:5], [], "committed by a killed program, lost on %s" % n.name)
            self.assertEqual([t for t, parts in there.items() if len(parts) != 3], [], "half of a transaction on %s" % n.name)
            self.assertEqual(n.database()["conflicts"], 0, "every row had one writer")
            self.assertEqual(n.sql("PRAGMA integrity_check"), [("ok",)])
        done = c[0].cli("verify")
        self.assertEqual(done.code, 0, done)

    def test_kills_in_wal_mode(self):
        self.faults(KILLS, "WAL", 0.3)

    def test_kills_in_delete_mode(self):
        self.faults(max(2, KILLS // 10), "DELETE", 0.3)

    def test_killed_while_fetching(self):
        rng = random.Random(SEED)
        a = self.make("n0")
        a.script(SCHEMA)
        con = a.connect()
        con.execute("BEGIN")
        con.executemany("INSERT INTO log VALUES (?, 'a', ?, ?)", (("r%d" % i, i, "body %d" % i * 5) for i in range(60000)))
        con.execute("COMMIT")
        con.close()
        a.start()
        b = self.make("n1", port=harness.free_port(), join=[a])
        for k in range(12):
            b.spawn()
            time.sleep(0.02 + rng.random() * 0.4)  # a random moment is the point
            b.kill()
            if k % 4 == 3:
                a.kill()
                a.start()
        b.start()
        poll(lambda: b.has_tables("log"))
        self.eventually(b, "SELECT count(*) FROM log", [(60000,)], deadline=30)
        self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 30).code, 0)
        self.assertEqual(a.dump(), b.dump())


if __name__ == "__main__":
    harness.main()
