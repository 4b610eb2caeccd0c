/* SPDX-License-Identifier: Apache-2.0 */
/* What a fiber runs on: an own stack in the loop's thread (strand_stack.c) or, for tools that
 * dislike stack switching, an own thread that runs only while the loop's thread waits for it
 * (strand_thread.c). The build option `fibers` chooses. fiber.c decides who runs when and sees
 * no difference. */
#ifndef FIBER_STRAND_H
#define FIBER_STRAND_H

#include <stdbool.h>
#include <stddef.h>

/* Which sanitizer this build has: gcc says so by macros, clang by features. */
#if defined(__has_feature)
#define STRAND_HAS_FEATURE(feature) __has_feature(feature)
#else
#define STRAND_HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || STRAND_HAS_FEATURE(address_sanitizer)
#define STRAND_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) || STRAND_HAS_FEATURE(thread_sanitizer)
#define STRAND_TSAN 1
#endif

struct strand;

/* A strand that calls run(record) anew each time it is entered after run has returned. Runs nothing
 * yet. *record is zeroed memory of its owner's, of so many bytes, that lives as long as the strand: beside the
 * stack's first frames, as both are used together. NULL without memory (or threads). */
struct strand *strand_new(void (*run)(void *record), size_t record_bytes, void **record);

/* Free it and the record. run must have returned, or never been called. */
void strand_free(struct strand *strand);

/* Let the strand run until it leaves or run returns. Called on the loop's own stack or in
 * another strand of the same loop. */
void strand_enter(struct strand *strand);

/* Called in the strand: let whoever entered it go on. Returns when it is entered again. */
void strand_leave(struct strand *strand);

/* Give the pages below the current depth back to the system. In the strand, or while it is not
 * running. */
void strand_trim(struct strand *strand);

/* The greatest depth its stack has reached since it was made or trimmed, or 0 if that is not
 * known. In the strand, or while it is not running. */
size_t strand_depth_bytes(struct strand *strand);

#endif
