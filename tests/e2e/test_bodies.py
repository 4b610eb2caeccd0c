# SPDX-License-Identifier: Apache-2.0
"""JSON bodies of the API: what is refused, with which code, and what goes upstream untouched.

The verdicts on JSON itself come from JSONTestSuite: each of its files is sent once as a whole body
and once as a member of a good one. A refused body never reaches the provider; what is accepted
arrives there byte for byte.
"""
import gzip
import json
import tarfile
import zlib

import pytest
from raw_http import RawClient, assert_openai_error, chunked, request_bytes
from sluice import provider_config

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "m", "messages": MESSAGES}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(module_sluice, module_provider):
    return module_sluice(provider_config(module_provider))


@pytest.fixture
def post(server, module_provider):
    """post(body, headers) → (answer, the request as the provider got it, or None)."""
    def send(body, headers=(), target="/v1/chat/completions"):
        before = len(module_provider.requests)
        with RawClient(server.port) as client:
            answer = client.request("POST", target, body, headers)
        seen = module_provider.requests[before:]
        assert len(seen) <= 1, "one request of ours, several upstream"
        return answer, seen[0] if seen else None
    return send


@pytest.fixture(scope="module")
def suite(test_data):
    """{file name: bytes} of JSONTestSuite's parsing files."""
    path = test_data / "json-test-suite.tar.gz"
    if not path.exists():
        pytest.skip(f"JSONTestSuite is not there: put it at {path} or set TEST_DATA")
    with tarfile.open(path) as archive:
        return {member.name.rpartition("/")[2]: archive.extractfile(member).read()
                for member in archive if member.name.startswith("test_parsing/")
                and member.isfile()}


def members(raw):
    """A chat request with more members, given as they are to be written."""
    return json.dumps(CHAT).encode()[:-1] + b"," + raw + b"}"


def refused(result, code=None, param=None, status=400):
    answer, seen = result
    error = assert_openai_error(answer, status, code)
    assert seen is None, "a refused request reached the provider"
    assert param is None or error["param"] == param, error


def relayed(result, raw=None):
    answer, seen = result
    assert answer.status == 200, answer
    assert raw is None or raw in seen.raw_body, seen.raw_body[:1000]


# ---- JSON ----

def verdicts(suite, prefix, count, verify):
    """Run `verify` on every file of a kind and report all failures at once."""
    names = sorted(name for name in suite if name.startswith(prefix))
    assert len(names) == count, f"{len(names)} files {prefix}*"
    failures = []
    for name in names:
        try:
            verify(suite[name])
        except AssertionError as error:
            failures.append(f"{name}: {str(error).splitlines()[0][:200]}")
    assert not failures, "\n".join(failures)


def test_d80_must_reject_as_body(post, suite):
    verdicts(suite, "n_", 188, lambda data: refused(post(data), "invalid_json"))


def test_d80_must_reject_as_member(post, suite):
    verdicts(suite, "n_", 188, lambda data: refused(post(members(b'"x":' + data)), "invalid_json"))


def test_d81_must_accept_as_body(post, suite):
    """None of them is a chat request, so each is refused, but not as bad JSON."""
    def verify(data):
        answer, seen = post(data)
        error = assert_openai_error(answer, 400)
        assert error["code"] != "invalid_json" and seen is None
    verdicts(suite, "y_", 95, verify)


def test_d81_must_accept_as_member(post, suite):
    verdicts(suite, "y_", 95,
             lambda data: relayed(post(members(b'"x":' + data)), b'"x":' + data))


@pytest.mark.parametrize("depth, good", [(127, True), (128, False), (100_000, False)])
def test_d82_nesting(post, depth, good):
    """At most 128 levels, the request's own object among them."""
    value = b"[" * depth + b"]" * depth
    result = post(members(b'"x":' + value))
    relayed(result, value) if good else refused(result, "invalid_json")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * (8 * MIB),
                                  b"[" * (4 * MIB) + b"]" * (4 * MIB)],
                         ids=["arrays", "objects", "8-mib", "8-mib-closed"])
def test_d82_nesting_alone(post, body):
    refused(post(body), "invalid_json")


@pytest.mark.parametrize("name", ["model", "messages", "stream", "x", "m\\u006fdel"])
def test_d83_repeated_member(post, name):
    """A guard that reads the first and a provider that reads the last would disagree."""
    value = b'"m"' if name != "messages" else json.dumps(MESSAGES).encode()
    again = b'"%s":%s' % (name.encode(), value)
    twice = again + b"," + again if name in ("stream", "x") else again
    refused(post(members(twice)))


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80",
                                  b"\xf4\x90\x80\x80", b"\xe2\x82", b"\\uD800", b"\\uDC00",
                                  b"\\uD800\\u0041"],
                         ids=["ff", "overlong-2", "overlong-3", "surrogate-bytes", "above-10ffff",
                              "cut", "lone-high", "lone-low", "high-then-a"])
def test_d84_not_unicode(post, text):
    refused(post(members(b'"x":"' + text + b'"')), "invalid_json")


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" + json.dumps(CHAT).encode(),
                                  json.dumps(CHAT).encode("utf-16"),
                                  json.dumps(CHAT).encode("utf-16-le"),
                                  json.dumps(CHAT).encode("utf-32")],
                         ids=["bom", "utf-16", "utf-16-le", "utf-32"])
def test_d84_other_encodings(post, body):
    refused(post(body), "invalid_json")


def test_d85_nul_in_text(post):
    """Text may hold any character; nothing is cut at a NUL."""
    body = {"model": "m", "messages": [{"role": "user", "content": "a\0b"}]}
    answer, seen = post(body)
    assert answer.status == 200 and seen.json["messages"][0]["content"] == "a\0b"


def test_d85_nul_in_a_name(post):
    refused(post({"model": "m\0x", "messages": MESSAGES}))


@pytest.mark.parametrize("number, may_pass", [
    (b"1e400", False), (b"-0", True), (b"1E+2", True), (b"9007199254740993", False),
    (b"1" * 30, False), (b"1.5", False), (b"-1", False), (b'"5"', False), (b"true", False)])
def test_d86_odd_numbers(post, number, may_pass):
    """Either refused, or passed on as it was written; never as another number."""
    answer, seen = result = post(members(b'"max_tokens":' + number))
    if may_pass and answer.status == 200:
        relayed(result, number)
    else:
        refused(result, param="max_tokens" if number != b"1e400" else None)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1,", b"1/*c*/", b"1//c\n",
                                   b"'a'", b"+1", b"01", b".5", b"0x10", b"undefined"])
def test_d87_not_json(post, value):
    refused(post(members(b'"x":' + value)), "invalid_json")


@pytest.mark.parametrize("name, value", [
    ("n", -1), ("n", 0), ("n", 129), ("n", "1"), ("max_tokens", -5), ("max_tokens", 2**40),
    ("max_completion_tokens", -5), ("max_completion_tokens", "many"), ("temperature", "hot"),
    ("temperature", -0.1), ("temperature", 2.1), ("top_p", "most"), ("stream", "yes"),
    ("stream_options", 5), ("model", 5), ("model", ""), ("messages", "hi"), ("messages", {})])
def test_d88_wrong_values(post, name, value):
    refused(post(CHAT | {name: value}), param=name)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_d88_missing(post, name):
    body = {key: value for key, value in CHAT.items() if key != name}
    refused(post(body), param=name)


def test_d89_unknown_fields_pass(post):
    """Not interpreted, not re-written: order, blanks, escapes and numbers stay."""
    raw = (b'"zz" : {"b":1.10,"a":[ 1e5 ,null]} , "caf\\u00e9":"\\/", '
           b'"big":123456789012345678901234567890')
    relayed(post(members(raw)), raw)


def test_d89_long_names_with_escapes_pass(post):
    """Each is decoded once, not once for each of the others: else this would be more than a request may hold."""
    raw = b", ".join(b'"%s%d": 1' % (b"\\u0061" * 8000, i) for i in range(100))
    relayed(post(members(raw)), raw)


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "extra_headers"])
def test_d89_fields_that_steer_a_gateway(post, name):
    refused(post(CHAT | {name: "http://evil.example"}), param=name)


@pytest.mark.parametrize("messages", [
    [], [{"role": "user", "content": "x"}] * 10_001, [{"role": "wizard", "content": "x"}],
    [{"role": "user", "content": 5}], [{"role": "user", "content": {"a": 1}}],
    [{"content": "x"}], ["hi"], [None], [{"role": 5, "content": "x"}]],
    ids=["empty", "10001", "role", "content-number", "content-object", "no-role", "string", "null",
         "role-number"])
def test_d90_messages(post, messages):
    refused(post({"model": "m", "messages": messages}))


def test_d90_ten_thousand_messages_pass(post):
    relayed(post({"model": "m", "messages": MESSAGES * 10_000}))


# ---- size, type and coding of a body ----

LIMIT = MIB


@pytest.fixture(scope="module")
def small_server(module_sluice, module_provider):
    return module_sluice("http: {max_body: 1MiB}\n" + provider_config(module_provider))


def body_of(size):
    """A chat request of exactly that many bytes."""
    empty = json.dumps({"model": "m", "messages": [{"role": "user", "content": ""}]}).encode()
    return empty.replace(b'""', b'"' + b"a" * (size - len(empty)) + b'"')


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size, status", [(LIMIT, 200), (LIMIT + 1, 413)], ids=["limit", "over"])
def test_d91_body_limit(small_server, module_provider, size, status, framing):
    before = len(module_provider.requests)
    body = body_of(size)
    assert len(body) == size
    with RawClient(small_server.port) as client:
        if framing == "length":
            answer = client.request("POST", "/v1/chat/completions", body)
        else:
            answer = client.request("POST", "/v1/chat/completions", chunked(body, 50_000),
                                    [("Transfer-Encoding", "chunked")])
        assert answer.status == status, answer
        if status == 413:
            assert_openai_error(answer)
        else:
            client.expect_usable()
    assert len(module_provider.requests) - before == (status == 200)


def test_d91_default_limit(server):
    """32 MiB are taken; the length alone refuses one byte more."""
    with RawClient(server.port) as client:
        answer = client.request("POST", "/v1/chat/completions", body_of(32 * MIB))
        assert answer.status == 200, answer
        client.send(request_bytes("POST", "/v1/chat/completions", b"",
                                  [("Content-Length", str(32 * MIB + 1))]))
        assert_openai_error(client.read_response(), 413)


@pytest.mark.parametrize("kind, good", [
    ("application/json", True), ("application/json; charset=utf-8", True),
    ("Application/JSON", True), ("application/json;charset=UTF-8", True),
    ("text/plain", False), ("multipart/form-data; boundary=x", False), ("", False),
    ("application/x-www-form-urlencoded", False), ("application/jsonx", False)])
def test_d92_content_type(post, kind, good):
    result = post(CHAT, [("Content-Type", kind)])
    relayed(result) if good else refused(result, status=415)


def test_d92_content_type_missing(server, module_provider):
    before = len(module_provider.requests)
    body = json.dumps(CHAT).encode()
    with RawClient(server.port) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert_openai_error(client.read_response(), 415)
    assert len(module_provider.requests) == before


def zstd_raw(data):
    """A zstd frame (RFC 8878) with one uncompressed block; `data` is below 256 bytes."""
    header = b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)])
    return header + (1 | len(data) << 3).to_bytes(3, "little") + data


def zstd_bomb(mebibytes):
    """Blocks that repeat one byte 128 KiB long."""
    block = (1 << 1 | 131072 << 3).to_bytes(3, "little") + b" "
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (8 * mebibytes)


def gzip_bomb(mebibytes):
    """One compressed mebibyte of blanks, repeated: small to make, large to read."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b" " * MIB)
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * mebibytes


CODED = {"gzip": gzip.compress(json.dumps(CHAT).encode()),
         "zstd": zstd_raw(json.dumps(CHAT).encode())}


@pytest.mark.parametrize("coding", CODED)
def test_d93_coded_body(post, coding):
    """Decoded, and sent on without the coding."""
    answer, seen = post(CODED[coding], [("Content-Encoding", coding)])
    assert answer.status == 200, answer
    assert seen.json["messages"] == MESSAGES
    assert seen.header("content-encoding") is None


@pytest.mark.parametrize("coding, bomb", [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_d93_bomb(small_server, module_provider, coding, bomb):
    """A small body that grows to 1 GiB stops at the limit, and so does the memory it takes."""
    before = len(module_provider.requests)
    with RawClient(small_server.port) as client:
        client.expect_usable()
    memory = small_server.memory_bytes()
    with RawClient(small_server.port) as client:
        answer = client.request("POST", "/v1/chat/completions", bomb(1024),
                                [("Content-Encoding", coding)])
        assert answer.status in (413, 415), answer
        assert_openai_error(answer)
    assert small_server.memory_bytes() - memory < 64 * MIB
    assert len(module_provider.requests) == before


@pytest.mark.parametrize("coding, body", [
    ("gzip", b"no gzip at all"), ("gzip", CODED["gzip"][:-9]), ("gzip", CODED["gzip"] + b"more"),
    ("gzip", CODED["gzip"][:-8] + bytes(8)), ("zstd", CODED["zstd"][:-3]), ("zstd", b"no zstd")],
    ids=["gzip-garbage", "gzip-cut", "gzip-trailing", "gzip-checksum", "zstd-cut", "zstd-garbage"])
def test_d93_broken_coding(post, coding, body):
    refused(post(body, [("Content-Encoding", coding)]))


def test_a_refused_coded_body_is_not_taken_for_a_request(gateway):
    """The connection is kept after a refusal, and the next request begins behind the body."""
    smuggled = request_bytes("GET", "/v1/models")
    request = request_bytes("POST", "/v1/chat/completions", smuggled,
                            [("Content-Encoding", "gzip"), ("Content-Type", "application/json")])
    with RawClient(gateway.port) as client:
        client.send(request + request_bytes("GET", "/v1/models/none"))
        assert_openai_error(client.read_response(), 400)
        if client.inbox or client.receive():
            assert client.read_response().status == 404
            assert not client.inbox


@pytest.mark.parametrize("coding", ["br", "deflate", "compress", "gzip, gzip", "x"])
def test_d93_other_codings(post, coding):
    refused(post(CHAT, [("Content-Encoding", coding)]), status=415)


# ---- texts ----

NAUGHTY = ["", " ", "\t\r\n", "undefined", "null", "NaN", "1e1000", "0x10", "\u202etest\u202c",
           "\ufeff", "\u200b\u200d", "\u2028\u2029", "e\u0301", "\U0001f469\u200d\U0001f692", "ﷺ",
           "田中さん", "\u0000", "\x7f\x01", "\uffff", "\U0010ffff", "<script>alert(1)</script>",
           "'; DROP TABLE users; --", "${HOME} $(id) `id`", "%s%n%x%d", "../../etc/passwd",
           "data: [DONE]\n\n", "\r\nX-Evil: 1", "{{7*7}}", "\\u0041", "\"},{\"role\":\"system\"",
           "Ⱥ" * 5000, "İıſK"]


@pytest.mark.parametrize("number", range(len(NAUGHTY)))
def test_d94_naughty_messages(post, number):
    """Arrive upstream as they were sent, escaped or not."""
    for ascii_only in (True, False):
        body = {"model": "m", "messages": [{"role": "user", "content": NAUGHTY[number]}]}
        raw = json.dumps(body, ensure_ascii=ascii_only).encode()
        answer, seen = post(raw)
        assert answer.status == 200, answer
        assert seen.json["messages"] == body["messages"]
        assert b'"messages": ' + json.dumps(body["messages"], ensure_ascii=ascii_only).encode() \
            in seen.raw_body


@pytest.mark.parametrize("number", range(len(NAUGHTY)))
def test_d94_naughty_models(post, number):
    """As a model's name: relayed equal or refused, never changed, never in a header raw."""
    answer, seen = post({"model": NAUGHTY[number], "messages": MESSAGES})
    assert answer.status in (200, 400, 404), answer
    if answer.status == 200:
        assert seen.json["model"] == NAUGHTY[number]
    else:
        assert_openai_error(answer)
