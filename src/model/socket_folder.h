/* SPDX-License-Identifier: Apache-2.0 */
/* The private folder in which children have their sockets: one per process, gone with it. */
#ifndef MODEL_SOCKET_FOLDER_H
#define MODEL_SOCKET_FOLDER_H

#include "base/err.h"

/* Longest path of the folder, so that a short name in it fits into a socket address. */
#define SOCKET_FOLDER_BYTES 88

/* Its path, chosen once and good until socket_folder_close; nothing is made yet. Main thread.
 * Errors: CONFIG when there is no place for it. */
err_t socket_folder_name(const char **path) ERR_MUST_CHECK;

/* Make it unless it is there, and remove those that killed processes have left. Main thread.
 * Errors: SYSTEM. */
err_t socket_folder_open(void) ERR_MUST_CHECK;

/* Remove it and what is in it. */
void socket_folder_close(void);

#endif
