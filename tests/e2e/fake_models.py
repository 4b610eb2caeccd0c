# SPDX-License-Identifier: Apache-2.0
"""A fake provider that speaks OpenAI, Anthropic and Gemini on one port and fails by plan.

    with FakeModels("first") as first:
        first.base("anthropic")                   # the url for a provider of that kind
        first.plan("m1", "503 cut:40 ok")         # model m1: fails, breaks off, is well from then on
        first.asked("m1")                         # its Exchanges, in order

Every answer is SAID words, each naming who said it, to which prompt, and where it stands:
"first.p17.0 first.p17.1 …", so that a torn or doubled answer cannot hide. `p17` is the last word
of the prompt's last user turn. Usage is `first.tokens`, different for each fake.

A plan is a row of faults, one a request; the last one stays. `name:n` gives a fault its number:

    ok              the whole answer            continue     goes on where the last turn ends;
                                                continue:n   the same, and is cut after n words
    400 … 529       that status (STATUSES)      429:n        with Retry-After: n
    context filter  the prompt is refused       missing      this model does not exist
    prefill         400 if the assistant had the last word, else ok
    redirect        307 to another place        html         200 and a page
    reset close     before the head             hang         no head
    nothing marker  200, then nothing; or only the end marker
    stall-head stall-role                       200, then silence; the same after the quiet events
    reset-role end-role                         the quiet events, then RST; or a clean end
    late:ms         the first word is so late; the rest follows
    malformed:n bad-utf8:n error:n cut:n reset-at:n end:n stall:n      after n words (n may be 0): no
                    JSON, no UTF-8, an error event, FIN within the body, RST, a clean end without
                    finish, silence
    unfinished      all words and the finish, then FIN within the body; unmarked: then a clean end

Whole answers break off in the same manner after their first half. RST overtakes what was sent before
it, so after that fault the last words may be missing; FIN does not. The one hard thing: a request on
a used connection that is reset before its head is sent once more by any good client, which would eat
the plan's next step. Such a fault on a used connection is therefore repeated, and not counted.
"""
import json
import threading

import fake_anthropic
import fake_gemini
import fake_openai
from fake_answer import Answer, Tokens
from fake_provider import (CLOSE, HANG, HANG_GUARD_S, RESET, FakeProvider, event, raw, response_head, sse, whole)

FACES = {"openai": fake_openai, "anthropic": fake_anthropic, "gemini": fake_gemini}
BASES = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
SAID = 60
STATUSES = {"400": "invalid", "401": "auth", "403": "forbidden", "404": "unknown", "413": "too_big",
            "422": "unprocessable", "429": "limited", "500": "server", "502": "bad_gateway",
            "503": "unavailable", "529": "overloaded", "context": "context", "missing": "missing"}
HTML = b"<!DOCTYPE html><title>Welcome</title><p>Please sign in to the network."


class FakeModels(FakeProvider):
    """`tokens` is the usage of every answer, `said` its words; `answer` may be set to one that all
    models give."""

    def __init__(self, name="first", tokens=Tokens(11, SAID), **options):
        self.name, self.tokens, self.answer = name, tokens, None
        self.plans, self._asked, self._lock = {}, {}, threading.Condition()
        self.said = SAID
        self.choose = None                 # or a function (exchange, prompt) → a fault's name
        self.keeps = True                  # False: requests are forgotten when they were answered
        super().__init__(**options)
        self.default = self.perform

    def base(self, kind):
        """The url of a provider of that kind."""
        return f"http://127.0.0.1:{self.port}{BASES[kind]}"

    def config(self, kinds, more=""):
        """Lines that make a provider of each kind, and a model named like it that is translated."""
        providers = "".join(f'  {kind}: {{kind: {kind}, url: "{self.base(kind)}", key: "sk-p"'
                            f'{", responses: off" if kind == "openai" else ""}}}\n' for kind in kinds)
        models = "".join(f"  {kind}: {{targets: {kind}/m}}\n" for kind in kinds)
        return f"providers:\n{providers}models:\n{models}{more}"

    def plan(self, model, faults):
        """What becomes of the requests for a model; forgets those that came."""
        with self._lock:
            self.plans[model] = faults.split()
            self._asked[model] = []

    def asked(self, model):
        """The requests for a model, in the order in which they came."""
        with self._lock:
            return list(self._asked.get(model, []))

    def wait_asked(self, model):
        """The first request for a model, once it has come."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._asked.get(model), HANG_GUARD_S), f"nobody asked for {model}"
            return self._asked[model][0]

    def record(self, exchange):
        if self.keeps:
            super().record(exchange)

    def perform(self, exchange):
        """Answer one request by its model's plan."""
        face = face_of(exchange)
        play = Play(self, face, exchange)
        play.fault = self._next_fault(play)
        name, _, number = play.fault.partition(":")
        play.run(name, int(number) if number else None)

    def _next_fault(self, play):
        if self.choose:
            return self.choose(play.exchange, play.prompt)
        connection = play.exchange.connection
        with self._lock:
            steps = self.plans.setdefault(play.model, ["ok"])
            if steps[0] in ("reset", "close") and getattr(connection, "is_used", False):
                return steps[0]
            connection.is_used = True
            self._asked.setdefault(play.model, []).append(play.exchange)
            self._lock.notify_all()
            return steps.pop(0) if len(steps) > 1 else steps[0]


def face_of(exchange):
    """The dialect of a request."""
    for face in FACES.values():
        if exchange.target.startswith(face.PATH):
            return face
    raise ValueError(f"nobody serves {exchange.target}")


def token(name, prompt, index):
    """The word at a place of an answer."""
    return f"{name}.{prompt}.{index} "


class Play:
    """One request and the means to answer it well or badly."""

    def __init__(self, fake, face, exchange):
        self.face, self.exchange = face, exchange
        self.model, self.streamed = face.model(exchange), face.is_stream(exchange)
        self.turns = face.turns(exchange)
        self.prompt = next(text.split()[-1] for role, text in reversed(self.turns) if role == "user")
        words = [token(fake.name, self.prompt, i) for i in range(fake.said)]
        self.answer = fake.answer or Answer(words, usage=fake.tokens)
        self.prepare()

    def prepare(self):
        self.parts = self.face.parts(self.answer, self.model, self.face.wants_usage(self.exchange))

    def run(self, name, number):
        if name in STATUSES:
            return self.refuse(STATUSES[name], number)
        method = getattr(self, name.replace("-", "_"), None) or getattr(self, f"do_{name}", None)
        if method:
            return method() if number is None else method(number)
        return self.break_off(name, number or 0)

    # ---- well ----

    def ok(self):
        if self.streamed:
            return sse(*self.parts.events)(self.exchange)
        return whole(self.face.whole(self.answer, self.model))(self.exchange)

    def do_continue(self, count=None):
        """Take the last turn for one's own, and say only what follows it; break off after so many words."""
        role, said = self.turns[-1]
        assert role == "assistant", self.turns
        self.answer = Answer(self.answer.words[len(said.split()):], usage=self.answer.usage)
        self.prepare()
        return self.ok() if count is None else self.break_off("cut", count)

    def late(self, ms):
        if self.streamed:
            return sse(*self.parts.opening, ms / 1000, *self.parts.events[len(self.parts.opening):])(
                self.exchange)
        self.exchange.pause(ms / 1000)
        return self.ok()

    # ---- refused ----

    def refuse(self, kind, retry_after=None):
        headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        status = self.face.ERRORS[kind][0]
        whole(self.face.error_body(kind), status, headers)(self.exchange)

    def filter(self):
        if self.face is not fake_gemini:
            return self.refuse("filter")
        body = fake_gemini.blocked(self.model)
        return (sse(event(body)) if self.streamed else whole(body))(self.exchange)

    def prefill(self):
        if self.turns[-1][0] != "assistant":
            return self.ok()
        return whole(fake_anthropic.error_body("prefill"), 400)(self.exchange)

    def redirect(self):
        whole(b"", 307, [("Location", f"http://127.0.0.1:1{self.exchange.target}")])(self.exchange)

    def html(self):
        whole(HTML, content_type="text/html; charset=utf-8")(self.exchange)

    # ---- nothing ----

    def reset(self):
        self.exchange.reset()

    def close(self):
        self.exchange.close()

    def hang(self):
        self.exchange.run(HANG)

    def nothing(self):
        (sse() if self.streamed else whole(b""))(self.exchange)

    def marker(self):
        (sse(*self.parts.marker) if self.streamed else whole(b"{}"))(self.exchange)

    def stall_head(self):
        if self.streamed:
            return sse(HANG)(self.exchange)
        return raw(response_head(headers=[("Content-Length", "100")]), HANG)(self.exchange)

    def stall_role(self):
        sse(*self.parts.opening, HANG)(self.exchange)

    def reset_role(self):
        sse(*self.parts.opening, RESET)(self.exchange)

    def end_role(self):
        sse(*self.parts.opening)(self.exchange)

    # ---- broken off ----

    def break_off(self, name, number):
        """After so many words, in a stream; a whole answer after half of it."""
        endings = {"cut": [CLOSE], "reset-at": [RESET], "end": [], "stall": [HANG],
                   "error": [self.face.error_event()],
                   "malformed": [event(b'{"id": "x", "choices": [{"delta":')],
                   "bad-utf8": [event(b'{"x": "\xff"}')]}
        if not self.streamed:
            return self.break_whole(name)
        parts = self.parts
        first = parts.opening + parts.body[:number] if number else []
        follows = parts.events[len(first):] if name in ("malformed", "bad-utf8") else []
        return sse(*first, *endings[name], *follows)(self.exchange)

    def break_whole(self, name):
        body = json.dumps(self.face.whole(self.answer, self.model)).encode()
        half = body[:len(body) // 2]
        if name == "error":
            return whole(self.face.error_body("server"))(self.exchange)
        if name in ("malformed", "bad-utf8", "end"):
            return whole(half + (b'\xff"}' if name == "bad-utf8" else b""))(self.exchange)
        head = response_head(headers=[("Content-Length", str(len(body)))])
        return raw(head + half, CLOSE if name == "cut" else HANG)(self.exchange)

    def unfinished(self):
        sse(*self.parts.opening, *self.parts.body, *self.parts.closing, CLOSE)(self.exchange)

    def unmarked(self):
        sse(*self.parts.opening, *self.parts.body, *self.parts.closing)(self.exchange)
