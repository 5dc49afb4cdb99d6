#!/usr/bin/python3
"""Random schemas and random writers, run by schemas_driver: two to four servers against each other, and against a plain SQLite database
to which the same statements ran in the same order.

    schemas.py run [--seed N] [--count N] [--seconds N] [--jobs N] [--without WHAT[,WHAT]] DRIVER
    schemas.py show SEED [--without …]          the script of one schema, for schemas_driver's stdin

A script depends on its seed (and on --without) alone. A failure prints its seed, the least script that still fails in the same way, and how to
repeat it.

What keeps the servers' writes apart, so that the plain database can tell what everybody must hold in the end:
- each server has a space of its own: keys, UNIQUE values and references of its rows come from it, and so do the rows that its statements name;
- numbered keys, and statements on all rows, come in rounds in which a table (with all that foreign keys and triggers tie to it) has one writer;
- a round ends in quiet: everybody has everything, and the driver looks at all that must then be true;
- migrations run on one server after the other, with rows in flight; what is written meanwhile names what old and new shapes share."""
import argparse
import os
import queue
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
from random_script import Part, Script  # noqa: E402

# Kinds (of --without) that this engine is known not to do right yet, with the reason: left out unless --all. What no engine could do is not
# written at all, and said where it is left out (random_script.py, random_writer.py).
KNOWN = {}


def drive(driver, lines, timeout=60):
    """Kind of failure and the driver's words; None when the script passes."""
    try:
        p = subprocess.run([driver], input='\n'.join(lines) + '\n', capture_output=True, text=True, errors='replace', timeout=timeout)
    except subprocess.TimeoutExpired:
        return 'timeout', 'the driver does not end within %d s' % timeout
    if p.returncode == 0:
        return None
    for line in p.stdout.splitlines():
        if line.startswith('failed '):
            return line.split(' ', 4)[3], p.stdout[p.stdout.index(line):].strip()
    return 'crash', 'the driver ends with %d\n%s' % (p.returncode, p.stderr[-3000:])


def shrink(driver, script, kind, seconds=60):
    """The script with as few blocks, and then lines, as still fail in this way. Quiet stays: it is what keeps writers apart."""
    end = time.time() + seconds

    def fails(blocks):
        found = drive(driver, script.lines(blocks))
        return found is not None and found[0] == kind

    def less(items, pinned):
        step = max(1, len(items) // 2)
        while step and time.time() < end:
            i = 0
            while i < len(items) and time.time() < end:
                fewer = items[:i] + [x for x in items[i:i + step] if pinned(x)] + items[i + step:]
                if len(fewer) < len(items) and fails(fewer):
                    items = fewer
                else:
                    i += step
            step //= 2
        return items

    blocks = script.blocks
    for m in sorted({b.migration for b in blocks if isinstance(b, Part)}, reverse=True):
        fewer = [b for b in blocks if not isinstance(b, Part) or b.migration != m]
        blocks = fewer if fails(fewer) else blocks
    blocks = less(blocks, lambda b: isinstance(b, Part) or b in (['quiet'], ['start']))
    lines = [x for b in blocks for x in ([b] if isinstance(b, Part) else [[line] for line in b])]
    return less(lines, lambda b: isinstance(b, Part) or b in (['quiet'], ['start']))


class Runner:
    def __init__(self, options):
        self.o = options
        self.without = set(options.without) | (set() if options.all else set(KNOWN))
        self.lock = threading.Lock()
        self.done, self.failed, self.skipped, self.did = 0, [], {}, [0, 0, 0]
        self.end = time.time() + options.seconds

    def report(self, seed, kind, words):
        script = Script(seed, self.without)
        first = ' '.join(words.split('\n')[:1])[:300]
        with self.lock:
            self.failed.append((seed, kind, first))
        out = ['schemas: seed %d FAILED: %s' % (seed, words)]
        if self.o.shrink:
            least = shrink(self.o.driver, script, kind, self.o.shrink)
            found = drive(self.o.driver, script.lines(least))
            out += ['--- the least script that fails so:'] + script.lines(least) + ['---', found[1] if found else '(it passes now)']
        out.append('repeat it: %s show %d%s | %s' % (sys.argv[0], seed, ' --without ' + ','.join(sorted(self.without)) if self.without else '',
                                                    self.o.driver))
        with self.lock:
            print('\n'.join(out), flush=True)

    def chunk(self, seeds):
        while seeds:
            lines = [line for s in seeds for line in Script(s, self.without).lines()]
            try:
                p = subprocess.run([self.o.driver], input='\n'.join(lines) + '\n', capture_output=True, text=True, errors='replace',
                                   timeout=60 + 10 * len(seeds))
                out, code, err = p.stdout, p.returncode, p.stderr
            except subprocess.TimeoutExpired as e:
                out, code, err = (e.stdout or b'').decode(errors='replace'), -1, 'timeout'
            ok = 0
            with self.lock:
                for line in out.splitlines():
                    words = line.split(' ', 2)
                    if words[0] == 'ok':
                        ok += 1
                    elif words[0] == 'skipped':
                        self.skipped[words[2]] = self.skipped.get(words[2], 0) + int(words[1])
                    elif words[0] == 'did':
                        n = line.split(' ')
                        self.did = [a + int(b) for a, b in zip(self.did, (n[1], n[3], n[5]))]
                self.done += ok
            if code == 0 and ok == len(seeds):
                return
            seed = seeds[ok]
            seeds = seeds[ok + 1:]
            self.done += 1
            failed = [line for line in out.splitlines() if line.startswith('failed ')]
            if failed:
                self.report(seed, failed[0].split(' ', 4)[3], out[out.index(failed[0]):].strip())
            else:
                self.report(seed, 'timeout' if err == 'timeout' else 'crash', 'the driver ends with %d\n%s' % (code, err[-3000:]))
            if not self.o.keep_going:
                return

    def run(self):
        todo = queue.Queue()
        for at in range(0, self.o.count, self.o.chunk):
            todo.put(range(self.o.seed + at, self.o.seed + min(at + self.o.chunk, self.o.count)))

        def work():
            while time.time() < self.end and (self.o.keep_going or not self.failed):
                try:
                    seeds = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.chunk(list(seeds))
                except Exception as e:      # else fewer scripts would pass, and nobody would know
                    with self.lock:
                        self.failed.append((seeds[0], 'generator', 'the generator itself fails: %r' % e))
                    raise
        threads = [threading.Thread(target=work) for _ in range(self.o.jobs)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        print('schemas: %d schemas, %d comparisons of tables, %d statements (%d of them refused)' % (self.done, *self.did))
        for why, n in sorted(self.skipped.items()):
            print('schemas: not compared %d times: %s' % (n, why))
        for seed, kind, first in sorted(self.failed, key=lambda f: f[1]):
            print('schemas: seed %d: %s' % (seed, first))
        print('%d passed, %d failed' % (self.done - len(self.failed), len(self.failed)))
        return 1 if self.failed or not self.done else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument('what', choices=['run', 'show'])
    p.add_argument('driver', help='the built schemas_driver; with show: the seed')
    p.add_argument('--seed', type=int, default=int(os.environ.get('SEED', 0)))
    p.add_argument('--count', type=int, default=1000000)
    p.add_argument('--seconds', type=float, default=1e9)
    p.add_argument('--jobs', type=int, default=os.cpu_count() or 1)
    p.add_argument('--chunk', type=int, default=20)
    p.add_argument('--shrink', type=float, default=60, help='seconds to look for the least script; 0: not')
    p.add_argument('--keep-going', action='store_true')
    p.add_argument('--all', action='store_true', help='also what is known not to be right yet: ' + (', '.join(KNOWN) or 'nothing'))
    p.add_argument('--without', type=lambda t: [w for w in t.split(',') if w], default=[])
    o = p.parse_args()
    if o.what == 'show':
        print('\n'.join(Script(int(o.driver), set(o.without)).lines()))
        return 0
    o.seed = o.seed or int(time.time()) % 100000 * 10000
    print('schemas: from seed %d (SEED=%d repeats them)' % (o.seed, o.seed), flush=True)
    return Runner(o).run()


if __name__ == '__main__':
    sys.exit(main())
