# SPDX-License-Identifier: Apache-2.0
"""The ways to a Redis: rights, TLS, sentinels that change the master, a cluster whose nodes share the keys, and another one by
reload. What limits do there is in test_limits_shared.py.
"""
import re
import time

import pytest
import trustme
from caller import Stream
from redis_server import Cluster, Redis, Sentinels
from sluice import BUSY_S, HANG_GUARD_S, ROOT, provider_config
from tenants import bearer, send
from test_limits import limits, metrics, statuses, user
from test_limits_shared import RECOVERY_S, fallbacks, keys_of, redis_config, share_holds, wait_shared

OF_NO_USE = "redis is of no use: this process keeps its share of the limits by itself"
UNHEARD = "redis refuses a command whose answer nobody awaits"
SHARE = "limits: {replicas: 2, per_user: {requests: 4/1h}}\nworkers: 1\n"


@pytest.fixture
def redis():
    with Redis() as server:
        yield server


# ---- rights ----

def acl_of_the_page():
    """The commands that docs/redis.md says are needed, as arguments of ACL SETUSER."""
    text = (ROOT / "docs/redis.md").read_text()
    return re.search(r"'~sluice:\*' ((?:[\s\\]*\+\w+)+)", text)[1].replace("\\", " ").split()


def test_the_documented_permissions_are_enough(sluice, provider, redis):
    assert redis.command("ACL", "SETUSER", "sluice", "reset", "on", ">p@ss:w/rd", "~sluice:*",
                         *acl_of_the_page()) == "OK"
    url = redis.url.replace("//", "//sluice:p%40ss%3Aw%2Frd@") + "/3"
    server = sluice(limits(per_user="requests: 2/1h, tokens: 5000/1h, streams: 2", per_project="tokens: 9000/1h") +
                    f'redis: {{url: "{url}", timeout: 2s}}\n' + provider_config(provider))
    with Stream(server, headers=user("alice")) as stream:
        stream.rest()
    assert statuses(server, 2, user("alice")) == [200, 429]
    assert fallbacks(server) == 0 and metrics(server)["sluice_redis_up"] == 1
    log = redis.command("ACL", "LOG")
    assert log == [], log
    server.stop()
    assert "p@ss" not in "\n".join(server.stderr) and "p%40ss" not in "\n".join(server.stderr)


# What a connection, a call and its end run into; AUTH is everybody's.
NEEDED = {"select": OF_NO_USE, "set": OF_NO_USE, "get": OF_NO_USE, "eval": OF_NO_USE, "evalsha": OF_NO_USE,
          "time": OF_NO_USE, "zadd": OF_NO_USE, "zcard": OF_NO_USE, "zremrangebyscore": OF_NO_USE, "pexpire": OF_NO_USE,
          "zrem": UNHEARD, "del": None}


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_right_is_told_by_its_name(sluice, provider, redis, missing):
    """Everybody is served on meanwhile, and the right is enough when it is given."""
    rights = [right for right in acl_of_the_page() if right != f"+{missing}"]
    assert len(rights) < len(acl_of_the_page())
    assert redis.command("ACL", "SETUSER", "sluice", "reset", "on", ">word", "~sluice:*", *rights) == "OK"
    url = redis.url.replace("//", "//sluice:word@") + "/3"
    server = sluice("limits: {per_user: {requests: 9/1h, tokens: 900/1s, streams: 9}}\nworkers: 1\n" +
                    f'redis: {{url: "{url}", timeout: 2s}}\n' + provider_config(provider))
    for name in ("alice", "bob"):
        assert statuses(server, 3, user(name)) == [200] * 3
    if NEEDED[missing]:
        text = server.wait_log(NEEDED[missing])["text"]
        assert missing in text.lower() and "perm" in text.lower(), text
    assert redis.command("ACL", "SETUSER", "sluice", f"+{missing}") == "OK"
    took_s, began = 0, time.monotonic()
    while not any(key.endswith(":dora") for key in redis_keys(redis, 3)):
        statuses(server, 1, user("dora"))
        took_s = time.monotonic() - began
        assert took_s < RECOVERY_S + BUSY_S
        time.sleep(0.05)


def redis_keys(redis, database):
    """The owners of limits in a database that is not the first."""
    script = "redis.call('SELECT', ARGV[1]) return redis.call('KEYS', 'sluice:limit:*')"
    return redis.command("EVAL", script, 0, database)


# ---- TLS ----

AUTHORITIES = ["system", "address", "wrong-system", "wrong-address", "no-such-file"]


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_redis_by_tls(sluice, provider, tmp_path, kind):
    """rediss:// checks the certificate against the system's authorities, or those of the file that the address names."""
    right, other = trustme.CA(), trustme.CA()
    (other if "wrong" in kind else right).cert_pem.write_to_path(tmp_path / "ca.pem")
    with Redis(tls=right) as redis:
        url = redis.url + (f"?ca={tmp_path}/ca.pem" if "address" in kind else "")
        environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")} if "system" in kind else None
        if kind == "no-such-file":
            refused = sluice(SHARE + f'redis: {{url: "{url}?ca={tmp_path}/none.pem"}}\n', wait=False)
            assert refused.wait_exit(expected=None) != 0
            assert f"{tmp_path}/none.pem" in "\n".join(refused.stderr), refused.stderr
            return
        server = sluice(SHARE + f'redis: {{url: "{url}", timeout: 2s}}\n' + provider_config(provider),
                        environment=environment)
        if "wrong" not in kind:
            assert statuses(server, 5, user("alice")) == [200] * 4 + [429] and fallbacks(server) == 0
            assert keys_of(redis)
        else:
            share_holds(server, "alice")
            assert keys_of(redis) == []
            text = server.wait_log(OF_NO_USE)["text"]
            assert "certificate" in text, text


# ---- sentinels ----

def wait_copied(node):
    """Until its replica has all that the node has written so far: it is sent after the answer."""
    written = int(node.command("ROLE")[1])
    end = time.monotonic() + HANG_GUARD_S
    while min((int(replica[2]) for replica in node.command("ROLE")[2]), default=0) < written:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["handed-over", "killed"])
def test_sentinels_change_the_master_while_serving(sluice, provider, kind):
    """Nobody is refused for it, and what was counted stays counted. From the moment in which the sentinels name the new master
    it takes at most two seconds until limits are kept there."""
    count = 3 if kind == "killed" else 1
    with Redis() as master, Redis() as replica, Sentinels(master, replica, count) as sentinels:
        server = sluice("limits: {replicas: 2, per_user: {requests: 5/1h}}\nworkers: 1\n" +
                        redis_config(sentinels, "100ms") + provider_config(provider))
        wait_shared(server, master)
        assert statuses(server, 3, user("alice")) == [200] * 3
        wait_copied(master)
        if kind == "killed":
            master.kill()
            assert statuses(server, 10, user("bob")).count(200) == 2      # this process's share
            sentinels.wait_switched()
        else:
            sentinels.fail_over()
        took_s = wait_shared(server, replica)
        assert took_s < RECOVERY_S + BUSY_S, took_s
        found = statuses(server, 5, user("alice"))
        assert found[-1] == 429 and found.count(200) <= 2, found
        assert metrics(server)["sluice_redis_up"] == 1
        print(f"in use {took_s:.2f} s after the switch")


@pytest.mark.parametrize("kind", ["tls", "wrong-tls", "login", "wrong-login"])
def test_sentinels_by_tls_and_behind_a_login(sluice, provider, tmp_path, kind):
    """A sentinel that asks for a login gets the server's; all are asked by TLS where the address says so."""
    authority = trustme.CA() if "tls" in kind else None
    (trustme.CA() if kind == "wrong-tls" else authority or trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    with Redis(tls=authority) as master, Redis(tls=authority) as replica, \
            Sentinels(master, replica, 1, ("sluice", "word") if "login" in kind else None) as sentinels:
        assert master.command("ACL", "SETUSER", "sluice", "reset", "on", ">word", "~sluice:*", *acl_of_the_page()) == "OK"
        url = sentinels.url.replace("//", f"//sluice:{'other' if kind == 'wrong-login' else 'word'}@")
        url += f"?ca={tmp_path}/ca.pem" if authority else ""
        server = sluice(SHARE + f'redis: {{url: "{url}", timeout: 2s}}\n' + provider_config(provider))
        if "wrong" in kind:
            share_holds(server, "alice")
            text = server.wait_log(OF_NO_USE)["text"]
            assert ("certificate" if authority else "refuses AUTH: WRONGPASS") in text, text
            return
        wait_shared(server, master)
        assert statuses(server, 5, user("alice"))[-1] == 429 and metrics(server)["sluice_redis_up"] == 1


def test_a_missing_right_to_ask_for_the_role_is_told(sluice, provider):
    with Redis() as master, Redis() as replica, Sentinels(master, replica, count=1) as sentinels:
        rights = [right for right in acl_of_the_page() if right != "+role"]
        assert master.command("ACL", "SETUSER", "sluice", "reset", "on", ">word", "~sluice:*", *rights) == "OK"
        url = sentinels.url.replace("//", "//sluice:word@")
        server = sluice(SHARE + f'redis: {{url: "{url}", timeout: 1s}}\n' + provider_config(provider))
        share_holds(server, "alice")
        assert "refuses ROLE: NOPERM" in server.wait_log(OF_NO_USE)["text"]


# ---- a cluster ----

def make_callers(server, count):
    """Keys of as many projects, which are in different slots."""
    def make(kind, **members):
        return send(server.admin_port, "POST", f"/admin/{kind}", members).json

    projects = [make("projects", name=f"p{i}")["id"] for i in range(count)]
    return [(project, bearer(make("keys", name="k", project=project)["key"])) for project in projects]


def project_key(project):
    return f"sluice:limit:{{{project}}}:pr:"


def asked(server, headers, count):
    return statuses(server, count, headers)


CLUSTER_LIMITS = "limits: {replicas: 1, per_project: {requests: 4/1h}}\nworkers: 1\n"


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_cluster_keeps_each_project_on_one_node(sluice, provider, tmp_path, kind):
    """Of which one node is known; limits are exact on all of them."""
    authority = trustme.CA() if kind == "tls" else None
    more = ""
    if authority:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        more = f"?ca={tmp_path}/ca.pem"
    with Cluster(3, tls=authority) as cluster:
        server = sluice(CLUSTER_LIMITS + provider_config(provider) + f'redis: {{url: "{cluster.url}{more}", timeout: 2s}}\n')
        callers = make_callers(server, 9)
        for _, headers in callers:
            assert asked(server, headers, 5) == [200] * 4 + [429]
        assert fallbacks(server) == 0 and metrics(server)["sluice_redis_up"] == 1
        for project, _ in callers:
            node = cluster.owner(project_key(project))
            assert node.command("EXISTS", project_key(project)) == 1, cluster.keys()
        assert len({cluster.owner(project_key(project)).port for project, _ in callers}) > 1
        assert sorted(cluster.keys()) == sorted(project_key(project) for project, _ in callers)


def test_a_slot_is_carried_over_while_serving(sluice, provider):
    """MOVED and ASK are followed: nobody is refused, nothing is counted twice or forgotten."""
    with Cluster(3) as cluster:
        server = sluice(CLUSTER_LIMITS + redis_config(cluster) + provider_config(provider))
        (project, headers), = make_callers(server, 1)
        key = project_key(project)
        assert asked(server, headers, 1) == [200]
        old = cluster.owner(key)
        new = next(node for node in cluster.nodes if node is not old)
        slot = old.command("CLUSTER", "KEYSLOT", key)
        assert new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(old)) == "OK"
        assert old.command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(new)) == "OK"
        assert asked(server, headers, 1) == [200]             # it is still there
        assert old.command("MIGRATE", "127.0.0.1", new.port, key, 0, 5000) == "OK"
        assert asked(server, headers, 1) == [200]             # ASK
        for node in (new, old, *cluster.nodes):
            assert node.command("CLUSTER", "SETSLOT", slot, "NODE", cluster.id(new)) == "OK"
        assert asked(server, headers, 3) == [200, 429, 429]   # MOVED
        assert cluster.owner(key) is new and new.command("EXISTS", key) == 1
        assert fallbacks(server) == 0


def test_a_node_of_a_cluster_dies_while_serving(sluice, provider):
    """Its projects are limited by the process's share until its replica has taken over, others notice nothing; then limits are
    in the cluster again within two seconds."""
    with Cluster(3, replicas=1) as cluster:
        dead, replica = cluster.nodes[0], cluster.nodes[3]
        url = cluster.nodes[1].url.replace("://", "+cluster://")
        server = sluice(CLUSTER_LIMITS.replace("replicas: 1", "replicas: 2") +
                        f'redis: {{url: "{url}", timeout: 2s}}\n' + provider_config(provider))
        callers = make_callers(server, 40)                    # whose slots chance has chosen
        hurt = [caller for caller in callers if cluster.owner(project_key(caller[0])) is dead]
        well = [caller for caller in callers if caller not in hurt][:8]
        assert len(hurt) > 1 and len(well) > 2
        assert asked(server, hurt[0][1], 2) == asked(server, well[0][1], 2) == [200] * 2
        wait_copied(dead)
        dead.kill()
        assert asked(server, hurt[1][1], 3) == [200, 200, 429]            # the share
        before = fallbacks(server)
        assert before > 0
        for _, headers in well[1:]:
            assert asked(server, headers, 5) == [200] * 4 + [429]
        assert fallbacks(server) == before
        slot = replica.command("CLUSTER", "KEYSLOT", project_key(hurt[0][0]))
        while replica.command("ROLE")[0] != "master" or "cluster_state:ok" not in replica.command("CLUSTER", "INFO"):
            time.sleep(0.02)
        began = time.monotonic()
        while True:
            before = fallbacks(server)
            found = asked(server, hurt[0][1], 1)
            if fallbacks(server) == before:
                break
            assert time.monotonic() - began < RECOVERY_S + BUSY_S
            time.sleep(0.05)
        print(f"in use {time.monotonic() - began:.2f} s after the replica has taken over slot {slot}")
        assert found == [200] and asked(server, hurt[0][1], 2) == [200, 429]     # what was counted stays counted
        end = time.monotonic() + RECOVERY_S + BUSY_S
        while metrics(server)["sluice_redis_up"] != 1:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_node_of_a_cluster_as_a_single_server_is_told(sluice, provider):
    with Cluster(3) as cluster:
        server = sluice(SHARE + redis_config(cluster.nodes[0]) + provider_config(provider))
        share_holds(server, "alice")
        share_holds(server, "bob")
        assert "redis.url must begin with redis+cluster://" in server.wait_log(OF_NO_USE)["text"]


# ---- another one ----

def test_another_redis_by_reload(sluice, provider, redis):
    """The address may change while the program runs; requests notice nothing."""
    config = limits(per_user="requests: 2/1h") + provider_config(provider)
    server = sluice(redis_config(redis) + config)
    assert statuses(server, 3, user("alice")) == [200, 200, 429]
    with Redis() as other:
        server.write_config(redis_config(other) + config)
        server.reload()
        server.wait_log("configuration reloaded")
        assert statuses(server, 3, user("alice")) == [200, 200, 429]
        assert keys_of(other) and fallbacks(server) == 0
