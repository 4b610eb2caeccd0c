/* SPDX-License-Identifier: Apache-2.0 */
/* The part of masking that only log.c needs; log_mask and log_mask_in_place are in log.h. */
#ifndef OBSERVE_LOG_MASK_H
#define OBSERVE_LOG_MASK_H

#include <stddef.h>

/* Replace every registered secret in `text` by "***" in place; returns the new length, which is
 * never greater. */
size_t log_mask_shorten(char *text, size_t len);

#endif
