"""Connections for the content of files, by somebody who speaks their protocol: strangers get nothing, and who is a member gets no more than it may."""
import os
import random
import struct
import time
import unittest

import harness
import intruder
from harness import ClusterTest, poll, time_passes

WHO, HAVE, LIST, WANT, GONE = 32, 33, 34, 38, 40
NOBODY = bytes(32)  # a content that nobody has

def frame(kind, *fields):
    out = bytes([0x91 + len(fields), kind])
    for data in fields:
        out += b"\xc5" + struct.pack(">H", len(data)) + data
    return struct.pack(">I", len(out)) + out

class ContentLink(intruder.Link):
    """As intruder.Link, but the third message says what it is for, and records are stream alone."""

    def __init__(self, port, identity, purpose):
        self.purpose = purpose
        super().__init__(port, identity)

    def _shake(self, noise):
        third, purpose = noise.third, self.purpose
        noise.third = lambda: third(bytes([purpose]))
        super()._shake(noise)

    def send(self, plain, kind=None):
        for at in range(0, len(plain), 16000):
            self.socket.sendall(self.seal(plain[at:at + 16000], None))

    def answer(self):
        """The next frame's payload."""
        stream = b""
        while len(stream) < 4 or len(stream) < 4 + struct.unpack(">I", stream[:4])[0]:
            stream += self.take()
        return stream[4:4 + struct.unpack(">I", stream[:4])[0]]

    def is_closed(self):
        try:
            while True:
                self.take()
        except (EOFError, ConnectionError):
            return True

class Content(ClusterTest):
    def test_who_gets_what(self):
        c = self.cluster(2, extra=["--set", "still_ms=50"])
        a, b = c[0], c[1]
        c.wait(30)
        member = intruder.identity_of(os.path.join(b.instance, ".starling"))
        with ContentLink(a.port, intruder.Identity(), 1) as stranger:  # the handshake holds, but it has no link
            self.assertTrue(stranger.is_closed())
        with ContentLink(a.port, member, 9) as link:  # for something that this build does not know
            self.assertTrue(link.is_closed())
        with ContentLink(a.port, member, 1) as link:
            link.send(frame(WHO, NOBODY))
            self.assertEqual(link.answer(), bytes([0x94, HAVE]) + b"\xc4\x20" + NOBODY + b"\0" + b"\xc4\0")
            link.send(frame(LIST, NOBODY))
            self.assertEqual(link.answer()[:2], bytes([0x92, GONE]))
            link.send(frame(WANT, NOBODY + struct.pack("<II", 0, 1)))
            self.assertEqual(link.answer()[:2], bytes([0x92, GONE]))
        flood = frame(WANT, b"".join(NOBODY + struct.pack("<II", 0, 4000000) for _ in range(512)))
        for what in (b"\xff\xff\xff\xff", frame(WANT, b"x"), frame(WHO, NOBODY[1:]), struct.pack(">I", 3) + b"\x92\x26\xc1", flood * 64):
            with ContentLink(a.port, member, 1) as link:
                try:
                    link.send(what)
                except ConnectionError:
                    continue
                self.assertTrue(what is flood * 64 or link.is_closed())
        # a asks nothing of b for a while, after all that came under its name; but b is served as before
        with open(a.path("f.bin"), "wb") as f:
            f.write(os.urandom(200000))
        poll(lambda: os.path.exists(b.path("f.bin")), 30, "a file arrives beside all that")
        with open(a.path("f.bin"), "rb") as x, open(b.path("f.bin"), "rb") as y:
            self.assertEqual(x.read(), y.read())

    def test_killed_in_the_middle(self):
        """kill -9 of who fetches, then of who gives: nothing half-fetched is ever seen, what was synced is not fetched again."""
        c = self.cluster(2, ports=True, extra=["--set", "still_ms=50", "--set", "bandwidth_kib=65536"])
        c.wait(30)
        seed = int(os.environ.get("STARLING_SEED", random.randrange(1 << 30)))
        print("seed %d" % seed)
        rng, size = random.Random(seed), 96 << 20
        with open(c[0].path(".new"), "wb") as f:
            f.write(rng.randbytes(size))
        os.rename(c[0].path(".new"), c[0].path("large.bin"))

        def here():
            transfers = c[1].json("files", "status")["transfers"]
            return transfers[0]["here"] if transfers else 0
        poll(lambda: here() > 40 << 20, 60)
        c[1].kill()
        self.assertFalse(os.path.exists(c[1].path("large.bin")))
        c[1].start()
        poll(lambda: here() > 0, 60)
        time_passes(rng.random() * 0.3)  # a random moment
        c[0].kill()
        c[0].start()
        poll(lambda: os.path.exists(c[1].path("large.bin")), 60, "it arrives")
        with open(c[0].path("large.bin"), "rb") as x, open(c[1].path("large.bin"), "rb") as y:
            self.assertEqual(x.read(), y.read())
        received = c[1].json("files", "status")["received_bytes"]
        self.assertLess(received, size - (16 << 20), "since the restart; 32 MiB were synced before")
        self.assertGreaterEqual(c[1].peer(c[0])["received_bytes"], received, "a peer's bytes are those of all connections")

    def test_rows_do_not_wait_for_files(self):
        c = self.cluster(2, extra=["--set", "still_ms=50"])
        for node in c:
            db = harness.connect(node.path("app.db"))
            db.execute("CREATE TABLE IF NOT EXISTS entry(id INTEGER PRIMARY KEY, v)")
            db.close()
        c.wait(30)
        with open(c[0].path(".new"), "wb") as f:
            f.write(random.randbytes(192 << 20))
        os.rename(c[0].path(".new"), c[0].path("large.bin"))
        here, there = harness.connect(c[0].path("app.db")), harness.connect(c[1].path("app.db"))
        poll(lambda: c[1].json("files", "status")["transfers"], 30)
        beside, number = [], 0
        while not os.path.exists(c[1].path("large.bin")):
            number += 1
            here.execute("INSERT INTO entry VALUES (?, 'x')", (number,))
            begin = time.monotonic()
            poll(lambda: there.execute("SELECT 1 FROM entry WHERE id = ?", (number,)).fetchone(), 30)
            beside.append(time.monotonic() - begin)
        for db in (here, there):
            db.close()
        self.assertGreater(len(beside), 1)
        self.assertLess(max(beside), 5, "seconds; a file of 192 MiB takes some, and as a rule a row 20 ms: %r" % beside)
        self.assertLess(sorted(beside)[len(beside) // 2], 0.5)

    @unittest.skipUnless(os.environ.get("STARLING_LONG"), "STARLING_LONG=1: a file of 2 GiB")
    def test_two_gib(self):
        c = self.cluster(2)
        c.wait(30)
        size = 2 << 30
        with open(c[0].path("part"), "wb") as f:
            for _ in range(size >> 24):
                f.write(os.urandom(1 << 24))
        os.rename(c[0].path("part"), c[0].path("large.bin"))
        begin = time.monotonic()
        poll(lambda: os.path.exists(c[1].path("large.bin")), 300, "2 GiB arrive")
        print("2 GiB in %.1f s" % (time.monotonic() - begin))
        with open(c[0].path("large.bin"), "rb") as x, open(c[1].path("large.bin"), "rb") as y:
            for _ in range(size >> 24):
                self.assertEqual(x.read(1 << 24), y.read(1 << 24))
        for node in c:
            with open("/proc/%d/status" % node.proc.pid) as status:
                peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
            self.assertLess(peak, 48 << 10, "KiB of memory at most")

if __name__ == "__main__":
    unittest.main()
