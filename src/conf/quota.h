/* SPDX-License-Identifier: Apache-2.0 */
/* Rates, quotas and amounts of money as text: "100/60s", "100000/day", "2.50/month".
 *
 * The configuration, the admin API and the commands write them the same way. Money is kept as whole
 * nano-units (10^-9 of the currency) and is never a floating-point number. */
#ifndef CONF_QUOTA_H
#define CONF_QUOTA_H

#include "base/buf.h"
#include "conf/conf.h"

enum quota_unit { QUOTA_TOKENS, QUOTA_MONEY };

/* Most of a quota, so that sums of two fit 64 bits with a sign. */
#define QUOTA_MAX_AMOUNT UINT64_C(4000000000000000000)

/* "100/60s", "100/min" (s, sec, min, hour, day without a number mean one), or "off". False on anything
 * else, or if the window is not within 1 ms and 365 days. */
bool quota_parse_rate(struct str text, struct conf_rate *out);

/* "100000/day" (day, month or total). Money may have up to nine digits after the point. False on
 * anything else, or if the amount is 0 or more than QUOTA_MAX_AMOUNT. */
bool quota_parse(struct str text, enum quota_unit unit, struct conf_quota *out);

/* "2.5" to 2500000000. Also for other sums than budgets; 0 is allowed. */
bool quota_parse_money(struct str text, uint64_t *nano);

/* Append them as they would be read, without quotes around them. */
err_t quota_print_rate(const struct conf_rate *rate, struct buf *out) ERR_MUST_CHECK;
err_t quota_print(const struct conf_quota *quota, enum quota_unit unit,
                  struct buf *out) ERR_MUST_CHECK;
err_t quota_print_money(uint64_t nano, struct buf *out) ERR_MUST_CHECK;

/* The same text in `room`, and how long it is. */
#define QUOTA_MONEY_BYTES 32
size_t quota_format_money(uint64_t nano, char room[QUOTA_MONEY_BYTES]);

/* "day", "month", "total". */
const char *quota_period_name(enum conf_period period);

#endif
