"""Files of a server that leaves: what is there alone is handed over first."""
import os
import threading
import unittest

from harness import holds, poll
from test_files import STILL, FilesTest, read, write


class Leave(FilesTest):
    def leaver(self, c, still_ms):
        node = self.make("leaver", join=[c[0]], extra=["--set", "still_ms=%d" % still_ms]).start()
        poll(lambda: node.alive() == 2 and c[0].alive() == 2)
        node.cli("wait", "--converged", "--members", "2")
        return node

    def test_what_was_just_written_is_handed_over(self):
        c = self.files(1)
        node = self.leaver(c, 1000)
        write(node, "uploads/only.jpg", b"the only copy" * 1000)
        done = node.cli("leave")
        self.assertEqual(done.code, 0, done)
        self.assertEqual(read(c[0], "uploads/only.jpg"), b"the only copy" * 1000)
        self.assertEqual(node.wait_end(), 0)

    def test_nobody_leaves_with_half_a_file(self):
        """What is still being written, or was written while another was asked, is waited for."""
        c = self.files(1)
        node = self.leaver(c, 50)
        write(node, "chat.json", b'[{"id": 1}, {"id"')
        node.cli("wait", "--converged", "--timeout", "5")  # nobody waits for half a JSON
        done = []
        leaving = threading.Thread(target=lambda: done.append(node.cli("leave")))
        leaving.start()
        holds(lambda: not done, 0.5)
        write(node, "chat.json", b'[{"id": 1}, {"id": 2}]')
        leaving.join()
        self.assertEqual(done[0].code, 0, done)
        self.assertEqual(read(c[0], "chat.json"), b'[{"id": 1}, {"id": 2}]')
        self.assertEqual(node.wait_end(), 0)


if __name__ == "__main__":
    unittest.main()
