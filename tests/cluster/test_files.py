"""The instance folder is the same everywhere: files beside the databases."""
import json
import os
import random
import shutil
import signal
import stat
import struct
import unittest

import harness
from harness import ClusterTest, holds, poll

STILL = ["--set", "still_ms=50"]


def write(node, path, data, mode="wb"):
    os.makedirs(os.path.dirname(node.path(path)), exist_ok=True)
    with open(node.path(path), mode) as f:
        f.write(data)


def read(node, path):
    """None: not there."""
    try:
        with open(node.path(path), "rb") as f:
            return f.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def tree(node):
    """Everything in the folder that is replicated as a file: path -> content, or what it is."""
    root, out = os.fsencode(node.instance), {}
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(b".")]
        for name in folders + names:
            path = os.path.join(folder, name)
            short = os.path.relpath(path, root)
            if os.path.islink(path):
                out[short] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                out[short] = "folder"
            elif not name.startswith(b".") and b".db" not in name:
                with open(path, "rb") as f:
                    out[short] = f.read()
    return out


class FilesTest(ClusterTest):
    def files(self, n, **kw):
        return self.cluster(n, extra=STILL + kw.pop("extra", []), **kw)

    def everywhere(self, c, path, data, deadline=15.0):
        for node in c:
            poll(lambda: read(node, path) == data, deadline, "%s has %r" % (node.name, path))

    def converge(self, c):
        c.wait(30)
        self.same(c)

    def same(self, c):
        trees = [tree(n) for n in c]
        for node, t in zip(c, trees):
            if t != trees[0]:
                raise AssertionError("%s differs from %s: %s" % (node.name, c[0].name, harness.shorten(
                    {k: (trees[0].get(k), t.get(k)) for k in set(t) | set(trees[0]) if trees[0].get(k) != t.get(k)})))
        return trees[0]

    def conflicts(self, node):
        return [x for x in node.json("conflicts")["conflicts"] if x["kind"] == "file"]


class Changes(FilesTest):
    def test_create_edit_rename_delete_from_any_server(self):
        c = self.files(3)
        write(c[0], "uploads/photo.jpg", b"\xff\xd8" * 5000)
        write(c[1], "config/team.json", b'{"number": 254}')
        write(c[2], "empty", b"")
        os.makedirs(c[2].path("only/folders/here"))
        self.everywhere(c, "uploads/photo.jpg", b"\xff\xd8" * 5000)
        self.everywhere(c, "config/team.json", b'{"number": 254}')
        self.everywhere(c, "empty", b"")
        for node in c:
            poll(lambda: os.path.isdir(node.path("only/folders/here")))
        write(c[2], "config/team.json", b'{"number": 1678}')
        self.everywhere(c, "config/team.json", b'{"number": 1678}')
        os.rename(c[1].path("uploads"), c[1].path("pictures"))
        self.everywhere(c, "pictures/photo.jpg", b"\xff\xd8" * 5000)
        os.unlink(c[0].path("empty"))
        shutil.rmtree(c[0].path("only"))
        for node in c:
            poll(lambda: not os.path.exists(node.path("uploads")) and not os.path.exists(node.path("only")) and read(node, "empty") is None)
        self.converge(c)
        self.assertEqual(sorted(tree(c[0])), [b"config", b"config/team.json", b"pictures", b"pictures/photo.jpg"])
        for node in c:
            self.assertEqual(node.status()["files"]["count"], 2)
            self.assertEqual(node.status()["files"]["digest"], c[0].status()["files"]["digest"])

    def test_names_times_modes_links_and_kinds(self):
        c = self.files(2)
        names = [b"a b", "Größe".encode(), "日本語.txt".encode(), b"\xff\xfe\x01", b"quote'\"", b"new\nline", b"-rf", b"x" * 255, b"%2F", b"back\\slash"]
        for name in names:
            with open(os.path.join(os.fsencode(c[0].instance), name), "wb") as f:
                f.write(name)
        script = c[0].path("run.sh")
        write(c[0], "run.sh", b"#!/bin/sh\n")
        os.chmod(script, 0o750)
        os.utime(script, ns=(10**18, 10**18 + 123456789))
        os.symlink("run.sh", c[0].path("link"))
        os.symlink("/etc/passwd", c[0].path("out"))
        os.symlink("../../x", c[0].path("up"))
        os.mkfifo(c[0].path("fifo"))
        for name in names:
            poll(lambda: os.path.exists(os.path.join(os.fsencode(c[1].instance), name)), what=repr(name))
        poll(lambda: os.path.islink(c[1].path("link")) and read(c[1], "run.sh"))
        c.wait()
        st = os.stat(c[1].path("run.sh"))
        self.assertEqual(st.st_mtime_ns, 10**18 + 123456789)
        self.assertEqual(stat.S_IMODE(st.st_mode) & 0o111, 0)  # nothing that came from elsewhere can be run
        self.assertEqual(os.readlink(c[1].path("link")), "run.sh")
        for name in ("out", "up", "fifo"):
            self.assertFalse(os.path.lexists(c[1].path(name)), name)
        said = [f["path"] for f in c[0].json("files", "list")["files"]]
        self.assertTrue("link" in said and not {"out", "up", "fifo"} & {p for p in said if isinstance(p, str)}, said)
        for name in names:
            with open(os.path.join(os.fsencode(c[1].instance), name), "rb") as f:
                self.assertEqual(f.read(), name)

    def test_names_that_are_no_text_can_be_said(self):
        c = self.files(2)
        for name in ("n\udcff", "n\udcffm", "n\udcffmo", "{}"):
            write(c[0], name, b"one")
            self.everywhere(c, name, b"one")
            os.unlink(c[0].path(name))
            poll(lambda: not os.path.lexists(c[1].path(name)))
            poll(lambda: c[1].json("files", "restore", "--list", name)["versions"])
            self.assertEqual(c[1].cli("files", "restore", name).code, 0)
            self.everywhere(c, name, b"one")
        shown = [f["path"] for f in c[0].json("files", "list")["files"]]
        self.assertEqual(len(shown), 4)
        self.assertIn({"base64": "bv8="}, shown)
        self.assertEqual(len(c[1].json("files", "restore", "--list", '{"base64": "bv8="}')["versions"]), 1)
        for path in ("../x", "/x", "", "n\udcffx"):
            self.assertEqual(c[1].cli("files", "restore", path).code, 1, path)

    def test_a_file_becomes_a_folder_and_back(self):
        c = self.files(2)
        write(c[0], "thing", b"file")
        self.everywhere(c, "thing", b"file")
        os.unlink(c[0].path("thing"))
        write(c[0], "thing/inside", b"in")
        self.everywhere(c, "thing/inside", b"in")
        shutil.rmtree(c[1].path("thing"))
        write(c[1], "thing", b"file again")
        self.everywhere(c, "thing", b"file again")
        self.converge(c)

    def test_what_is_never_a_file(self):
        c = self.cluster(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES (1);", extra=STILL)
        for name in ("app.log", "x.tmp", "x.bak", ".hidden", "a.lock", "__pycache__/m.pyc", "backup/app", "fake.db-wal"):
            write(c[0], name, b"of one server")
        other = harness.connect(c[0].path("odd.name"))
        other.execute("CREATE TABLE odd(id INTEGER PRIMARY KEY)")
        other.close()
        write(c[0], "marker", b"last")
        self.everywhere(c, "marker", b"last")
        c.wait()
        self.assertEqual([f["path"] for f in c[1].json("files", "list")["files"]], ["marker"])
        self.assertFalse(os.path.exists(c[1].path("app.log")))
        self.assertTrue(c[1].has_tables("odd", db="odd.name"))  # by rows

    def test_a_file_that_becomes_a_database(self):
        c = self.files(2)
        for name in ("data.bin", "also"):
            write(c[0], name, b"a text until now")
            self.everywhere(c, name, b"a text until now")
        os.unlink(c[0].path("data.bin"))
        other = harness.connect(c[0].path("data.bin"))
        other.executescript("CREATE TABLE odd(id INTEGER PRIMARY KEY); INSERT INTO odd VALUES (7)")
        other.close()
        poll(lambda: c[1].has_tables("odd", db="data.bin") and c[1].sql("SELECT id FROM odd", db="data.bin") == [(7,)], 30)
        c.wait()
        self.assertEqual([f["path"] for f in c[1].json("files", "list")["files"]], ["also"])

    def test_a_state_that_is_lost(self):
        c = self.files(2, ports=True)
        for i in range(5):
            write(c[i % 2], "f%d" % i, b"%d" % i)
            self.everywhere(c, "f%d" % i, b"%d" % i)
        c.wait()
        c[1].stop()
        shutil.rmtree(c[1].path(".starling"))
        write(c[0], "f1", b"changed meanwhile")
        c[1].start()
        self.everywhere(c, "f1", b"changed meanwhile")
        poll(lambda: c[1].alive() >= 2)
        c.wait(members=2)
        self.same(c)
        self.assertEqual(sorted(tree(c[0])), [b"f%d" % i for i in range(5)])

    def test_a_server_that_joins_empty_gets_all(self):
        c = self.files(1)
        rng = random.Random(7)
        want = {}
        for i in range(300):
            path = "d%d/f%d" % (i % 7, i)
            want[path] = rng.randbytes(rng.choice((0, 1, 700, 40000)))
            write(c[0], path, want[path])
        late = self.make("late", join=[c[0]], extra=STILL).start()
        for path, data in want.items():
            poll(lambda: read(late, path) == data, 30, path)
        c.nodes.append(late)
        self.converge(c)

    def test_changes_while_a_node_was_down(self):
        c = self.files(2, ports=True)
        for name in ("edited", "deleted", "moved"):
            write(c[0], name, name.encode())
            self.everywhere(c, name, name.encode())
        c[1].stop()
        write(c[1], "edited", b"while down")
        os.unlink(c[1].path("deleted"))
        os.rename(c[1].path("moved"), c[1].path("moved-on"))
        write(c[0], "new", b"meanwhile")
        c[1].start()
        self.everywhere(c, "edited", b"while down")
        self.everywhere(c, "moved-on", b"moved")
        self.everywhere(c, "new", b"meanwhile")
        for node in c:
            poll(lambda: read(node, "deleted") is None and read(node, "moved") is None)
        self.converge(c)
        self.assertEqual(self.conflicts(c[0]), [])


    def test_a_folder_that_was_renamed_while_a_node_was_down(self):
        """Its files are missing, but not gone: nothing is halted, and nothing is sent again."""
        c = self.files(2, ports=True)
        os.mkdir(c[0].path("old"))
        for i in range(200):
            write(c[0], "old/f%d" % i, b"%d" % i * 300)
        poll(lambda: os.path.isdir(c[1].path("old")) and len(os.listdir(c[1].path("old"))) == 200, 30)
        c.wait(30)
        c[0].stop()
        os.rename(c[0].path("old"), c[0].path("new"))
        before = c[1].json("files", "status")["received_bytes"]
        c[0].start()
        poll(lambda: os.path.isdir(c[1].path("new")) and len(os.listdir(c[1].path("new"))) == 200 and not os.path.exists(c[1].path("old")), 30)
        self.converge(c)
        self.assertLess(c[1].json("files", "status")["received_bytes"] - before, 40000)
        self.assertIsNone(c[0].status()["files"]["error"])

    def test_names_of_one_file(self):
        """Hard links are files of their own elsewhere; what is written into one of them is in all."""
        c = self.files(2)
        write(c[0], "a", b"hard" * 5000)
        os.link(c[0].path("a"), c[0].path("b"))
        for name in ("a", "b"):
            self.everywhere(c, name, b"hard" * 5000)
        c.wait()
        with open(c[0].path("a"), "r+b") as f:
            f.write(b"HARD")
        for name in ("a", "b"):
            self.everywhere(c, name, b"HARD" + b"hard" * 4999)
        self.converge(c)


class Apart(FilesTest):
    """Both servers change a file while they cannot talk."""

    def apart(self, first=b"first", change=None):
        c = self.files(2, ports=True)
        write(c[0], "doc.txt", first)
        self.everywhere(c, "doc.txt", first)
        c.wait()
        for node in c:
            node.cli("pause")
        return c

    def together(self, c):
        for node in c:
            poll(lambda: node.status()["files"]["pending"] == 0)
            self.assertEqual(node.cli("wait", "--timeout", "0").code, 1)
        for node in c:
            self.assertEqual(node.cli("resume").code, 0)
        self.converge(c)

    def changed(self, node, path, data):
        """Written and taken up, so that the order of both is what the test says."""
        write(node, path, data)
        poll(lambda: any(f["path"] == path and f["size"] == len(data) and f["node"] == node.name for f in node.json("files", "list")["files"]))

    def test_edit_against_edit_keeps_both(self):
        c = self.apart()
        self.changed(c[0], "doc.txt", b"from the first server")
        self.changed(c[1], "doc.txt", b"from the second")
        self.together(c)
        all_files = tree(c[0])
        copies = [p for p in all_files if b"(conflict " in p]
        self.assertEqual(len(copies), 1, all_files)
        self.assertRegex(copies[0].decode(), r"^doc \(conflict \d{4}-\d\d-\d\d n0\)\.txt$")
        self.assertEqual(all_files[copies[0]], b"from the first server")
        self.assertEqual(all_files[b"doc.txt"], b"from the second")
        for node in c:
            listed = self.conflicts(node)
            self.assertEqual([x["key"]["path"] for x in listed], ["doc.txt"])
            self.assertEqual(listed[0]["winner"]["name"], "n1")
        shown = c[1].cli("conflicts", "show", listed[0]["id"]).out
        self.assertIn("the copy of the other one beside it is deleted", shown)
        self.assertNotIn("--set", shown)
        done = c[1].cli("conflicts", "resolve", listed[0]["id"], "--keep", "loser")
        self.assertEqual(done.code, 0, done)
        self.everywhere(c, "doc.txt", b"from the first server")
        self.converge(c)
        self.assertEqual(list(tree(c[0])), [b"doc.txt"])
        self.assertEqual(self.conflicts(c[0]), [])

    def test_the_same_edit_is_no_conflict(self):
        c = self.apart()
        self.changed(c[0], "doc.txt", b"the same")
        self.changed(c[1], "doc.txt", b"the same")
        self.together(c)
        self.assertEqual(tree(c[0]), {b"doc.txt": b"the same"})
        self.assertEqual(self.conflicts(c[1]), [])

    def test_an_edit_survives_a_later_deletion(self):
        c = self.apart()
        self.changed(c[0], "doc.txt", b"worked on")
        os.unlink(c[1].path("doc.txt"))
        poll(lambda: c[1].status()["files"]["count"] == 0)
        self.together(c)
        self.assertEqual(tree(c[1]), {b"doc.txt": b"worked on"})

    def test_an_edit_survives_an_earlier_deletion(self):
        c = self.apart()
        os.unlink(c[1].path("doc.txt"))
        poll(lambda: c[1].status()["files"]["count"] == 0)
        self.changed(c[0], "doc.txt", b"worked on")
        self.together(c)
        self.assertEqual(tree(c[1]), {b"doc.txt": b"worked on"})

    def test_two_new_files_of_one_name(self):
        c = self.apart()
        self.changed(c[0], "new.md", b"one")
        self.changed(c[1], "new.md", b"two")
        self.together(c)
        self.assertEqual(sorted(tree(c[0]).values()), [b"first", b"one", b"two"])

    def test_chats_are_merged(self):
        config, said = os.path.join(self.root, "config"), os.path.join(self.root, "said")
        with open(config, "w") as f:
            f.write('files { path "chat/" { merge = json\n run = "pwd >> %s" } }\n' % said)
        c = self.files(2, ports=True, extra=["--config", config])
        messages = [{"id": "a", "text": "hello"}, {"id": "b", "text": "there"}]
        write(c[0], "chat/1.json", json.dumps(messages).encode())
        self.everywhere(c, "chat/1.json", json.dumps(messages).encode())
        c.wait()
        for node in c:
            node.cli("pause")
        open(said, "w").close()
        self.changed(c[0], "chat/1.json", json.dumps(messages + [{"id": "c", "text": "from the first"}]).encode())
        changed = [{"id": "a", "text": "hello!"}, messages[1], {"id": "d", "text": "from the second"}, {"id": "e", "text": "again"}]
        self.changed(c[1], "chat/1.json", json.dumps(changed).encode())
        self.together(c)
        merged = json.loads(read(c[0], "chat/1.json"))
        self.assertEqual(sorted(m["id"] for m in merged), ["a", "b", "c", "d", "e"])
        self.assertEqual(merged[0]["text"], "hello!")
        self.assertEqual(sorted(tree(c[0])), [b"chat", b"chat/1.json"])
        self.assertEqual(self.conflicts(c[0]), [])

        def told():
            with open(said) as f:
                return set(f.read().split()) == {os.path.realpath(node.instance) for node in c}
        poll(told, what="both applications are told, also where it was merged")

    def test_a_quick_edit_of_what_just_came_is_none(self):
        c = self.files(2)
        for i in range(8):
            write(c[i % 2], "chat.json", json.dumps(list(range(i))).encode())
            self.everywhere(c, "chat.json", json.dumps(list(range(i))).encode())
        self.converge(c)
        self.assertEqual(list(tree(c[0])), [b"chat.json"])

    def test_a_default_of_who_joins_loses(self):
        c = self.files(1)
        write(c[0], "settings.json", b'{"theme": "ours"}')
        write(c[0], "same.json", b"{}")
        poll(lambda: c[0].status()["files"]["count"] == 2)
        late = self.make("late", join=[c[0]], extra=STILL)
        write(late, "settings.json", b'{"theme": "default"}')
        write(late, "same.json", b"{}")
        write(late, "own.json", b"[]")
        late.start()
        c.nodes.append(late)
        self.everywhere(c, "own.json", b"[]")
        self.everywhere(c, "settings.json", b'{"theme": "ours"}')
        self.converge(c)
        self.assertEqual(sorted(tree(late)), [b"own.json", b"same.json", b"settings.json"])
        self.assertEqual([x["key"]["path"] for x in self.conflicts(c[0])], ["settings.json"])


    def test_a_default_of_who_is_told_to_join_loses(self):
        """Also if it is the older one, and was taken up long before."""
        late, first = (self.make(name, port=harness.free_port(), extra=STILL).start() for name in ("late", "first"))
        for node, text in ((late, b'{"theme": "default"}'), (first, b'{"theme": "ours"}')):
            write(node, "settings.json", text)
            write(node, node.name, text)
            poll(lambda: node.status()["files"]["count"] == 2)
        self.assertEqual(late.cli("join", first.address()).code, 0)
        self.everywhere((first, late), "late", b'{"theme": "default"}')
        self.everywhere((first, late), "settings.json", b'{"theme": "ours"}')
        for node in (first, late):
            self.assertEqual(node.cli("wait", "--converged", "--members", "2").code, 0)
            self.assertEqual(sorted(tree(node)), [b"first", b"late", b"settings.json"])
            self.assertEqual(read(node, "settings.json"), b'{"theme": "ours"}')
            self.assertEqual([x["key"]["path"] for x in self.conflicts(node)], ["settings.json"])


class Care(FilesTest):
    def test_half_a_json_is_not_taken_and_slow_writers_are_waited_for(self):
        c = self.cluster(2, extra=["--set", "still_ms=500"])
        write(c[0], "chat.json", b'[{"id": 1}, {"id"')
        with open(c[0].path("slow.bin"), "wb") as f:
            for _ in range(20):
                f.write(b"x" * 1000)
                f.flush()
                holds(lambda: read(c[1], "slow.bin") is None, 0.02)
        self.everywhere(c, "slow.bin", b"x" * 20000)
        self.assertIsNone(read(c[1], "chat.json"))
        poll(lambda: c[0].json("files", "status")["restless"] == ["chat.json"])
        self.assertIn("chat.json is still being written", c[0].cli("files", "status").out)
        write(c[0], "future.json", b"no JSON")
        os.utime(c[0].path("future.json"), (4e9, 4e9))
        self.everywhere(c, "future.json", b"no JSON")
        write(c[0], "chat.json", b'[{"id": 1}, {"id": 2}]')
        self.everywhere(c, "chat.json", b'[{"id": 1}, {"id": 2}]')

    def test_what_was_replaced_and_deleted_comes_back(self):
        c = self.files(2)
        write(c[0], "plan", b"one")
        self.everywhere(c, "plan", b"one")
        write(c[0], "plan", b"two")
        self.everywhere(c, "plan", b"two")
        os.unlink(c[0].path("plan"))
        poll(lambda: read(c[1], "plan") is None, 8)  # nothing else happens meanwhile that would wake the thread
        versions = c[1].json("files", "restore", "--list", "plan")["versions"]
        self.assertEqual([v["size"] for v in versions], [3, 3])
        self.assertEqual(c[1].cli("files", "restore", "plan").code, 0)
        self.everywhere(c, "plan", b"two")
        self.assertEqual(c[1].cli("files", "restore", "plan", "--version", versions[-1]["version"]).code, 0)
        self.everywhere(c, "plan", b"one")
        self.assertEqual(c[0].cli("files", "restore", "nothing").code, 1)

    def test_what_is_written_all_the_time_does_not_drive_out_the_rest(self):
        c = self.files(2, ports=True)
        write(c[0], "precious", b"x")
        self.everywhere(c, "precious", b"x")
        os.unlink(c[0].path("precious"))
        poll(lambda: c[1].json("files", "restore", "--list", "precious")["versions"])
        c[1].stop()
        kept = c[1].path(".starling/kept")
        local = harness.connect(c[1].path(".starling/local.db"))
        name, version = local.execute("SELECT name, version FROM kept").fetchone()
        st = os.stat(os.path.join(kept, name))
        local.execute("BEGIN")
        for i in range(2100):  # as if that had been written once a second for half an hour
            one = "%s%06x%s" % (name[:30], i, name[36:])
            with open(os.path.join(kept, one), "wb") as f:
                f.write(b"x")
            os.utime(f.name, ns=(st.st_mtime_ns, st.st_mtime_ns))
            local.execute("INSERT INTO kept(path, name, version, at) SELECT ?, ?, ?, at + ? FROM kept WHERE id = 1", (b"often", one, version, i))
        local.execute("COMMIT")
        local.close()
        c[1].start()
        poll(lambda: len(os.listdir(kept)) == 101)
        self.assertEqual(len(c[1].json("files", "restore", "--list", "often")["versions"]), 100)
        self.assertEqual(c[1].cli("files", "restore", "precious").code, 0)
        self.everywhere(c, "precious", b"x")

    def test_a_folder_whose_disk_is_not_mounted_wipes_nothing(self):
        c = self.files(2, ports=True)
        self.small_disk(c[0].path("uploads"), "4m")
        for i in range(5):
            write(c[0], "uploads/%d" % i, b"photo %d" % i)
        for i in range(5):
            self.everywhere(c, "uploads/%d" % i, b"photo %d" % i)
        c.wait()
        self.assertEqual(harness.run(["umount", "-l", c[0].path("uploads")]).code, 0)
        poll(lambda: c[0].json("files", "status")["halted"] == ["uploads"], 30)
        self.assertNotEqual(c[0].status()["files"]["state"], "ok")
        holds(lambda: read(c[1], "uploads/3") == b"photo 3", 0.5)
        self.assertEqual(c[0].cli("files", "accept", "uploads").code, 0)
        poll(lambda: read(c[1], "uploads/3") is None)
        self.assertEqual(c[0].status()["files"]["state"], "ok")

    def test_far_more_is_gone_than_people_delete(self):
        c = self.files(2, ports=True)
        for i in range(60):
            write(c[0], "data/%d" % i, b"%d" % i)
        self.everywhere(c, "data/59", b"59")
        c.wait()
        c[0].stop()
        os.rename(c[0].path("data"), c[0].path(".data"))
        c[0].start()
        poll(lambda: c[0].json("files", "status")["halted"] == ["data"], 30)
        holds(lambda: read(c[1], "data/7") == b"7", 0.3)
        for path in ("data/7", "."):  # nothing of it, nor more than it
            self.assertEqual(c[0].cli("files", "accept", path).code, 1)
        os.rename(c[0].path(".data"), c[0].path("data"))
        poll(lambda: c[0].json("files", "status")["halted"] == [], 30)
        self.converge(c)
        self.assertEqual(len(tree(c[1])), 61)

    def test_rules_and_hooks(self):
        config = os.path.join(self.root, "config")
        said = os.path.join(self.root, "said")
        with open(config, "w") as f:
            f.write('files { exclude = { "*.cache", "secrets/" }\n include = { "*.log" }\n max_mb = 1\n'
                    ' path "config/*.json" { run = "echo $STARLING_OP $STARLING_PATH >> %s" } }\n' % said)
        c = self.files(2, extra=["--config", config])
        write(c[0], "a.cache", b"x")
        write(c[0], "secrets/key", b"x")
        write(c[0], "big", b"x" * (1 << 20) + b"x")
        write(c[0], "app.log", b"wanted")
        write(c[0], "config/team.json", b"{}")
        self.everywhere(c, "app.log", b"wanted")
        self.everywhere(c, "config/team.json", b"{}")
        os.unlink(c[0].path("config/team.json"))

        def heard():
            with open(said) as f:
                return f.read() == "change config/team.json\ndelete config/team.json\n"
        poll(heard)
        c.wait()
        self.assertEqual(sorted(tree(c[1])), [b"app.log", b"config"])

    def test_a_command_that_does_not_end_is_ended(self):
        """With what it started; and the next one has its turn."""
        config, said = os.path.join(self.root, "config"), os.path.join(self.root, "said")
        with open(config, "w") as f:
            f.write('files { path "stuck" { run = "sleep 1000 & echo $! > %s.pid; wait" run_s = 1 }\n'
                    ' path "next" { run = "echo next > %s" } }\n' % (said, said))
        c = self.files(2, extra=["--config", config])
        write(c[0], "stuck", b"x")
        self.everywhere(c, "stuck", b"x")
        write(c[0], "next", b"x")
        poll(lambda: os.path.exists(said))
        with open(said + ".pid") as f:
            pid = int(f.read())

        def over():
            try:
                with open("/proc/%d/stat" % pid) as f:
                    return f.read().split()[2] == "Z"  # nobody has taken note of it
            except FileNotFoundError:
                return True
        poll(over)
        self.assertTrue(any(n.log_lines("does not end: it is ended") for n in c))

    def test_who_writes_into_what_was_just_replaced_loses_nothing(self):
        c = self.files(2)
        write(c[0], "notes.txt", b"first")
        self.everywhere(c, "notes.txt", b"first")
        with open(c[1].path("notes.txt"), "r+b") as held:
            write(c[0], "notes.txt", b"second, from elsewhere")
            poll(lambda: read(c[1], "notes.txt") == b"second, from elsewhere")
            held.write(b"written by a program that had it open")
        for node in c:
            poll(lambda: b"written by a program that had it open" in tree(node).values())
        self.assertEqual(read(c[1], "notes.txt"), b"second, from elsewhere")
        self.converge(c)

    def test_an_index_that_lies(self):
        """Rows that no honest server writes, as a hostile member could send them."""
        c = self.files(2)
        write(c[0], "honest", b"content")
        self.everywhere(c, "honest", b"content")
        c.wait()

        def version(kind=1, size=7, hash_=b"", target=b"", rank=0, name=b"evil", seen=1):
            return (struct.pack("<BBBB", 1, kind, rank, len(name)) + b"E" * 16 + struct.pack("<QqQ", 1, 1, size) + hash_.ljust(32, b"h") +
                    struct.pack("<B", seen) + (b"E" * 8 + struct.pack("<Q", 1)) * seen + name + target)
        index = harness.connect(c[1].path(".starling/files.db"))
        honest = index.execute("SELECT content FROM file WHERE path = ?", (b"honest",)).fetchone()[0]
        hash_ = honest[44:76]
        rows = [(p, version(hash_=hash_)) for p in (b"../escaped", b"a/../../escaped", b"/escaped", b"", b".", b"..", b".starling/node.key", b"x/", b"x//y",
                                                    b".STARLING/x", b"n\0ul", b"e" * 256, b"/".join([b"d"] * 100), b"evil.db", b"evil.db-wal", "text", None, 5)]
        rows += [(b"link", version(kind=3, size=0, target=b"../../escaped")), (b"absolute", version(kind=3, size=0, target=b"/etc/passwd")),
                 (b"wrong-size", version(hash_=hash_, size=1 << 60)), (b"kind", version(kind=9)), (b"short", b"\x01"), (b"none", None), (b"number", 7),
                 (b"many", version(seen=255)), (b"name", version(hash_=hash_, name=b"../../../x" * 5))]
        for path, content in rows:
            if path is not None:
                index.execute("INSERT OR IGNORE INTO file(path, content, mode) VALUES (?, ?, ?)", (path, content, 0o7777))
        index.close()
        for i in range(5):
            write(c[0], "after%d" % i, b"still at work")
            self.everywhere(c, "after%d" % i, b"still at work")
        poll(lambda: read(c[0], "name") == b"content")
        self.assertEqual(stat.S_IMODE(os.stat(c[0].path("name")).st_mode), 0o666)
        found = {p for p in tree(c[0]) if not p.startswith(b"after")}
        self.assertEqual(found, {b"honest", b"name"})
        for folder, folders, names in os.walk(self.root):
            self.assertFalse([n for n in folders + names if "escaped" in n or "evil" in n], folder)

    def test_a_disk_that_is_too_small(self):
        c = self.files(1)
        small = self.make("small", join=[c[0]], extra=STILL)
        self.small_disk(small.instance, "24m")
        small.start()
        big = random.Random(3).randbytes(30 << 20)
        # Whole at once: a writer that the machine stops for longer than a file must be still has a first part taken, and that would fit.
        with open(os.path.join(self.root, "big"), "wb") as f:
            f.write(big)
        os.rename(f.name, c[0].path("big"))
        poll(lambda: small.status()["files"]["state"] == "error", 30)
        self.assertIn("big", small.status()["files"]["error"])
        fs = os.statvfs(small.instance)  # what would fit, and leave less than is kept in reserve
        tight = random.Random(4).randbytes((fs.f_bavail - fs.f_blocks // 40) * fs.f_frsize)
        with open(f.name, "wb") as f:
            f.write(tight)
        os.rename(f.name, c[0].path("tight"))
        poll(lambda: "tight" in (small.status()["files"]["error"] or ""), 30)
        write(c[0], "little", b"fits")
        poll(lambda: read(small, "little") == b"fits")
        self.assertFalse(os.path.exists(small.path("tight")))
        self.assertFalse(os.path.exists(small.path("big")))
        self.grow_disk(small.instance, "128m")
        poll(lambda: read(small, "big") == big, 30)
        poll(lambda: read(small, "tight") == tight, 30)
        poll(lambda: small.status()["files"]["state"] == "ok")

    def test_verbs(self):
        c = self.files(2)
        write(c[0], "a.txt", b"abc")
        self.everywhere(c, "a.txt", b"abc")
        c.wait()
        for words in (("files",), ("files", "status"), ("files", "list"), ("files", "restore", "--list"), ("files", "verify"), ("verify", "files"), ("verify",),
                      ("doctor",)):
            done = c[1].cli(*words)
            self.assertEqual(done.code, 0, done)
        self.assertIn("a.txt", c[1].cli("files", "list").out)
        self.assertEqual(c[1].cli("files", "accept", "a.txt").code, 1)
        self.assertEqual([d["name"] for d in c[1].json("files", "verify")["databases"]], ["files"])
        self.assertEqual(c[1].cli("files", "dance").code, 2)


class Policies(FilesTest):
    def test_quota_owner_and_modes(self):
        config = os.path.join(self.root, "config")
        with open(config, "w") as f:
            f.write("files { quota_mb = 1\n modes = local }\n")
        c = self.files(2, ports=True)
        c[1].stop()
        c[1].extra += ["--config", config]
        root = os.geteuid() == 0
        if root:
            os.chown(c[1].instance, 1234, 1235)
        os.chmod(c[1].instance, 0o770)
        c[1].start()
        for path in ("mine", "d/e/theirs"):
            write(c[0], path, b"first")
            os.chmod(c[0].path(path), 0o604)
            self.everywhere(c, path, b"first")

        def looks(path, mode, uid):
            st = os.stat(c[1].path(path))
            return stat.S_IMODE(st.st_mode) & 0o777 == mode and (not root or (st.st_uid, st.st_gid) == (uid, 1235))
        self.assertTrue(looks("mine", 0o660, 1234))
        self.assertTrue(looks("d/e/theirs", 0o644, 1234))
        self.assertTrue(not root or os.stat(c[1].path("d/e")).st_uid == 1234)
        if root:
            os.chown(c[1].path("mine"), 2000, 1235)
        os.chmod(c[1].path("mine"), 0o640)
        write(c[0], "mine", b"second")
        self.everywhere(c, "mine", b"second")
        self.assertTrue(looks("mine", 0o640, 2000))
        self.assertEqual(stat.S_IMODE(os.stat(c[0].path("mine")).st_mode), 0o604)
        write(c[0], "big", b"x" * (3 << 19))
        poll(lambda: "more than quota_mb allows" in (c[1].status()["files"]["error"] or ""))
        write(c[0], "small", b"fits")
        self.everywhere(c, "small", b"fits")
        holds(lambda: c[1].status()["files"]["state"] == "error", 0.2)  # what came well is no reason to forget what did not
        self.assertEqual(c[1].cli("wait", "--timeout", "1").code, 1)
        os.unlink(c[0].path("big"))
        c.wait()
        self.assertEqual(c[1].status()["files"]["state"], "ok")


class Extra(FilesTest):
    def test_a_folder_outside_of_the_instance(self):
        def configure(node, path):
            with open(os.path.join(node.folder, "config"), "w") as f:
                f.write('files { folder "photos" { path = "%s" } }\n' % path if path else "\n")
        nodes, outside = [], []
        for i in range(3):
            node = self.make("n%d" % i, join=nodes[:1], port=harness.free_port(), extra=STILL + ["--config", os.path.join(self.root, "n%d" % i, "config")])
            outside.append(os.path.join(self.root, "outside%d" % i))
            os.makedirs(outside[-1])
            configure(node, outside[-1] if i != 1 else None)
            nodes.append(node.start())

        def put(i, name, data):
            os.makedirs(os.path.dirname(os.path.join(outside[i], name)), exist_ok=True)
            with open(os.path.join(outside[i], name), "wb") as f:
                f.write(data)

        def has(i, name, data):
            poll(lambda: open(os.path.join(outside[i], name), "rb").read() == data, what="%d has %s" % (i, name))
        for node in nodes:
            poll(lambda: node.alive() == 3)
        put(0, "a/1.jpg", b"one" * 1000)
        has(2, "a/1.jpg", b"one" * 1000)
        put(2, "a/1.jpg", b"two")
        has(0, "a/1.jpg", b"two")
        os.symlink("../../x", os.path.join(outside[0], "a/out"))
        os.symlink("1.jpg", os.path.join(outside[0], "a/in"))
        other = harness.connect(os.path.join(outside[0], "odd"))
        other.execute("CREATE TABLE odd(id INTEGER PRIMARY KEY)")
        other.close()
        os.rename(os.path.join(outside[2], "a"), os.path.join(outside[2], "b"))
        put(0, "last", b"x")
        has(2, "last", b"x")
        poll(lambda: os.path.islink(os.path.join(outside[2], "b/in")) or os.path.islink(os.path.join(outside[2], "a/in")))
        for node in nodes:
            self.assertEqual(node.cli("wait", "--converged", "--members", "3").code, 0)
        self.assertEqual(os.listdir(outside[1]), [])
        self.assertFalse(os.path.lexists(os.path.join(outside[2], "b/out")) or os.path.lexists(os.path.join(outside[2], "a/out")))
        self.assertEqual(tree(nodes[1]), {})
        poll(lambda: sorted(os.listdir(outside[0])) == sorted(os.listdir(outside[2])) + ["odd"])
        nodes[1].stop()
        configure(nodes[1], outside[1])  # from now on
        nodes[1].start()
        has(1, "last", b"x")
        has(1, "b/1.jpg", b"two")
        nodes[2].stop()
        os.rename(outside[2], outside[2] + ".away")  # not mounted, say
        nodes[2].start()
        poll(lambda: "outside2" in (nodes[2].status()["files"]["error"] or ""))
        put(0, "meanwhile", b"y")
        has(1, "meanwhile", b"y")
        os.rename(outside[2] + ".away", outside[2])
        nodes[2].proc.send_signal(signal.SIGHUP)
        has(2, "meanwhile", b"y")
        poll(lambda: nodes[2].status()["files"]["error"] is None)
        os.unlink(os.path.join(outside[1], "last"))
        for i in range(3):
            poll(lambda: not os.path.exists(os.path.join(outside[i], "last")))
        self.assertEqual(nodes[0].cli("files", "restore", ".starling+photos/last").code, 0)
        for i in range(3):
            has(i, "last", b"x")
        self.assertEqual(nodes[0].cli("wait", "--converged", "--members", "3").code, 0)
        self.assertEqual(nodes[0].cli("files", "verify").code, 0)


class Unreadable(FilesTest):
    def test_what_cannot_be_read_is_told(self):
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            self.skipTest("only root can become somebody else")
        binary = shutil.copy(harness.STARLINGD, os.path.join(self.root, "starlingd"))  # which nobody may execute
        os.chmod(binary, 0o755)
        c = self.files(1)
        other = self.make("other", join=[c[0]], extra=STILL, binary=binary, wrap=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        write(other, "private/inside", b"not theirs")
        write(other, "secret", b"not theirs")
        for path, mode in (("private", 0o700), ("secret", 0o600)):
            os.chmod(other.path(path), mode)
        os.chmod(other.instance, 0o777)
        other.start()
        write(c[0], "fine", b"x")
        self.everywhere([other], "fine", b"x")
        poll(lambda: "is not replicated: it cannot be read" in (other.status()["files"]["error"] or ""))
        self.assertIsNone(read(c[0], "secret"))
        for path in ("private", "private/inside", "secret"):
            os.chown(other.path(path), 65534, 65534)
        self.everywhere(c, "secret", b"not theirs")
        self.everywhere(c, "private/inside", b"not theirs")


class Reload(FilesTest):
    def test_what_the_configuration_says_of_files_holds_without_a_restart(self):
        config = os.path.join(self.root, "config")
        said = os.path.join(self.root, "said")

        def configure(text):
            with open(config, "w") as f:
                f.write(text)
        configure('still_ms = 60000\nfiles { exclude = { "*.cache" } path "x" { run = "echo old >> %s" } }\n' % said)
        c = self.cluster(2, extra=["--config", config])
        write(c[0], "a.cache", b"a")
        write(c[0], "x", b"x")
        holds(lambda: read(c[1], "x") is None, 0.3)
        configure('still_ms = 50\nbandwidth_kib = 100000\nfiles { exclude = { "*.secret" } max_mb = 1\n path "x" { run = "echo new >> %s" } }\n' % said)
        for node in c:
            node.proc.send_signal(signal.SIGHUP)
        self.everywhere(c, "a.cache", b"a")
        self.everywhere(c, "x", b"x")
        write(c[0], "a.secret", b"a")
        write(c[0], "big", b"x" * (1 << 20) + b"x")
        write(c[0], "last", b"x")
        self.everywhere(c, "last", b"x")
        poll(lambda: os.path.exists(said))
        with open(said) as f:
            self.assertEqual(f.read(), "new\n")
        self.assertEqual(sorted(tree(c[1])), [b"a.cache", b"last", b"x"])
        configure("files { max_mb = none }\n")
        c[0].proc.send_signal(signal.SIGHUP)
        poll(lambda: c[0].log_lines("the configuration was not read again"))
        write(c[0], "still", b"quick")
        self.everywhere(c, "still", b"quick")


class Kill(FilesTest):
    def test_kill_in_the_middle(self):
        """kill -9 at random moments while files come and change: nothing half-written is ever seen, and all of it arrives."""
        c = self.files(2, ports=True)
        seed = int(os.environ.get("STARLING_SEED", random.randrange(1 << 30)))
        print("seed %d" % seed)
        rng = random.Random(seed)
        sound = {}
        for round_ in range(int(os.environ.get("STARLING_ROUNDS", "2"))):
            for i in range(40):
                path = "f%d" % rng.randrange(60)
                data = rng.randbytes(rng.randrange(1, 60000))
                sound.setdefault(path, set()).add(data)
                write(c[0], ".new", data)
                os.rename(c[0].path(".new"), c[0].path(path))  # whole: on a busy machine a truncated file may stay so for longer than still_ms
            victim = c[rng.randrange(2)]
            harness.time_passes(rng.random() * 0.4)  # a random moment
            victim.kill()
            for path, data in tree(c[1]).items():
                self.assertTrue(data in sound[path.decode()], "half a file: %r, %d bytes" % (path, len(data)))
            victim.start()
        self.converge(c)
        self.assertEqual(tree(c[0]).keys(), {p.encode() for p in sound})


if __name__ == "__main__":
    unittest.main()
