"""The table: figures beside their goals."""
import datetime
import os
import platform
import sqlite3
import subprocess


class Report:
    def __init__(self):
        self.rows = []
        self.load = os.getloadavg()[0]

    def add(self, what, value, unit="", goal=None, least=False, note=""):
        """A figure; with a goal it is to be at most that (least: at least that)."""
        digits = 0 if abs(value) >= 100 or value == int(value) else 2 if abs(value) >= 0.1 else 3
        text = f"{value:,.{digits}f}"
        verdict, goal_text = "", ""
        if goal is not None:
            verdict = "pass" if (value >= goal if least else value <= goal) else "MISS"
            goal_text = ("≥ " if least else "≤ ") + f"{goal:,}"
        self._row(what, (text + " " + unit).strip(), goal_text, verdict, note)

    def failed(self, what, why):
        self._row(what, "–", "", "FAILED", " ".join(str(why).split()).replace("|", "/"))

    def _row(self, *cells):
        self.rows.append(cells)
        print("{:<68} {:>16}  {:<10} {:<6} {}".format(*cells), flush=True)

    def any_failed(self):
        return any(row[3] == "FAILED" for row in self.rows)

    def markdown(self, seconds):
        lines = ["# Results", "", f"Written by `tests/bench/run` in {seconds:.0f} s; every ratio is of figures measured in this run, "
                 "taken in turns, medians over the rounds.", ""]
        lines += [f"- {name}: {value}" for name, value in machine()]
        lines += [f"- Load average of the machine before the run: {self.load:.1f}, after it: {os.getloadavg()[0]:.1f} (the run alone makes about 2; "
                  "with much more, times and rates say little, ratios still something)"]
        lines += ["", "| figure | measured | goal | | note |", "| --- | ---: | ---: | --- | --- |"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def machine():
    def output(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    here = os.path.dirname(os.path.abspath(__file__))
    model = "unknown"
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    changed = "" if output("git", "-C", here, "status", "--porcelain", "--untracked-files=no") == "" else ", with changes"
    return [("Commit", (output("git", "-C", here, "rev-parse", "--short", "HEAD") or "unknown") + changed),
            ("Machine", f"{os.cpu_count()} cores, {model}, Linux {platform.release()}"),
            ("SQLite", sqlite3.sqlite_version),
            ("Date", datetime.date.today().isoformat())]
