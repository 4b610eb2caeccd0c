/* SPDX-License-Identifier: Apache-2.0 */
/* libpq as a table of functions, filled when a PostgreSQL store is opened.
 *
 * The library is loaded rather than linked: who keeps everything in SQLite neither needs nor pays for it. Names are
 * libpq's without their prefix: PQgetResult is pq.get_result. */
#ifndef STORE_DB_POSTGRES_LIBRARY_H
#define STORE_DB_POSTGRES_LIBRARY_H

#include <libpq-fe.h>

#include "base/err.h"

#define DB_POSTGRES_FUNCTIONS(X)                                                                   \
    X(clear, PQclear)                                                                              \
    X(cmd_status, PQcmdStatus)                                                                     \
    X(cmd_tuples, PQcmdTuples)                                                                     \
    X(connect, PQconnectdbParams)                                                                  \
    X(consume_input, PQconsumeInput)                                                               \
    X(enter_pipeline, PQenterPipelineMode)                                                         \
    X(error_message, PQerrorMessage)                                                               \
    X(exit_pipeline, PQexitPipelineMode)                                                           \
    X(field_count, PQnfields)                                                                      \
    X(field_type, PQftype)                                                                         \
    X(finish, PQfinish)                                                                            \
    X(flush, PQflush)                                                                              \
    X(free_memory, PQfreemem)                                                                      \
    X(get_is_null, PQgetisnull)                                                                    \
    X(get_length, PQgetlength)                                                                     \
    X(get_result, PQgetResult)                                                                     \
    X(get_value, PQgetvalue)                                                                       \
    X(is_busy, PQisBusy)                                                                           \
    X(needs_password, PQconnectionNeedsPassword)                                                   \
    X(notifies, PQnotifies)                                                                        \
    X(parameter_status, PQparameterStatus)                                                         \
    X(pipeline_sync, PQpipelineSync)                                                               \
    X(result_error_field, PQresultErrorField)                                                      \
    X(result_status, PQresultStatus)                                                               \
    X(row_count, PQntuples)                                                                        \
    X(send_params, PQsendQueryParams)                                                              \
    X(send_prepare, PQsendPrepare)                                                                 \
    X(send_prepared, PQsendQueryPrepared)                                                          \
    X(send_query, PQsendQuery)                                                                     \
    X(server_version, PQserverVersion)                                                             \
    X(set_nonblocking, PQsetnonblocking)                                                           \
    X(set_notice_receiver, PQsetNoticeReceiver)                                                    \
    X(socket, PQsocket)                                                                            \
    X(status, PQstatus)                                                                            \
    X(transaction_status, PQtransactionStatus)

struct db_postgres_library {
#define X(name, function) __typeof__(function) *name;
    DB_POSTGRES_FUNCTIONS(X)
#undef X
};

extern struct db_postgres_library pq;

/* Load the library; later calls do nothing. Any thread. Errors: CONFIG if there is none, or an old one. */
err_t db_postgres_library_load(void) ERR_MUST_CHECK;

#endif
