"""Links that are cut, half-open, slow, delayed or full of rubbish, with writers on every side. STARLING_SEED repeats a run's choices."""
import os
import random
import time

import harness
from harness import ClusterTest, poll, time_passes
from writers import SCHEMA, Writer

SEED = int(os.environ.get("STARLING_SEED", random.SystemRandom().randrange(1 << 32)))


class Partition(ClusterTest):
    def begin(self, n):
        """Nodes behind proxies, and a writer on each."""
        network = self.network()
        c = self.cluster(n, SCHEMA, network=network)
        time_passes(2.2)  # what came in within the last 2 s does not count as seen: it would be a conflict
        return network, c, [Writer(node, i, SEED + i) for i, node in enumerate(c)]

    def finish(self, c, writers):
        for w in writers:
            w.end()
        for n in c:
            poll(lambda: n.alive() == len(c.nodes), 25, "%s sees all again" % n.name)
        c.converge(40)
        for n in c:
            for w in writers:
                wrong = w.missing(n)
                self.assertEqual(wrong[:5], [], "seed %d: %d rows of writer %d are wrong on %s" % (SEED, len(wrong), w.number, n.name))
        counts = c.conflicts()
        self.assertEqual(len(set(counts)), 1, counts)
        self.assertEqual(counts[0], 0, "every cell had one writer")

    def test_random_faults_of_links(self):
        print("seed %d" % SEED, flush=True)
        rng = random.Random(SEED)
        network, c, writers = self.begin(4)
        for w in writers:
            w.start()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            a, b = rng.sample(c.nodes, 2)
            fault = rng.choice(("cut", "cut", "hole", "garbage", "slow", "delay", "heal", "heal", "isolate"))
            if fault == "heal":
                network.heal_all()
            elif fault == "isolate":
                network.isolate(a)
            elif fault == "slow":
                network.set(a, b, rate=20000)
            elif fault == "delay":
                network.set(a, b, delay_ms=rng.choice((5, 80, 400)))
            else:
                network.set(a, b, fault)
            time.sleep(rng.random() * 0.5)  # random moments are the point
        network.heal_all()
        self.finish(c, writers)

    def test_two_halves(self):
        network, c, writers = self.begin(4)
        for a in c.nodes[:2]:
            for b in c.nodes[2:]:
                network.cut(a, b)
        for n in c:
            poll(lambda: n.alive() == 2, what="%s sees its half" % n.name)
        for w in writers:
            w.start()
        poll(lambda: all(w.commits > 100 for w in writers))
        for n in c.nodes[:2]:  # each half goes on by itself
            self.eventually(n, "SELECT count(DISTINCT who) FROM log", [(2,)])
        network.heal_all()
        self.finish(c, writers)

    def test_a_slow_peer_holds_nobody_up(self):
        network = self.network()
        c = self.cluster(3, SCHEMA, network=network)
        network.set(c[0], c[2], rate=30000)
        network.set(c[1], c[2], rate=30000)
        body = "".join(random.Random(SEED).choice("0123456789abcdef") for _ in range(1500))
        con = c[0].connect()
        worst = 0.0
        for i in range(300):
            con.execute("INSERT INTO log VALUES (?, 'slow', ?, ?)", ("s%d" % i, i, body[i:] + str(i)))
        start = time.monotonic()
        self.eventually(c[1], "SELECT count(*) FROM log", [(300,)], deadline=5)
        worst = time.monotonic() - start
        con.close()
        print("300 rows on the fast peer %.2f s after the last commit" % worst)
        self.assertFalse((c[0].peer(c[2]) or {}).get("in_sync"), "the slow peer cannot have all of it yet")
        network.heal_all()
        c.converge(30)

    def test_fresh_changes_overtake_a_large_catch_up(self):
        network = self.network()
        c = self.cluster(2, SCHEMA, network=network)
        c[0].script("CREATE TABLE photo (id INTEGER PRIMARY KEY, data BLOB)", db="photos.db")
        self.eventually(c[1], "SELECT count(*) FROM photo", [(0,)], db="photos.db")
        network.set(c[0], c[1], rate=1500000)
        con = c[0].connect("photos.db")
        for _ in range(40):
            con.execute("INSERT INTO photo (data) VALUES (randomblob(300000))")
        con.close()
        worst = 0.0
        for i in range(6):
            start = time.monotonic()
            c[0].sql("INSERT INTO log VALUES (?, 'fresh', ?, '')", ("f%d" % i, i))
            self.eventually(c[1], "SELECT count(*) FROM log", [(i + 1,)], deadline=8)
            worst = max(worst, time.monotonic() - start)
        behind = 40 - c[1].sql("SELECT count(*) FROM photo", db="photos.db")[0][0]
        print("worst of six: %.2f s, with %d photos still to come" % (worst, behind))
        self.assertGreater(behind, 0, "the catch-up must still be under way")
        self.assertLess(worst, 1.2 * harness.SLOW)
        network.heal_all()
        c.converge(30)

    def test_delay_alone_changes_nothing(self):
        network, c, writers = self.begin(3)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            network.set(c[a], c[b], delay_ms=100)
        for w in writers:
            w.start()
        poll(lambda: all(w.commits > 100 for w in writers))
        for w in writers:
            w.end()
        self.finish(c, writers)
        for n in c:
            self.assertEqual(n.alive(), 3)

    def test_rubbish_on_a_link(self):
        network, c, (writer, _) = self.begin(2)
        writer.start()
        for _ in range(5):
            network.set(c[0], c[1], "garbage")
            before = writer.commits
            poll(lambda: writer.commits > before + 30)
            network.heal_all()
            poll(lambda: (c[0].peer(c[1]) or {}).get("state") == "alive", 20)
        self.finish(c, [writer])


if __name__ == "__main__":
    harness.main()
