# SPDX-License-Identifier: Apache-2.0
"""What an answer says, read by whoever made the format: OpenAI's and Anthropic's SDKs over a transport that
hands out the given bytes. Only Gemini, which no caller speaks, is read by a few lines of our own.

    read("chat", True, bytes) -> Said

The one hard thing is that the formats count and call things differently; a Said uses OpenAI's counting.
"""
import json
from dataclasses import dataclass, field

import anthropic
import httpx
import httpx2
import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

FINISH = {
    "stop": "stop", "length": "length", "tool_calls": "tools", "function_call": "tools", "content_filter": "filter",
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length", "tool_use": "tools",
    "refusal": "filter", "model_context_window_exceeded": "length",
    "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "filter", "RECITATION": "filter", "BLOCKLIST": "filter",
    "PROHIBITED_CONTENT": "filter", "SPII": "filter", "IMAGE_SAFETY": "filter", "max_output_tokens": "length",
}


@dataclass
class Said:
    text: str = ""
    calls: list = field(default_factory=list)      # (name, arguments as a value)
    finish: str | None = None
    usage: tuple | None = None                     # input, output, cached, reasoning; None where nothing is told
    failed: bool = False                           # the SDK was told of a failure


def client_of(kind, body, is_stream):
    """A client of an SDK that gets these bytes for an answer. The two SDKs want their own HTTP library."""
    http = {openai.OpenAI: httpx, anthropic.Anthropic: httpx2}[kind]
    content_type = "text/event-stream" if is_stream else "application/json"

    def answer(request):
        return http.Response(200, headers={"content-type": content_type}, content=body)

    return kind(api_key="test", base_url="http://wire", max_retries=0,
                http_client=http.Client(transport=http.MockTransport(answer)))


def arguments(text):
    """The value of a call's arguments; the text itself where it is broken."""
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return text


def chat_call(call):
    """A call's name and arguments; the SDK keeps a stream's custom calls without giving them a type."""
    if call["type"] == "custom":
        return call["custom"]["name"], {"input": call["custom"]["input"]}
    return call["function"]["name"], arguments(call["function"]["arguments"])


def read_chat(is_stream, body):
    client, said = client_of(openai.OpenAI, body, is_stream), Said()
    messages = [{"role": "user", "content": "?"}]
    completion = client.chat.completions.create(model="m", messages=messages, stream=is_stream)
    if is_stream:
        state = ChatCompletionStreamState()
        try:
            for chunk in completion:
                state.handle_chunk(chunk)
        except openai.APIError:
            return Said(failed=True)
        completion = state.current_completion_snapshot
    choice = next((c for c in completion.choices if c.index == 0), None)
    if choice:
        said.text = choice.message.content or ""
        said.calls = [chat_call(call.model_dump()) for call in choice.message.tool_calls or []]
        if call := choice.message.function_call:
            said.calls.append((call.name, arguments(call.arguments)))
        said.finish = "filter" if choice.message.refusal else FINISH[choice.finish_reason]
    if usage := completion.usage:
        inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
        said.usage = (usage.prompt_tokens, usage.completion_tokens, inputs and inputs.cached_tokens or 0,
                      outputs and outputs.reasoning_tokens or 0)
    return said


def read_completions(is_stream, body):
    client, said = client_of(openai.OpenAI, body, is_stream), Said()
    answer = client.completions.create(model="m", prompt="?", stream=is_stream)
    try:
        for chunk in answer if is_stream else [answer]:
            for choice in chunk.choices:
                if choice.index == 0:
                    said.text += choice.text
                    said.finish = FINISH[choice.finish_reason] if choice.finish_reason else said.finish
            if usage := chunk.usage:
                inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
                said.usage = (usage.prompt_tokens, usage.completion_tokens, inputs and inputs.cached_tokens or 0,
                              outputs and outputs.reasoning_tokens or 0)
    except openai.APIError:
        return Said(failed=True)
    return said


def read_responses(is_stream, body):
    client, said = client_of(openai.OpenAI, body, is_stream), Said()
    if is_stream:
        response, streamed, inputs, end = None, "", {}, None
        try:
            with client.responses.stream(model="m", input="?") as stream:
                for event in stream:
                    if event.type == "response.output_text.delta":
                        streamed += event.delta
                    if event.type == "response.custom_tool_call_input.delta":
                        inputs[event.item_id] = inputs.get(event.item_id, "") + event.delta
                    if event.type == "response.custom_tool_call_input.done":
                        assert inputs.get(event.item_id, "") == event.input
                    if event.type in ("response.completed", "response.incomplete", "response.failed"):
                        response, end = event.response, event.type
        except openai.APIError:
            return Said(failed=True)
        if end == "response.failed" or response is None:
            return Said(failed=True)
        assert streamed == response.output_text
    else:
        response = client.responses.create(model="m", input="?")
    said.text = response.output_text
    said.calls = [(item.name, {"input": item.input} if item.type == "custom_tool_call" else arguments(item.arguments))
                  for item in response.output if item.type in ("function_call", "custom_tool_call")]
    if response.status == "incomplete":
        said.finish = FINISH[response.incomplete_details.reason]
    elif any(part.type == "refusal" for item in response.output if item.type == "message" for part in item.content):
        said.finish = "filter"
    else:
        said.finish = "tools" if said.calls else "stop"
    if usage := response.usage:
        said.usage = (usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens,
                      usage.output_tokens_details.reasoning_tokens)
    return said


def read_messages(is_stream, body):
    client, said = client_of(anthropic.Anthropic, body, is_stream), Said()
    ask = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
    if is_stream:
        try:
            with client.messages.stream(**ask) as stream:
                message = stream.get_final_message()
        except anthropic.APIError:
            return Said(failed=True)
    else:
        message = client.messages.create(**ask)
    said.text = "".join(block.text for block in message.content if block.type == "text")
    said.calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    said.finish = FINISH.get(message.stop_reason, "stop")
    usage = message.usage
    cached = usage.cache_read_input_tokens or 0
    details = getattr(usage, "output_tokens_details", None)
    thinking = details.thinking_tokens if details and not isinstance(details, dict) else (details or {}).get(
        "thinking_tokens", 0)
    said.usage = (usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0), usage.output_tokens, cached,
                  thinking or 0)
    return said


def read_gemini(is_stream, body):
    said, reason = Said(), None
    if is_stream:
        chunks = [json.loads(event[6:]) for event in body.decode().split("\n\n") if event.startswith("data: ")]
    else:
        chunks = [json.loads(body)]
    for chunk in chunks:
        for candidate in chunk.get("candidates", []):
            if candidate.get("index", 0) != 0:
                continue
            for part in candidate.get("content", {}).get("parts", []):
                if "functionCall" in part:
                    said.calls.append((part["functionCall"]["name"], part["functionCall"].get("args", {})))
                elif not part.get("thought"):
                    said.text += part.get("text", "")
            reason = candidate.get("finishReason", reason)
        if "blockReason" in chunk.get("promptFeedback", {}):
            reason = "SAFETY"
        if told := chunk.get("usageMetadata"):
            thoughts = told.get("thoughtsTokenCount", 0)
            said.usage = (told["promptTokenCount"] + told.get("toolUsePromptTokenCount", 0),
                          told.get("candidatesTokenCount", 0) + thoughts, told.get("cachedContentTokenCount", 0),
                          thoughts)
    said.finish = "tools" if reason == "STOP" and said.calls else FINISH.get(reason, reason)
    return said


def read(protocol, is_stream, body):
    return {"chat": read_chat, "completions": read_completions, "responses": read_responses,
            "messages": read_messages, "gemini": read_gemini}[protocol](is_stream, body)
