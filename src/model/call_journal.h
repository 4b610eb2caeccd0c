/* SPDX-License-Identifier: Apache-2.0 */
/* Streams in the journal (govern/journal.h): what their rows will say if the process dies. */
#ifndef MODEL_CALL_JOURNAL_H
#define MODEL_CALL_JOURNAL_H

#include "model/call.h"

/* PARKS when the journal must grow, which is seldom: call->target is about to be asked for a stream. Note the stream, or whom it
 * asks now. Does nothing for a call that will have no row. */
void call_journal_note(struct call *call);

#endif
