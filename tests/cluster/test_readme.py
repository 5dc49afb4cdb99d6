"""What README.md says happens when two servers disagree, happens: its commands are run on real nodes, and what they print is compared. So are those
that secure a cluster.

A block whose lines begin with `pit$` or `stand$` is run; what follows a command is what it prints. Names of conflicts, times and numbers that are drawn
are not the same in each run: a conflict is known by its table, key and column. The text between blocks tells this test nothing, but for one thing: the
second block is written while the servers do not hear of each other."""
import os
import re

import harness
from harness import BUILD, REPOSITORY, ClusterTest, environment, poll, run, time_passes

PROMPT = re.compile(r"^(pit|stand)\$ (.*)$")
ID = re.compile(r"\b[0-9a-f]{16}\b")
CHAPTER = re.compile(r"^## What happens when two servers disagree\n(.*?)^## ", re.S | re.M)


def blocks():
    with open(os.path.join(REPOSITORY, "README.md"), encoding="utf-8") as f:
        chapter = CHAPTER.search(f.read()).group(1)
    found = []
    for text in re.findall(r"^```\n(.*?)^```$", chapter, re.S | re.M):
        steps = []
        for line in text.splitlines():
            prompt = PROMPT.match(line)
            if prompt:
                steps.append((prompt.group(1), prompt.group(2), []))
            elif steps:
                steps[-1][2].append(line)
        if steps:
            found.append(steps)
    return found


def plain(line):
    """Without what differs from run to run, or is only layout."""
    line = re.sub(r"\d\d:\d\d:\d\d\.\d\d\d", "TIME", line)
    line = re.sub(r"/note +\d+ (.*)number( +)\d+", r"/note  N \1number\2N", line)
    if re.search(r"\b(unique|number|constraint|orphan)\b", line):
        line = re.sub(r"\b(pit|stand)( +TIME)", r"WHO\2", line, count=1)  # whichever was first to mend it
    return re.sub(r"\s+", " ", ID.sub("ID", line)).strip()


class Readme(ClusterTest):
    def listing(self, told, printed):
        """README's names of conflicts → those of this run."""
        lines = {plain(line): ID.search(line) for line in printed}
        for line in told:
            if plain(line) not in lines:
                self.fail("README has\n  %s\nand this run\n  %s" % (plain(line), "\n  ".join(lines)))
            if ID.search(line):
                self.ids[ID.search(line).group()] = lines[plain(line)].group()
        self.assertEqual(sum(1 for m in lines.values() if m), len(self.ids))

    @staticmethod
    def served(done):
        """The shell has no busy timeout: what was refused was not made."""
        return None if "database is locked" in done.err else done

    def step(self, name, command, told):
        node = self.servers[name]
        command = ID.sub(lambda m: self.ids.get(m.group(), m.group()), command)
        env = environment(PATH=BUILD + os.pathsep + os.environ["PATH"], STARLING_INSTANCE=node.instance)
        done = poll(lambda: self.served(run(["bash", "-c", command], env=env, cwd=node.instance)))
        self.assertEqual((done.code, done.err), (0, ""), (command, done))
        printed = done.out.splitlines()
        if command == "starling conflicts":
            self.listing(told, printed)
        else:
            self.assertEqual([plain(line) for line in told], [plain(line) for line in printed if line.strip()], command)

    def meet(self):
        for n in self.servers.values():
            poll(lambda: n.cli("wait", "--converged", "--members", 2).code == 0)
        self.assertEqual(*(n.dump("scouting.db") for n in self.servers.values()))

    def everywhere(self, verb):
        for n in self.servers.values():
            self.assertEqual(n.cli(verb).code, 0)

    def test_the_chapter(self):
        first, apart, *rest = blocks()
        self.assertGreaterEqual(len(rest), 2)
        pit, stand = self.make("pit"), self.make("stand")
        self.servers, self.ids = {"pit": pit, "stand": stand}, {}
        for step in first:
            self.step(*step)
        pit.start()
        stand.join = [pit]
        stand.start()
        poll(lambda: stand.has_tables("team", "game", "note", db="scouting.db"))
        self.meet()
        time_passes(2.2)  # what came within the last 2 s does not count as seen
        self.everywhere("pause")
        for name, command, told in apart:
            self.step(name, command, told)
            poll(lambda: self.servers[name].database("scouting.db")["pending"] == 0)
            time_passes(0.02)  # the next write is later
        self.everywhere("resume")
        self.meet()
        for block in rest:
            for step in block:
                self.step(*step)
        self.meet()
        self.assertEqual(len(pit.json("conflicts")["conflicts"]), 3)


class Securing(ClusterTest):
    """The five lines of "Securing a cluster" as they stand there, but for where the instance is and that three servers share a machine."""

    def lines(self):
        with open(os.path.join(REPOSITORY, "README.md"), encoding="utf-8") as f:
            return re.search(r"^## Securing a cluster\n.*?^```sh\n(.*?)^```$", f.read(), re.S | re.M).group(1).splitlines()

    def typed(self, line, node=None):
        env = environment(PATH=BUILD + os.pathsep + os.environ["PATH"], **({"STARLING_INSTANCE": node.instance} if node else {}))
        done = run(["bash", "-c", line], env=env, cwd=self.root)
        self.assertEqual(done.code, 0, (line, done))
        return done.out

    def test_the_five_lines(self):
        keygen, start, rotate, block, deny = self.lines()
        self.typed(keygen)
        words = start.split("#")[0].split()
        self.assertEqual(words[:3], ["starlingd", "--instance", "/srv/app/instance"])
        extra = [os.path.join(self.root, w) if w == "starling.secret" else w for w in words[3:]]
        a = self.make("pit", extra=extra).start()
        b = self.make("stand", extra=extra, join=[a]).start()
        stranger = self.make("stranger", join=[a]).start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        poll(lambda: stranger.log_lines("refused this node", "it has a cluster secret"))
        self.typed(rotate, a)
        poll(lambda: b.log_lines("the old one is not accepted any more"))
        self.typed(block.replace("NODE", "stand"), a)
        poll(lambda: a.peer(b)["state"] == "blocked" and b.alive() == 1)
        self.typed(block.replace("NODE", "stand").replace("block", "unblock"), a)
        poll(lambda: a.alive() == 2 and b.alive() == 2, 30)
        self.assertIn("10.9.0.0/16", self.typed(deny, a))


if __name__ == "__main__":
    harness.main()
