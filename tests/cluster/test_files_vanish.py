"""Folders that vanish whole, without anybody having deleted them: nothing of that is told to the others, whatever else goes wrong meanwhile."""
import contextlib
import os
import resource
import signal
import subprocess
import unittest

import harness
from harness import holds, poll
from test_files import STILL, FilesTest, read, write

BLIND = ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_watches && exec \"$@\"", "sh"]


class Vanish(FilesTest):
    def two(self, size=None, **kw):
        """n1 has 60 files in data; of its own: a disk of a few MB, or no inotify."""
        if "wrap" in kw and harness.run(kw["wrap"] + ["true"]).code != 0:
            self.skipTest("no permission to limit inotify")
        c = self.files(1, ports=True)
        node = self.make("n1", join=[c[0]], port=harness.free_port(), extra=STILL, **kw)
        if size:
            self.small_disk(node.instance, size)
        c.nodes.append(node.start())
        for i in range(60):
            write(c[0], "data/%d" % i, b"%d" % i)
        self.everywhere(c, "data/59", b"59")
        self.converge(c)
        return c

    def stuff(self, node):
        with contextlib.suppress(OSError), open(node.path(".stuffing"), "wb", buffering=0) as f:
            while True:
                f.write(b"x" * 4096)

    def safe(self, c):
        poll(lambda: c[1].json("files", "status")["halted"] == ["data"], 30)
        holds(lambda: read(c[0], "data/7") == b"7", 0.5)
        self.assertEqual(len(os.listdir(c[0].path("data"))), 60)

    def hide(self, node):
        """As a mount that is not there any more, on the same device: no event tells of it."""
        os.mkdir(node.path(".empty"))
        done = harness.run(["mount", "--bind", node.path(".empty"), node.path("data")])
        if done.code != 0:
            self.skipTest("no permission to mount: %s" % done.err)
        self.mounts.append(node.path("data"))

    def test_while_the_disk_is_full(self):
        """That it is halted cannot be noted: that is no reason to believe it."""
        c = self.two(size="8m")
        self.stuff(c[1])
        self.hide(c[1])
        poll(lambda: "no space left" in (c[1].status()["files"]["error"] or ""), 30)
        holds(lambda: read(c[0], "data/7") == b"7", 1.5)
        os.unlink(c[1].path(".stuffing"))
        self.safe(c)
        self.assertEqual(harness.run(["umount", c[1].path("data")]).code, 0)
        poll(lambda: c[1].json("files", "status")["halted"] == [], 30)
        self.converge(c)

    def test_while_nobody_watches_and_the_disk_is_full(self):
        """What content.db could not note is read again: by a walk that believes no more than any other."""
        c = self.two(size="8m", wrap=BLIND)
        self.stuff(c[1])
        write(c[1], "data/1", b"changed")
        os.rename(c[1].path("data"), c[1].path(".data"))
        poll(lambda: c[1].status()["files"]["state"] == "error", 30)
        os.unlink(c[1].path(".stuffing"))
        self.safe(c)

    def test_who_looks_believes_nothing(self):
        """`verify` finds them missing before a walk does."""
        c = self.two(wrap=BLIND)
        os.rename(c[1].path("data"), c[1].path(".data"))
        asks = [subprocess.Popen([harness.STARLING, "--instance", c[0].instance, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for words in (["verify", "files"], ["files", "verify"])]
        try:
            self.safe(c)
        finally:
            for asking in asks:
                asking.kill()
                asking.wait()

    def test_what_is_really_deleted_is_no_alarm(self):
        """Even if a walk finds it missing before it is taken for deleted, file by file or by moving the folder away."""
        c = self.two()
        c[0].stop()
        c[0].extra[1] = "still_ms=800"
        c[0].start()
        c.wait()
        for i in range(60):
            write(c[0], "more/%d" % i, b"%d" % i)
        self.everywhere(c, "more/59", b"59")
        c.wait()
        for name in os.listdir(c[0].path("data")):
            os.unlink(c[0].path("data/" + name))
        c[0].proc.send_signal(signal.SIGHUP)  # a walk
        os.rename(c[0].path("more"), os.path.join(self.root, "elsewhere"))
        c[0].proc.send_signal(signal.SIGHUP)
        poll(lambda: os.listdir(c[1].path("data")) == [] and not os.path.exists(c[1].path("more")))
        self.assertEqual(c[0].json("files", "status")["halted"], [])
        self.converge(c)


class Stumble(FilesTest):
    def test_nobody_says_that_all_is_there_after_a_walk_that_stumbled(self):
        c = self.files(2)
        c.wait()
        pid = c[0].proc.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        os.makedirs(c[0].path("more/inside"))
        write(c[0], "more/inside/two", b"2")
        harness.time_passes(0.5)  # it is looked at
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.assertEqual(c[0].cli("wait", "--converged", "--members", "2").code, 0)
        self.assertEqual(read(c[1], "more/inside/two"), b"2")


if __name__ == "__main__":
    unittest.main()
