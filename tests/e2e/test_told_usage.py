# SPDX-License-Identifier: Apache-2.0
"""What providers tell of their usage, and what becomes of it in money: told in odd places, too early, too little, or not
at all. The ledger and the budget must agree on it.

A token costs a milli-unit. Each word is one token, with a model's own encoding as without.
"""
import pytest
from caller import MESSAGES
from fake_anthropic import block_delta, named
from fake_gemini import piece
from fake_provider import DONE, delta, event, sse, whole
from raw_http import RawClient, request_bytes
from test_governance import ledger

WORDS = [" the", " and", " you", " for", " not", " are", " but", " all", " can", " was"]
TEXT = "".join(WORDS)
CHAT = "/v1/chat/completions"


def usage(prompt, completion, **more):
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def said(*words, finish=None, **members):
    """A chunk for each word; the last has the finish reason and the other members."""
    *front, last = [delta(content=word) for word in words] or [delta()]
    last["choices"][0]["finish_reason"] = finish
    return [event(chunk) for chunk in (*front, last | members)]


def finished(**members):
    return said(finish="stop", **members)


def tells(prompt, completion):
    return event(delta() | {"choices": [], "usage": usage(prompt, completion)})


GROQ = {"id": "req_1", "usage": {"queue_time": 0.02, "total_time": 0.06, **usage(30, 12, total_tokens=42)}}
# Streams → tokens of the prompt, least and most of the answer, and whether these are estimated.
STREAMS = {
    "groq-in-its-last-chunk": ([*said(*WORDS), *finished(x_groq=GROQ)], 30, 12, 12, False),
    "groq-beside-a-null": ([*said(*WORDS), *finished(x_groq=GROQ, usage=None)], 30, 12, 12, False),
    "groq-twice": ([*said(*WORDS), *finished(x_groq=GROQ), tells(30, 12)], 30, 12, 12, False),
    "with-the-last-words": ([*said(*WORDS, usage=usage(30, 12)), *finished()], 30, 12, 12, False),
    "growing": ([x for i, word in enumerate(WORDS) for x in said(word, usage=usage(30, i + 3))] + finished(),
                30, 12, 12, False),
    "before-most-words": ([*said(WORDS[0], usage=usage(30, 1)), *said(*WORDS[1:]), *finished()], 30, 10, 12, True),
    "before-all-words": ([tells(30, 2), *said(*WORDS), *finished()], 30, 10, 12, True),
    "too-early-and-at-the-end": ([tells(30, 2), *said(*WORDS), *finished(usage=usage(30, 12))], 30, 12, 12, False),
    "an-answer-of-nothing": ([*said(*WORDS), *finished(), tells(30, 0)], 30, 10, 12, True),
    "null": ([*said(*WORDS), *finished(usage=None)], 7, 10, 12, True),
    "numbers-with-a-point": ([*said(*WORDS), *finished(usage=usage(30.0, 12.0))], 7, 10, 12, True),
    "numbers-as-texts": ([*said(*WORDS), *finished(usage=usage("30", "12"))], 7, 10, 12, True),
    "the-question-alone": ([*said(*WORDS), *finished(usage={"prompt_tokens": 30})], 30, 10, 12, True),
    "the-answer-alone": ([*said(*WORDS), *finished(usage=usage(0, 25))], 7, 25, 25, True),
    "thoughts-under-two-names": ([event(delta(reasoning=word, reasoning_content=word)) for word in WORDS] + finished(),
                                 7, 10, 12, True),
    "parts-larger-than-the-whole": (
        [*said(*WORDS), *finished(usage=usage(30, 12, prompt_tokens_details={"cached_tokens": 31, "cache_write_tokens": 9},
                                              completion_tokens_details={"reasoning_tokens": 13}))], 30, 12, 12, False),
    "parts-alone": ([*said(*WORDS), *finished(usage={"prompt_tokens_details": {"cached_tokens": 31},
                                                     "completion_tokens_details": {"reasoning_tokens": 99}})],
                    7, 10, 12, True),
    "below-nought": ([*said(*WORDS), *finished(usage=usage(-30, -12))], 7, 10, 12, True),
}
CALL = {"id": "t", "type": "custom", "custom": {"name": "weather", "input": TEXT}}


def message(**members):
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **members}}]}


def response(*output, **members):
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m",
            "output": list(output), **members}


OUTPUT = {"id": "i", "type": "message", "role": "assistant", "status": "completed",
          "content": [{"type": "output_text", "text": TEXT, "annotations": []}]}
THOUGHT = {"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}]}
MANY = {f"member_{i}": None for i in range(40)}
QUESTION = {"messages": MESSAGES}
ASKED = {"input": "hi", "store": False}
RERANK = {"query": "hi", "documents": ["a", "b"]}
ODD = {"messages": [{"role": "user", "content": WORDS[0] * 40}], "reasoning_effort": 3}
RANKED = {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]}
WHOLE = {
    "groq": (CHAT, QUESTION, message(content=TEXT) | {"usage": usage(0, 12), "x_groq": GROQ}, 30, 12, 12, False),
    "a-custom-call": (CHAT, QUESTION, message(tool_calls=[CALL]), 7, 11, 13, True),
    "a-spoken-answer": (CHAT, QUESTION, message(audio={"id": "a", "data": "AAAA", "transcript": TEXT}), 7, 10, 12, True),
    "a-text": (CHAT, QUESTION, message(content=TEXT), 7, 10, 12, True),
    "an-answer-of-nothing": (CHAT, QUESTION, message(content=TEXT) | {"usage": usage(30, 0)}, 30, 10, 12, True),
    "an-empty-answer": (CHAT, QUESTION, message(content="") | {"usage": usage(30, 0)}, 30, 0, 0, False),
    "a-response": ("/v1/responses", ASKED, response(OUTPUT), 7, 10, 12, True),
    "a-response-with-null": ("/v1/responses", ASKED, response(THOUGHT, OUTPUT, usage=None), 7, 20, 24, True),
    "a-response-of-a-call": ("/v1/responses", ASKED, response(
        {"type": "function_call", "id": "f", "call_id": "c", "name": "weather", "arguments": TEXT}), 7, 11, 13, True),
    "a-response-of-a-custom-call": ("/v1/responses", ASKED, response(
        {"type": "custom_tool_call", "id": "f", "call_id": "c", "name": "weather", "input": TEXT}), 7, 11, 13, True),
    "a-response-of-many-members": ("/v1/responses", ASKED, response(
        OUTPUT, **MANY, usage={"input_tokens": 30, "output_tokens": 12}), 30, 12, 12, False),
    "an-answer-of-many-members": (CHAT, QUESTION, message(content=TEXT) | MANY | {"usage": usage(30, 12)},
                                  30, 12, 12, False),
    "what-cannot-be-read-here": (CHAT, ODD, message(content=TEXT), None, 10, 12, True),
    "reranked-and-counted": ("/v1/rerank", RERANK, RANKED | {"meta": {"tokens": {"input_tokens": 30}}},
                             30, 0, 0, False),
    "reranked-and-billed": ("/v1/rerank", RERANK, RANKED | {"meta": {"billed_units": {"input_tokens": 30}}},
                            30, 0, 0, False),
    "reranked-by-the-search": ("/v1/rerank", RERANK, RANKED | {"meta": {"billed_units": {"search_units": 1}}},
                               None, 0, 0, True),
}


@pytest.fixture
def serve(sluice, provider, tmp_path):
    """A server with a provider of a kind; what else it may have is `more`."""
    def start(kind, more=""):
        url = provider.url if kind == "openai" else provider.url.removesuffix("/v1")
        (tmp_path / "prices.yaml").write_text("currency: USD\nmodels: {p/m: {input: 1000, output: 1000}}\n")
        return sluice(f"""prices: {tmp_path}/prices.yaml
budgets: {{per_project: {{tokens: 1000000/total, money: 1000/total}}}}
providers: {{p: {{kind: {kind}, url: "{url}", key: sk-key-one{more}}}}}
""")
    return start


@pytest.fixture
def server(serve):
    return serve("openai", ", responses: on")


def spent(server):
    """What is spent of each budget, and by how much the ledger says another sum."""
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("GET", "/admin/budgets?check=1"))
        return {row["unit"]: (row["spent"], row["drift"]) for row in client.read_response().json["data"]}


def check(server, path, body, prompt, least, most, is_estimated, status=200):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", path, {"model": "p/m", **body}))
        answer = client.read_response()
    assert answer.status == status, answer
    [row] = ledger(server, 1)
    assert row["input"] == prompt or (prompt is None and row["input"] > 10 + 30 * (body is ODD)) or (prompt == 7 and row["input"] < 15), row
    assert least <= row["output"] <= most and row["estimated"] is is_estimated, row
    assert row["cost"] == pytest.approx((row["input"] + row["output"]) * 0.001)
    assert row["cached"] + row["cache_written"] <= row["input"] and row["reasoning"] <= row["output"], row
    assert spent(server) == {"tokens": (row["input"] + row["output"], 0), "money": (pytest.approx(row["cost"]), 0)}


@pytest.mark.parametrize("name", STREAMS)
def test_usage_of_a_stream(name, server, provider):
    events, *expected = STREAMS[name]
    provider.script(sse(*events, DONE))
    check(server, CHAT, QUESTION | {"stream": True, "max_tokens": 50}, *expected)


@pytest.mark.parametrize("name", WHOLE)
def test_usage_of_a_whole_answer(name, server, provider):
    path, body, answer, *expected = WHOLE[name]
    provider.script(whole(answer))
    check(server, path, body, *expected)


FAILURE = {"code": "server_error", "message": "It failed."}
TOLD = {"input_tokens": 30, "output_tokens": 12}
FAILED = response(status="failed", error=FAILURE, usage=TOLD)
FAILURES = {
    "a-chunk": (CHAT, QUESTION, sse(*said(*WORDS[:2]), event({"error": FAILURE, "usage": usage(30, 12)})), 200),
    "a-first-chunk": (CHAT, QUESTION, sse(event({"error": FAILURE, "usage": usage(30, 12)})), 502),
    "an-answer": (CHAT, QUESTION, whole({"error": FAILURE, "usage": usage(30, 12)}), 502),
    "a-response": ("/v1/responses", ASKED, whole(FAILED), 502),
    "an-event": ("/v1/responses", ASKED, sse(event({"type": "response.failed", "response": FAILED},
                                                   b"response.failed")), 502),
}


@pytest.mark.parametrize("name", FAILURES)
def test_usage_beside_a_failure(name, server, provider):
    """It is booked: whoever fails with a bill sends it."""
    path, body, script, status = FAILURES[name]
    provider.default = script
    stream = {"stream": name not in ("an-answer", "a-response")}
    check(server, path, body | stream, 30, 12, 12, False, status)


def spoken(start, last, *blocks):
    """A message whose usage is told in its first and in its last event; None: it is missing there."""
    def told(counts):
        return {} if counts is None else {"usage": counts}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    return sse(named("message_start", message=message | told(start)), *blocks,
               named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, **told(last)),
               named("message_stop"))


def answered(counts, *content):
    return whole({"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                  "content": list(content), **({} if counts is None else {"usage": counts})})


def counted(input, output=None, **more):
    return {"input_tokens": input, **({} if output is None else {"output_tokens": output}), **more}


SPEECH = [named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
          *[block_delta(0, "text_delta", text=word) for word in WORDS], named("content_block_stop", index=0)]
BLOCK = {"type": "text", "text": TEXT}
TOOL = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": TEXT}}
COMPACTED = {"type": "compaction", "input_tokens": 10**9, "output_tokens": 10**9}
MESSAGES_TOLD = {
    "at-both-ends": (spoken(counted(30, 1), {"output_tokens": 12}, *SPEECH), 30, 12, 12, False),
    "larger-at-the-end": (spoken(counted(10, 1), counted(30, 12), *SPEECH), 30, 12, 12, False),
    "the-question-alone": (spoken(counted(30, 1), None, *SPEECH), 30, 10, 12, True),
    "null-at-the-end": (spoken(counted(30, 1), {"output_tokens": None}, *SPEECH), 30, 10, 12, True),
    "nowhere": (spoken(None, None, *SPEECH), 7, 10, 12, True),
    "an-answer-of-nothing": (spoken(counted(30, 0), {"output_tokens": 0}, *SPEECH), 30, 10, 12, True),
    "of-a-cache": (spoken(counted(10, 1, cache_read_input_tokens=15, cache_creation_input_tokens=5),
                          {"output_tokens": 12}, *SPEECH), 30, 12, 12, False),
    "a-whole-answer": (answered(counted(30, 12), BLOCK), 30, 12, 12, False),
    "a-whole-answer-of-nothing": (answered(counted(30, 0), BLOCK), 30, 10, 12, True),
    "a-whole-answer-without": (answered(None, BLOCK, TOOL), 7, 20, 32, True),
}


@pytest.mark.parametrize("name", MESSAGES_TOLD)
def test_usage_of_a_message(name, serve, provider):
    script, *expected = MESSAGES_TOLD[name]
    provider.script(script)
    check(serve("anthropic"), "/v1/messages", {"messages": MESSAGES, "max_tokens": 50,
                                               "stream": "whole" not in name}, *expected)


def gemini(prompt=None, words=None, thoughts=None):
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": words, "thoughtsTokenCount": thoughts}
    return {name: count for name, count in counts.items() if count is not None} or None


def pieces(*usages):
    """A word each, the last ten of them, with what is told beside it."""
    return sse(*[event(piece("m", {"text": word}, usage=usage, finish="STOP" if i == len(WORDS) - 1 else None))
                 for i, (word, usage) in enumerate(zip(WORDS, usages))])


GEMINI_TOLD = {
    "growing": (pieces(*[gemini(30, i + 1, 2) for i in range(10)]), 30, 12, 12, False),
    "at-the-end": (pieces(*[None] * 9, gemini(30, 12)), 30, 12, 12, False),
    "the-question-first": (pieces(*[gemini(30)] * 9, gemini(30, 10, 2)), 30, 12, 12, False),
    "the-question-alone": (pieces(*[gemini(30)] * 10), 30, 10, 12, True),
    "before-most-words": (pieces(gemini(30, 1), *[None] * 9), 30, 10, 12, True),
    "nowhere": (pieces(*[None] * 10), 7, 10, 12, True),
    "of-a-cache-alone": (pieces(*[{"promptTokenCount": 0, "cachedContentTokenCount": 100}] * 10), 7, 10, 12, True),
    "more-from-a-cache": (pieces(*[gemini(30, 12) | {"cachedContentTokenCount": 100}] * 10), 30, 12, 12, False),
}


@pytest.mark.parametrize("name", GEMINI_TOLD)
def test_usage_of_geminis_stream(name, serve, provider):
    script, *expected = GEMINI_TOLD[name]
    provider.script(script)
    check(serve("gemini"), CHAT, QUESTION | {"stream": True, "max_tokens": 50}, *expected)


@pytest.mark.parametrize("told", [10**15, -1, 0, "30", None])
def test_absurd_usage_of_geminis_embeddings_is_counted_here(told, serve, provider):
    provider.script(whole({"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": told}}))
    check(serve("gemini"), "/v1/embeddings", {"input": "hi"}, 7, 0, 0, True)


def test_summaries_beyond_any_context_are_not_believed(serve, provider):
    """However many there are: the ledger keeps what the budget was charged."""
    provider.script(answered(counted(30, 12, iterations=[COMPACTED] * 3000), BLOCK))
    server = serve("anthropic")
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/messages", {"model": "p/m", "messages": MESSAGES, "max_tokens": 50}))
        assert client.read_response().status == 200
    [row] = ledger(server, 1)
    assert (row["input"], row["output"]) == (30 + 10**9, 12 + 10**9), row
    assert spent(server)["tokens"] == (row["input"] + row["output"], 0)
