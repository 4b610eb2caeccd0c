/* SPDX-License-Identifier: Apache-2.0 */
/* What PostgreSQL's failures mean to us: SQLSTATE (PostgreSQL documentation, appendix A) to trouble. */
#include "store/db_postgres.h"

#include <stdio.h>
#include <string.h>

/* The first entry whose code begins the state counts. */
static const struct {
    const char *code;
    enum db_trouble trouble;
} states[] = {
    {"08P01", DB_WRONG}, /* protocol violation: a wrong number of values */
    {"08", DB_AGAIN},    /* connection */
    {"0A000", DB_AGAIN}, /* a statement prepared before the schema changed; a primary that is none any more */
    {"21", DB_WRONG},     /* cardinality */
    {"22", DB_WRONG},     /* data: out of range, not of the type */
    {"23", DB_REFUSED},   /* constraint */
    {"26000", DB_AGAIN},  /* a prepared statement that is gone: a pooler in between */
    {"40001", DB_AGAIN},  /* serialization */
    {"40P01", DB_AGAIN},  /* deadlock */
    {"42501", DB_FAILED}, /* privilege */
    {"42", DB_WRONG},     /* syntax, names, types */
    {"53100", DB_FULL},   {"53300", DB_AGAIN}, /* too many connections */
    {"55P03", DB_AGAIN},                       /* a lock was not to be had in time */
    {"57P", DB_AGAIN},                         /* the server shuts down or starts */
};

enum db_trouble db_postgres_trouble(const char *sqlstate, enum db_mode mode)
{
    if (!sqlstate)
        return DB_AGAIN;
    /* Writing where that is not allowed: our mistake, or a primary that has become a standby. */
    if (strcmp(sqlstate, "25006") == 0)
        return mode == DB_WRITE ? DB_AGAIN : DB_WRONG;
    if (mode == DB_REPORT && strcmp(sqlstate, "57014") == 0) /* the server's own time limit */
        return DB_LONG;
    for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
        if (strncmp(sqlstate, states[i].code, strlen(states[i].code)) == 0)
            return states[i].trouble;
    return DB_FAILED;
}

const char *db_postgres_message(PGconn *handle, char *space, size_t size)
{
    const char *text = handle ? pq.error_message(handle) : "";
    size_t len;

    snprintf(space, size, "%s", text[0] ? text : "there is no memory for a connection");
    len = strlen(space);
    while (len > 0 && space[len - 1] == '\n')
        space[--len] = '\0';
    for (char *at = space; *at; at++)
        if (*at == '\n' || *at == '\t')
            *at = ' ';
    return space;
}
