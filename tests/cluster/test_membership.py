"""Who is there: learned from others, remembered, missed at once when gone, found again elsewhere."""
import threading

import harness
from harness import ClusterTest, free_port, holds, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT);"


class Membership(ClusterTest):
    def state(self, node, of):
        """As `members` says it; None when unknown."""
        def look(v):
            if isinstance(v, dict):
                if v.get("name") == of.name and "state" in v:
                    return v["state"]
                v = list(v.values())
            if isinstance(v, list):
                return next((s for s in map(look, v) if s), None)
            return None
        return look(node.json("members"))

    def test_learned_from_members(self):
        a = self.make("n0").start()
        b = self.make("n1", join=[a]).start()
        c = self.make("n2", join=[a]).start()
        for n in (a, b, c):
            poll(lambda: n.alive() == 3, what="%s knows all" % n.name)
        for n, m in ((b, c), (c, b), (a, c)):
            poll(lambda: self.state(n, m) == "alive")
            poll(lambda: n.peer(m)["sent_bytes"] > 0 and n.peer(m)["received_bytes"] > 0, what="a link of their own")
            self.assertTrue(n.peer(m)["addr"].endswith(":%d" % m.port), n.peer(m))
            self.assertEqual(n.peer(m)["id"], m.ready["id"])
        # a does not have to live for b and c to talk
        a.kill()
        b.script(ITEMS)
        b.sql("INSERT INTO item VALUES ('x', 1)")
        poll(lambda: c.has_tables("item"))
        self.eventually(c, "SELECT * FROM item", [("x", 1)])

    def test_kill_is_noticed_and_return_too(self):
        c = self.cluster(3, ITEMS, ports=True)
        c[2].kill()
        for n in c.nodes[:2]:
            poll(lambda: self.state(n, c[2]) != "alive", 3, "%s notices" % n.name)
            self.assertFalse(n.peer(c[2])["in_sync"])
            poll(lambda: n.peer(c[2])["state"] == "dead" and n.alive() == 2, 6)
        c[2].restart()
        for n in c:
            poll(lambda: n.alive() == 3, 5, "%s sees it back" % n.name)
        c[0].sql("INSERT INTO item VALUES ('after', 1)")
        self.eventually(c[2], "SELECT id FROM item", [("after",)])

    def test_silence_is_noticed(self):
        c = self.cluster(2, ITEMS)
        c[1].freeze()
        poll(lambda: c[0].peer(c[1])["state"] in ("suspect", "dead"), 4)
        poll(lambda: c[0].peer(c[1])["state"] == "dead", 6)
        c[1].thaw()
        poll(lambda: c[0].peer(c[1])["state"] == "alive" and c[1].peer(c[0])["state"] == "alive", 6)
        c.converge()

    def test_members_are_remembered(self):
        c = self.cluster(3, ITEMS, ports=True)
        for n in c:
            n.stop()
        for n in reversed(c.nodes):
            n.restart(rejoin=False)
        for n in c:
            poll(lambda: n.alive() == 3, what="%s finds all without --join" % n.name)
        ids = {n.ready["id"] for n in c}
        self.assertEqual(len(ids), 3)

    def test_roaming(self):
        """A server comes back under another address, and knows the others from before."""
        c = self.cluster(3, ITEMS)
        c[1].stop()
        old = c[1].port
        c[1].port, c[1].join = free_port(), []
        c[1].start()
        for n in (c[0], c[2]):
            poll(lambda: n.peer(c[1])["state"] == "alive" and n.peer(c[1])["addr"].endswith(":%d" % c[1].port), what="%s learns the new address" % n.name)
            self.assertEqual(n.status()["cluster"]["members"], 3, "one server under two names")
        self.assertNotEqual(old, c[1].port)
        c[1].sql("INSERT INTO item VALUES ('moved', 1)")
        c.converge()

    def test_the_seed_appears_later(self):
        port = free_port()
        a = self.make("n0", join=["127.0.0.1:%d" % port]).start()
        self.assertEqual(a.alive(), 1)
        b = self.make("n1", port=port).start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)

    def test_leave(self):
        c = self.cluster(3, ITEMS)
        c[2].sql("INSERT INTO item VALUES ('last words', 1)")
        done = c[2].cli("leave")
        self.assertEqual(done.code, 0, done)
        for n in c.nodes[:2]:
            self.assertEqual(n.sql("SELECT id FROM item"), [("last words",)], "left before handing over")
            poll(lambda: self.state(n, c[2]) in ("left", None))
            poll(lambda: n.alive() == 2)
        c[0].sql("INSERT INTO item VALUES ('goes on', 1)")
        self.eventually(c[1], "SELECT count(*) FROM item", [(2,)])
        self.assertEqual(c[0].cli("wait", "--converged", "--members", 2, "--timeout", 10).code, 0)
        self.assertEqual(c[2].wait_end(), 0)
        c[2].restart(rejoin=False)  # gone for good: who left does not come back because it is started again
        c[1].stop()
        c[1].restart(rejoin=False)
        holds(lambda: c[2].alive() == 1 and c[0].alive() <= 2 and self.state(c[1], c[2]) in ("left", None), 1, "stays alone")
        poll(lambda: c[0].alive() == 2)
        self.assertEqual(c[2].cli("join", c[0].address()).code, 0)
        poll(lambda: c[2].alive() == 3 and c[0].alive() == 3)
        self.eventually(c[2], "SELECT count(*) FROM item", [(2,)])

    def test_two_leave_at_once(self):
        """Neither counts on the other to take over what a third lacks."""
        c = self.cluster(3, ITEMS)
        self.assertEqual(c[2].cli("pause").code, 0)
        c[0].sql("INSERT INTO item VALUES ('last words', 1)")
        self.eventually(c[1], "SELECT id FROM item", [("last words",)])
        done = {}
        threads = [threading.Thread(target=lambda n=n: done.setdefault(n.name, n.cli("leave"))) for n in c.nodes[:2]]
        for t in threads:
            t.start()
        poll(lambda: done, what="one leaves, and leaves it to the other")
        self.assertEqual([d.code for d in done.values()], [0])
        stays = c[1] if c[0].name in done else c[0]
        poll(lambda: stays.alive() == 2)
        holds(lambda: len(done) == 1, 0.5, "the other waits for the third")
        self.assertEqual(c[2].cli("resume").code, 0)
        for t in threads:
            t.join()
        self.assertEqual([d.code for d in done.values()], [0, 0])
        self.assertEqual(c[2].sql("SELECT id FROM item"), [("last words",)])
        for n in c.nodes[:2]:
            self.assertEqual(n.wait_end(), 0)

    def test_forget(self):
        """All stop waiting for it, also over a restart; it comes back with what only it has, and is taken in again."""
        c = self.cluster(3, ITEMS, ports=True)
        self.assertEqual(c[0].cli("forget", c[2].name).code, 1, "it is alive")
        self.assertIn("this node itself", c[0].cli("forget", c[0].name).err)
        c[2].kill()
        c[2].sql("INSERT INTO item VALUES ('only here', 1)")
        poll(lambda: self.state(c[0], c[2]) == "dead")
        self.assertEqual(c[0].status()["cluster"]["members"], 3)
        self.assertEqual(c[0].cli("forget", c[2].name).code, 0)
        for n in c.nodes[:2]:
            poll(lambda: self.state(n, c[2]) is None, what="%s forgets it" % n.name)
            self.assertEqual(n.status()["cluster"]["members"], 2)
        self.assertEqual(c[0].cli("forget", "nobody").code, 1)
        c[1].stop()
        c[1].restart(rejoin=False)
        poll(lambda: c[1].alive() == 2)
        holds(lambda: self.state(c[1], c[2]) is None and self.state(c[0], c[2]) is None, 0.5, "it stays forgotten")
        c[2].restart()
        for n in c:
            poll(lambda: n.alive() == 3, what="%s takes it in again" % n.name)
            self.eventually(n, "SELECT id FROM item", [("only here",)])

    def test_pause_and_resume(self):
        c = self.cluster(2, ITEMS)
        self.assertEqual(c[1].cli("pause").code, 0)
        poll(lambda: c[1].status()["node"]["state"] == "paused")
        c[0].sql("INSERT INTO item VALUES ('from 0', 0)")
        c[1].sql("INSERT INTO item VALUES ('from 1', 1)")
        holds(lambda: c[0].sql("SELECT count(*) FROM item") == [(1,)] and c[1].sql("SELECT count(*) FROM item") == [(1,)], 0.7, "paused")
        self.assertEqual(c[1].cli("resume").code, 0)
        self.assertEqual(c[1].status()["node"]["state"], "running")
        c.converge()
        self.assertEqual(c[0].sql("SELECT count(*) FROM item"), [(2,)])

    def test_join_while_running(self):
        a, b = self.make("n0").start(), self.make("n1").start()
        a.script(ITEMS)
        self.assertEqual(b.cli("join", a.address()).code, 0)
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        poll(lambda: b.has_tables("item"))
        b.stop()
        b.restart()  # no --join: what was joined by hand is remembered
        poll(lambda: b.alive() == 2)

    def test_names_that_do_not_resolve(self):
        a = self.make("n0").start()
        b = self.make("n1", join=["no-such-host.invalid:7171", a]).start()
        poll(lambda: b.alive() == 2, what="the other seed is used")
        lines = poll(lambda: b.log_lines("no-such-host.invalid"), what="a line that names the seed")
        self.assertLess(len(lines), 5, lines)
        self.assertEqual([s["addr"] for s in b.status()["unreachable"]], ["no-such-host.invalid:7171"])
        self.assertIn("does not resolve", b.cli("status").out)

    def test_a_seed_that_does_not_answer_is_named(self):
        port = free_port()
        b = self.make("n1", join=["127.0.0.1:%d" % port]).start()
        poll(lambda: b.status()["unreachable"])
        done = b.cli("status")
        self.assertIn("127.0.0.1:%d cannot be reached: connection refused" % port, done.out)
        self.assertIn("alone: nobody was reached yet", done.out)
        self.assertIn("127.0.0.1:%d cannot be reached" % port, b.cli("doctor").out)
        a = self.make("n0", port=port).start()
        poll(lambda: b.alive() == 2)
        self.assertEqual(b.status()["unreachable"], [])
        a.stop()

    def test_a_name_that_resolves(self):
        a = self.make("n0").start()
        b = self.make("n1", join=["localhost:%d" % a.port]).start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)

    def test_a_seed_of_another_cluster_is_named(self):
        a = self.make("n0").start()
        b = self.make("n1", join=[a], extra=["--cluster", "other"]).start()
        poll(lambda: b.status()["unreachable"])
        done = b.cli("status")
        self.assertIn('%s cannot be joined: peer %s belongs to cluster "default"' % (a.address(), a.address()), done.out)
        self.assertIn("1 problem", done.out)

    def test_joining_oneself_is_harmless(self):
        port = free_port()
        a = self.make("n0", port=port, join=["127.0.0.1:%d" % port, "localhost:%d" % port]).start()
        b = self.make("n1", join=[a]).start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        self.assertEqual(a.status()["cluster"]["members"], 2)
        self.assertEqual([p["name"] for p in a.status()["peers"]], ["n1"])

    def test_everyone_joins_everyone_at_once(self):
        ports = [free_port() for _ in range(4)]
        nodes = [self.make("n%d" % i, port=p, join=["127.0.0.1:%d" % q for q in ports]) for i, p in enumerate(ports)]
        for n in nodes:
            n.start()
        for n in nodes:
            poll(lambda: n.alive() == 4)
            self.assertEqual(n.status()["cluster"]["members"], 4)


if __name__ == "__main__":
    harness.main()
