# SPDX-License-Identifier: Apache-2.0
"""TLS on both sides, proxies, unix sockets, IPv6: every way a connection can be made.

Certificates are made for each run (trustme). The proxy for CONNECT is a script of the fake
provider: it reads the request as any other and then carries bytes.
"""
import base64
import socket
import ssl

import pytest
import trustme
from caller import CHAT, STREAM, ask, ask_stream, broken, chat_request, outcome
from fake_provider import (DONE, HANG, FakeProvider, chat, chat_answer, chat_events, delta, error,
                           event, is_readable, raw, sse, whole)
from raw_http import RawClient, assert_openai_error
from sluice import HANG_GUARD_S, provider_config

KEY = "sk-provider-key"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_path(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def server_context(certificate, client_authority=None):
    """For a provider; with an authority, callers must show a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if client_authority:
        client_authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def write_certificate(certificate, directory):
    """As tls.certificate and tls.key name them: the chain, and the key."""
    (directory / "cert.pem").write_bytes(
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(directory / "key.pem")


def tls_config(directory):
    return f'tls: {{certificate: "{directory}/cert.pem", key: "{directory}/key.pem"}}\n'


class TlsClient(RawClient):
    """RawClient through TLS, trusting one authority."""

    def __init__(self, port, authority, version=None, protocols=None):
        super().__init__(port)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        if version:
            context.minimum_version = context.maximum_version = version
        if protocols:
            context.set_alpn_protocols(protocols)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    @property
    def certificate(self):
        return self.sock.getpeercert(binary_form=True)


# ---- callers come by TLS ----

@pytest.fixture
def tls_gateway(sluice, provider, authority, tmp_path):
    write_certificate(authority.issue_cert("localhost"), tmp_path)
    return sluice(tls_config(tmp_path) + provider_config(provider))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3],
                         ids=["1.2", "1.3"])
def test_listener(tls_gateway, provider, authority, version):
    """Whole answers and streams, one after the other on a connection."""
    events = chat_events("a", "b")
    with TlsClient(tls_gateway.port, authority, version) as client:
        for _ in range(3):
            provider.script(chat("by TLS"), sse(*events))
            client.send(chat_request(CHAT))
            assert b"by TLS" in client.read_response().body
            client.send(chat_request(STREAM))
            assert client.read_response().body == b"".join(events)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_listener_refuses_old_versions(tls_gateway, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", tls_gateway.port), HANG_GUARD_S) as sock:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.parametrize("offered, chosen", [
    (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None), (None, None)])
def test_listener_speaks_http_1_1(tls_gateway, authority, offered, chosen):
    with TlsClient(tls_gateway.port, authority, protocols=offered) as client:
        assert client.sock.selected_alpn_protocol() == chosen
        client.expect_usable()


def test_listener_takes_large_bodies(tls_gateway, provider, authority):
    """Both ways, far beyond a record and a socket's buffers."""
    big = "x" * (6 * 1024 * 1024)
    provider.script(whole(chat_answer(big)))
    with TlsClient(tls_gateway.port, authority) as client:
        client.send(chat_request(CHAT | {"messages": [{"role": "user", "content": big}]}))
        assert client.read_response().json["choices"][0]["message"]["content"] == big
    assert provider.wait_request().json["messages"][0]["content"] == big


def test_listener_byte_by_byte(tls_gateway, authority):
    """Each byte a record of its own."""
    with TlsClient(tls_gateway.port, authority) as client:
        client.send_cut(chat_request(CHAT))
        assert client.read_response().status == 200


def test_caller_leaves_by_tls(tls_gateway, provider, authority):
    provider.script(sse(*chat_events("a")[:2], HANG))
    client = TlsClient(tls_gateway.port, authority)
    client.send(chat_request(STREAM, id="tls"))
    client.read_head()
    client.close()
    provider.wait_request().wait_peer_closed()
    assert outcome(tls_gateway, "tls")["outcome"] == "client_cancelled"


@pytest.mark.parametrize("said", [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 100, b"",
], ids=["http", "broken-hello", "zeros", "nothing"])
def test_no_handshake_no_answer(sluice, provider, authority, tmp_path, said):
    """Whatever is not TLS is closed, at the latest after head_timeout; others do not notice."""
    write_certificate(authority.issue_cert("localhost"), tmp_path)
    server = sluice("http: {head_timeout: 300ms}\n" + tls_config(tmp_path) + provider_config(provider))
    with RawClient(server.port) as client:
        client.send(said)
        while client.receive():
            pass
        assert not client.inbox.startswith(b"HTTP/")
    with TlsClient(server.port, authority) as client:
        client.expect_usable()


def test_certificate_renewed(sluice, provider, authority, tmp_path):
    """SIGHUP: the next handshake shows the new one, open connections stay."""
    write_certificate(authority.issue_cert("localhost"), tmp_path)
    server = sluice(tls_config(tmp_path) + provider_config(provider))
    with TlsClient(server.port, authority) as old:
        first = old.certificate
        write_certificate(authority.issue_cert("localhost"), tmp_path)
        with TlsClient(server.port, authority) as client:
            assert client.certificate == first
        server.reload()
        server.wait_log("configuration reloaded")
        for _ in range(8):                       # whichever thread it is that accepts
            with TlsClient(server.port, authority) as client:
                assert client.certificate != first
                client.expect_usable()
        old.expect_usable()


def test_broken_certificate_is_not_taken(sluice, provider, authority, tmp_path):
    """The old one goes on working, and the log says why."""
    write_certificate(authority.issue_cert("localhost"), tmp_path)
    server = sluice(tls_config(tmp_path) + provider_config(provider))
    (tmp_path / "cert.pem").write_text("no certificate")
    server.reload()
    line = server.wait_log("the new configuration was not taken; the old one stays in force")
    assert "cert.pem" in line["text"]
    with TlsClient(server.port, authority) as client:
        client.expect_usable()


def test_key_of_another_certificate_is_not_taken(sluice, provider, authority, tmp_path):
    write_certificate(authority.issue_cert("localhost"), tmp_path)
    authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    server = sluice(tls_config(tmp_path) + provider_config(provider), wait=False)
    assert server.wait_exit(expected=None) != 0
    assert "key.pem" in "\n".join(server.stderr) or "cert.pem" in "\n".join(server.stderr)


# ---- providers by TLS ----

def https_config(provider, ca_path, more=""):
    return provider_config(provider, extra=f', ca: "{ca_path}"{more}')


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_provider(sluice, authority, ca_path, body):
    """Its own authority is trusted; connections are kept."""
    with FakeProvider(tls=server_context(authority.issue_cert("127.0.0.1"))) as provider:
        server = sluice("workers: 1\n" + https_config(provider, ca_path))
        for _ in range(5):
            assert ask(server, body).status == 200
        assert provider.wait_request().header("authorization") == f"Bearer {KEY}"
        assert len(provider.connections) == 1


def test_provider_by_name(sluice, authority, ca_path):
    with FakeProvider(tls=server_context(authority.issue_cert("localhost"))) as provider:
        provider.url = provider.url.replace("127.0.0.1", "localhost")
        assert ask(sluice(https_config(provider, ca_path))).status == 200
        assert provider.wait_request().header("host") == f"localhost:{provider.port}"


def test_provider_sends_events_apart_and_together(sluice, authority, ca_path):
    """A record each, many in a record, one over many records."""
    huge = [event(delta(content="x" * 1_000_000)), *chat_events("a")]
    apart = chat_events(*[f"{i} " for i in range(300)])
    scripts = [apart, [b"".join(chat_events(*["a"] * 3000))], huge]
    with FakeProvider(tls=server_context(authority.issue_cert("127.0.0.1"))) as provider:
        server = sluice(https_config(provider, ca_path))
        for events in scripts:
            provider.script(sse(*events))
            assert ask_stream(server) == b"".join(events)


def test_provider_dies(sluice, authority, ca_path):
    """Without a word of farewell, in mid-stream."""
    events = chat_events("a", "b")
    with FakeProvider(tls=server_context(authority.issue_cert("127.0.0.1"))) as provider:
        server = sluice(https_config(provider, ca_path))
        for end in ("RESET", "CLOSE"):
            provider.script(sse(*events[:3], end), sse(*events[:1], end))
            assert broken(ask_stream(server))[0] == b"".join(events[:3])
            assert_openai_error(ask(server, STREAM), 502)


def test_caller_leaves_a_provider(sluice, authority, ca_path):
    with FakeProvider(tls=server_context(authority.issue_cert("127.0.0.1"))) as provider:
        provider.default = raw(HANG)
        server = sluice(https_config(provider, ca_path))
        client = RawClient(server.port)
        client.send(chat_request(CHAT))
        seen = provider.wait_request()
        client.reset()
        seen.wait_peer_closed()


def test_provider_wants_a_certificate(sluice, authority, ca_path, tmp_path):
    """Shown when configured; without it the provider's refusal is a 502."""
    ours = trustme.CA()
    write_certificate(ours.issue_cert("sluice.example"), tmp_path)
    context = server_context(authority.issue_cert("127.0.0.1"), client_authority=ours)
    with FakeProvider(tls=context) as provider:
        more = f', client_certificate: "{tmp_path}/cert.pem", client_key: "{tmp_path}/key.pem"'
        assert ask(sluice(https_config(provider, ca_path, more))).status == 200
        assert provider.wait_request().connection.sock.getpeercert()
        server = sluice(https_config(provider, ca_path))
        assert_openai_error(ask(server, id="mtls"), 502)
        assert outcome(server, "mtls")["outcome"] == "upstream_failed"
        server.stop()
        assert KEY not in "\n".join(server.stderr)


def test_missing_ca_file_is_refused_at_start(sluice, provider):
    config = provider_config(provider, extra=', ca: "/nowhere/ca.pem"').replace("http:", "https:")
    server = sluice(config, wait=False)
    assert server.wait_exit(expected=None) != 0
    assert "/nowhere/ca.pem" in "\n".join(server.stderr)


# ---- proxies ----

NAME = "provider.test"


def carry(one, other, stopping):
    """Move bytes both ways until either side ends."""
    while not stopping.is_set():
        for source, target in ((one, other), (other, one)):
            if is_readable(source, 0.01):
                try:
                    data = source.recv(65536)
                    if not data:
                        return
                    target.sendall(data)
                except OSError:
                    return


def tunnel(port):
    """A script that answers CONNECT and connects to 127.0.0.1:port, whatever was asked for."""
    def script(exchange):
        assert exchange.method == "CONNECT", exchange.method
        with socket.create_connection(("127.0.0.1", port)) as onward:
            exchange.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            carry(exchange.connection.sock, onward, exchange.connection.provider.stopping)
        exchange.close()
    return script


@pytest.fixture
def hidden(authority):
    """A provider that only the proxy can reach by its name."""
    with FakeProvider(tls=server_context(authority.issue_cert(NAME))) as fake:
        fake.url = f"https://{NAME}/v1"
        yield fake


@pytest.fixture
def proxy(hidden):
    with FakeProvider() as fake:
        fake.default = tunnel(hidden.port)
        yield fake


def proxied(proxy, user="", place="HTTPS_PROXY"):
    return {place: f"http://{user}127.0.0.1:{proxy.port}"}


@pytest.mark.parametrize("place", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "configuration"])
def test_tunnel(sluice, hidden, proxy, ca_path, place):
    """The proxy carries what it cannot read; tunnels are kept like connections."""
    more, environment = "", {}
    if place == "configuration":
        more = f', proxy: "http://127.0.0.1:{proxy.port}"'
    else:
        environment = proxied(proxy, place=place)
    server = sluice("workers: 1\n" + https_config(hidden, ca_path, more), environment=environment)
    assert ask(server).status == 200
    assert ask_stream(server).endswith(DONE)
    asked = proxy.wait_request()
    assert (asked.method, asked.target) == ("CONNECT", f"{NAME}:443")
    assert asked.header("host") == f"{NAME}:443"
    assert asked.header("authorization") is None and asked.header("proxy-authorization") is None
    assert hidden.wait_request().header("host") == NAME
    assert len(proxy.requests) == 1 and len(hidden.connections) == 1


def test_tunnel_with_a_password(sluice, hidden, proxy, ca_path):
    server = sluice(https_config(hidden, ca_path), environment=proxied(proxy, "us%65r:p%40ss@"))
    assert ask(server).status == 200
    sent = proxy.wait_request().header("proxy-authorization")
    assert sent == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert hidden.wait_request().header("proxy-authorization") is None


@pytest.mark.parametrize("answer", [error(407), error(403), error(502), whole(b"hello"), raw("RESET"),
                                    raw("CLOSE"), raw(b"nonsense\r\n\r\n")],
                         ids=["407", "403", "502", "200-with-body", "reset", "close", "nonsense"])
def test_proxy_refuses(sluice, hidden, proxy, ca_path, answer):
    proxy.default = answer
    server = sluice(https_config(hidden, ca_path), environment=proxied(proxy, "user:p%40ssword@"))
    assert_openai_error(ask(server, id="proxy"), 502)
    assert hidden.connections == []
    server.stop()
    log = "\n".join(server.stderr)
    assert KEY not in log and "p@ssword" not in log and "p%40ssword" not in log


def test_proxy_stalls(sluice, hidden, proxy, ca_path):
    proxy.default = raw(HANG)
    server = sluice("timeouts: {connect: 300ms}\n" + https_config(hidden, ca_path),
                    environment=proxied(proxy))
    assert_openai_error(ask(server), 504)
    proxy.wait_request().wait_peer_closed()


def test_caller_leaves_a_stalling_proxy(sluice, hidden, proxy, ca_path):
    proxy.default = raw(HANG)
    server = sluice("timeouts: {connect: 1h}\n" + https_config(hidden, ca_path),
                    environment=proxied(proxy))
    client = RawClient(server.port)
    client.send(chat_request(CHAT))
    seen = proxy.wait_request()
    client.reset()
    seen.wait_peer_closed()


def test_certificate_is_checked_through_a_tunnel(sluice, proxy, ca_path):
    """A proxy that leads us astray is found out."""
    with FakeProvider(tls=server_context(trustme.CA().issue_cert(NAME))) as wrong:
        proxy.default = tunnel(wrong.port)
        wrong.url = f"https://{NAME}/v1"
        server = sluice(https_config(wrong, ca_path), environment=proxied(proxy))
        assert_openai_error(ask(server), 502)
        assert wrong.requests == []


@pytest.mark.parametrize("exception", ["127.0.0.1", "localhost, 127.0.0.0/8", "*", ""])
def test_this_machine_needs_no_proxy(sluice, provider, exception):
    """Loopback is never asked of a proxy, with or without NO_PROXY."""
    with FakeProvider() as proxy:
        environment = proxied(proxy, place="HTTP_PROXY") | {"NO_PROXY": exception}
        assert ask(sluice(provider_config(provider), environment=environment)).status == 200
        assert proxy.connections == []


@pytest.mark.parametrize("exception", [NAME, ".test", "test", "*", f"{NAME}:80"])
def test_exceptions_from_the_proxy(sluice, provider, exception):
    """The name does not resolve here, so without the proxy the call fails."""
    with FakeProvider() as proxy:
        provider.url = f"http://{NAME}/v1"
        server = sluice("timeouts: {connect: 2s}\n" + provider_config(provider),
                        environment=proxied(proxy, place="HTTP_PROXY") | {"NO_PROXY": exception})
        assert ask(server).status in (502, 504)
        assert proxy.connections == []


def test_plain_http_by_proxy(sluice):
    """The absolute form of RFC 9112 §3.2.2."""
    with FakeProvider() as proxy:
        proxy.url = f"http://{NAME}:8000/v1"
        server = sluice(provider_config(proxy), environment=proxied(proxy, "user:pass@", "HTTP_PROXY"))
        assert ask(server).status == 200
        seen = proxy.wait_request()
        assert seen.target == f"http://{NAME}:8000/v1/chat/completions"
        assert seen.header("host") == f"{NAME}:8000"
        assert seen.header("proxy-authorization").startswith("Basic ")


def test_proxy_off(sluice, provider):
    with FakeProvider() as proxy:
        provider.url = f"http://{NAME}/v1"
        server = sluice("timeouts: {connect: 2s}\n" + provider_config(provider, extra=", proxy: off"),
                        environment=proxied(proxy, place="HTTP_PROXY"))
        assert ask(server).status in (502, 504)
        assert proxy.connections == []


# ---- other addresses ----

def test_unix_sockets(sluice, tmp_path):
    """On both sides."""
    with FakeProvider(unix_path=str(tmp_path / "provider.sock")) as provider:
        path = str(tmp_path / "sluice.sock")
        server = sluice(f'listen: ["unix:{path}"]\n' + provider_config(provider))
        for body in (CHAT, STREAM):
            with RawClient(address=path) as client:
                client.send(chat_request(body))
                assert client.read_response().status == 200
            seen = provider.wait_request()
            assert (seen.target, seen.header("host")) == ("/chat/completions", "localhost")
        assert server.wait_log("request", count=2)["status"] == 200


def test_unix_provider_with_a_base_path(sluice, tmp_path):
    with FakeProvider(unix_path=str(tmp_path / "provider.sock")) as provider:
        provider.url += ":/base/v1/"
        assert ask(sluice(provider_config(provider))).status == 200
        assert provider.wait_request().target == "/base/v1/chat/completions"


def test_unix_provider_that_is_not_there(sluice, provider, tmp_path):
    provider.url = f"unix:{tmp_path}/nobody.sock"
    assert_openai_error(ask(sluice(provider_config(provider))), 502)


def has_ip6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ip6(), reason="this machine has no IPv6 loopback")
def test_ip6(sluice):
    """On both sides."""
    with FakeProvider(host="::1") as provider:
        server = sluice('listen: "[::1]:0"\n' + provider_config(provider))
        assert server.address("public").startswith("[::1]:")
        with RawClient(address=("::1", server.port)) as client:
            client.send(chat_request(STREAM).replace(b"Host: localhost", b"Host: [::1]:8080"))
            assert client.read_response().body.endswith(DONE)
        assert provider.wait_request().header("host") == f"[::1]:{provider.port}"


def test_several_listeners(sluice, provider, tmp_path):
    path = str(tmp_path / "sluice.sock")
    server = sluice(f'listen: ["127.0.0.1:0", "127.0.0.1:0", "unix:{path}"]\n'
                    + provider_config(provider))
    addresses = [address for kind, address in server.listeners if kind == "public"]
    assert len(set(addresses)) == 3
    for address in addresses:
        place = path if "sock" in address else ("127.0.0.1", int(address.rpartition(":")[2]))
        with RawClient(address=place) as client:
            client.expect_usable()
