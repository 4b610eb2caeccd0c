/* SPDX-License-Identifier: Apache-2.0 */
/* Decimal numbers as whole numbers of a small unit, exactly. */
#ifndef GOVERN_PRICE_DECIMAL_H
#define GOVERN_PRICE_DECIMAL_H

#include "base/buf.h"

/* The most that a price may be, in pico-units: a million units. So the cost of any call fits 128
 * bits. */
#define PRICE_DECIMAL_MAX UINT64_C(1000000000000000000)

/* Read "2.5", "0.000001", "1.5e-07" as *out = number · 10^power, rounded up; *is_exact tells whether
 * that was not needed. False if it is no such number, is negative, or is more than
 * PRICE_DECIMAL_MAX then. */
bool price_decimal_parse(struct str text, int power, uint64_t *out, bool *is_exact);

/* Append value / 10^power without needless zeros: (2500000, 6) is "2.5". */
err_t price_decimal_print(uint64_t value, int power, struct buf *out) ERR_MUST_CHECK;

#endif
