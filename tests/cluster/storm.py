"""All that a hostile one can do to a node, over and over, until its standard input ends: storm.py PORT STATE_FOLDER... (of those to speak for)
Says "all" when each attack was made once."""
import os
import socket
import sys
import threading
import time

import intruder

DB = "app.db"


def now_ms():
    return int(time.time() * 1000)


class Storm:
    """Some members, who are known by now, and strangers. (More than fifty would make it another kind of cluster.)"""
    MEMBERS, FRIENDS = 5, 3

    def __init__(self, port, victims):
        self.port, self.victims = port, victims
        self.held = []
        self.members = [intruder.Identity() for _ in range(self.MEMBERS)]
        self.friends = [intruder.Identity() for _ in range(self.FRIENDS)]  # who do not exist
        self.rounds = 0

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        self.held.append(s)
        while len(self.held) > 200:
            self.held.pop(0).close()
        return s

    def member(self):
        self.rounds += 1
        identity = self.members[self.rounds % self.MEMBERS]
        link = intruder.Link(self.port, identity, timeout=2)
        self.held.append(link.socket)
        link.hello(identity, now_ms(), incarnation=now_ms())
        link.full_vector(DB)
        return identity, link

    # ---- of strangers
    def garbage(self):
        s = self.connect()
        for _ in range(16):
            s.sendall(os.urandom(65536))

    def slow_senders(self):
        for _ in range(10):
            self.connect().sendall(intruder.PREAMBLE[:5])

    def half_open(self):
        """Some never say a word, some only say that they will not; some stop amid the handshake, some behind it."""
        for i in range(10):
            s = self.connect()
            if i % 2:
                s.shutdown(socket.SHUT_WR)
            if i % 5 == 0:
                s.sendall(intruder.PREAMBLE + b"\1\0\x20" + os.urandom(32))
        self.held.append(intruder.Link(self.port, timeout=2).socket)

    def handshake_again(self):
        noise = intruder.Noise(intruder.Identity())
        first = noise.first()
        for _ in range(2):
            self.connect().sendall(intruder.PREAMBLE + b"\1\0" + bytes([len(first)]) + first)

    # ---- of members
    def zip_bomb_records(self):
        with intruder.Link(self.port, timeout=2) as link:
            link.send(intruder.zip_bomb(), 1)

    def zip_bomb_batch(self):
        identity, link = self.member()
        data, _ = intruder.envelope(identity, DB, 1, [("bomb", 1)], now_ms() << 16, flags=1, raw=60 << 20, body=intruder.zip_bomb(26))
        link.batch(data)

    def nesting_bomb(self):
        _, link = self.member()
        bomb = b"\x93\x08\x00" + b"\x91" * 60000
        link.send(len(bomb).to_bytes(4, "big") + bomb[:16000])
        for at in range(16000, len(bomb), 16000):
            link.send(bomb[at:at + 16000])

    def replay(self):
        _, link = self.member()
        record = link.seal(b"\0\0\0\2\x91\x0a")
        link.socket.sendall(record + record)

    def fake_members(self):
        _, link = self.member()
        link.frame(3, [[f.card(["127.0.0.1:1"], incarnation=now_ms()), 3] for f in self.friends])

    def fake_versions(self):
        """Also of those that are there, and of the very node that hears it."""
        _, link = self.member()
        origins = [f.id for f in self.friends] + self.victims
        link.full_vector(DB, [[o, epoch, 1 << 40] for o in sorted(origins) for epoch in (0, 1, 2, 0xffffffff)])

    def forged_batches(self):
        identity, link = self.member()
        for author in self.victims:
            data, _ = intruder.envelope(identity, DB, 1 << 20, [("forged", 1)], now_ms() << 16, author=author)
            link.batch(data)

    def unfinished_batches(self):
        """Two that never end, each as large as one may be."""
        _, link = self.member()
        for flags in (0, 1):
            for at in range(0, 6 << 20, 60000):
                link.frame(8, flags, 66 << 20, at, bytes(60000))

    def equivocation(self):
        for i in range(2):
            identity, link = self.member()
            self.rounds -= 1
            first = intruder.envelope(identity, DB, 1, [("story%d" % i, i)], now_ms() << 16)
            link.batch(first[0])
            link.batch(intruder.envelope(identity, DB, 2, [("more%d" % i, i)], now_ms() << 16, first[1])[0])

    def future_stamps(self):
        identity, link = self.member()
        data, _ = intruder.envelope(identity, DB, 1, [("future", 1)], (now_ms() + 86400000) << 16)
        link.batch(data)

    ATTACKS = (garbage, slow_senders, half_open, handshake_again, zip_bomb_records, zip_bomb_batch, nesting_bomb, replay, fake_members, fake_versions,
               forged_batches, unfinished_batches, equivocation, future_stamps)


def main(port, states):
    victims = [intruder.identity_of(folder).id for folder in states]
    made, all_made = set(), threading.Event()

    def rage(at):
        storm = Storm(port, victims)
        while True:
            attack = Storm.ATTACKS[at % len(Storm.ATTACKS)]
            at += 1
            try:
                attack(storm)
            except (OSError, EOFError, ValueError, intruder.Refused):
                pass  # cut off amid it, which is as good
            made.add(attack)
            if len(made) == len(Storm.ATTACKS):
                all_made.set()
    for i in range(4):
        threading.Thread(target=rage, args=(i * 4,), daemon=True).start()
    all_made.wait()
    print("all", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    os.nice(19)  # what is measured is what it costs the node, not this
    main(int(sys.argv[1]), sys.argv[2:])
