/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing groups' sums to the sums of their hours and days: all of one slot at once, when there are many.
 *
 * To add each group's to them would change, for random end users, a page for almost every row. Those of a slot lie
 * in the same few pages. What is asked meanwhile is answered from both, so it matters to nobody when this is done. */
#ifndef GOVERN_LEDGER_FOLD_H
#define GOVERN_LEDGER_FOLD_H

#include "govern/ledger_sum.h"

/* A process begins. What others have left is not known, so that each slot's turn comes soon. */
void ledger_fold_open(void);

/* A group's sums are committed. */
void ledger_fold_note(const struct ledger_sums *sums);

/* PARKS: one slot, the fullest, if it is its turn. Never fails loudly: a slot that failed waits for its next turn. */
void ledger_fold(struct db *db);

#endif
