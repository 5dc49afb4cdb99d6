"""Random hands at the files of several servers, that are apart now and then, or killed. Of every content that was ever written and left alone one can say where it
is: in some file on every server, or somebody saw it and then overwrote or deleted it."""
import contextlib
import os
import random
import unittest

import harness
from harness import poll
from test_files import STILL, FilesTest, tree

NAMES = ["a.txt", "b.jsonl", "c", "d/e.txt", "d/f", "d/g/h.md", "k/l"]
FOLDERS = ["d", "d/g", "k", "m"]


class Hands:
    """One person at one server. What he overwrites or deletes he holds in his hand: only that counts as known to him."""

    def __init__(self, test, node, rng):
        self.test, self.node, self.rng = test, node, rng

    def path(self, name):
        return self.node.path(name)

    def grab(self, name):
        """Takes what is there away; None: nothing."""
        aside = self.path(".grabbed")
        try:
            os.rename(self.path(name), aside)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if os.path.isdir(aside) and not os.path.islink(aside):
            with contextlib.suppress(OSError):
                os.rename(aside, self.path(name))
            return None
        with open(aside, "rb") as f:
            data = f.read()
        os.unlink(aside)
        return data

    def put(self, name, data):
        """Puts it where nothing is; a file that comes there meanwhile is somebody else's."""
        try:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(".new"), "wb") as f:
                f.write(data)
            os.link(self.path(".new"), self.path(name))
        except (FileExistsError, NotADirectoryError, FileNotFoundError):
            return False
        finally:
            os.unlink(self.path(".new"))
        return True

    def write(self, name):
        old = self.grab(name)
        new = self.test.fresh(self.rng)
        if self.put(name, new):
            self.test.alive.add(new)
            self.test.gone(old, self.node, "overwrote " + name)
        elif old is not None:  # not put back: deleted
            self.test.gone(old, self.node, "took away " + name)

    def delete(self, name):
        self.test.gone(self.grab(name), self.node, "deleted " + name)

    def rename(self, name, to):
        try:
            os.makedirs(os.path.dirname(self.path(to)), exist_ok=True)
            os.link(self.path(name), self.path(to), follow_symlinks=False)
        except OSError:
            return
        os.rename(self.path(name), self.path(".moved"))  # what it was in between is in .moved
        with open(self.path(".moved"), "rb") as moved, open(self.path(to), "rb") as there:
            a, b = moved.read(), there.read()
        os.unlink(self.path(".moved"))
        if a != b:
            self.test.gone(a, self.node, "moved away " + name)

    def rename_folder(self, name, to):
        with contextlib.suppress(OSError):
            os.rename(self.path(name), self.path(to))

    def delete_folder(self, name):
        aside = self.path(".grabbed-folder")
        with contextlib.suppress(OSError):
            os.rename(self.path(name), aside)
            for folder, folders, names in os.walk(aside, topdown=False):
                for n in names:
                    with open(os.path.join(folder, n), "rb") as f:
                        self.test.gone(f.read(), self.node, "deleted %s with %s" % (n, name))
                    os.unlink(os.path.join(folder, n))
                os.rmdir(folder)

    def append(self, name):
        """In place, as applications do: what was there is overwritten knowingly if nobody came between."""
        try:
            with open(self.path(name), "r+b") as f:
                old = f.read()
                new = self.test.fresh(self.rng)
                self.test.alive.add(new)
                f.seek(0)
                f.write(new)
                f.truncate()
        except OSError:
            return
        self.test.gone(old, self.node, "wrote into " + name)

    def act(self):
        r, name = self.rng.random(), self.rng.choice(NAMES)
        if r < 0.45:
            self.write(name)
        elif r < 0.60:
            self.append(name)
        elif r < 0.70:
            self.delete(name)
        elif r < 0.80:
            self.rename(name, self.rng.choice(NAMES))
        elif r < 0.86:
            self.rename_folder(self.rng.choice(FOLDERS), self.rng.choice(FOLDERS))
        elif r < 0.90:
            self.delete_folder(self.rng.choice(FOLDERS))
        elif r < 0.95:
            with contextlib.suppress(OSError):
                os.chmod(self.path(name), self.rng.choice((0o600, 0o644, 0o664)))
        else:
            with contextlib.suppress(OSError):
                os.makedirs(self.path(self.rng.choice(FOLDERS)), exist_ok=True)


class Random(FilesTest):
    def fresh(self, rng):
        self.written += 1
        return b"%d %d " % (self.seed, self.written) + rng.randbytes(rng.choice((0, 10, 3000, 70000)))

    def gone(self, data, node, how):
        if data is not None:
            self.known.setdefault(data, "%s %s in round %d" % (node.name, how, self.round))

    def begin(self):
        self.seed = int(os.environ.get("STARLING_SEED", random.randrange(1 << 30)))
        print("seed %d" % self.seed)
        self.rng = random.Random(self.seed)
        self.written, self.alive, self.known, self.round = 0, set(), {}, 0

    def meet(self, c):
        for node in c:  # what a server writes before it has met the others counts for less
            poll(lambda: node.json("files", "status")["met"])
        return [Hands(self, n, self.rng) for n in c]

    def work(self, hands, steps, victim):
        for step in range(steps):
            self.rng.choice(hands).act()
            if self.rng.random() < 0.3:
                harness.time_passes(self.rng.random() * 0.15)
            if victim is not None and self.rng.random() < 0.2:
                victim.kill()  # and people go on working in its folder
                for _ in range(self.rng.randrange(4)):
                    self.rng.choice([h for h in hands if h.node == victim] or hands).act()
                victim.start()
                victim = None

    def test_whatever_is_written_is_somewhere(self):
        self.begin()
        c = self.files(3, ports=True)
        hands, rng = self.meet(c), self.rng
        for self.round in range(int(os.environ.get("STARLING_ROUNDS", "3"))):
            apart = rng.random() < 0.6
            for node in c if apart else []:
                if rng.random() < 0.7:
                    node.cli("pause")
            self.work(hands, rng.randrange(3, 20), rng.choice(c.nodes) if rng.random() < 0.5 else None)
            harness.time_passes(rng.random() * 0.4)
            for node in c:
                node.cli("resume")
            if rng.random() < 0.5:
                self.check(c)
        self.check(c)

    def test_a_disk_that_is_full_again_and_again(self):
        self.begin()
        c = self.files(2, ports=True)
        small = self.make("small", join=[c[0]], port=harness.free_port(), extra=STILL)
        self.small_disk(small.instance, "8m")
        c.nodes.append(small.start())
        hands, rng = self.meet(c), self.rng
        for self.round in range(int(os.environ.get("STARLING_ROUNDS", "1"))):
            stuffing = small.path(".stuffing")
            with contextlib.suppress(OSError), open(stuffing, "wb", buffering=0) as f:
                while True:
                    f.write(b"x" * 4096)
            self.work(hands[:2], rng.randrange(5, 20), small if rng.random() < 0.7 else None)
            with contextlib.suppress(OSError):
                os.truncate(stuffing, max(0, os.path.getsize(stuffing) - rng.randrange(100000)))
            self.work(hands[:2], rng.randrange(5, 20), None)
            os.unlink(stuffing)
            self.check(c)

    def check(self, c):
        self.converge(c)
        shown = set(v for v in tree(c[0]).values() if isinstance(v, bytes))
        lost = [d for d in self.alive if d not in shown and d not in self.known]
        self.assertEqual([d[:40] for d in lost], [], "seed %d, round %d" % (self.seed, self.round))
        for node in c:
            for folder, folders, names in os.walk(node.instance):
                folders[:] = [f for f in folders if f != ".starling"]
                self.assertEqual([n for n in folders + names if n.startswith(".starling")], [], node.name)


if __name__ == "__main__":
    unittest.main()
