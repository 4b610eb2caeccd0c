# SPDX-License-Identifier: Apache-2.0
"""What a model says, before any protocol writes it down: the common ground of the fake providers.

    Answer(["Hel", "lo"], usage=Tokens(9, 2))    two tokens of text
    Answer([], tools=[Tool("call_1", "add", '{"a": 1}')], finish="tool_calls")

fake_openai, fake_anthropic and fake_gemini each turn an Answer into Parts (the events of a stream)
or into the object of a whole answer.
"""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tokens:
    """Counts as OpenAI has them: input includes what was cached, output includes reasoning."""
    input: int = 9
    output: int = 2
    cached: int = 0
    written: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Tool:
    """A tool call. `arguments` is JSON text; `fragments` is how many pieces a stream cuts it into."""
    id: str
    name: str
    arguments: str = "{}"
    fragments: int = 3

    def pieces(self):
        size = max(1, -(-len(self.arguments) // self.fragments))
        return [self.arguments[i:i + size] for i in range(0, len(self.arguments), size)]


@dataclass(frozen=True)
class Answer:
    """`words` are tokens of text, one event each; `finish` is OpenAI's finish_reason."""
    words: list
    thinking: list = field(default_factory=list)
    signature: str = ""
    tools: list = field(default_factory=list)
    finish: str = "stop"
    usage: Tokens | None = Tokens()

    @property
    def text(self):
        return "".join(self.words)


@dataclass(frozen=True)
class Parts:
    """The events of a stream (bytes), by what a cut between them means. The opening says nothing
    yet; the body holds one event per token, thinking and tool calls around the words; the closing
    says why the answer ended; the marker says that the stream did."""
    opening: list
    body: list
    closing: list
    marker: list

    @property
    def events(self):
        return self.opening + self.body + self.closing + self.marker
