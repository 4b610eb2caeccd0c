/* SPDX-License-Identifier: Apache-2.0 */
/* Files of ranks, FOLDER/o200k_base.tiktoken, and the images made of them,
 * FOLDER/o200k_base.image. */
#ifndef MODEL_TOKENS_FILE_H
#define MODEL_TOKENS_FILE_H

#include "base/err.h"
#include "model/tokens_vocab.h"

#define TOKENS_FILE_PATH 512 /* bytes of the longest folder's name */

/* "o200k_base". */
const char *tokens_file_name(enum tokens_encoding encoding);

/* Map the image of `encoding`, or make it out of the ranks and save it beside them if it is
 * missing, of an older layout or damaged. It stays for the life of the process; without a writable
 * folder on the heap. Blocks on files. Errors: NOT_FOUND (neither is there), CONFIG (other bytes
 * than the known ones), SYSTEM, BUSY. */
err_t tokens_file_open(const char *folder, enum tokens_encoding encoding,
                       const struct tokens_head **image) ERR_MUST_CHECK;

#endif
