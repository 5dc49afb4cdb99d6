#!/usr/bin/python3
"""The command line tool against a small node of Python: what it asks, shows and returns, also when the node misbehaves.

Runs by itself: STARLING_BUILD names the build folder (default: build/)."""
import json
import os
import pathlib
import pty
import socket
import subprocess
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STARLING = pathlib.Path(os.environ.get("STARLING_BUILD", ROOT / "build")).resolve() / "starling"
DEADLINE_S = 20

DB = {"name": "scouting.db", "state": "ok", "error": None, "tables": 3, "rows": 12345, "pending": 0, "waiting": 0,
      "parked": 0, "version": {"ab": 17}, "digest": "00112233445566778899", "conflicts": 0}
PEER = {"id": "b" * 32, "name": "stand", "addr": "127.0.0.1:7171", "state": "alive", "rtt_us": 310, "in_sync": True,
        "we_lack": 0, "they_lack": 0, "last_seen_ms": 120, "sent_bytes": 0, "received_bytes": 2048}


def status(**changed):
    result = {"node": {"id": "a" * 32, "name": "pit", "version": "0.1.0", "state": "running", "listen": "127.0.0.1:1",
                       "http": "off", "uptime_s": 3725, "rss_bytes": 5 << 20},
              "cluster": {"name": "default", "members": 2, "alive": 2}, "databases": [dict(DB)],
              "files": {"count": 0, "bytes": 0, "pending": 0, "digest": "", "conflicts": 0}, "peers": [dict(PEER)]}
    result.update(changed)
    return {"exit": 0, "result": result}


class FakeNode:
    """Answers each request with the lines that `answers` holds for its verb; keeps what was asked."""

    def __init__(self, instance, answers):
        self.answers, self.asked = answers, []
        state = os.path.join(instance, ".starling")
        os.makedirs(state, exist_ok=True)
        self.path = os.path.join(state, "admin.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        here = os.open(".", os.O_RDONLY)
        os.chdir(state)  # the path may be too long for an address
        try:
            self.listener.bind("admin.sock")
        finally:
            os.fchdir(here)
            os.close(here)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(peer,), daemon=True).start()

    def answer(self, peer):
        with peer, peer.makefile("rb") as lines:
            line = lines.readline()
            if not line:
                return
            request = json.loads(line)
            self.asked.append(request)
            for answer in self.answers.get(request["verb"], []):
                try:
                    peer.sendall(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")
                except OSError:
                    return

    def die(self):
        """As after kill -9: the socket's file stays."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(DEADLINE_S)
        self.listener.close()


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="starling-cli-")
        self.addCleanup(self.folder.cleanup)
        self.instance = os.path.join(self.folder.name, "instance")
        os.makedirs(self.instance)

    def node(self, **answers):
        node = FakeNode(self.instance, answers)
        self.addCleanup(lambda: node.listener.fileno() < 0 or node.die())
        return node

    def run_cli(self, *words, where=True, env=None, cwd=None):
        environment = {k: v for k, v in os.environ.items() if k not in ("STARLING_INSTANCE", "NO_COLOR")}
        environment.update(env or {})
        head = ["--instance", self.instance] if where else []
        return subprocess.run([str(STARLING), *head, *words], capture_output=True, text=True, timeout=DEADLINE_S,
                              env=environment, cwd=cwd or self.folder.name)

    def expect(self, done, code, out=None, err=None):
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        if out is not None:
            self.assertIn(out, done.stdout)
        if err is not None:
            self.assertIn(err, done.stderr)
        self.assertLessEqual(done.stderr.count("\n"), 1, "an error is one line")
        self.assertNotIn("\033", done.stdout, "no colours off a terminal")

    # ---- usage
    def test_usage(self):
        self.expect(self.run_cli(), 2, err="starling help")
        self.expect(self.run_cli("frobnicate"), 2, err="frobnicate")
        self.expect(self.run_cli("status", "--frob"), 2, err="--frob")
        self.expect(self.run_cli("status", "extra"), 2, err="usage: starling status")
        self.expect(self.run_cli("join"), 2, err="usage: starling join")
        self.expect(self.run_cli("wait", "--members"), 2, err="needs a value")
        self.expect(self.run_cli("wait", "--members", "two"), 2, err="number")
        self.expect(self.run_cli("wait", "--converged=1"), 2, err="takes no value")
        self.expect(self.run_cli("completion", "tcsh"), 2, err="bash, zsh, fish")
        self.expect(self.run_cli("--socket", "x", "status"), 2, err="one of them")
        self.expect(self.run_cli("help"), 0, out="watch [DB[/TABLE]...]")
        self.expect(self.run_cli("wait", "--help"), 0, out="--timeout S")
        self.expect(self.run_cli("version"), 0, out="starling 0.")
        self.assertIn("version", json.loads(self.run_cli("version", "--json").stdout))

    def test_verbs_of_other_builds(self):
        for verb in ("snapshot", "restore"):
            self.expect(self.run_cli(verb, "x", "--any"), 2, err=f"starling: {verb}: not in this build\n")
        self.expect(self.run_cli("doctor", "--adopt", "match"), 2, err="goes with --join HOST")

    def test_completion(self):
        for shell in ("bash", "zsh", "fish"):
            done = self.run_cli("completion", shell)
            self.expect(done, 0, out="members")
            self.assertNotIn("snapshot", done.stdout, "only what this build has")
        script = self.run_cli("completion", "bash").stdout + '''
            COMP_WORDS=(starling --instance /tmp wait --t) COMP_CWORD=4; _starling; echo "${COMPREPLY[@]}"
            COMP_WORDS=(starling mem) COMP_CWORD=1; _starling; echo "${COMPREPLY[@]}"
            COMP_WORDS=(starling completion f) COMP_CWORD=2; _starling; echo "${COMPREPLY[@]}"'''
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=DEADLINE_S)
        self.assertEqual(done.stdout.split(), ["--timeout", "members", "fish"], done.stderr)

    # ---- which node
    def test_no_node(self):
        self.expect(self.run_cli("status"), 3, err=f"starlingd --instance {self.instance}")
        self.expect(self.run_cli("status", "--instance", "/nonexistent"), 2, err="No such file")
        self.expect(self.run_cli("status", "--json", "--socket", "gone/admin.sock", where=False), 3, err="gone/admin.sock")
        self.node().die()
        self.expect(self.run_cli("status"), 3, err="no node answers")

    def test_ways_to_name_it(self):
        node = self.node(pause=[{"exit": 0}])
        below = os.path.join(self.instance, "a", "b")
        os.makedirs(below)
        for words, env, cwd in ((["pause", "--instance", self.instance], {}, None),
                                (["--instance=" + self.instance, "pause"], {}, None),
                                (["--socket", node.path, "pause"], {}, None),
                                (["--socket", "admin.sock", "pause"], {}, os.path.dirname(node.path)),
                                (["pause"], {"STARLING_INSTANCE": self.instance}, None),
                                (["pause"], {}, below)):
            self.expect(self.run_cli(*words, where=False, env=env, cwd=cwd), 0, out="paused")
        self.assertEqual(node.asked, [{"verb": "pause", "args": {}}] * 6)

    def test_long_path(self):
        self.instance = os.path.join(self.instance, "x" * 100, "y" * 100)
        os.makedirs(self.instance)
        self.node(resume=[{"exit": 0}])
        self.expect(self.run_cli("resume"), 0)

    # ---- a node that misbehaves
    def test_broken_answers(self):
        self.node(status=[b""], members=[b"garbage\n"], tables=[b"[]\n"], pause=[{"exit": 77}], resume=[{"exit": 1, "error": "disk\nfull"}],
                  doctor=[b'{"progress"'])
        self.expect(self.run_cli("status"), 3, err="ended before it answered")
        self.expect(self.run_cli("doctor"), 3, err="ended before it answered")
        self.expect(self.run_cli("members"), 1, err="not understood")
        self.expect(self.run_cli("tables"), 1, err="not understood")
        self.expect(self.run_cli("pause"), 1, err="did not say why")
        self.expect(self.run_cli("resume"), 1, err="disk?full")

    # ---- answers
    def test_status(self):
        node = self.node(status=[status()])
        done = self.run_cli("status")
        for text in ("pit", "1 h 2 min", "5.0 MiB", "2 of 2 members alive", "12,345", "0.31 ms", "in sync with the one alive peer"):
            self.expect(done, 0, out=text)
        self.assertEqual(json.loads(self.run_cli("status", "--json").stdout), status()["result"])
        self.assertEqual(self.run_cli("status", "--json").stdout.count("\n"), 1)
        self.assertEqual(node.asked[0], {"verb": "status", "args": {}})

    def test_status_tells_the_truth(self):
        broken = dict(DB, parked=2, conflicts=1, state="error", error="database disk image is malformed")
        node = self.node()
        for answer, texts in (
                (status(databases=[broken]), ["disk image is malformed", "2 changes cannot be shown", "1 open conflict", "2 problems"]),
                (status(peers=[dict(PEER, in_sync=False, we_lack=4)]), ["we lack 4 versions", "not yet", "in sync with 0 of 1"]),
                (status(peers=[dict(PEER, state="dead", in_sync=False)]), ["stand is dead", "1 problem"]),
                (status(peers=[dict(PEER, in_sync=False, refused="both had rows")]), ["no exchange: both had rows"]),
                (status(peers=[dict(PEER, in_sync=False, problem="scouting.db is in error here")]), ["stand is not in sync: scouting.db is in error here"]),
                (status(databases=[dict(DB, busy=True)]), ["ok, busy", "no answer in time, figures are from before", "in sync with the one"]),
                (status(peers=[]), ["alone: no peer is known"]),
                (status(databases=[]), ["no database yet"]),
                (status(databases=[dict(DB, capturing={"done": 5000, "table": "team"})]), ["capturing", "5,000 rows so far, now table team"]),
                (status(peers=[dict(PEER, name="\033[31mevil\x9b\n")]), ["?[31mevil"])):
            node.answers = {"status": [answer]}
            done = self.run_cli("status")
            for text in texts:
                self.expect(done, 0, out=text)

    def test_members_say_why_nothing_is_exchanged(self):
        self.node(members=[{"exit": 0, "result": {"members": [dict(PEER, in_sync=False, refused='peer "pit" is blocked on "stand"'), dict(PEER, name="field")]}}])
        self.expect(self.run_cli("members"), 0, out='note: stand: no exchange: peer "pit" is blocked on "stand"\n')

    def test_wait(self):
        node = self.node(wait=[{"progress": {"text": "capturing", "done": 1, "total": 2}},
                               {"exit": 1, "result": {"converged": False, "missing": "stand lacks 3 versions"}, "error": "not converged: stand lacks 3 versions"}])
        self.expect(self.run_cli("wait", "--members", "3", "--timeout=1"), 1, out="", err="starling: not converged: stand lacks 3 versions")
        self.assertEqual(node.asked[0]["args"], {"converged": True, "members": 3, "timeout_s": 1})
        node.answers = {"wait": [{"exit": 0, "result": {"converged": True, "alive": 3}}]}
        self.expect(self.run_cli("wait"), 0, out="equal on 3 alive members")
        self.assertEqual(node.asked[-1]["args"], {"converged": True, "members": 0, "timeout_s": 60})
        self.assertEqual(json.loads(self.run_cli("--json", "wait").stdout)["alive"], 3)

    def test_wait_on_a_terminal(self):
        """What the node waits for becomes a bar, by its status: asked while the answer is open."""
        self.node(status=[status(databases=[dict(DB, capturing={"done": 500, "total": 1000, "table": "team"})])],
                  wait=[{"progress": {"text": "not taken up", "done": 0, "total": None}}, {"exit": 0, "result": {"converged": True, "alive": 1}}])
        master, slave = pty.openpty()
        with open(master, "rb", 0) as screen:
            done = subprocess.run([str(STARLING), "--instance", self.instance, "wait"], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
                                  timeout=DEADLINE_S)
            os.close(slave)
            shown = screen.read(65536).decode()
        self.assertEqual(done.returncode, 0)
        self.assertIn("scouting.db: reading team [###############---------------] 500 of 1,000", shown)
        self.assertIn("\033[32mequal\033[0m on 1 alive member", shown)

    def test_streams(self):
        items = [{"item": {"db": "scouting.db", "table": "team", "op": "insert", "key": {"id": n}, "changes": {"name": "a\u0000b"},
                           "node": "a", "time_ms": 1, "local": True}} for n in range(3)]
        node = self.node(watch=items + [{"exit": 0}],
                         log=[{"item": {"time_ms": 1700000000123, "level": "warning", "db": "scouting.db", "text": "mended\033"}}, {"exit": 0}])
        done = self.run_cli("watch", "scouting.db/team", "b.db")
        self.expect(done, 0)
        self.assertEqual([json.loads(line) for line in done.stdout.splitlines()], [i["item"] for i in items])
        self.assertEqual(node.asked[0]["args"], {"filters": ["scouting.db/team", "b.db"]})
        self.expect(self.run_cli("log", "-n", "7", "--db", "scouting.db", "--follow"), 0, out="warning scouting.db: mended?")
        self.assertEqual(node.asked[-1]["args"], {"n": 7, "follow": True, "db": "scouting.db"})
        self.assertEqual(json.loads(self.run_cli("log", "--json").stdout)["text"], "mended\033")

    def test_join_leave(self):
        node = self.node(join=[{"exit": 0}], leave=[{"exit": 1, "error": "stand does not have everything yet: try again"}])
        self.expect(self.run_cli("join", "10.0.0.1", "b:7"), 0, out="joining")
        self.assertEqual(node.asked[0]["args"], {"addresses": ["10.0.0.1", "b:7"]})
        self.assertEqual(json.loads(self.run_cli("join", "x", "--json").stdout), {})
        self.expect(self.run_cli("leave"), 1, err="everything yet")

    def test_verify(self):
        tables = [{"name": "team", "rows": 4, "equal": False, "digest": "ab" * 16}]
        difference = {"db": "sub/a.db", "table": "team", "key": [254, "x"], "what": "pit has none, stand 1f"}
        node = self.node(status=[status(databases=[dict(DB, name="sub/a.db"), dict(DB, name="sub")])],
                         verify=[{"progress": {"text": "sub/a.db", "done": 0, "total": 1}},
                                 {"exit": 1, "result": {"equal": False, "members": ["pit", "stand"], "differences": [difference],
                                                        "databases": [{"name": "sub/a.db", "tables": tables}]}}])
        self.expect(self.run_cli("verify", "sub/a.db/team"), 1, out='sub/a.db/team row [254,"x"]: pit has none, stand 1f',
                    err='starling: not equal: 1 found, the first: sub/a.db/team row [254,"x"]')
        self.assertEqual(node.asked[-1]["args"], {"db": "sub/a.db", "table": "team"})
        self.run_cli("verify", "sub/a.db")
        self.assertEqual(node.asked[-1]["args"], {"db": "sub/a.db"})
        self.run_cli("verify", "sub")
        self.assertEqual(node.asked[-1]["args"], {"db": "sub"})
        self.expect(self.run_cli("verify", "other.db"), 2, err="there is: sub/a.db, sub")
        tables[0]["equal"] = True
        node.answers["verify"] = [{"exit": 0, "result": {"equal": True, "members": ["pit", "stand"], "differences": [],
                                                        "databases": [{"name": "sub/a.db", "tables": tables}]}}]
        self.expect(self.run_cli("verify"), 0, out="equal: 1 table on 2 members")
        self.assertEqual(node.asked[-1]["args"], {})

    def test_doctor(self):
        node = self.node(doctor=[{"exit": 1, "result": {"problems": [{"what": "clock is 3 s off", "mend": "run chrony"}]}}])
        self.expect(self.run_cli("doctor"), 1, out="problem: clock is 3 s off: run chrony")
        node.answers = {"doctor": [{"exit": 0, "result": {"problems": []}}]}
        self.expect(self.run_cli("doctor"), 0, out="nothing wrong was found")


if __name__ == "__main__":
    unittest.main(verbosity=2)
