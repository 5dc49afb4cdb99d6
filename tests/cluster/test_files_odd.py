"""Files in odd places: content that nobody has, names that clash, disks that rot, what a crash leaves, far too many at once."""
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import struct
import unittest

import harness
from harness import poll
from test_files import STILL, FilesTest, read, tree, write


class Gone(FilesTest):
    """Content that no server has which is there."""

    def test_it_is_named_and_can_be_given_up(self):
        c = self.files(3, ports=True)
        for path in ("there", "new"):
            write(c[0], path, b"first")
            self.everywhere(c, path, b"first")
        c.wait()
        index = harness.connect(c[2].path(".starling/files.db"))  # what it would look like if its author died before he sent the content
        nobody = bytearray(index.execute("SELECT content FROM file WHERE path = ?", (b"there",)).fetchone()[0])
        c[2].kill()
        nobody[44:76] = b"?" * 32
        nobody[85:93] = struct.pack("<Q", struct.unpack("<Q", nobody[85:93])[0] + 1000)  # a later version of that server
        index.execute("UPDATE file SET content = ? WHERE path = ?", (bytes(nobody), b"there"))
        index.execute("INSERT INTO file(path, content, mode) VALUES (?, ?, 420)", (b"only/in the index", bytes(nobody)))
        winner = bytes(nobody)  # and a copy of what its author overwrote before anybody had fetched it: there is nothing to copy
        nobody[44:76] = b"!" * 32
        nobody[85:93] = struct.pack("<Q", struct.unpack("<Q", nobody[85:93])[0] - 500)
        index.execute("INSERT INTO file(path, content, mode) VALUES (?, ?, 420)", (b"copy of nothing", bytes(nobody)))
        index.execute("INSERT INTO conflict(id, path, copy, winner, loser, decided) VALUES (X'0102030405060708', ?, ?, ?, ?, 0)",
                      (b"there", b"copy of nothing", winner, bytes(nobody)))
        index.close()
        c[2].start()
        poll(lambda: c[0].json("files", "list") and len([f for f in c[0].json("files", "list")["files"] if f["state"] == "missing"]) >= 2, 30)
        poll(lambda: c[0].log_lines("copy of nothing: no copy"), 30)
        done = c[0].cli("wait", "--converged", "--timeout", "300", timeout=60)
        self.assertEqual(done.code, 1)
        self.assertRegex(done.err, "(there|only/in the index): the version of n0 is at no server")
        self.assertIn("the version of n0 is at no server", c[0].status()["files"]["error"])
        for path in ("there", "only/in the index"):
            self.assertEqual(c[0].cli("files", "accept", path).code, 0)
        self.converge(c)
        self.assertEqual(sorted(tree(c[1])), [b"new", b"there"])
        poll(lambda: c[1].status()["files"]["error"] is None)
        self.assertEqual(self.conflicts(c[1]), [])
        self.assertEqual(c[0].cli("files", "accept", "there").code, 1)


    def test_a_copy_of_what_its_author_deleted_before_anybody_had_it(self):
        """The version that the index then shows is another one, and no row says that he deleted his: there is nothing to copy all the same."""
        c = self.files(1, ports=True, extra=["--set", "bandwidth_kib=1"])
        c.nodes.append(self.make("n1", join=[c[0]], port=harness.free_port(), extra=STILL).start())
        for node in c:
            poll(lambda: node.json("files", "status")["met"])
        write(c[0], "doc", random.Random(7).randbytes(3 << 20))
        poll(lambda: [f["state"] for f in c[1].json("files", "list")["files"]] == ["fetching"], 30)
        c[0].cli("pause")
        os.unlink(c[0].path("doc"))
        poll(lambda: c[0].json("files", "list")["files"] == [])
        write(c[1], "doc", b"theirs, and later")
        poll(lambda: self.conflicts(c[1]))
        c[0].cli("resume")
        self.everywhere(c, "doc", b"theirs, and later")
        poll(lambda: c[0].log_lines("no copy: it was written anew"), 30)
        self.converge(c)
        self.assertEqual(sorted(tree(c[0])), [b"doc"])
        self.assertEqual(self.conflicts(c[0]), [])


class Full(FilesTest):
    def test_a_start_on_a_full_disk_goes_on_by_itself(self):
        c = self.files(1, ports=True)
        small = self.make("small", join=[c[0]], port=harness.free_port(), extra=STILL)
        self.small_disk(small.instance, "8m")
        c.nodes.append(small.start())
        write(small, "before", b"1")
        self.everywhere(c, "before", b"1")
        for i, part in enumerate(("files.db-shm", "local.db", "content.db")):
            small.kill()
            for name in os.listdir(small.path(".starling")):
                if name.startswith(part):
                    os.unlink(small.path(".starling/" + name))  # to be made anew, as at the first start
            with contextlib.suppress(OSError), open(small.path(".stuffing"), "wb", buffering=0) as f:
                while True:
                    f.write(b"x" * 4096)
            small.start()
            poll(lambda: small.status()["files"]["state"] == "error", 30)
            write(c[0], "while %d" % i, b"2")
            self.assertIn("no space left", small.cli("wait", "--converged", "--timeout", "1").err)
            self.assertIn("no space left", small.status()["files"]["error"])
            os.unlink(small.path(".stuffing"))
            write(small, "after %d" % i, b"3")
            self.converge(c)
            self.assertEqual(read(small, "while %d" % i), b"2")
            self.assertEqual(small.status()["files"]["state"], "ok")
        with contextlib.suppress(OSError), open(small.path(".stuffing"), "wb", buffering=0) as f:
            while True:
                f.write(b"x" * 4096)
        small.stop()


    def test_without_a_descriptor_a_file_is_taken_later(self):
        c = self.files(2)
        c.wait()
        pid = c[0].proc.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        write(c[0], "one", b"1")
        os.makedirs(c[0].path("more/inside"))
        write(c[0], "more/inside/two", b"2")
        harness.time_passes(0.5)  # it is looked at
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.everywhere(c, "one", b"1")
        self.everywhere(c, "more/inside/two", b"2")
        self.converge(c)
        self.assertEqual(c[0].status()["files"]["state"], "ok")


class InTheWay(FilesTest):
    def test_what_cannot_be_put_there_is_told(self):
        """What stands there is none of our business; that the file is missing here is."""
        c = self.files(2)
        outside = os.path.join(self.root, "outside")
        os.mkdir(outside)
        os.mkfifo(c[1].path("pipe"))
        os.symlink(outside, c[1].path("d"))
        for path, why in (("pipe", "neither a file nor a folder"), ("d/inside", "a symbolic link that points out")):
            write(c[0], path, b"from the other one")
            poll(lambda: why in (c[1].status()["files"]["error"] or ""), what="%s is told" % path)
            os.unlink(c[1].path(path.split("/")[0]))
            self.everywhere(c, path, b"from the other one")
            poll(lambda: c[1].status()["files"]["error"] is None)
        self.converge(c)
        self.assertEqual(os.listdir(outside), [])


    def test_a_path_that_is_too_deep_is_told(self):
        c = self.files(1)
        os.makedirs(c[0].path("/".join(["d"] * 70)))
        poll(lambda: "too deep" in (c[0].status()["files"]["error"] or ""))
        for _ in range(3):
            c[0].proc.send_signal(signal.SIGHUP)  # a walk
        shutil.rmtree(c[0].path("d"))
        c[0].proc.send_signal(signal.SIGHUP)
        poll(lambda: c[0].status()["files"]["error"] is None)
        self.assertEqual(c[0].log_lines("too deep"), [])


class Threads(FilesTest):
    def test_without_a_thread_for_the_index_it_is_served_later(self):
        if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("prlimit"):
            self.skipTest("only root can become somebody else")
        binary = shutil.copy(harness.STARLINGD, os.path.join(self.root, "starlingd"))  # which nobody may execute
        os.chmod(binary, 0o755)
        c = self.files(1)
        uid = 60000 + os.getpid() % 5000  # nobody else's threads are counted
        become = ["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid, "--clear-groups"]
        other = self.make("other", join=[c[0]], extra=STILL, binary=binary, wrap=become)

        def threads(soft):
            done = harness.run([*become, "prlimit", "--pid", str(other.proc.pid), "--nproc=%s:" % soft])
            self.assertEqual(done.code, 0, done)
        os.makedirs(other.path(".starling/files.db/x"))  # in the way until there is no thread to be had
        for path in ("", ".starling", ".starling/files.db", ".starling/files.db/x"):
            os.chown(other.path(path), uid, uid)
        os.chmod(other.path(".starling"), 0o700)
        other.start()
        poll(lambda: other.status()["files"]["state"] == "error")
        threads(1)
        shutil.rmtree(other.path(".starling/files.db"))
        poll(lambda: other.log_lines("no thread could be started"))
        threads(1000)
        write(c[0], "late", b"x")
        self.everywhere([other], "late", b"x")
        self.assertEqual(other.cli("wait", "--converged", "--members", "2").code, 0)


class Blind(FilesTest):
    def test_without_inotify_changes_are_found_by_looking(self):
        """`wait` looks, too: what was written before the call is there after it."""
        few = "echo 4 > /proc/sys/user/max_inotify_watches && exec \"$@\""  # of this user namespace
        if harness.run(["unshare", "-Ur", "sh", "-c", few, "sh", "true"]).code != 0:
            self.skipTest("no permission to limit inotify")
        c = self.files(1)
        b = self.make("b", join=[c[0]], extra=STILL, wrap=["unshare", "-Ur", "sh", "-c", few, "sh"])
        c.nodes.append(b.start())
        for i in range(6):
            write(b, "f%d/g/x" % i, b"x")
        for i in range(6):
            self.everywhere(c, "f%d/g/x" % i, b"x")
        for data in (b"second", b"third"):
            for i in range(6):
                write(b, "f%d/g/x" % i, data)
            self.converge(c)
            for i in range(6):
                self.assertEqual(read(c[0], "f%d/g/x" % i), data)
        os.unlink(b.path("f1/g/x"))
        self.converge(c)
        self.assertIsNone(read(c[0], "f1/g/x"))
        self.assertIn("max_user_watches", b.cli("doctor").out)


class Many(FilesTest):
    def test_a_walk_finds_no_more_than_can_be_done(self):
        c = self.files(1)
        c[0].stop()
        for i in range(14000):
            if i % 1000 == 0:
                os.mkdir(c[0].path("d%d" % (i // 1000)))
            os.close(os.open(c[0].path("d%d/f%d" % (i // 1000, i)), os.O_CREAT | os.O_WRONLY))
        c[0].start()
        most, status = 0, c[0].json("files", "status")
        while not status["looked"] or status["pending"] > 0:
            most = max(most, status["pending"])
            status = c[0].json("files", "status")
        self.assertEqual(status["count"], 14000)
        self.assertTrue(2000 < most < 10000, most)


class Names(FilesTest):
    def test_names_that_differ_in_case_are_told(self):
        c = self.files(2, ports=True)
        for name in ("Plan.txt", "plan.TXT", "caf\u00e9", "cafe\u0301", "other"):
            write(c[0], name, name.encode())
        for name in ("Plan.txt", "plan.TXT", "caf\u00e9", "cafe\u0301", "other"):
            self.everywhere(c, name, name.encode())
        c.wait()
        for node in c:
            poll(lambda: len(node.json("files", "status")["clashing"]) == 4, 10, "that they clash is told at once")
        self.assertEqual(sorted(c[1].json("files", "status")["clashing"]), ["Plan.txt", "cafe\u0301", "caf\u00e9", "plan.TXT"])
        self.assertEqual([f["path"] for f in c[1].json("files", "list")["files"] if not f.get("clashes")], ["other"])
        self.assertIn("2 names", c[1].cli("doctor").out)
        self.assertIn("Plan.txt", c[1].cli("files").out)
        os.unlink(c[0].path("plan.TXT"))
        os.rename(c[0].path("other"), c[0].path("OTHER"))
        self.everywhere(c, "OTHER", b"other")
        for node in c:
            poll(lambda: sorted(node.json("files", "status")["clashing"]) == ["cafe\u0301", "caf\u00e9"], 10)
        c[1].stop()
        c[1].start()
        poll(lambda: len(c[1].json("files", "status")["clashing"]) == 2)

    def test_where_two_names_are_one_file_nothing_is_lost(self):
        """As on a file system without regard to case: both names lead to one file. A bind mount does that."""
        c = self.cluster(2, extra=["--set", "still_ms=400"])
        write(c[1], "plan.txt", b"small letters")
        self.everywhere(c, "plan.txt", b"small letters")
        c.wait()
        with open(c[1].path("PLAN.txt"), "wb"):
            pass
        done = harness.run(["mount", "--bind", c[1].path("plan.txt"), c[1].path("PLAN.txt")])
        if done.code != 0:
            self.skipTest("no permission to mount: %s" % done.err)
        self.mounts.append(c[1].path("PLAN.txt"))
        write(c[0], "PLAN.txt", b"capitals")
        write(c[0], "marker", b"x")
        self.everywhere(c, "marker", b"x")
        c.wait()
        self.assertEqual(read(c[1], "plan.txt"), b"small letters")
        self.assertEqual(read(c[0], "plan.txt"), b"small letters")
        self.assertEqual(read(c[0], "PLAN.txt"), b"capitals")
        with open(c[1].path("PLAN.txt"), "r+b") as f:
            f.write(b"SMALL")
        self.everywhere(c, "plan.txt", b"SMALL letters")
        os.unlink(c[0].path("PLAN.txt"))
        c.wait()
        self.assertEqual(read(c[0], "plan.txt"), b"SMALL letters")
        self.assertEqual([x for x in tree(c[0]) if b"conflict" in x], [])


class Rot(FilesTest):
    def test_what_rotted_is_found_and_fetched_again(self):
        c = self.files(3, ports=True)
        for i in range(10):
            write(c[0], "photo%d" % i, b"%d" % i * 5000)
            self.everywhere(c, "photo%d" % i, b"%d" % i * 5000)
        c.wait()
        c[1].stop()
        st = os.stat(c[1].path("photo7"))
        with open(c[1].path("photo7"), "r+b") as f:
            f.seek(1234)
            f.write(b"\0")
        os.utime(c[1].path("photo7"), ns=(st.st_atime_ns, st.st_mtime_ns))
        ctime = os.stat(c[1].path("photo7")).st_ctime_ns  # a disk that rots changes no time
        for name, table in (("local", "disk"), ("content", "file")):
            db = harness.connect(c[1].path(".starling/%s.db" % name))
            self.assertEqual(db.execute("UPDATE %s SET ctime = ? WHERE path = ?" % table, (ctime, b"photo7")).rowcount, 1)
            db.close()
        c[1].start()
        c.wait()
        self.assertEqual(read(c[1], "photo7")[1234:1235], b"\0")
        done = c[0].cli("files", "verify")
        self.assertTrue(c[1].log_lines("photo7", "nobody wrote there"))
        self.assertEqual(done.code, 0, done)  # what is mended while it is compared is equal
        self.everywhere(c, "photo7", b"7" * 5000)
        self.assertEqual(self.conflicts(c[0]), [])
        self.assertEqual(c[0].cli("verify").code, 0)
        self.assertEqual(c[0].log_lines("10 files were read again: 0 were not")[1:2] != [], True)


class Leftovers(FilesTest):
    def test_what_a_crash_leaves_is_found(self):
        """Files that were out of their place when the server died."""
        c = self.files(2, ports=True)
        for path in ("doc.txt", "d/known"):
            write(c[0], path, b"first")
            self.everywhere(c, path, b"first")
        c.wait()
        c[1].kill()

        def name(path):
            return "taken-0123456789abcdef-%016x" % int.from_bytes(hashlib.blake2b(path.encode(), digest_size=16).digest()[:8], "little")
        staging = c[1].path(".starling/staging")
        os.rename(c[1].path("d/known"), c[1].path("d/.starling-" + name("d/known")))  # as it was known: it was about to be deleted, or replaced
        for path, text in (("doc.txt", b"the application wrote this while it was being replaced"), ("was/deleted", b"and this")):
            with open(os.path.join(staging, name(path)), "wb") as f:
                f.write(text)
        write(c[1], "d/.starling-fresh17", b"half a co")
        write(c[1], "d/.starling-notes", b"somebody's own")
        c[1].start()
        for node in c:
            poll(lambda: b"the application wrote this while it was being replaced" in tree(node).values(), 30)
        self.assertEqual(read(c[1], "doc.txt"), b"first")
        poll(lambda: set(os.listdir(c[1].path("d"))) - {"known"} == {".starling-notes"}, what="that what is ours is gone, and what is somebody's stays")
        self.converge(c)
        kept = [open(os.path.join(c[1].path(".starling/kept"), n), "rb").read() for n in os.listdir(c[1].path(".starling/kept"))]
        self.assertEqual(sorted(kept), [b"and this", b"first", b"the application wrote this while it was being replaced"])
        self.assertEqual([n for n in os.listdir(staging) if n.startswith("taken")], [])


if __name__ == "__main__":
    unittest.main()
