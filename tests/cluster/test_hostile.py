"""Strangers and members that are up to no good: whatever they say, the others go on, and it costs them little."""
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import harness
import intruder
from harness import ClusterTest, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT);"
DB = "app.db"


def now_ms():
    return int(time.time() * 1000)


class Hostile(ClusterTest):
    def setUp(self):
        super().setUp()
        self.c = self.cluster(2, ITEMS)
        self.written = 0

    def link(self, node, identity):
        link = intruder.Link(node.port, identity)
        link.hello(identity, now_ms())
        link.full_vector(DB)
        self.addCleanup(link.socket.close)
        reader = threading.Thread(target=self.drain, args=(link,), daemon=True)
        reader.start()
        return link

    @staticmethod
    def drain(link):
        try:
            while True:
                link.take()
        except (OSError, EOFError, ValueError):
            link.over = True

    def works(self):
        """The others still hear of each other, soon, and need little memory."""
        for a, b in (self.c.nodes, reversed(self.c.nodes)):
            self.written += 1
            a.sql("INSERT INTO item VALUES ('honest%d', 1)" % self.written)
            poll(lambda: b.sql("SELECT count(*) FROM item WHERE id = 'honest%d'" % self.written) == [(1,)], 3, "what the others write arrives")
        for n in self.c:
            self.assertLess(n.status()["node"]["rss_bytes"], 128 << 20)

    def over(self, link, what):
        poll(lambda: getattr(link, "over", False), 6, what)

    def rows(self, node, like):
        return node.sql("SELECT id, v FROM item WHERE id LIKE '%s' ORDER BY id" % like)

    def test_members_that_are_not_there(self):
        """Five thousand, all at one address: as many as fit are known, and dialled within the budget."""
        accepted = [0]
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as door:
            def count():
                try:
                    while True:
                        door.accept()[0].close()
                        accepted[0] += 1
                except OSError:
                    pass
            threading.Thread(target=count, daemon=True).start()
            address = "127.0.0.1:%d" % door.getsockname()[1]
            started = time.monotonic()
            for _ in range(20):  # beyond fifty members a node keeps few links: it is met anew when this one is let go
                cards = [[intruder.Identity().card([address]), 1] for _ in range(250)]
                for _ in range(3):
                    try:
                        self.link(self.c[0], intruder.Identity()).frame(3, cards)
                        break
                    except (OSError, EOFError, ValueError):
                        continue
            poll(lambda: self.c[0].status()["cluster"]["members"] > 1000)
            self.works()
            self.assertLessEqual(self.c[0].status()["cluster"]["members"], 4097)
            self.assertLessEqual(accepted[0], 2 * (64 + 8 * (time.monotonic() - started)) + 20)

    def test_words_in_anothers_name(self):
        identity, other = intruder.Identity(), intruder.Identity()
        link = self.link(self.c[0], identity)
        card = other.card(["127.0.0.1:1"])
        link.frame(3, [[card[:-1] + bytes([card[-1] ^ 1]), 1]])
        self.over(link, "whoever shows a forged card is cut off")
        self.assertNotIn(other.id.hex(), [p["id"] for p in self.c[0].status()["peers"]])
        self.works()

    def test_a_batch_in_anothers_name(self):
        victim = intruder.identity_of(os.path.join(self.c[1].instance, ".starling"))
        identity = intruder.Identity()
        link = self.link(self.c[0], identity)
        version = self.c[0].status()["databases"][0]["version"].get(victim.id.hex(), 0)
        data, _ = intruder.envelope(identity, DB, version + 1, [("forged", 1)], now_ms() << 16, author=victim.id)
        link.batch(data)
        poll(lambda: self.c[0].log_lines("does not follow what is here, or is not signed"))
        self.works()
        self.assertEqual(self.rows(self.c[0], "forged"), [])
        self.assertEqual(self.c[0].status()["databases"][0]["state"], "ok")

    def test_stamps_from_the_future(self):
        identity = intruder.Identity()
        link = self.link(self.c[0], identity)
        data, _ = intruder.envelope(identity, DB, 1, [("future", 1)], (now_ms() + 86400000) << 16)
        link.batch(data)
        self.over(link, "it is refused")
        self.assertTrue(self.c[0].log_lines("s in the future, and was not stamped anew: set its clock"))
        self.works()
        self.assertEqual(self.rows(self.c[0], "future"), [])

    def tell_two_stories(self, identity, links):
        stories = [intruder.envelope(identity, DB, 1, [("story%d" % i, i)], now_ms() << 16) for i in range(2)]
        for link, (data, _) in zip(links, stories):
            link.batch(data)
        for i, n in enumerate(self.c):
            poll(lambda: self.rows(n, "story%") == [("story%d" % i, i)])
        self.chain = stories[0][1]

    def test_two_stories(self):
        """Another first batch for each: what follows does not, for one of them, which says so; and that stops the liar alone."""
        identity = intruder.Identity()
        links = [self.link(n, identity) for n in self.c]
        self.tell_two_stories(identity, links)
        data, _ = intruder.envelope(identity, DB, 2, [("story2", 2)], now_ms() << 16, self.chain)
        for link in links:
            link.batch(data)
        poll(lambda: self.rows(self.c[0], "story2") == [("story2", 2)])
        poll(lambda: self.c[1].log_lines("has forked"))
        self.assertEqual(self.rows(self.c[1], "story2"), [])
        self.assertFalse(self.c[1].peer(self.c[0])["in_sync"], "they differ, and say so")
        self.others_go_on()

    def others_go_on(self):
        """Also with what was written after the lies, and on top of them."""
        self.c[0].sql("UPDATE item SET v = 7 WHERE id IN ('story0', 'story2')")
        harness.time_passes(2.2)  # from now on n0 counts as having seen them
        self.c[0].sql("UPDATE item SET v = v + 1 WHERE id IN ('story0', 'story2')")
        self.works()
        self.c[1].sql("UPDATE item SET v = 9 WHERE id = 'story2'")
        self.works()
        problem = self.c[1].database()["error"]
        self.assertIn("intruder", problem)

    def test_two_stories_of_which_one_is_passed_on(self):
        """What the liar goes on with comes from an honest one, and does not follow what the other one had heard."""
        identity = intruder.Identity()
        links = [self.link(n, identity) for n in self.c]
        self.tell_two_stories(identity, links)
        data, _ = intruder.envelope(identity, DB, 2, [("story2", 2)], now_ms() << 16, self.chain)
        links[0].batch(data)
        poll(lambda: self.rows(self.c[0], "story2") == [("story2", 2)])
        poll(lambda: self.c[1].log_lines('what "intruder" wrote after its version 1 is not the same everywhere'))
        self.others_go_on()

    def test_frames_that_are_bombs(self):
        for bomb in (b"\x91" * 60000, b"\x93\x08\x00" + b"\x91" * 1000, b"\xdd\xff\xff\xff\xff\x05", b"\x92\x03\xdd\x00\xff\xff\xff"):
            link = self.link(self.c[0], intruder.Identity())
            link.send(len(bomb).to_bytes(4, "big") + bomb[:16000])
            for at in range(16000, len(bomb), 16000):
                link.send(bomb[at:at + 16000])
            self.over(link, "a frame that is none ends the link")
        link = self.link(self.c[0], intruder.Identity())
        link.send(b"\xff\xff\xff\xff")  # longer than any frame
        self.over(link, "so does a length that cannot be")
        identity = intruder.Identity()
        link = self.link(self.c[0], identity)
        data, _ = intruder.envelope(identity, DB, 1, [("bomb", 1)], now_ms() << 16, flags=1, raw=60 << 20, body=b"\x28\xb5\x2f\xfd\x04\x00" + bytes(64))
        link.batch(data)  # a few bytes that say they become 60 MiB
        poll(lambda: self.c[0].log_lines("cannot be taken"))
        self.works()

    def peak(self, node):
        with open("/proc/%d/status" % node.proc.pid) as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))

    def test_records_that_are_bombs(self):
        """Some KiB that say they become 40 MiB and more, or that need a window of 128 MiB; after the handshake, before any word."""
        before = self.peak(self.c[0])
        small = intruder.zip_bomb(10, 8)  # fills what one record may become, and that is a prefix of more
        for records in ([(1, intruder.zip_bomb())], [(1, intruder.zip_bomb(27, 2500))], [(1, small[:-4]), (2, intruder.zip_bomb()[6:])],
                        [(1, small + small)], [(2, small)], [(3, b""), (2, small)]):
            with intruder.Link(self.c[0].port) as link:
                with contextlib.suppress(OSError):
                    for kind, body in records:
                        link.send(body, kind)
                link.ended()
        self.assertLess(self.peak(self.c[0]) - before, 8 << 20)
        self.assertEqual(self.c[0].status()["cluster"]["members"], 2)
        self.works()

    # ---- all of it at once

    def latencies(self, connections, count):
        """From a commit on one to the row on the other, in turn, in ms."""
        out = []
        for i in range(count):
            a, b = connections[i % 2], connections[1 - i % 2]
            self.written += 1
            key = "timed%d" % self.written
            started = time.monotonic()
            a.execute("INSERT INTO item VALUES (?, 1)", (key,))
            while not b.execute("SELECT 1 FROM item WHERE id = ?", (key,)).fetchone():
                self.assertLess(time.monotonic() - started, 5 * harness.SLOW, "it arrives")
                time.sleep(0.0002)  # paces the look
            out.append((time.monotonic() - started) * 1000)
        return out

    def test_storm(self):
        """All of storm.py goes on, and is stopped in between: how long a write takes to the other one hardly tells, nor what memory it takes."""
        connections = [n.connect() for n in self.c]
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "storm.py")
        states = [os.path.join(n.instance, ".starling") for n in self.c]
        quiet, stormy = self.latencies(connections, 40), []
        with subprocess.Popen([sys.executable, script, str(self.c[0].port), *states], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as storm:
            self.addCleanup(storm.kill)
            self.assertEqual(storm.stdout.readline(), b"all\n", "each attack was made")
            for _ in range(6):
                stormy += self.latencies(connections, 20)
                storm.send_signal(signal.SIGSTOP)
                quiet += self.latencies(connections, 20)
                storm.send_signal(signal.SIGCONT)
            storm.stdin.close()
            self.assertEqual(storm.wait(10 * harness.SLOW), 0)
        for c in connections:
            c.close()
        quiet, stormy = statistics.median(quiet), statistics.median(stormy)
        peaks = [self.peak(n) / (1 << 20) for n in self.c]
        print("median %.1f ms, %.1f ms in the storm; peaks %.0f and %.0f MiB" % (quiet, stormy, *peaks))
        self.assertLess(stormy, 3 * quiet)
        self.assertLess(max(peaks), 128)
        self.works()
    def test_questions_without_end(self):
        """It asks and does not read the answers: what waits for it is bounded."""
        identity = intruder.Identity()
        with intruder.Link(self.c[0].port, identity) as link:
            link.hello(identity, now_ms())
            question = intruder.pack([4, 1, 0, 0, 8, 0])
            block = (len(question).to_bytes(4, "big") + question) * 500
            link.socket.settimeout(5)
            try:
                for _ in range(1500):
                    link.send(block[:16000])
                    link.send(block[16000:])
            except OSError:
                pass  # cut off, or nobody takes any more
            self.works()


if __name__ == "__main__":
    harness.main()
