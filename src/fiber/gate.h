/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting between fibers of one thread: a gate that opens for all who wait at it, or lets one
 * through. */
#ifndef FIBER_GATE_H
#define FIBER_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"

struct gate {
    struct list waiters; /* oldest first */
    bool is_open;
};

/* A closed gate without waiters. */
void gate_init(struct gate *gate);

/* PARKS until the gate is open or `at_ms`; with an open gate it returns at once. Errors: as
 * fiber_park, but NULL whenever the waiter was let through, even if it was cancelled in the same
 * round. The gate must live until all waiters have left. */
err_t gate_wait(struct gate *gate, uint64_t at_ms) ERR_MUST_CHECK;

/* Let all waiters through, and everyone who comes until gate_close. */
void gate_open(struct gate *gate);

/* Make later comers wait. */
void gate_close(struct gate *gate);

/* Let one waiter (the oldest) through without opening; false when nobody waits. */
bool gate_admit_one(struct gate *gate);

#endif
