# SPDX-License-Identifier: Apache-2.0
"""What keys, limits, budgets, prices, ledger, metrics and access log cost: the phase `governed` of bench/run.

The same configuration (governed.yaml.in) is run with its store in SQLite, as it comes; with 100,000 keys in that
store; with limits in a private Redis; and with the store in a private PostgreSQL. These two run on the load's core, so
that what they use is not Sluice's, and keep everything in /dev/shm, so that no disk is measured.

The one hard thing is PostgreSQL, which refuses to run as root: then it runs as `postgres` or `nobody`, in a folder
that is theirs."""

import glob
import hashlib
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

from rig import BENCH_KEY, BenchError, Server, port_find, proc_cpu_us, proc_pin, program_find

CONNECTIONS = 64
END_USERS = 1000000
FEW_USERS = 20000  # so many that none comes to his limit, 100 requests a minute
KEYS = 100000
SCOPE_MODELS = 1  # IDENTITY_MODELS
USER_BUDGETS = "  per_user: {tokens: 1000000000/day}\n"  # behind the budgets that governed.yaml ends with


def key_text(number):
    return f"sk-sluice-{number:043d}"


# ---- what they lean on ----


def keys_make(bench, server):
    """Start the server once, for its tables, and fill them."""
    server.start()
    server.stop()
    paths = glob.glob(f"{bench.dir}/data-{server.port}/*.db")
    if len(paths) != 1:
        raise BenchError(f"no store in {bench.dir}/data-{server.port}")
    row = ("default", "default", "bench", "…", SCOPE_MODELS, "", "", "", "", 0, 0, 1, 0, 0, 0)
    with sqlite3.connect(paths[0]) as db:
        db.executemany(
            "INSERT INTO keys (id, hash, org_id, project_id, name, hint, scopes, models, ips, limits, budgets, "
            "expires_ms, disabled, created_ms, rotated_ms, old_expires_ms, revoked_ms, changed) "
            f"VALUES (?, ?, {', '.join('?' * len(row))}, 1)",
            ((f"key_{i:024d}", hashlib.sha256(key_text(i).encode()).digest(), *row) for i in range(KEYS)),
        )
    db.close()


def redis_start(bench):
    """The configuration that uses it."""
    port = port_find()
    command = [program_find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
               "--appendonly", "no", "--dir", str(bench.dir)]
    bench.servers.append(Server("redis", command, port, bench.load_core, bench.dir / "redis.log"))
    bench.servers[-1].start(path=None)
    return f'redis: {{url: "redis://127.0.0.1:{port}"}}\n'


class Postgres(Server):
    """A cluster of its own in a folder of its own, which goes with it."""

    def __init__(self, bench):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not programs:
            raise BenchError("PostgreSQL is not installed")
        self.folder = tempfile.mkdtemp(prefix="sluice-bench-pg-", dir=bench.dir.parent)
        port = port_find()
        command = [f"{programs[-1]}/postgres", "-D", f"{self.folder}/data", "-p", str(port), "-c",
                   "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        super().__init__("postgres", command, port, bench.load_core, bench.dir / "postgres.log")
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self.folder, self.user)
        subprocess.run([f"{programs[-1]}/initdb", "-D", f"{self.folder}/data", "-U", "bench", "-A", "trust", "-N"],
                       user=self.user, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def postgres_start(bench):
    server = Postgres(bench)
    bench.servers.append(server)
    server.start(path=None)
    time.sleep(0.5)  # it listens before it serves
    return f'store: "postgresql://bench@127.0.0.1:{server.port}/postgres"\n'


# ---- the phase ----


def servers_start(bench):
    """{name: (server, key)}; what is not installed is left out."""
    found = {"governed": (bench.proxy("governed", conf="governed.yaml").start(), BENCH_KEY)}
    full = bench.proxy("keys", conf="governed.yaml")
    keys_make(bench, full)
    found["keys"] = (full.start(), key_text(KEYS // 3))
    for name, start in (("redis", redis_start), ("postgres", postgres_start)):
        try:
            more = start(bench)
        except BenchError as e:
            print(f"governed: without {name}: {e}", file=sys.stderr)
            continue
        found[name] = (bench.proxy(f"with-{name}", conf="governed.yaml", more=more).start(), BENCH_KEY)
    return found


# Users' sums are written in bursts, one for a quarter of a million requests: these lines have several turns in each round,
# enough for a dozen, and are all CPU time that the server took over all its requests, not medians of slices. nginx takes
# each turn with them, so that both have had the same seconds.
WHOLE = ("cpu_few", "cpu_users", "cpu_budgets")
WHOLE_TURNS = 6


def slice_cpu(run, spent, line, name, server, caller):
    """A second of load; adds its CPU µs to `spent`, with its requests. Returns CPU µs per request."""
    before_us = proc_cpu_us(server.pid)
    result = run.bench.wrk(server.port, 1, CONNECTIONS, caller=caller)
    if result["errors"] or not result["requests"]:
        run.problem(name, f"{result['errors']} errors in {result['requests']} requests ({line})")
    cpu_us = proc_cpu_us(server.pid) - before_us
    before = spent.get((line, name), (0, 0))
    spent[line, name] = (before[0] + cpu_us, before[1] + result["requests"])
    return cpu_us / max(result["requests"], 1)


def take_means(run, spent, cases):
    """What a server did between its slices is counted as well; what another line had of it is not."""
    nginx_us, nginx_requests = spent["turns", "nginx"]
    for line, _, server, _ in cases:
        if line not in WHOLE:
            continue
        others_us = sum(spent[other, "sluice"][0] for other, _, of, _ in cases if of is server and other != line)
        mean = (proc_cpu_us(server.pid) - others_us) / max(spent[line, "sluice"][1], 1)
        run.values[line] = {"sluice": [mean] * run.rounds,
                            "nginx": [nginx_us / max(nginx_requests, 1)] * run.rounds}


def measure_cpu(run, found):
    nginx = run.servers["nginx"]
    cases = [("cpu_governed", "nginx", nginx, ()), ("cpu_plain", "sluice", run.servers["sluice"], ())]
    cases += [(f"cpu_{name}", "sluice", server, (key,)) for name, (server, key) in found.items()]
    users = run.bench.proxy("users", conf="governed.yaml").start()
    few = run.bench.proxy("few", conf="governed.yaml").start()
    budgets = run.bench.proxy("budgets", conf="governed.yaml", more=USER_BUDGETS).start()
    # long after those users, so that it has none of their sums
    cases.append(("cpu_known", "sluice", users, (BENCH_KEY,)))
    whole = [("turns", "nginx", nginx, ()),
             ("cpu_few", "sluice", few, (BENCH_KEY, FEW_USERS)),
             ("cpu_users", "sluice", users, (BENCH_KEY, END_USERS)),
             ("cpu_budgets", "sluice", budgets, (BENCH_KEY, FEW_USERS))]
    spent = {}
    for i in range(run.rounds):
        first = i % len(cases)
        for case in cases[first:] + cases[:first]:
            run.add(*case[:2], slice_cpu(run, spent, *case))
        for case in whole * WHOLE_TURNS:
            slice_cpu(run, spent, *case)
        run.bench.logs_empty()
    for line, *_ in cases:
        run.values[line]["nginx"] = run.values["cpu_governed"]["nginx"]
    take_means(run, spent, cases + whole)


def measure_latency(run, found):
    """One connection, everything on one core, as the phase `latency` does it."""
    servers = {"direct": (run.bench.mock, None), "plain": (run.servers["sluice"], None), **found}
    del servers["keys"]
    for server, _ in servers.values():
        proc_pin(server.pid, run.bench.load_core)
    for _ in range(run.rounds):
        p50 = {name: run.bench.wrk(server.port, 1, 1, caller=(key,) if key else ())["p50_us"]
               for name, (server, key) in servers.items()}
        for name in servers:
            if name != "direct":
                run.add(f"added_{name}", "sluice", p50[name] - p50["direct"])
    proc_pin(run.servers["sluice"].pid, run.bench.proxy_core)


def measure(run):
    others = list(run.bench.servers)
    found = servers_start(run.bench)
    try:
        measure_cpu(run, found)
        measure_latency(run, found)
    finally:
        for server in reversed([s for s in run.bench.servers if s not in others]):
            server.stop()
            run.bench.servers.remove(server)
