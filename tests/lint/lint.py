#!/usr/bin/python3
"""House rules that a machine can check. Prints file:line: what; then "N passed, M failed" (checks, not findings)."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES_MAX = 900
BANNED = ("strcpy stpcpy strcat strncat sprintf vsprintf gets strtok atoi atol atoll atof system popen tmpnam tempnam mktemp "
          "alloca rand srand random").split()
# Who may include what of ours: folder -> prefixes, and headers that it must not see. The first match counts.
BOUNDARIES = (
    ("proto/", ("proto/",), ("uv.h", "sqlite3.h", "jansson.h", "confuse.h")),
    ("node/store/", ("proto/", "node/store/"), ("uv.h", "confuse.h")),
    ("node/", ("proto/", "node/"), ()),
    ("tools/sim/", ("proto/", "node/store/", "tools/sim/"), ("uv.h",)),
    ("tools/", ("proto/", "tools/", "node/admin/admin.h"), ("uv.h", "sqlite3.h")),
)
# A pause is fair between two looks of a loop that has a deadline, where a comment says that it paces a load or waits for a random moment,
# in the harness of the cluster tests, and in measurements.
FAIR_PAUSE = re.compile(r"deadline|poll|\bpaces?\b|random moment", re.I)
HARNESS = ("tests/cluster/harness.py", "tests/cluster/network.py", "tests/bench/", "tests/lint/")


def files():
    """Paths of the repository: tracked ones and new ones; everything when it is no checkout."""
    listed = None
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"],
                                capture_output=True, text=True)
    if listed and listed.returncode == 0:
        names = [n for n in listed.stdout.split("\0") if n]
    else:
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
        names = [n for n in names if not re.match(r"(build[^/]*|\.git)/", n) and "__pycache__" not in n]
    return sorted(n for n in names if (ROOT / n).is_file())


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def code_of(text):
    """C with comments and literals blanked, line by line."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def matches(name, text, pattern):
    for number, line in enumerate(text.splitlines(), 1):
        for m in re.finditer(pattern, line):
            yield f"{name}:{number}", m


def check_format(names):
    """C is formatted by .clang-format, as Debian 12's clang-format reads it."""
    version = subprocess.run(["clang-format", "--version"], capture_output=True, text=True).stdout
    if not re.search(r"version 14\.", version):  # others' idea of the same settings differs in a few places
        print(f"       format is not looked at: {version.strip()}")
        return
    for name in names:
        if name.endswith((".c", ".h")):
            done = subprocess.run(["clang-format", "--dry-run", "--ferror-limit=1", name], cwd=ROOT, capture_output=True, text=True)
            first = next((line for line in done.stderr.splitlines() if "warning" in line or "error" in line), None)
            if first:
                yield first


def check_banned(names):
    """Functions that cannot be used safely are not used."""
    pattern = r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\("
    for name in names:
        if name.endswith((".c", ".h")):
            for where, m in matches(name, code_of(text_of(name)), pattern):
                yield f"{where}: {m.group(1)}() is banned"


def check_includes(names):
    """Dependencies point one way: proto, store, node; tools know only the documented socket."""
    for name in names:
        rule = next((r for r in BOUNDARIES if name.startswith(r[0])), None)
        if not rule or not name.endswith((".c", ".h", ".def")):
            continue
        for where, m in matches(name, text_of(name), r'^\s*#\s*include\s+["<]([^">]+)[">]'):
            header = m.group(1)
            ours = re.match(r"(proto|node|tools|tests)/", header)
            if (ours and not header.startswith(rule[1])) or header in rule[2]:
                yield f"{where}: {rule[0]} must not include {header}"
            if not ours and (ROOT / name).parent.joinpath(header).is_file():
                yield f'{where}: write the path from the root: #include "{pathlib.Path(name).parent}/{header}"'


def function_above(lines, number, pattern):
    """The lines from the last definition above a line to that line."""
    for i in range(number, -1, -1):
        if re.match(pattern, lines[i]):
            return lines[i:number + 1]
    return lines[:number + 1]


def check_sleeps(names):
    """Tests never sleep for luck: they poll a condition with a deadline."""
    for name in names:
        if not name.startswith("tests/") or not name.endswith((".c", ".h", ".py")) or name.startswith(HARNESS):
            continue
        text = text_of(name)
        python = name.endswith(".py")
        lines, shown = (text if python else code_of(text)).splitlines(), text.splitlines()
        define = r"\s*def \w+" if python else r"[a-z].*?\b\w+\([^;]*$"
        call = r"\b(time\.|asyncio\.)?sleep\s*\(" if python else r"\b(sleep|usleep|nanosleep|uv_sleep|sqlite3_sleep)\s*\("
        for i, line in enumerate(lines):
            if re.search(call, line.split("#")[0] if python else line):
                if not FAIR_PAUSE.search("\n".join(function_above(lines, i, define)) + shown[i]):
                    yield f"{name}:{i + 1}: sleeps for luck: poll a condition with a deadline"


def check_length(names):
    """A file that is very long hides two ideas."""
    for name in names:
        if name.endswith((".c", ".h", ".py", ".sh")):
            count = text_of(name).count("\n")
            if count > LINES_MAX:
                yield f"{name}: {count} lines; at most {LINES_MAX}"


def check_promises(names):
    """Nothing is left for later."""
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    for name in names:
        if name != "LICENSE":
            for where, m in matches(name, text_of(name), rf"\b({words})\b"):
                yield f"{where}: {m.group(1)}"


def check_binaries(names):
    """Sources only; a fuzz corpus may hold bytes, in small files."""
    for name in names:
        data = (ROOT / name).read_bytes()
        corpus = re.match(r"tests/(fuzz|unit|sim|model)/.*corpus", name)
        if b"\0" in data[:8192] and not corpus:
            yield f"{name}: a binary"
        elif len(data) > 1 << 20 or (corpus and len(data) > 65536):
            yield f"{name}: {len(data)} bytes"


def check_scripts(names):
    """Scripts parse."""
    for name in names:
        head = (ROOT / name).read_bytes()[:64].split(b"\n")[0]
        if head.startswith(b"#!") and b"bash" in head:
            done = subprocess.run(["bash", "-n", ROOT / name], capture_output=True, text=True)
            if done.returncode:
                yield f"{name}: {done.stderr.strip()}"
        if head.startswith(b"#!") and not os.access(ROOT / name, os.X_OK):
            yield f"{name}: not executable"


def main():
    names = files()
    checks = [check for name, check in globals().items() if name.startswith("check_")]
    wanted = sys.argv[1:]
    failed = 0
    for check in checks:
        name = check.__name__[len("check_"):]
        if wanted and name not in wanted:
            continue
        findings = list(check(names))
        failed += bool(findings)
        for finding in findings:
            print(finding)
        print(f"{'FAILED' if findings else 'ok':6} {name}: {check.__doc__}" + (f" ({len(findings)})" if findings else ""))
    count = len(wanted) or len(checks)
    print(f"{count - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
