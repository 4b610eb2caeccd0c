# SPDX-License-Identifier: Apache-2.0
"""A fake provider that speaks OpenAI, Anthropic and Gemini on one port, from one set of scenes.

    with Upstream(scenes) as upstream:
        upstream.port
        upstream.requests          # what came: .format .path .headers .body .seen (wire.Seen)
        upstream.reset()           # forget them, and start the scenes that change anew
        upstream.wait_gone()       # returns when a peer left an endless answer; fails if none does

A request belongs to the scene whose `prompt` stands in it; a scene with `after` needs that text, too
(the second turn of a tool call). Besides what wire.Scene holds, a scene may have

    error = "server"    answer with the error of that name (ERRORS), each time
    fails = 1           only the first that many times
    cut = 2             end the stream after that many pieces of text, without an end
    endless = true      stream words until the peer leaves

The one hard thing is to notice that the peer left an endless answer at once: the handler watches its
socket between the words.
"""
import base64
import json
import select
import struct
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import wire
from sluice import HANG_GUARD_S

FORMATS = {"/chat/completions": wire.Chat, "/completions": wire.Completions, "/responses": wire.Responses,
           "/messages": wire.Messages, "Content": wire.Gemini}
# What each provider answers in the case of trouble: the status, by format.
ERRORS = {"bad_request": {}, "auth": {}, "limited": {}, "server": {},
          "overloaded": {wire.Messages: 529}}
STATUS = {"bad_request": 400, "auth": 401, "limited": 429, "server": 500, "overloaded": 503}
FIELDS = set(wire.Scene.__dataclass_fields__)


@dataclass
class Request:
    """One request as it came."""
    path: str
    headers: dict
    body: dict
    format: type | None = None
    seen: wire.Seen | None = None
    scene: str | None = None


class Server(ThreadingHTTPServer):
    """Peers that reset their connection are none of its business."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Upstream:
    """The listener and its scenes ({name: table})."""

    def __init__(self, scenes):
        self.scenes = scenes
        self.requests = []
        self.begun = threading.Event()     # an endless answer has begun
        self.gone = threading.Event()      # its peer has left
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.upstream = self
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def reset(self):
        """Forget what came so far."""
        with self.lock:
            self.requests = []
            self.begun.clear()
            self.gone.clear()

    def wait_gone(self):
        """Wait until the peer of an endless answer has left."""
        assert self.gone.wait(HANG_GUARD_S), "the gateway left its upstream connection open"

    def take(self, request):
        """Note a request; returns the scene it belongs to and how often that was asked for."""
        text = json.dumps(request.body, ensure_ascii=False)
        found = [(name, scene) for name, scene in self.scenes.items()
                 if scene["prompt"] in text and scene.get("after", "") in text]
        name, scene = max(found, key=lambda item: len(item[1].get("after", "")), default=(None, None))
        with self.lock:
            before = sum(old.scene == name for old in self.requests)
            request.scene = name
            self.requests.append(request)
        return scene, before


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.read_body() or b"null")
        request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        path = self.path.partition("?")[0]
        if path.endswith(("/count_tokens", ":countTokens", "/input_tokens")):
            self.server.upstream.take(request)
            self.send_json(200, {"input_tokens": 17, "totalTokens": 17, "object": "response.input_tokens"})
            return
        if path.endswith(("/embeddings", ":embedContent", ":batchEmbedContents")):
            self.server.upstream.take(request)
            self.send_json(200, embed(path, body))
            return
        request.format = next((kind for end, kind in FORMATS.items() if path.endswith(end)), None)
        if request.format is None:
            self.send_json(404, wire.Chat.error(404, f"Invalid URL (POST {path})"))
            return
        request.seen = request.format.read(body)
        request.seen.streams |= ":stream" in path
        scene, before = self.server.upstream.take(request)
        self.answer(request, scene, before)

    def read_body(self):
        if "chunked" not in (self.headers.get("transfer-encoding") or ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, request, scene, before):
        kind = request.format
        if scene is None:
            self.send_json(400, kind.error(400, "no scene has this prompt"))
        elif "error" in scene and before < scene.get("fails", 1 << 30):
            status = ERRORS[scene["error"]].get(kind, STATUS[scene["error"]])
            self.send_json(status, kind.error(status, f"It failed: {scene['error']}."))
        elif scene.get("endless"):
            self.stream_endless(kind, request)
        else:
            self.send_scene(kind, request, scene)

    def send_scene(self, kind, request, scene):
        model, number = model_of(request), len(self.server.upstream.requests)
        script = wire.Scene(**{name: value for name, value in scene.items() if name in FIELDS})
        if not request.seen.streams:
            self.send_json(200, kind.whole(script, model, number))
            return
        events = kind.stream(script, model, number, request.body)
        if "cut" in scene:
            whole = [i for i, event in enumerate(events) if b"story" in event]
            events = events[:whole[scene["cut"]]]
        self.begin_stream()
        for event in events:
            self.send_chunk(event)
        if "cut" not in scene:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = "cut" in scene

    def stream_endless(self, kind, request):
        script = wire.Scene(text=" ".join(["word"] * 10_000))
        self.begin_stream()
        try:
            for number, event in enumerate(kind.stream(script, model_of(request), 1, request.body)):
                self.send_chunk(event)
                if number == 10:
                    self.server.upstream.begun.set()
                if select.select([self.connection], [], [], 0.01)[0]:
                    break
        except OSError:
            pass
        self.close_connection = True
        self.server.upstream.gone.set()

    def begin_stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_json(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def model_of(request):
    return request.body.get("model") or request.path.rpartition("/")[2].partition(":")[0]


def vector_of(text):
    """Four numbers that are exact in any format and tell the text."""
    return [len(text) / 4, 0.5, -0.25, (sum(text.encode()) % 64) / 8]


def embed(path, body):
    """OpenAI's or Gemini's answer to a request for embeddings."""
    if path.endswith(":batchEmbedContents"):
        return {"embeddings": [{"values": vector_of(one["content"]["parts"][0]["text"])}
                               for one in body["requests"]]}
    if path.endswith(":embedContent"):
        return {"embedding": {"values": vector_of(body["content"]["parts"][0]["text"])}}
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    vectors = [vector_of(text if isinstance(text, str) else str(text)) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<4f", *vector)).decode() for vector in vectors]
    return {"object": "list", "model": body["model"],
            "data": [{"object": "embedding", "index": i, "embedding": vector}
                     for i, vector in enumerate(vectors)],
            "usage": {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)}}
