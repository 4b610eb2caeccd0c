# SPDX-License-Identifier: Apache-2.0
# The short way to everything; Meson does the building (meson.build), script/ the rest.
#
#   make run      from a fresh checkout: install what is missing, build, fetch the local model, serve
#   make test     from a fresh checkout: install what is missing, build with sanitizers, run all tests
#   make          build/sluice                      make check    style, layers, documentation
#   make release  build-release/sluice, laid out by counts of what everyday traffic runs: some 8 % less CPU
#   make install  the release, into PREFIX          make bench    the release beside nginx and HAProxy
#   make fuzz     libFuzzer on every parser         make soak     load and end-to-end tests for a long time
#   make format   lay out the C files               make clean    remove what was built
#
# SAN=address|thread, COV=1 choose how `make test` builds; MODEL=name what `make run` serves;
# FUZZ_SECONDS how long `make fuzz` spends on a target. CI=true turns warnings into errors.

SAN    ?= address
MODEL  ?= qwen2.5-coder-0.5b
PREFIX ?= /usr/local
export CI SAN COV MODEL FUZZ_SECONDS

options = -Dtests=false -Db_lto=true --prefix=$(PREFIX)
build   = script/build build $(options)
release = script/release build-release $(options)

all:
	$(build)

run:
	script/setup run
	@$(build)
	@exec script/run

test:
	script/setup test
	.venv/bin/python script/test

check:
	script/setup test
	script/check

release:
	script/setup build
	$(release)

bench:
	script/setup bench
	script/setup test
	$(release)
	bench/run

soak:
	script/setup bench
	$(release)
	bench/soak
	build-release/bench/key_timing 1000000
	script/setup test
	TOKENS_FULL=1 REQUESTS=100000 ROUNDS=100 STREAMS=10000 TEST_TIMEOUT=3600 .venv/bin/python script/test unit e2e

fuzz:
	script/setup fuzz
	script/fuzz

install:
	$(release)
	meson install -C build-release --no-rebuild

setup:
	script/setup build

format:
	script/setup test
	find src tests bench -name node_modules -prune -o -name '*.[ch]' -exec .venv/bin/clang-format -i {} +

clean:
	rm -rf build build-*

.PHONY: all run test check release bench soak fuzz install setup format clean
