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
        copy_contents(image, b.instance)
        b.restart()
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


if __name__ == "__main__":
    harness.main()
