"""`watch`: each change as it happens, one JSON object a line."""
import json
import os
import select
import subprocess
import time

import harness
from harness import STARLING, ClusterTest, environment, poll

SCHEMA = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT, w, big INT); CREATE TABLE pair(a INT, b TEXT, v INT, PRIMARY KEY(a, b)); CREATE TABLE num(id INTEGER PRIMARY KEY, v INT);"


class Watch(ClusterTest):
    def watch(self, node, *filters):
        proc = subprocess.Popen([STARLING, "--instance", node.instance, "--json", "watch", *filters], stdout=subprocess.PIPE, env=environment())
        harness._running.add(proc)

        def end():
            proc.kill()
            proc.wait()
            harness._running.discard(proc)
            proc.stdout.close()
        self.addCleanup(end)
        return proc

    def next(self, proc, deadline=10.0):
        """The next object; None when there is none in time."""
        end = time.monotonic() + deadline * harness.SLOW
        proc.buffer = getattr(proc, "buffer", b"")
        while b"\n" not in proc.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([proc.stdout], [], [], left)[0]:
                return None
            more = os.read(proc.stdout.fileno(), 65536)
            self.assertTrue(more, "watch ended")
            proc.buffer += more
        line, proc.buffer = proc.buffer.split(b"\n", 1)
        return json.loads(line)

    def attached(self, proc, node, table="item"):
        """Writes on its own node until the watch shows it: from then on nothing may be missed."""
        def look():
            node.sql("INSERT INTO %s(id) VALUES (?)" % table, (str(time.monotonic_ns() % 10**12),))
            return self.next(proc, 0.3)
        first = poll(look)
        while self.next(proc, 0.5):
            pass
        return first

    def test_changes_of_another_node(self):
        c = self.cluster(2, SCHEMA)
        proc = self.watch(c[1])
        first = self.attached(proc, c[1])
        self.assertIs(first["local"], True)
        self.assertIn(first["node"], ("n1", c[1].ready["id"]))
        before = int(time.time() * 1000)
        c[0].sql("INSERT INTO item(id, v) VALUES ('a', 1)")
        event = self.next(proc)
        self.assertEqual({k: event[k] for k in ("db", "table", "op", "key", "local")},
                         {"db": "app.db", "table": "item", "op": "insert", "key": {"id": "a"}, "local": False})
        self.assertIn(event["node"], ("n0", c[0].ready["id"]))
        self.assertEqual(event["changes"]["v"], 1)
        self.assertLess(abs(event["time_ms"] - before), 60000)
        c[0].sql("UPDATE item SET v = 2 WHERE id = 'a'")
        event = self.next(proc)
        self.assertEqual((event["op"], event["key"], event["changes"], event["local"]), ("update", {"id": "a"}, {"v": 2}, False))
        c[0].sql("DELETE FROM item WHERE id = 'a'")
        event = self.next(proc)
        self.assertEqual((event["op"], event["key"], event["local"]), ("delete", {"id": "a"}, False))
        c[0].sql("INSERT INTO pair VALUES (1, 'x', 2)")
        event = self.next(proc)
        self.assertEqual((event["table"], event["key"]), ("pair", {"a": 1, "b": "x"}))
        self.assertIsNone(self.next(proc, 0.3), "one object a change")

    def test_values(self):
        c = self.cluster(2, SCHEMA)
        proc = self.watch(c[1], "app.db/item")
        self.attached(proc, c[1])
        c[0].sql("INSERT INTO pair VALUES (5, 'not watched', 2)")
        c[0].sql("INSERT INTO item VALUES ('v', 1.5, x'00ff', 9007199254740993)")
        event = self.next(proc)
        self.assertEqual(event["table"], "item")
        changes = event["changes"]
        self.assertEqual(changes["v"], 1.5)
        self.assertEqual(changes["w"], {"base64": "AP8="})
        self.assertEqual(changes["big"], {"int": "9007199254740993"})
        c[0].sql("UPDATE item SET v = NULL, w = 'text é' WHERE id = 'v'")
        self.assertEqual(self.next(proc)["changes"], {"v": None, "w": "text é"})
        c[0].sql("UPDATE item SET w = CAST(x'ff' AS TEXT) WHERE id = 'v'")
        self.assertEqual(self.next(proc)["changes"], {"w": {"base64": "/w=="}})

    def test_a_burst_in_order(self):
        c = self.cluster(2, SCHEMA)
        proc = self.watch(c[1], "app.db")
        self.attached(proc, c[1])
        con = c[0].connect()
        con.execute("BEGIN")
        con.executemany("INSERT INTO num VALUES (?, 1)", ((i,) for i in range(1, 501)))
        con.execute("COMMIT")
        con.close()
        keys = [self.next(proc)["key"]["id"] for _ in range(500)]
        self.assertEqual(sorted(keys), list(range(1, 501)))

    def test_a_reader_that_went_away(self):
        c = self.cluster(2, SCHEMA)
        proc = self.watch(c[1])
        self.attached(proc, c[1])
        proc.kill()
        c[0].sql("INSERT INTO item(id) VALUES ('after')")
        self.eventually(c[1], "SELECT count(*) FROM item WHERE id = 'after'", [(1,)])


if __name__ == "__main__":
    harness.main()
