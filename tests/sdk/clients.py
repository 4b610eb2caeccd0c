# SPDX-License-Identifier: Apache-2.0
"""The Python SDKs behind one face, and the Node.js ones (node/driver.mjs) behind the same.

    ask(client, task) -> result

`client` is a name of matrix.toml. A task is a dict: base (the server's root address), key, model,
prompt, stream, and if wanted image (base64 PNG), schema, tools, calls + results (the second turn of a
tool call), maxTokens, retries, leave (break off after the first piece of text).

A result is a dict: text, finish, usage {input, cached, output, reasoning}, calls [{id, name,
arguments}], object (for a schema), pieces; or error {classes, status, message} with the text and the
finish that came before it. The SDKs differ in what they call these; here they do not.
"""
import json
import subprocess
import threading
from pathlib import Path

import pytest
from sluice import HANG_GUARD_S, ROOT

NODE = ROOT / ".venv/bin/node"
DRIVER = Path(__file__).parent / "node/driver.mjs"
NOTHING = {"input": 0, "cached": 0, "output": 0, "reasoning": 0}


def empty():
    return {"text": "", "finish": None, "calls": [], "pieces": 0, "usage": dict(NOTHING)}


def error_of(failure):
    return {"classes": [kind.__name__ for kind in type(failure).__mro__],
            "status": getattr(failure, "status_code", None), "message": str(failure)}


def data_uri(task):
    return "data:image/png;base64," + task["image"]


# ---- openai ----

def openai_client(task):
    import openai
    return openai.OpenAI(base_url=task["base"] + "/v1", api_key=task["key"],
                         max_retries=task["retries"], timeout=HANG_GUARD_S)


def chat_usage(usage):
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens,
            "cached": getattr(usage.prompt_tokens_details, "cached_tokens", 0) or 0,
            "reasoning": getattr(usage.completion_tokens_details, "reasoning_tokens", 0) or 0}


def chat_request(task):
    content = task["prompt"]
    if "image" in task:
        content = [{"type": "text", "text": content},
                   {"type": "image_url", "image_url": {"url": data_uri(task)}}]
    request = {"model": task["model"], "messages": [{"role": "user", "content": content}],
               "max_completion_tokens": task["maxTokens"]}
    if "tools" in task:
        request["tools"] = [{"type": "function", "function": tool} for tool in task["tools"]]
    if "calls" in task:
        request["messages"].append({"role": "assistant", "tool_calls": [
            {"id": call["id"], "type": "function",
             "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
            for call in task["calls"]]})
        request["messages"] += [{"role": "tool", "tool_call_id": call["id"], "content": result}
                                for call, result in zip(task["calls"], task["results"])]
    if "schema" in task:
        request["response_format"] = {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": task["schema"], "strict": True}}
    return request


def openai_chat(task, result):
    with openai_client(task) as client:
        request = chat_request(task)
        if task["stream"]:
            chat_stream(client, request, task, result)
            return
        answer = client.chat.completions.create(**request)
        message = answer.choices[0].message
        result.update(text=message.content or "", finish=answer.choices[0].finish_reason,
                      usage=chat_usage(answer.usage))
        for call in message.tool_calls or []:
            result["calls"].append({"id": call.id, "name": call.function.name,
                                    "arguments": json.loads(call.function.arguments)})


def chat_stream(client, request, task, result):
    """Chunk by chunk, as most callers do; a tool call's pieces belong together by their index."""
    calls = {}
    with client.chat.completions.create(**request, stream=True,
                                        stream_options={"include_usage": True}) as chunks:
        for chunk in chunks:
            if chunk.usage:
                result["usage"] = chat_usage(chunk.usage)
            for choice in chunk.choices:
                result["text"] += choice.delta.content or ""
                result["pieces"] += bool(choice.delta.content)
                result["finish"] = choice.finish_reason or result["finish"]
                for piece in choice.delta.tool_calls or []:
                    call = calls.setdefault(piece.index, {"id": piece.id, "arguments": "",
                                                          "name": piece.function.name})
                    call["arguments"] += piece.function.arguments or ""
            if task.get("leave") and result["pieces"]:
                return
    result["calls"] = [call | {"arguments": json.loads(call["arguments"])}
                       for _, call in sorted(calls.items())]


def responses_request(task):
    content = [{"type": "input_text", "text": task["prompt"]}]
    if "image" in task:
        content.append({"type": "input_image", "image_url": data_uri(task), "detail": "auto"})
    request = {"model": task["model"], "input": [{"role": "user", "content": content}],
               "max_output_tokens": task["maxTokens"]}
    if "tools" in task:
        request["tools"] = [{"type": "function", "strict": False} | tool for tool in task["tools"]]
    for call, answer in zip(task.get("calls", []), task.get("results", [])):
        request["input"].append({"type": "function_call", "call_id": call["id"], "name": call["name"],
                                 "arguments": json.dumps(call["arguments"])})
        request["input"].append({"type": "function_call_output", "call_id": call["id"],
                                 "output": answer})
    if "schema" in task:
        request["text"] = {"format": {"type": "json_schema", "name": "answer", "strict": True,
                                      "schema": task["schema"]}}
    return request


def openai_responses(task, result):
    with openai_client(task) as client:
        request = responses_request(task)
        if not task["stream"]:
            read_response(client.responses.create(**request), result)
            return
        with client.responses.stream(**request) as events:
            for event in events:
                if event.type == "response.output_text.delta":
                    result["text"] += event.delta
                    result["pieces"] += 1
                    if task.get("leave"):
                        return
                elif event.type in ("response.completed", "response.incomplete"):
                    streamed = result["text"]
                    read_response(event.response, result)
                    assert streamed == result["text"], "the deltas are not the answer"
        assert result["finish"], "the stream ended without an end"


def read_response(answer, result):
    usage = answer.usage
    result.update(text=answer.output_text, finish=answer.status, usage={
        "input": usage.input_tokens, "output": usage.output_tokens,
        "cached": getattr(usage.input_tokens_details, "cached_tokens", 0),
        "reasoning": getattr(usage.output_tokens_details, "reasoning_tokens", 0)})
    result["calls"] = [{"id": item.call_id, "name": item.name, "arguments": json.loads(item.arguments)}
                       for item in answer.output if item.type == "function_call"]


# ---- anthropic ----

def messages_request(task):
    content = [{"type": "text", "text": task["prompt"]}]
    if "image" in task:
        content.append({"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": task["image"]}})
    request = {"model": task["model"], "max_tokens": task["maxTokens"],
               "messages": [{"role": "user", "content": content}]}
    if "tools" in task:
        request["tools"] = [{"name": tool["name"], "description": tool["description"],
                             "input_schema": tool["parameters"]} for tool in task["tools"]]
    if "calls" in task:
        request["messages"] += [
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": call["id"], "name": call["name"],
                 "input": call["arguments"]} for call in task["calls"]]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": call["id"], "content": answer}
                for call, answer in zip(task["calls"], task["results"])]}]
    if "schema" in task:
        request["output_config"] = {"format": {"type": "json_schema", "schema": task["schema"]}}
    return request


def anthropic_client(task):
    import anthropic
    return anthropic.Anthropic(base_url=task["base"], api_key=task["key"],
                               max_retries=task["retries"], timeout=HANG_GUARD_S)


def anthropic_messages(task, result):
    with anthropic_client(task) as client:
        request = messages_request(task)
        if not task["stream"]:
            read_message(client.messages.create(**request), result)
            return
        with client.messages.stream(**request) as stream:
            ended = False
            for event in stream:
                ended |= event.type == "message_stop"
                if event.type == "text":
                    result["text"] += event.text
                    result["pieces"] += 1
                    if task.get("leave"):
                        return
            assert ended, "the stream ended without an end"
            read_message(stream.get_final_message(), result)


def read_message(message, result):
    usage = message.usage
    cached = usage.cache_read_input_tokens or 0
    result.update(
        text="".join(block.text for block in message.content if block.type == "text"),
        finish=message.stop_reason,
        usage={"input": usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0),
               "cached": cached, "output": usage.output_tokens,
               "reasoning": getattr(usage.output_tokens_details, "thinking_tokens", 0) or 0},
        calls=[{"id": block.id, "name": block.name, "arguments": block.input}
               for block in message.content if block.type == "tool_use"])


# ---- LangChain ----

def langchain_openai(task, result):
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model=task["model"], base_url=task["base"] + "/v1", api_key=task["key"],
                       max_retries=task["retries"], timeout=HANG_GUARD_S, stream_usage=True,
                       max_completion_tokens=task["maxTokens"], use_responses_api=False)
    langchain(model, task, result, {"type": "image_url", "image_url": {"url": data_uri(task)}}
              if "image" in task else None, "finish_reason")


def langchain_anthropic(task, result):
    from langchain_anthropic import ChatAnthropic
    model = ChatAnthropic(model=task["model"], base_url=task["base"], api_key=task["key"],
                          max_retries=task["retries"], timeout=HANG_GUARD_S,
                          max_tokens=task["maxTokens"])
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                         "data": task["image"]}} if "image" in task else None
    langchain(model, task, result, image, "stop_reason")


def langchain(model, task, result, image, finish_name):
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    content = [{"type": "text", "text": task["prompt"]}]
    messages = [HumanMessage(content + ([image] if image else []))]
    if "calls" in task:
        calls = [{"id": call["id"], "name": call["name"], "args": call["arguments"]}
                 for call in task["calls"]]
        messages.append(AIMessage("", tool_calls=calls))
        messages += [ToolMessage(answer, tool_call_id=call["id"])
                     for call, answer in zip(task["calls"], task["results"])]
    if "schema" in task:
        schema = {"title": "answer"} | task["schema"]
        chain = model.with_structured_output(schema, method="json_schema", include_raw=True)
        answer = chain.invoke(messages)
        result["object"] = answer["parsed"]
        read_langchain(answer["raw"], finish_name, result)
        return
    if "tools" in task:
        model = model.bind_tools([{"type": "function", "function": tool} for tool in task["tools"]])
    if task["stream"]:
        langchain_stream(model, messages, task, result, finish_name)
    else:
        read_langchain(model.invoke(messages), finish_name, result)


def langchain_stream(model, messages, task, result, finish_name):
    whole = None
    for chunk in model.stream(messages):
        whole = chunk if whole is None else whole + chunk
        result["text"] = whole.text
        result["pieces"] += bool(chunk.text)
        if task.get("leave") and result["pieces"]:
            return
    read_langchain(whole, finish_name, result)


def read_langchain(message, finish_name, result):
    usage = message.usage_metadata or {}
    result.update(
        text=message.text, finish=message.response_metadata.get(finish_name),
        usage={"input": usage.get("input_tokens"), "output": usage.get("output_tokens"),
               "cached": usage.get("input_token_details", {}).get("cache_read") or 0,
               "reasoning": usage.get("output_token_details", {}).get("reasoning") or 0},
        calls=[{"id": call["id"], "name": call["name"], "arguments": call["args"]}
               for call in message.tool_calls])


# ---- embeddings: a task has texts, a result has vectors ----

def openai_embeddings(task, result):
    """The SDK asks for base64 by itself and decodes it."""
    with openai_client(task) as client:
        answer = client.embeddings.create(model=task["model"], input=task["texts"])
        result.update(vectors=[one.embedding for one in answer.data],
                      usage={"input": answer.usage.prompt_tokens})


def langchain_embeddings(task, result):
    """Without the check of lengths, for which LangChain would fetch a tokenizer's file."""
    from langchain_openai import OpenAIEmbeddings
    model = OpenAIEmbeddings(model=task["model"], base_url=task["base"] + "/v1", api_key=task["key"],
                             max_retries=task["retries"], check_embedding_ctx_length=False)
    result["vectors"] = model.embed_documents(task["texts"])


PYTHON = {"openai-py-chat": openai_chat, "openai-py-responses": openai_responses,
          "anthropic-py": anthropic_messages, "langchain-openai-py": langchain_openai,
          "langchain-anthropic-py": langchain_anthropic,
          "openai-py-embeddings": openai_embeddings, "langchain-embeddings-py": langchain_embeddings}


def ask_python(client, task):
    result = empty()
    try:
        PYTHON[client](task, result)
    except ImportError as missing:
        pytest.skip(f"{client} cannot be tested: {missing}")
    except Exception as failure:               # whatever an SDK raises is what its users would see
        result["error"] = error_of(failure)
    if "schema" in task and "object" not in result and result["text"]:
        result["object"] = json.loads(result["text"])
    return result


class NodeDriver:
    """One Node.js process that answers tasks, one JSON line each; started when it is first needed."""

    def __init__(self):
        self.process = None
        self.lock = threading.Lock()

    def ask(self, client, task):
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [NODE, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent",
                         "AI_SDK_LOG_WARNINGS": "false"})
            self.process.stdin.write(json.dumps({"client": client, **task}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        assert line, "the Node.js driver ended"
        result = json.loads(line)
        if "missing" in result:
            pytest.skip(f"{client} cannot be tested: {result['missing']}")
        return result

    def stop(self):
        if self.process:
            self.process.stdin.close()
            assert self.process.wait(HANG_GUARD_S) == 0
