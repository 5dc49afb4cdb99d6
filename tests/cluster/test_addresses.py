"""Addresses that are not 127.0.0.1: other hosts' (in a network of this process's own), IPv6, and a name that moves."""
import contextlib
import ctypes
import os
import socket
import time
import unittest

import harness
from harness import ClusterTest, free_port, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT);"
HOSTS = ["10.9.0.%d" % i for i in range(1, 9)]
NEWNET, NEWNS = 0x40000000, 0x00020000
OF_ONE, IN_ALL = 8, 64  # who has not said who it is, as PROTOCOL.md has it


def setUpModule():
    """This process, and what it starts, get a network with some more addresses and an /etc/hosts that nobody else sees."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEWNET | NEWNS) != 0:
        raise unittest.SkipTest("no permission for a network of its own: " + os.strerror(ctypes.get_errno()))
    commands = [["mount", "--make-rprivate", "/"], ["ip", "link", "set", "lo", "up"]]
    for command in commands + [["ip", "address", "add", host + "/32", "dev", "lo"] for host in HOSTS]:
        done = harness.run(command)
        if done.code != 0:
            raise unittest.SkipTest("%s: %r" % (" ".join(command), done))


class Strangers(ClusterTest):
    def setUp(self):
        super().setUp()
        self.open = contextlib.ExitStack()
        self.addCleanup(self.open.close)
        self.a = self.make("n0", extra=["--listen", "0.0.0.0:%d" % free_port()])
        self.a.script(ITEMS)
        self.a.start()
        self.b = self.make("n1", join=[self.a]).start()
        poll(lambda: self.b.has_tables("item"))

    def connect(self, host):
        """It says nothing, for ever."""
        s = self.open.enter_context(socket.socket())
        s.bind((host, 0))
        s.connect((HOSTS[0], self.a.port) if host in HOSTS else ("127.0.0.1", self.a.port))
        return s

    def refusal(self, s, seconds):
        """The reason that comes before the end; None while it is open and nothing comes."""
        got, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            s.settimeout(max(0.01, end - time.monotonic()))
            try:
                piece = s.recv(100)
            except TimeoutError:
                return None
            if not piece:
                return got[-1] if got else 0
            got += piece
        return None

    def works(self, key):
        self.a.sql("INSERT INTO item VALUES (?, 1)", (key,))
        self.eventually(self.b, "SELECT v FROM item WHERE id = ?", [(1,)], (key,))

    def test_eight_of_one_address(self):
        crowd = [self.connect(HOSTS[1]) for _ in range(OF_ONE)]
        self.assertEqual(self.refusal(self.connect(HOSTS[1]), 4), 6, "too many of this address")
        self.assertIsNone(self.refusal(self.connect(HOSTS[2]), 0.1), "another address has nothing to do with it")
        for _ in range(2 * OF_ONE):
            self.assertIsNone(self.refusal(self.connect("127.0.0.1"), 0.01), "of this machine's own there may be more")
        self.works("beside")
        for s in crowd:
            self.assertEqual(self.refusal(s, 15 * harness.SLOW), 0, "5 s are over")
        self.assertIsNone(self.refusal(self.connect(HOSTS[1]), 0.1), "there is room again")

    def test_sixty_four_in_all(self):
        for i in range(IN_ALL + 20):  # from loopback: of one address there may be any number
            self.connect("127.0.0.1")
        self.works("in the crowd")
        poll(lambda: "connections are open that never said who they are" in self.a.log(), 5)
        c = self.make("n2", join=[self.a]).start()  # it waits in the backlog until those before it are out of time
        poll(lambda: c.has_tables("item"), 15)
        self.eventually(c, "SELECT id FROM item", [("in the crowd",)])


class Addresses(ClusterTest):
    def test_both_families(self):
        a = self.make("n0", extra=["--listen", "[::]:%d" % free_port()])
        a.script(ITEMS)
        a.start()
        b = self.make("n1", join=["[::1]:%d" % a.port], extra=["--listen", "[::1]:%d" % free_port()]).start()
        c = self.make("n2", join=["127.0.0.1:%d" % a.port]).start()
        for n in (b, c):
            poll(lambda: n.has_tables("item") and n.alive() == 3, what="%s knows all" % n.name)
        poll(lambda: b.peer(c)["sent_bytes"] > 0 and c.peer(b)["sent_bytes"] > 0, what="a link of their own")
        c.sql("INSERT INTO item VALUES ('four', 4)")
        self.eventually(b, "SELECT * FROM item", [("four", 4)])
        b.sql("INSERT INTO item VALUES ('six', 6)")
        self.eventually(c, "SELECT * FROM item WHERE v = 6", [("six", 6)])

    def hosts(self, host):
        with open(os.path.join(self.root, "hosts"), "w") as f:
            f.write("127.0.0.1 localhost\n%s seed.example\n" % host)

    def test_a_name_that_moves(self):
        self.hosts(HOSTS[3])
        self.assertEqual(harness.run(["mount", "--bind", os.path.join(self.root, "hosts"), "/etc/hosts"]).code, 0)
        self.addCleanup(harness.run, ["umount", "/etc/hosts"])
        port = free_port()
        first = self.make("n0", extra=["--listen", "%s:%d" % (HOSTS[3], port)]).start()
        b = self.make("n1", join=["seed.example:%d" % port], extra=["--listen", "%s:0" % HOSTS[1]]).start()
        poll(lambda: b.alive() == 2)
        self.hosts(HOSTS[4])
        first.stop()
        other = self.make("n2", extra=["--listen", "%s:%d" % (HOSTS[4], port)]).start()  # it knows nobody: the name alone leads there
        poll(lambda: (b.peer(other) or {}).get("state") == "alive", 30, "who answers under that name now is met")
        poll(lambda: other.alive() == 2)


if __name__ == "__main__":
    harness.main()
