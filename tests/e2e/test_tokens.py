# SPDX-License-Identifier: Apache-2.0
"""Token for token with tiktoken: a million texts of token_texts.py in both encodings.

    TOKENS_FULL=1 pytest tests/e2e/test_tokens.py    also each character in texts of its own, and long runs

The program encode_tokens beside the one under test encodes; it also checks that counts of the same text, whole
and as a stream, agree with its ids. tiktoken gets its ranks from the same file, so nothing is fetched here.
"""
import array
import base64
import functools
import itertools
import os
import struct
import subprocess
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext import openai_public

import token_texts
from sluice import ROOT, find_binary

RANKS = ROOT / ".cache/tokens"
FAMILIES = {"o200k": "o200k_base", "cl100k": "cl100k_base"}
TEXTS, SHARDS, CHUNK = 1_000_000, 8, 10_000
FULL = os.environ.get("TOKENS_FULL") == "1"


@functools.cache
def vocabulary(family):
    path = RANKS / f"{FAMILIES[family]}.tiktoken"
    if not path.exists():
        pytest.skip(f"NOT TESTED: {path} is missing; run: script/get-token-ranks .cache/tokens")
    return {base64.b64decode(token): int(rank)
            for token, rank in (line.split() for line in path.read_bytes().splitlines())}


@functools.cache
def reference(family):
    """tiktoken's own encoding, with the ranks from our file."""
    ranks, openai_public.load_tiktoken_bpe = vocabulary(family), lambda *_, **__: vocabulary(family)
    assert ranks
    return tiktoken.Encoding(**getattr(openai_public, FAMILIES[family])())


def program():
    return Path(find_binary()).parent / "tests/tokens/encode_tokens"


def compare(family, texts):
    """Every text's ids are the same. Returns how many there were."""
    encoding, count, texts = reference(family), 0, iter(texts)
    while some := list(itertools.islice(texts, CHUNK)):
        frames = b"".join(struct.pack("=I", len(text)) + text for text in map(str.encode, some))
        done = subprocess.run([program(), ".cache", family], cwd=ROOT, input=frames, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=600, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[:3000]
        place = 0
        for text in some:
            end = place + 4 + 4 * struct.unpack_from("=I", done.stdout, place)[0]
            ours = done.stdout[place + 4:end]
            theirs = bytes(encoding._core_bpe.encode_to_tiktoken_buffer(text, set()))
            if ours != theirs:
                assert array.array("I", ours).tolist() == array.array("I", theirs).tolist(), repr(text)
            place = end
        assert place == len(done.stdout)
        count += len(some)
    return count


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_million_texts(shard):
    texts = list(token_texts.texts(shard, TEXTS // SHARDS, list(vocabulary("o200k"))))
    for family in FAMILIES:
        assert compare(family, texts) == TEXTS // SHARDS


@pytest.mark.parametrize("family", FAMILIES)
def test_every_character(family):
    compare(family, token_texts.every_character())


@pytest.mark.parametrize("family", FAMILIES)
def test_long_runs(family):
    """Runs of a thing of each class, longer than any token, and than what is counted without the heap."""
    lengths = (127, 128, 129, 255, 256, 257, 1000, 5000) + ((100_000,) if FULL else ())
    compare(family, (thing * (length // len(thing.encode()) + 1) for thing in token_texts.RUNS for length in lengths))


if FULL:                                   # two minutes
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_character_everywhere(family):
        compare(family, token_texts.every_character_everywhere())
