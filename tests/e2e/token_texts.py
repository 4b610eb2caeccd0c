# SPDX-License-Identifier: Apache-2.0
"""Texts to count tokens of: natural, and as nasty as a seed can make them.

`texts(seed, count, vocabulary)` yields the same strings for the same arguments, without any file but
token_languages.txt (a paragraph on each line, in a language of its own) and the standard library's own
source. `every_character…()` show each in the surroundings that a pre-tokenizer looks at.
"""
import itertools
import random
import re
import sysconfig
from pathlib import Path

PARAGRAPHS = (Path(__file__).parent / "token_languages.txt").read_text().splitlines()
SOURCES = ("argparse.py", "ast.py", "difflib.py", "heapq.py", "json/decoder.py", "re/_parser.py", "textwrap.py")
# One of each class, and those that the patterns name: every way to go on has its character here.
NASTY = list("aZzsStTdDmMlLvVrReE0197'\"’/\\ \t\n\r\x0b\x0c\x85.,!?-_()<>|{}#@&;:*\u00a0\u2003\u3000\u2028"
             "éÉßſKǅʰªº中文あ한ก\u0301\u0903\u20dd²Ⅷ٣५½🙂👍🏽\u200d♀️🇩🇪\x00\x7f\ufeff\ufffd\U0001f9d1ա")
BITS = ["'s", "'S", "'ſ", "'re", "'VE", "'Ll", "'LL", "n't", " '", "\r\n", "\n\n", "   ", "\t\t", " \n ", "://", "/*", "//\n",
        "<|endoftext|>", "<|endofprompt|>", "<|im_start|>", "1234567", "...", "——", "===", "e\u0301", "हिन्दी", "👩‍👩‍👧"]
RUNS = ["a", "A", "aA", "Aa", " ", "\n", " \n", "\t", "\r\n", "0", "9 ", "中", "中A", "の", "ก", "ا", "🙂", "é", "\u0301",
        "!", "/", "=", "-", "'", "'s", ".", "ab", "the", " the", "abc1", "ſ", "—", "\u3000", "²", "x\u0301", "한국", "q", "zx"]


def source_lines():
    folder = Path(sysconfig.get_path("stdlib"))
    return "\n".join((folder / name).read_text() for name in SOURCES).splitlines(keepends=True)


def natural(rng):
    """Words, or clauses, of one language in another order, with other spacing."""
    paragraph = rng.choice(PARAGRAPHS)
    by_word = paragraph.count(" ") > 20 and rng.random() < 0.8
    words = paragraph.split(" ") if by_word else re.split("(?<=[,.、。;।])", paragraph)
    words = [rng.choice(words) for _ in range(rng.randint(1, 30 if by_word else 5))]
    if rng.random() < 0.15:
        words = [rng.choice((str.upper, str.title, str.swapcase, str.lower))(word) for word in words]
    return rng.choice((" ", " ", " ", "", "\n", "  ", ", ")).join(words)


def code(rng, lines):
    start = rng.randrange(len(lines))
    return "".join(lines[start:start + rng.randint(1, 12)])[rng.randint(0, 8):]


def anything(rng):
    """Any bytes, made valid."""
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(rng.randint(1, 120)).decode(errors="ignore")
    if kind < 0.5:
        return rng.randbytes(rng.randint(1, 80)).decode(errors="replace")
    top = rng.choice((0x80, 0x250, 0x600, 0x3000, 0xD800, 0x20000, 0x110000))
    codes = (rng.randrange(top) for _ in range(rng.randint(1, 60)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def run_of(rng):
    """One thing again and again, with something before or behind it."""
    body = rng.choice(RUNS) * int(rng.paretovariate(1.2) * 3 % 900 + 1)
    return rng.choice(("", "", rng.choice(NASTY))) + body + rng.choice(("", "", rng.choice(NASTY)))


def nasty(rng):
    return "".join(rng.choice(NASTY) for _ in range(rng.randint(1, 40)))


def of_tokens(rng, vocabulary):
    """Tokens in an order in which no text has them: what is merged is often neither of two."""
    return b"".join(rng.choices(vocabulary, k=rng.randint(1, 25))).decode(errors="ignore")


def texts(seed, count, vocabulary):
    rng, lines = random.Random(seed), source_lines()
    for _ in range(count):
        kind = rng.random()
        if kind < 0.25:
            yield natural(rng)
        elif kind < 0.35:
            yield code(rng, lines)
        elif kind < 0.5:
            yield anything(rng)
        elif kind < 0.6:
            yield run_of(rng)
        elif kind < 0.75:
            yield nasty(rng)
        elif kind < 0.9:
            yield of_tokens(rng, vocabulary)
        else:
            parts = (natural(rng), code(rng, lines), anything(rng), run_of(rng), rng.choice(BITS), nasty(rng))
            yield "".join(part[:rng.randint(1, 60)] for part in rng.sample(parts, rng.randint(2, 6)))


def characters():
    return (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


def every_character():
    """Each character where its class decides how it is cut; many in one text."""
    all_of_them = characters()
    while some := list(itertools.islice(all_of_them, 1000)):
        yield "".join(f"A{c}a {c}{c}{c}{c}1'{c} " for c in some)


def every_character_everywhere():
    """Each character in a text of its own: between, before and behind one of every class."""
    around = ("", "a", "A", "1", " ", "\n", "!", "'", "中", "\u0301", "\u00a0")
    for c in characters():
        yield "|a|".join([c, c + c, *(x + c + y for x, y in zip(around, around[1:])),
                          *(x + c for x in around), *(c + y for y in around),
                          "'" + c, "x'" + c, "x'" + c + "e", "x'l" + c, "AB" + c + "c", "AB" + c + "C", "  " + c])
