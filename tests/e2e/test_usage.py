# SPDX-License-Identifier: Apache-2.0
"""Token counts of answers whose caller leaves before the provider has told any.

The texts that pass through are counted on the way, in each protocol in which they may pass."""

import pytest
from caller import MESSAGES, outcome
from fake_anthropic import block_delta, message_start, named
from fake_provider import HANG, chat_events, event, sse
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S

WORDS = [f" word{i}" for i in range(20)]        # two tokens each, or one and a half without ranks
CALL = ['{"city": ', '"Reykjavík"', "}"]


def response_event(type, **members):
    return event({"type": type, "sequence_number": 0, **members}, type.encode())


ANTHROPIC = [
    message_start("m", None),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    *[block_delta(0, "text_delta", text=word) for word in WORDS],
    named("content_block_stop", index=0),
    named("content_block_start", index=1,
          content_block={"type": "tool_use", "id": "t1", "name": "weather", "input": {}}),
    *[block_delta(1, "input_json_delta", partial_json=piece) for piece in CALL]]
RESPONSES = [
    response_event("response.created", response={"id": "resp_1", "status": "in_progress"}),
    *[response_event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta=word,
                     logprobs=[], obfuscation="zzzzzzzzzzzzzzzz") for word in WORDS],
    *[response_event("response.function_call_arguments.delta", item_id="j", output_index=1, delta=piece)
      for piece in CALL]]
TOOL_DELTA = {"tool_calls": [{"index": 0, "id": "c", "type": "function",
                              "function": {"name": "weather", "arguments": "".join(CALL)}}]}
CHAT = [*chat_events(*WORDS)[:-2],
        event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
               "choices": [{"index": 0, "delta": TOOL_DELTA, "finish_reason": None}]})]

OLD_CALL = [event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                   "choices": [{"index": 0, "delta": {"function_call": part}, "finish_reason": None}]})
            for part in [{"name": "weather", "arguments": ""}, *({"arguments": word} for word in WORDS)]]
CUSTOM_CALL = [event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                      "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "type": "custom", **part}]},
                                   "finish_reason": None}]})
               for part in [{"id": "t", "custom": {"name": "weather", "input": ""}},
                            *({"custom": {"input": word}} for word in WORDS)]]
PARTS = chat_events(*WORDS)[:1] + [
    event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
           "choices": [{"index": 0, "delta": {"content": [part]}, "finish_reason": None}]})
    for part in ([{"type": "thinking", "thinking": [{"type": "text", "text": word}]} for word in WORDS[:10]] +
                 [{"type": "text", "text": word} for word in WORDS[10:]])]
SPOKEN = [event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [{"index": 0, "delta": {"audio": {"id": "a", "transcript": word}}, "finish_reason": None}]})
          for word in WORDS]
TEXT = [event({"id": "c", "object": "text_completion", "created": 1, "model": "m",
               "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}) for word in WORDS]

KINDS = {"openai": '{{kind: openai, url: "{url}", responses: on}}',
         "anthropic": '{{kind: anthropic, url: "{root}"}}'}
CASES = {
    "chat": ("openai", "/v1/chat/completions", {"messages": MESSAGES}, CHAT),
    "messages": ("anthropic", "/v1/messages", {"messages": MESSAGES, "max_tokens": 100}, ANTHROPIC),
    "responses": ("openai", "/v1/responses", {"input": "hi", "store": False}, RESPONSES),
}
OTHERS = {
    "old-calls": ("openai", "/v1/chat/completions", {"messages": MESSAGES}, OLD_CALL),
    "custom-calls": ("openai", "/v1/chat/completions", {"messages": MESSAGES}, CUSTOM_CALL),
    "lists-of-parts": ("openai", "/v1/chat/completions", {"messages": MESSAGES}, PARTS),
    "spoken": ("openai", "/v1/chat/completions", {"messages": MESSAGES}, SPOKEN),
    "prompts": ("openai", "/v1/completions", {"prompt": ["hi", "hi"]}, TEXT),
    "prompt-of-tokens": ("openai", "/v1/completions", {"prompt": [1, 2, 3]}, TEXT),
    "prompts-of-tokens": ("openai", "/v1/completions", {"prompt": [[1, 2], [3]]}, TEXT),
    "prompt-with-logprobs": ("openai", "/v1/completions", {"prompt": "hi", "logprobs": 1}, TEXT),
}


def leave(sluice, provider, name, question, *script):
    """The access line of a caller who left when the last of the script's events had come."""
    kind, path, body, _ = (CASES | OTHERS)[name]
    root = provider.url.removesuffix("/v1")
    server = sluice(f"providers: {{p: {KINDS[kind].format(url=provider.url, root=root)}}}\n")
    provider.script(sse(*script, HANG))
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", path, {"model": "p/m", "stream": True, **body, **question},
                                  [("X-Request-Id", "left")]))
        assert client.read_head().status == 200
        got = b""
        while script[-1] not in got:
            got += client.read_chunk()
    provider.wait_request().wait_peer_closed(HANG_GUARD_S)
    line = outcome(server, "left")
    assert (line["outcome"], line["usage_source"]) == ("client_cancelled", "estimated"), line
    return line


@pytest.mark.parametrize("name", CASES | OTHERS)
def test_caller_leaves_in_mid_stream(name, sluice, provider):
    line = leave(sluice, provider, name, {}, *(CASES | OTHERS)[name][3])
    assert 1.5 * len(WORDS) <= line["output_tokens"] <= 4 * len(WORDS), line
    assert 0 < line["input_tokens"] < 20, line


@pytest.mark.parametrize("pause_s", [0, 0.7], ids=["kept", "let go"])
@pytest.mark.parametrize("name", CASES)
def test_long_question_is_counted(name, pause_s, sluice, provider):
    """A stream that lasts does not keep its question: it is counted before."""
    text = " word" * 1000
    question = {"input": text} if name == "responses" else {"messages": [{"role": "user", "content": text}]}
    events = CASES[name][3]
    line = leave(sluice, provider, name, question, *events[:5], pause_s, *events[5:])
    assert 1000 <= line["input_tokens"] < 1300, line


def test_a_long_list_of_prompts_is_counted(sluice, provider):
    """All of them, in words as in tokens."""
    for prompt in ([" word" * 500, " word" * 500], [7] * 1000, [[7] * 400, [7] * 600]):
        line = leave(sluice, provider, "prompts", {"prompt": prompt}, *TEXT)
        assert 1000 <= line["input_tokens"] < 1300, line
