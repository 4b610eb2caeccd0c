/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that writes log lines, and the rings that feed it. Used by log.c alone. */
#ifndef OBSERVE_LOG_WRITER_H
#define OBSERVE_LOG_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Start the writer on `fd`, which it owns from then on (standard error is never closed).
 * `compose_dropped` writes a whole line about `count` lost lines into `out` (512 bytes) and
 * returns its length; it is called in the writer's thread. Errors: SYSTEM, BUSY; then `fd`
 * remains the caller's. */
err_t log_writer_open(int fd,
                      size_t (*compose_dropped)(uint64_t count, char out[512])) ERR_MUST_CHECK;

/* Go on with another descriptor, from a line's beginning on. */
void log_writer_switch(int fd);

/* Write out what is queued, within a second, and stop. */
void log_writer_close(void);

/* Queue a line that ends in a newline. Without a writer it goes to standard error at once;
 * without room it is counted as dropped. Never blocks on the device when there is a writer. */
void log_writer_put(const char *line, size_t len);

#endif
