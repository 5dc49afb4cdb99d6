"""Two histories of one server: an older image of its disk is put back, and it writes on before it meets anybody."""
import os
import shutil

import harness
from harness import ClusterTest, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT);"


def copy_contents(source, target):
    """As an image of a disk is put back: the same files, with what they once held."""
    for folder, folders, files in os.walk(source):
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        for name in files:
            shutil.copyfile(os.path.join(folder, name), os.path.join(into, name))
    for folder, _, files in os.walk(target):
        for name in files:
            if not os.path.exists(os.path.join(source, os.path.relpath(folder, target), name)):
                os.unlink(os.path.join(folder, name))


class Fork(ClusterTest):
    def put_back(self, image, node):
        copy_contents(image, node.instance)
        node.restart()

    def test_an_older_image_that_writes_on(self):
        c = self.cluster(2, ITEMS, ports=True)
        a, b = c.nodes
        b.sql("INSERT INTO item VALUES ('before', 1)")
        c.converge()
        b.stop()
        image = b.instance + ".image"
        shutil.copytree(b.instance, image, ignore=shutil.ignore_patterns("*.sock"))
        b.restart()
        b.sql("INSERT INTO item VALUES ('only the cluster', 2), ('both', 2)")
        c.converge()
        b.stop()
        a.stop()
        self.put_back(image, b)
        b.sql("INSERT INTO item VALUES ('only the image', 3), ('both', 3)")
        self.assertEqual(b.cli("wait", "--timeout", 10).code, 0)
        a.restart(rejoin=False)
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        b.sql("INSERT INTO item VALUES ('after', 4)")
        poll(lambda: b.log_lines("has other writes of this server under the same versions"), what="it hears of it")
        c.converge()
        for n in (a, b):
            self.assertEqual(n.sql("SELECT id, v FROM item ORDER BY id"),
                             [("after", 4), ("before", 1), ("both", 2), ("only the cluster", 2), ("only the image", 3)])
            poll(lambda: n.json("conflicts")["conflicts"], what="the value that lost is listed")
        self.assertTrue(a.log_lines('the history of "%s" has forked' % b.name))
        poll(lambda: a.log_lines("goes on under a new epoch"))
        b.sql("UPDATE item SET v = 5 WHERE id = 'after'")
        c.converge()

    def two_branches(self, first, second):
        """a took the first branch of f's history, c the second one: all of both is everywhere in the end."""
        con = self.cluster(3, ITEMS, ports=True)
        a, c, f = con.nodes
        f.sql("INSERT INTO item VALUES ('before', 1)")
        con.converge()
        c.stop()
        f.stop()
        image = f.instance + ".image"
        shutil.copytree(f.instance, image, ignore=shutil.ignore_patterns("*.sock"))
        f.restart()
        for i in range(first):
            f.sql("INSERT INTO item VALUES (?, 1)", ("first%d" % i,))
            poll(lambda: a.sql("SELECT count(*) FROM item WHERE id = ?", ("first%d" % i,)) == [(1,)])
        a.sql("UPDATE item SET v = 2 WHERE id = 'first0'")
        poll(lambda: f.sql("SELECT v FROM item WHERE id = 'first0'") == [(2,)])
        f.stop()
        a.stop()
        self.put_back(image, f)
        c.restart(rejoin=False)
        for i in range(second):
            f.sql("INSERT INTO item VALUES (?, 1)", ("second%d" % i,))
            poll(lambda: c.sql("SELECT count(*) FROM item WHERE id = ?", ("second%d" % i,)) == [(1,)])
        c.sql("UPDATE item SET v = 3 WHERE id = 'second0'")
        poll(lambda: f.sql("SELECT v FROM item WHERE id = 'second0'") == [(3,)])
        a.restart(rejoin=False)
        for n in (a, c, f):
            n.sql("INSERT INTO item VALUES (?, 4)", ("after, at " + n.name,))
        expected = [("first%d" % i, 1 if i else 2) for i in range(first)] + [("second%d" % i, 1 if i else 3) for i in range(second)]
        expected += [("before", 1)] + [("after, at " + n.name, 4) for n in (a, c, f)]
        for n in (a, c, f):
            poll(lambda: n.sql("SELECT id, v FROM item ORDER BY id") == sorted(expected), 30, "all is at " + n.name)
        con.converge()

    def test_two_others_of_whom_one_took_the_longer_branch(self):
        self.two_branches(3, 1)

    def test_two_others_of_whom_one_took_the_shorter_branch(self):
        self.two_branches(1, 3)


if __name__ == "__main__":
    harness.main()
