# SPDX-License-Identifier: Apache-2.0
"""Five wire formats of a model's provider: how a request is read and how an answer is written.

    Chat        POST /v1/chat/completions            OpenAI
    Completions POST /v1/completions                 OpenAI
    Responses   POST /v1/responses                   OpenAI
    Messages    POST /v1/messages                    Anthropic
    Gemini      POST /v1beta/models/M:generateContent, :streamGenerateContent

Each class turns a body into what it asks for (`read`) and a Scene into a whole answer (`whole`), a
list of events (`stream`) or an error (`error`). A Scene says what the model answers, in no one's
format; so the same scene behind every format must look the same to a caller.

The one hard thing is that usage means something else in each format: Anthropic's input excludes what
came from the cache, Gemini's output excludes the thoughts. A Scene counts as OpenAI does.
"""
import json
from dataclasses import dataclass, field


@dataclass
class Scene:
    """What the model answers. `calls` are {"name", "arguments"}; `finish` is stop, length or tools."""
    text: str = ""
    calls: list = field(default_factory=list)
    finish: str = "stop"
    input: int = 0                 # tokens, with those from the cache
    output: int = 0                # tokens, with those of the reasoning
    cached: int = 0
    reasoning: int = 0

    def pieces(self):
        """The text as it is streamed: word by word."""
        words = self.text.split(" ")
        return [word if i == 0 else " " + word for i, word in enumerate(words)] if self.text else []


@dataclass
class Seen:
    """What a request asks for, in no one's format."""
    images: list = field(default_factory=list)       # (media type, base64)
    tools: dict = field(default_factory=dict)        # name -> schema of its arguments
    results: list = field(default_factory=list)      # (id or name of the call, text)
    schema: dict | None = None
    max_tokens: int | None = None
    streams: bool = False


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def fragments(text, size=5):
    return [text[i:i + size] for i in range(0, len(text), size)]


def named_event(value):
    return f"event: {value['type']}\ndata: {compact(value)}\n\n".encode()


def data_event(value):
    return f"data: {compact(value)}\n\n".encode()


def split_data_uri(uri):
    head, _, data = uri.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), data


def text_of(content):
    """The text of a content that is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


class Chat:
    """OpenAI's chat completions."""

    FINISH = {"stop": "stop", "length": "length", "tools": "tool_calls"}

    @staticmethod
    def read(body):
        seen = Seen(streams=bool(body.get("stream")),
                    max_tokens=body.get("max_completion_tokens", body.get("max_tokens")))
        for message in body["messages"]:
            if message["role"] == "tool":
                seen.results.append((message["tool_call_id"], text_of(message["content"])))
            for part in message["content"] if isinstance(message.get("content"), list) else []:
                if part["type"] == "image_url":
                    seen.images.append(split_data_uri(part["image_url"]["url"]))
        for tool in body.get("tools") or []:
            seen.tools[tool["function"]["name"]] = tool["function"].get("parameters")
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            seen.schema = wanted["json_schema"]["schema"]
        return seen

    @staticmethod
    def usage(scene):
        return {"prompt_tokens": scene.input, "completion_tokens": scene.output,
                "total_tokens": scene.input + scene.output,
                "prompt_tokens_details": {"cached_tokens": scene.cached},
                "completion_tokens_details": {"reasoning_tokens": scene.reasoning}}

    @classmethod
    def whole(cls, scene, model, number):
        message = {"role": "assistant", "content": scene.text or None, "refusal": None}
        if scene.calls:
            message["tool_calls"] = [
                {"id": f"call_{number}_{i}", "type": "function",
                 "function": {"name": call["name"], "arguments": compact(call["arguments"])}}
                for i, call in enumerate(scene.calls)]
        choice = {"index": 0, "message": message, "logprobs": None,
                  "finish_reason": cls.FINISH[scene.finish]}
        return {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1732000000,
                "model": model, "choices": [choice], "usage": cls.usage(scene)}

    @classmethod
    def stream(cls, scene, model, number, body):
        base = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk",
                "created": 1732000000, "model": model}

        def chunk(delta, finish=None):
            return data_event(base | {"choices": [
                {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})
        events = [chunk({"role": "assistant", "content": ""})]
        events += [chunk({"content": piece}) for piece in scene.pieces()]
        for i, call in enumerate(scene.calls):
            head = {"id": f"call_{number}_{i}", "type": "function",
                    "function": {"name": call["name"], "arguments": ""}}
            events.append(chunk({"tool_calls": [{"index": i, **head}]}))
            events += [chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
                       for piece in fragments(compact(call["arguments"]))]
        events.append(chunk({}, cls.FINISH[scene.finish]))
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append(data_event(base | {"choices": [], "usage": cls.usage(scene)}))
        return [*events, b"data: [DONE]\n\n"]

    @staticmethod
    def error(status, message):
        kind = {401: "invalid_request_error", 404: "invalid_request_error", 429: "requests",
                400: "invalid_request_error"}.get(status, "server_error")
        code = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
        return {"error": {"message": message, "type": kind, "param": None, "code": code.get(status)}}


class Completions:
    """OpenAI's old completions: a prompt, and its continuation."""

    @staticmethod
    def read(body):
        return Seen(streams=bool(body.get("stream")), max_tokens=body.get("max_tokens"))

    @classmethod
    def answer(cls, text, model, number, finish=None):
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {"id": f"cmpl-{number}", "object": "text_completion", "created": 1732000000,
                "model": model, "choices": [choice]}

    @classmethod
    def whole(cls, scene, model, number):
        answer = cls.answer(scene.text, model, number, Chat.FINISH[scene.finish])
        return answer | {"usage": Chat.usage(scene)}

    @classmethod
    def stream(cls, scene, model, number, _body):
        events = [data_event(cls.answer(piece, model, number)) for piece in scene.pieces()]
        last = cls.answer("", model, number, Chat.FINISH[scene.finish])
        return [*events, data_event(last), b"data: [DONE]\n\n"]

    error = Chat.error


class Responses:
    """OpenAI's responses."""

    @staticmethod
    def read(body):
        seen = Seen(streams=bool(body.get("stream")), max_tokens=body.get("max_output_tokens"))
        for item in body["input"] if isinstance(body["input"], list) else []:
            if item.get("type") == "function_call_output":
                seen.results.append((item["call_id"], text_of(item["output"])))
            for part in item["content"] if isinstance(item.get("content"), list) else []:
                if part["type"] == "input_image":
                    seen.images.append(split_data_uri(part["image_url"]))
        for tool in body.get("tools") or []:
            if tool["type"] == "function":
                seen.tools[tool["name"]] = tool.get("parameters")
        wanted = (body.get("text") or {}).get("format") or {}
        seen.schema = wanted.get("schema")
        return seen

    @staticmethod
    def items(scene, number):
        """The output items, complete."""
        items = []
        if scene.text:
            part = {"type": "output_text", "text": scene.text, "annotations": [], "logprobs": []}
            items.append({"id": f"msg_{number}", "type": "message", "role": "assistant",
                          "status": "completed", "content": [part]})
        for i, call in enumerate(scene.calls):
            items.append({"id": f"fc_{number}_{i}", "type": "function_call", "status": "completed",
                          "call_id": f"call_{number}_{i}", "name": call["name"],
                          "arguments": compact(call["arguments"])})
        return items

    @classmethod
    def whole(cls, scene, model, number, status=None, output=None):
        cut = scene.finish == "length"
        status = status or ("incomplete" if cut else "completed")
        usage = {"input_tokens": scene.input, "output_tokens": scene.output,
                 "total_tokens": scene.input + scene.output,
                 "input_tokens_details": {"cached_tokens": scene.cached, "cache_write_tokens": 0},
                 "output_tokens_details": {"reasoning_tokens": scene.reasoning}}
        ended = status != "in_progress"
        return {"id": f"resp_{number}", "object": "response", "created_at": 1732000000,
                "status": status, "error": None, "model": model, "instructions": None,
                "incomplete_details": {"reason": "max_output_tokens"} if cut and ended else None,
                "output": cls.items(scene, number) if output is None else output, "tools": [],
                "parallel_tool_calls": True, "metadata": {}, "tool_choice": "auto",
                "temperature": 1, "top_p": 1, "usage": usage if ended else None}

    @classmethod
    def stream(cls, scene, model, number, _body):
        begun = cls.whole(scene, model, number, "in_progress", [])
        events = [{"type": "response.created", "response": begun},
                  {"type": "response.in_progress", "response": begun}]
        for index, item in enumerate(cls.items(scene, number)):
            make = cls.message_events if item["type"] == "message" else cls.call_events
            events += [event | {"output_index": index} for event in make(item, scene)]
        answer = cls.whole(scene, model, number)
        events.append({"type": f"response.{answer['status']}", "response": answer})
        return [named_event(event | {"sequence_number": i}) for i, event in enumerate(events)]

    @staticmethod
    def message_events(item, scene):
        place = {"item_id": item["id"], "content_index": 0}
        part = item["content"][0]
        started = item | {"status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "item": started}
        yield {"type": "response.content_part.added", "part": part | {"text": ""}, **place}
        for piece in scene.pieces():
            yield {"type": "response.output_text.delta", "delta": piece, "logprobs": [], **place}
        yield {"type": "response.output_text.done", "text": scene.text, "logprobs": [], **place}
        yield {"type": "response.content_part.done", "part": part, **place}
        yield {"type": "response.output_item.done", "item": item}

    @staticmethod
    def call_events(item, _scene):
        started = item | {"status": "in_progress", "arguments": ""}
        yield {"type": "response.output_item.added", "item": started}
        for piece in fragments(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", "item_id": item["id"],
                   "delta": piece}
        yield {"type": "response.function_call_arguments.done", "item_id": item["id"],
               "arguments": item["arguments"], "name": item["name"]}
        yield {"type": "response.output_item.done", "item": item}

    error = Chat.error


class Messages:
    """Anthropic's messages."""

    FINISH = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use"}
    ERRORS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
              429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}

    @staticmethod
    def read(body):
        seen = Seen(streams=bool(body.get("stream")), max_tokens=body["max_tokens"])
        for message in body["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else []:
                if block["type"] == "image":
                    seen.images.append((block["source"]["media_type"], block["source"]["data"]))
                elif block["type"] == "tool_result":
                    seen.results.append((block["tool_use_id"], text_of(block["content"])))
        for tool in body.get("tools") or []:
            seen.tools[tool["name"]] = tool.get("input_schema")
        seen.schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
        return seen

    @staticmethod
    def usage(scene):
        return {"input_tokens": scene.input - scene.cached, "output_tokens": scene.output,
                "cache_read_input_tokens": scene.cached, "cache_creation_input_tokens": 0,
                "output_tokens_details": {"thinking_tokens": scene.reasoning}}

    @classmethod
    def whole(cls, scene, model, number):
        content = [{"type": "text", "text": scene.text}] if scene.text else []
        content += [{"type": "tool_use", "id": f"toolu_{number}_{i}", "name": call["name"],
                     "input": call["arguments"]} for i, call in enumerate(scene.calls)]
        return {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model,
                "content": content, "stop_reason": cls.FINISH[scene.finish],
                "stop_sequence": None, "usage": cls.usage(scene)}

    @classmethod
    def stream(cls, scene, model, number, _body):
        answer = cls.whole(scene, model, number)
        begun = answer | {"content": [], "stop_reason": None,
                          "usage": answer["usage"] | {"output_tokens": 1}}
        events = [{"type": "message_start", "message": begun}, {"type": "ping"}]
        for index, block in enumerate(answer["content"]):
            if block["type"] == "text":
                start = block | {"text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in scene.pieces()]
            else:
                start = block | {"input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": piece}
                          for piece in ["", *fragments(compact(block["input"]))]]
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta}
                       for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        end = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
        events.append({"type": "message_delta", "delta": end, "usage": answer["usage"]})
        events.append({"type": "message_stop"})
        return [named_event(event) for event in events]

    @classmethod
    def error(cls, status, message):
        return {"type": "error", "request_id": "req_fake",
                "error": {"type": cls.ERRORS.get(status, "api_error"), "message": message}}


class Gemini:
    """Google's generateContent."""

    FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP"}
    ERRORS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND",
              429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}

    @staticmethod
    def read(body):
        config = body.get("generationConfig") or {}
        seen = Seen(max_tokens=config.get("maxOutputTokens"),
                    schema=config.get("responseJsonSchema") or config.get("responseSchema"))
        for content in body["contents"]:
            for part in content["parts"]:
                if "inlineData" in part:
                    seen.images.append((part["inlineData"]["mimeType"], part["inlineData"]["data"]))
                if "functionResponse" in part:
                    answer = part["functionResponse"]
                    seen.results.append((answer.get("id") or answer["name"],
                                         compact(answer["response"])))
        for tool in body.get("tools") or []:
            for function in tool.get("functionDeclarations") or []:
                seen.tools[function["name"]] = (function.get("parametersJsonSchema") or
                                                function.get("parameters"))
        return seen

    @staticmethod
    def usage(scene):
        return {"promptTokenCount": scene.input, "cachedContentTokenCount": scene.cached,
                "candidatesTokenCount": scene.output - scene.reasoning,
                "thoughtsTokenCount": scene.reasoning,
                "totalTokenCount": scene.input + scene.output}

    @classmethod
    def answer(cls, parts, model, number, finish=None, usage=None):
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        whole = {"candidates": [candidate], "modelVersion": model, "responseId": f"gemini-{number}"}
        return whole | ({"usageMetadata": usage} if usage else {})

    @staticmethod
    def parts(scene, pieces):
        return [{"text": piece} for piece in pieces] + [
            {"functionCall": {"name": call["name"], "args": call["arguments"]}}
            for call in scene.calls]

    @classmethod
    def whole(cls, scene, model, number):
        parts = cls.parts(scene, [scene.text] if scene.text else [])
        return cls.answer(parts, model, number, cls.FINISH[scene.finish], cls.usage(scene))

    @classmethod
    def stream(cls, scene, model, number, _body):
        parts = cls.parts(scene, scene.pieces())
        events = [cls.answer([part], model, number) for part in parts[:-1]]
        events.append(cls.answer(parts[-1:], model, number, cls.FINISH[scene.finish],
                                 cls.usage(scene)))
        return [data_event(event) for event in events]

    @classmethod
    def error(cls, status, message):
        return {"error": {"code": status, "message": message, "status": cls.ERRORS[status]}}
