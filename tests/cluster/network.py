"""TCP proxies between nodes, so that each link can be cut, delayed, slowed, left half-open or made to carry rubbish."""
import asyncio
import contextlib
import os
import random
import socket
import threading


def free_port():
    """Below the range that outgoing connections take theirs from: a node that is down for a moment finds its port again."""
    rng = random.SystemRandom()
    while True:
        port = rng.randrange(15000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def _socket():
    """Of a proxy: what the kernel would take in while the proxy reads slowly must not hide how slow it is."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.setblocking(False)
    return s


class Network:
    """TCP proxies, one before each node, which every other node dials since the node advertises it. Who dials is read from the
    kernel's table of sockets, so that one link of many can be disturbed without knowing the protocol."""

    def __init__(self):
        self.ways, self.nodes, self.live = {}, {}, {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.random = random.Random(1)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def attach(self, node):
        port, sock = free_port(), _socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        server = self._do(asyncio.start_server(lambda r, w: self._serve(node, r, w), sock=sock))
        self.nodes[node.name] = (node, port, server)

    def address(self, node):
        return "127.0.0.1:%d" % self.nodes[node.name][1]

    def close(self):
        async def end():
            for _, _, server in self.nodes.values():
                server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
        with contextlib.suppress(Exception):
            self._do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    # ---- what happens between two nodes
    def set(self, a, b, mode="open", delay_ms=0, rate=0):
        """mode: open · cut (closed and refused) · hole (half-open: nothing passes, nothing closes) · garbage (random bytes instead).
        rate: bytes a second each way."""
        pair = frozenset((a.name, b.name))

        async def do():
            self.ways[pair] = (mode, delay_ms / 1000.0, rate)
            if mode == "cut":
                for w in self.live.pop(pair, set()):
                    w.transport.abort()
        self._do(do())

    def cut(self, a, b):
        self.set(a, b, "cut")

    def heal(self, a, b):
        self.set(a, b)

    def isolate(self, node, mode="cut"):
        for other, _, _ in list(self.nodes.values()):
            if other is not node:
                self.set(node, other, mode)

    def heal_all(self):
        nodes = [n for n, _, _ in self.nodes.values()]
        for i, a in enumerate(nodes):
            for b in nodes[i + 1:]:
                self.heal(a, b)

    def _dialler(self, source_port, proxy_port):
        wanted = None
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with contextlib.suppress(OSError), open(table) as f:
                for line in f.readlines()[1:]:
                    part = line.split()
                    if int(part[1].rsplit(":", 1)[1], 16) == source_port and int(part[2].rsplit(":", 1)[1], 16) == proxy_port and part[9] != "0":
                        wanted = "socket:[%s]" % part[9]
        if not wanted:
            return None
        for node, _, _ in self.nodes.values():
            proc = node.proc
            if proc is None:
                continue
            with contextlib.suppress(OSError):
                for fd in os.listdir("/proc/%d/fd" % proc.pid):
                    with contextlib.suppress(OSError):
                        if os.readlink("/proc/%d/fd/%s" % (proc.pid, fd)) == wanted:
                            return node
        return None

    async def _serve(self, node, reader, writer):
        proxy_port = self.nodes[node.name][1]
        dialler = self._dialler(writer.get_extra_info("peername")[1], proxy_port)
        pair = frozenset((node.name, dialler.name)) if dialler else None
        if self.ways.get(pair, ("open",))[0] == "cut":
            writer.transport.abort()
            return
        try:
            sock = _socket()
            await self.loop.sock_connect(sock, ("127.0.0.1", node.port))
            up_reader, up_writer = await asyncio.open_connection(sock=sock)
        except OSError:
            sock.close()
            writer.transport.abort()
            return
        self.live.setdefault(pair, set()).update((writer, up_writer))
        try:
            await asyncio.gather(self._pump(pair, reader, up_writer), self._pump(pair, up_reader, writer))
        finally:
            self.live.get(pair, set()).difference_update((writer, up_writer))
            for w in (writer, up_writer):
                w.transport.abort()

    async def _pump(self, pair, reader, writer):
        queue = asyncio.Queue(64)

        async def out():
            while True:
                due, piece = await queue.get()
                wait = due - self.loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                while self.ways.get(pair, ("open",))[0] == "hole":
                    await asyncio.sleep(0.02)
                if piece is None:
                    break
                writer.write(piece)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()

        async def into():
            while True:
                mode, delay, rate = self.ways.get(pair, ("open", 0, 0))
                piece = await reader.read(4096 if rate else 262144)
                if not piece:
                    await queue.put((0, None))
                    return
                mode, delay, rate = self.ways.get(pair, ("open", 0, 0))
                if mode == "garbage":
                    piece = self.random.randbytes(len(piece))
                if rate:
                    await asyncio.sleep(len(piece) / rate)
                await queue.put((self.loop.time() + delay, piece))
        with contextlib.suppress(OSError):
            await asyncio.gather(into(), out())
